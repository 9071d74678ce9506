"""Does adapting to a hospital keep the p-value's promise there, and from how many films on?

Leave one site out: Gaussians and scales are those of the other sites' normal training films. Then
local films of the site left out adapt them (`methods/frozen_features/adapting.py`), and its other
normal films are judged: the share at p <= 0.05, over random divisions. Unlabelled local films are
mixtures with lesions put into films of that site (`benchmarks/transfer.py lesions`); no abnormal
film of any site is opened.

`features` looks at all films once and keeps what is seen in a file; `curve` needs no network.

usage: python benchmarks/adapt.py features OUT.safetensors [--data FOLDER] [--most 450]
       python benchmarks/adapt.py curve FEATURES.safetensors [--draws 10] [--out FILE.md]
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.split import normals
from nofinding.datasets.cohort import cache_at
from nofinding.evaluation.statistics.conformal import clopper_pearson, p_values
from nofinding.functional.features.gaussian import Gaussian, fit_gaussian, out_of_fold
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.acquisition import exposure, place, placement
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.methods.frozen_features.adapting import OfGaussians, adapted
from nofinding.model.bundle import load_model
from nofinding.model.pretrained import model_folder

SITES = ("nih", "rsna_normal", "other_site", "kermany")
ADULT = ("nih", "rsna_normal", "other_site")
POOLED = ("texture", "context", "taught")
NUISANCE = 2.0  # as in diff3m-f
LOCAL = (10, 25, 50, 100, 200)
SICK = (0.0, 0.3, 0.6)
LEAST = 80  # normal films that a division keeps to judge on
Features = Mapping[str, Tensor]


class Judge(OfGaussians):
    """The mean of distances and evidence, as diff3m-f has it, of stored features."""

    def __init__(self, train: Features, moved: Features) -> None:
        self.parts = [*POOLED, "evidence"]
        self.gaussians: dict[str, Gaussian] = {}
        self.scale: dict[str, Tensor] = {}
        fold = torch.arange(len(train["evidence"])) % 5
        for name in self.parts:
            values = train[name]
            if name in POOLED:
                self.gaussians[name] = fit_gaussian(values, NUISANCE * moved[name])
                values = out_of_fold(values, NUISANCE * moved[name], fold).log()
            self.scale[f"{name}.mean"] = values.mean()
            self.scale[f"{name}.spread"] = values.std()

    def _standard(self, name: str, values: Tensor) -> Tensor:
        return (values - self.scale[f"{name}.mean"]) / self.scale[f"{name}.spread"]

    def _as_one(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([parts[name] for name in self.parts]).mean(0)

    def __call__(self, features: Features) -> Float[np.ndarray, " n"]:
        return self.score_of(self.components_of(features)).double().numpy()


def some(features: Features, rows: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
    """Those of some films."""
    index = torch.as_tensor(np.asarray(rows, dtype=np.int64))
    return {name: x[index] for name, x in features.items()}


def together(parts: Sequence[Features]) -> dict[str, Tensor]:
    """Those of all films."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def extract(out: Path, data: Path, most: int) -> None:
    """Looks at normal films of every site, and at lesions put into some of its val films."""
    from transfer import every, lesion_trial

    detector = load_model(model_folder("adult")).detector
    assert isinstance(detector, Diff3MF)
    remaining: dict[str, Tensor] = {}

    def look(name: str, films: Films, *, move: bool = False) -> None:
        rows = defaultdict(list)
        for start in range(0, len(films), 16):
            batch = films.batch(range(start, min(start + 16, len(films))))
            result = detector.features_of(batch)
            for key in (*POOLED, "evidence"):
                rows[f"{name}/{key}"].append(result[key])
            if move and start < 80:
                chance = generators(0, [f"copy/{one}" for one in batch.ids])
                film = place((batch.image + 1) / 2, placement(chance))
                other = detector.networks.see(exposure(film, chance) * 2 - 1)
                for key in POOLED:
                    rows[f"{name}/moved/{key}"].append(other[key] - result[key])
        remaining.update({key: torch.cat(values) for key, values in rows.items()})
        print(name, len(films), flush=True)

    for site in SITES:
        exams = [r for r in every(data, site) if not r.image_id.endswith("@64")]
        for split in ("train", "val"):
            films = sorted(normals(exams, split), key=lambda r: r.image_id)[:most]
            look(f"{site}/{split}", Films(films, detector.stats, 224, "pad", cache_at(None)),
                 move=split == "train")  # fmt: skip
        who = "paediatric" if site == "kermany" else "adult"
        here = {exam.image_id for exam in exams}
        cases = [c for c in lesion_trial(films=150, who=who).cases if c.twin.image_id in here]
        look(f"{site}/ins", Films([c.record for c in cases], detector.stats, 224))
    save_file(remaining, out)


