"""What the record does for `diff3m-f` on real films: normal ones, and lesions put into normal ones.

usage: python benchmarks/record.py DATA [FILMS]     (about 10 minutes on one core)

Looks at normal films through the shipped networks once, and estimates what is normal from the
training films of nih (FILMS of them, default 150), with and without the record (age, sex, view).
Says what the record is worth, what share of each component's variance it explains, and how many
normal films are called at p <= 0.05 by sex, age and view, of training films out of fold and of val
films. Then the same on the training films of three sites, for inserted lesions against their twins
(kinds and films as in transfer.py). No film of a site that is abnormal is opened.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transfer import every, lesion_trial, spread

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.data.split import normals
from nofinding.functional.features.gaussian import distance, fit_gaussian, out_of_fold
from nofinding.functional.features.normative import explained, fit_normative
from nofinding.functional.image.combining import combined, quantiles, surprise
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.methods.diff3m.feature_space.films import folds
from nofinding.methods.diff3m.feature_space.patient import PatientNorm
from nofinding.methods.frozen_features.lesion_evidence import lesion_evidence, normal_lesions
from nofinding.model.bundle import load_model
from nofinding.model.pretrained import model_folder
from nofinding.types import Batch, Exam

RECORD = [FIELDS[name] for name in ("age", "sex", "view")]
SITES = ("nih", "rsna_normal", "other_site")
KINDS = ("nodule", "mass", "consolidation", "effusion", "pneumothorax", "cardiomegaly")
GROUPS: dict[str, Callable[[Exam], bool]] = {
    "all": lambda exam: True,
    "women": lambda exam: exam.ehr.get("sex") == 0,
    "men": lambda exam: exam.ehr.get("sex") == 1,
    "PA": lambda exam: exam.view == "PA",
    "AP": lambda exam: exam.view == "AP",
    "under 40": lambda exam: exam.ehr.get("age", 200) < 40,
    "40 to 59": lambda exam: 40 <= exam.ehr.get("age", 200) < 60,
    "60 and over": lambda exam: exam.ehr.get("age", -1) >= 60,
}


@dataclass(frozen=True)
class Viewed:
    """Films, their features and their records."""

    exams: Sequence[Exam]
    features: dict[str, Tensor]
    batch: Batch


def view(detector: Diff3MF, exams: Sequence[Exam], stats: EhrStats) -> Viewed:
    """Looks at films through the networks of the detector."""
    films, parts = Films(exams, stats, detector.image_size), []
    for start in range(0, len(films), 16):
        batch = films.batch(range(start, min(start + 16, len(films))))
        calls = detector._see(batch.image)
        names = ("taught", "texture", "context", "evidence", "where", "highest")
        parts.append({name: calls[name] for name in names})
    ehr, known = films.ehr_rows(range(len(exams)))
    features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Viewed(exams, features, Batch(torch.zeros(len(exams), 1, 1, 1), ehr, known, films.ids))


class Norm:
    """What is normal on some films, with the record or without: scores as `diff3m-f` makes them."""

    def __init__(self, train: Viewed, *, record: bool) -> None:
        fold = folds(train.batch.ids)
        self.patient = PatientNorm(range(3), [len(field.categories) for field in RECORD])
        features, misfit = dict(train.features), None
        if record:
            ehr, known = train.batch.ehr, train.batch.known
            features, misfit = self.patient.fit(features, {}, ehr, known, fold, always=True)
        self.gaussian = fit_gaussian(features["taught"])
        self.scale = normal_lesions(torch.zeros(len(fold), 1, 1, 1), features["highest"])
        raw = {
            "taught": out_of_fold(features["taught"], None, fold).log(),
            "evidence": features["evidence"],
            "focal": lesion_evidence(features["highest"], self.scale),
        } | ({} if misfit is None else {"record": misfit})
        self.moments = {name: (x.mean(), x.std()) for name, x in raw.items()}
        self.components = self._standard(raw)
        self.quantiles = {k: quantiles(x) for k, x in self._kinds(self.components).items()}
        self.scores = self._score(self.components)

    def judge(self, films: Viewed) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores and components of other films."""
        features = self.patient.given(films.features, films.batch)
        raw = {
            "taught": distance(features["taught"], self.gaussian).log(),
            "evidence": features["evidence"],
            "focal": lesion_evidence(features["highest"], self.scale),
        }
        if self.patient.active:
            raw["record"] = self.patient.misfit(films.features, films.batch)
        components = self._standard(raw)
        return self._score(components), components

    def _standard(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: (x - self.moments[k][0]) / self.moments[k][1] for k, x in raw.items()}

    def _kinds(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        general = (parts["taught"] + parts["evidence"]) / 2
        return {"general": general} | {k: parts[k] for k in ("focal", "record") if k in parts}

    def _score(self, parts: dict[str, Tensor]) -> Tensor:
        kinds = self._kinds(parts)
        return combined(
            torch.stack([surprise(x, self.quantiles[k]) for k, x in kinds.items()]), "fisher"
        )


def on_normals(train: Viewed, val: Viewed) -> None:
    """Normal films called, by group, and what of components and features the record explains."""
    columns = {}
    for arm in (False, True):
        norm = Norm(train, record=arm)
        (scores, components), own = norm.judge(val), norm.scores
        if arm:
            print(norm.patient.decided("normative")["said"])
            columns = {
                "train": norm.patient._columns(train.batch.ehr, train.batch.known),
                "val": norm.patient._columns(val.batch.ehr, val.batch.known),
            }
        else:
            plain = norm.components, components
        rank = (own[None] >= own[:, None]).sum(1) / (1 + len(own))
        p = (1 + (own[None] >= scores[:, None]).sum(1)) / (1 + len(own))
        called = torch.cat([rank, p]) <= 0.05
        for name, belongs in GROUPS.items():
            there = torch.tensor([belongs(exam) for exam in (*train.exams, *val.exams)])
            count = f"{int(called[there].sum())} of {int(there.sum())}"
            print(f"| {name} | {'record' if arm else 'none'} | {count} |")
    for name in plain[0]:
        by = fit_normative(plain[0][name][:, None], *columns["train"])
        share = float(explained(by, plain[1][name][:, None], *columns["val"]))
        print(f"explained of component {name}: {100 * share:.1f} %")
    for name in ("taught", "texture", "context"):
        by = fit_normative(train.features[name], *columns["train"])
        share = float(explained(by, val.features[name], *columns["val"]).mean())
        print(f"explained of features {name}: {100 * share:.1f} %")


def on_lesions(train: Viewed, twins: Viewed, cases: Viewed, kinds: Sequence[str]) -> None:
    """AUROC of films with an inserted lesion against the same films without."""
    for arm in (False, True):
        norm = Norm(train, record=arm)
        normal, ill = norm.judge(twins)[0], norm.judge(cases)[0]
        for kind in ("all", *KINDS):
            some = ill[torch.tensor([kind in ("all", one) for one in kinds])]
            area = float((some[:, None] > normal).float().mean())
            print(f"| {kind} | {'record' if arm else 'none'} | {len(some)} | {area:.3f} |")


def main(data: Path, films: int) -> None:
    detector = load_model(model_folder("adult")).detector
    assert isinstance(detector, Diff3MF)

    def normal(site: str, split: str, most: int) -> list[Exam]:
        exams = [e for e in normals(every(data, site), split) if not e.image_id.endswith("@64")]
        return spread(exams, min(most, len(exams)))

    train = {site: normal(site, "train", films) for site in SITES}
    own = EhrStats.of(train["nih"], RECORD)
    on_normals(view(detector, train["nih"], own), view(detector, normal("nih", "val", 80), own))
    together = [exam for exams in train.values() for exam in exams]
    stats = EhrStats.of(together, RECORD)
    trial = lesion_trial(data=data, films=min(120, films), kinds=KINDS)
    on_lesions(
        view(detector, together, stats),
        view(detector, trial.twins, stats),
        view(detector, [case.record for case in trial.cases], stats),
        [case.kind for case in trial.cases],
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 150)