def curve(features: Path, draws: int) -> str:
    """The table: a row a site and a number of local films."""
    stored, at = load_file(features), defaultdict(dict)
    for name, x in stored.items():
        part, _, key = name.rpartition("/")
        at[part][key] = x
    lines = [
        "| site left out | adapted with | abnormal among them | normal films called at p <= 0.05: "
        "mean of divisions (exact 95 % bounds of one division's films), largest | lesions called |",
        "|---|---|---|---|---|",
    ]
    for site in SITES:
        rest = [s for s in ADULT if s != site]
        train = [at[f"{s}/train"] for s in rest]
        least = min(len(x["evidence"]) for x in train)
        judge = Judge(
            together([some(x, range(least)) for x in train]),
            together([at[f"{s}/train/moved"] for s in rest]),
        )
        elsewhere = np.concatenate([judge(at[f"{s}/val"]) for s in rest])
        pool, sick = together([at[f"{site}/train"], at[f"{site}/val"]]), at[f"{site}/ins"]
        lines += rows_of(site, judge, elsewhere, pool, sick, draws)
        print("\n".join(lines[-14:]), flush=True)
    return "\n".join(lines) + "\n"


def rows_of(
    site: str,
    judge: Judge,
    elsewhere: Float[np.ndarray, " m"],
    pool: Features,
    sick: Features,
    draws: int,
) -> list[str]:
    """Before adapting, and for each number of local films."""
    rates: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    tested: dict[tuple[str, str], int] = {}
    total = len(pool["evidence"])

    def note(key: tuple[str, str], by: Judge, calibration: np.ndarray, test: Features) -> None:
        shares = [(p_values(by(x), calibration) <= 0.05 + 1e-9).mean() for x in (test, sick)]
        rates[key].append((float(shares[0]), float(shares[1])))
        tested[key] = len(test["evidence"])

    known = torch.from_numpy(elsewhere)
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        order = rng.permutation(total)
        note(("nothing", ""), judge, elsewhere, pool)
        for n in (n for n in LOCAL if total - n >= LEAST):
            local, test = some(pool, order[:n]), some(pool, order[n:][:300])
            result = adapted(judge, local, known, abnormal_at_most=0, seed=draw)
            assert isinstance(result.detector, Judge)
            lifted = np.maximum(np.sort(result.scores.numpy()), result.normal.quantiles.numpy())
            note((f"{n} normal", ""), result.detector, lifted, test)
            for share in SICK if n >= 50 else ():
                ill = round(share * n)
                mixed = some(sick, rng.permutation(len(sick["evidence"]))[:ill])
                films = together([some(local, range(n - ill)), mixed])
                result = adapted(judge, films, known, abnormal_at_most=0.6, seed=draw)
                assert isinstance(result.detector, Judge)
                key = (f"{n} unlabelled", f"{100 * share:.0f} %")
                note(key, result.detector, result.normal.quantiles.numpy(), test)
    lines = []
    for key, pairs in rates.items():
        normal, ill_called = np.array(pairs).T
        low, high = clopper_pearson(round(normal.mean() * tested[key]), tested[key])
        lines.append(
            f"| {site} | {key[0]} | {key[1]} | {100 * normal.mean():.1f} % ({100 * low:.1f} to "
            f"{100 * high:.1f}), {100 * normal.max():.1f} | {100 * ill_called.mean():.0f} % |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("features", "curve"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--most", type=int, default=450)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "features":
        extract(given.file, given.data, given.most)
        return
    table = curve(given.file, given.draws)
    if given.out:
        given.out.write_text(table)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
