"""How well twins are found, on real films: recall, false pairs, films of one patient, and time.

    python benchmarks/twins.py DATA [--half 1] [--lungs N] [--normal N] [--changed N] [--copies N]
    python benchmarks/twins.py DATA --copies 10000 --search-alone

DATA holds rsna_lungs, rsna_normal and nih, each with a films.csv; column `same_film` of rsna_lungs
names the film of rsna_normal that it is cut from. `--half 0` takes the pairs that the weights and
the thresholds come from, `--half 1` the others; with `--lungs`, that many, evenly spread. With
`--normal`, that many films that are no twin's source are added, in place of all. With `--copies`,
that many films against as many are timed: every second film again and again against the others.
`--search-alone` times nothing but that. Prints one JSON object.
"""

import argparse
import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest

from nofinding.data.duplicates import Twins, alike, all_candidates, twins_between
from nofinding.data.image import fit_square
from nofinding.data.signatures import SIDE, Signatures, signatures_of
from nofinding.data.sketches import Sketches

AT_ONCE = 64
Film = np.ndarray


def rows_of(data: Path, name: str) -> list[dict[str, str]]:
    with (data / name / "films.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> Film:
    return np.asarray(Image.open(path).convert("L"), dtype=np.float32) / 255


def signed(films: list[Path], change: Callable[[Film], Film] = lambda film: film) -> Signatures:
    """The signatures of the films, each changed before."""
    out = Signatures.room(len(films))
    for start in range(0, len(films), AT_ONCE):
        some = [fit_square(change(read(path)), SIDE) for path in films[start : start + AT_ONCE]]
        out.put(start, signatures_of(some))
    return out


def resized(film: Film, high: int, wide: int) -> Film:
    return np.asarray(Image.fromarray(film).resize((wide, high), Image.Resampling.BILINEAR))


def cropped(film: Film) -> Film:
    """90 % of each side, off the middle."""
    high, wide = (round(0.9 * side) for side in film.shape)
    return film[:high, film.shape[1] - wide :].copy()


def centred(film: Film) -> Film:
    """90 % of each side, from the middle."""
    top, left = (round(0.05 * side) for side in film.shape)
    return film[top:-top, left:-left].copy()


def lungs_alone(film: Film) -> Film:
    """Two ellipses where lungs usually are."""
    y, x = np.mgrid[-1 : 1 : film.shape[0] * 1j, -1 : 1 : film.shape[1] * 1j]
    inside = ((x + 0.42) / 0.3) ** 2 + ((y + 0.1) / 0.62) ** 2 < 1
    inside |= ((x - 0.42) / 0.3) ** 2 + ((y + 0.1) / 0.62) ** 2 < 1
    return np.where(inside, film, 0).astype(np.float32)


def jpeg(film: Film) -> Film:
    file = io.BytesIO()
    Image.fromarray(np.uint8(film * 255 + 0.5)).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file), dtype=np.float32) / 255


CHANGES: dict[str, Callable[[Film], Film]] = {
    "inverted": lambda film: 1 - film,
    "masked to ellipses": lungs_alone,
    "cropped to 90 % in the middle": centred,
    "cropped to 90 % in a corner": cropped,
    "half the size": lambda film: resized(film, film.shape[0] // 2, film.shape[1] // 2),
    "gamma 0.5": lambda film: film**0.5,
    "gamma 2": lambda film: film**2,
    "JPEG of quality 60, 8 bits": jpeg,
    "mirrored": lambda film: film[:, ::-1].copy(),
    "inverted, masked, JPEG, mirrored": lambda film: jpeg(lungs_alone(1 - film))[:, ::-1].copy(),
    "inverted, cropped, masked, JPEG, mirrored": lambda film: jpeg(lungs_alone(1 - cropped(film)))[
        :, ::-1
    ].copy(),
}


def counted(pairs: Twins, truth: set[tuple[int, int]]) -> dict[str, object]:
    """Recall with the Wilson interval, and how many other pairs were joined."""
    joined = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    right = len(joined & truth)
    span = binomtest(right, len(truth)).proportion_ci(method="wilson")
    return {
        "true": right,
        "of": len(truth),
        "recall": round(right / len(truth), 4),
        "interval": [round(span.low, 4), round(span.high, 4)],
        "other": len(joined - truth),
    }


def in_detail(pairs: Twins, truth: set[tuple[int, int]]) -> dict[str, object]:
    """How alike true and other candidates are: what thresholds are chosen from."""
    right = np.array([pair in truth for pair in zip(pairs.first.tolist(), pairs.second.tolist(),
                                                    strict=True)], dtype=bool)  # fmt: skip
    reached = len({int(i) for i in pairs.first[right]})
    out: dict[str, object] = {"candidates": len(pairs), "films whose twin is one": reached}
    for name in ("whole", "correlation"):
        values = getattr(pairs, name)
        if right.any():
            low = np.quantile(values[right], [0, 0.01, 0.02, 0.05, 0.1, 0.5])
            out[f"{name}, true: least, 1, 2, 5, 10, 50 %"] = low.round(3).tolist()
        out[f"{name}, others: highest ten"] = np.sort(values[~right])[::-1][:10].round(3).tolist()
    lower = np.minimum(pairs.whole, pairs.correlation)
    out["the lower of both, others: highest ten"] = (
        np.sort(lower[~right])[::-1][:10].round(3).tolist()
    )
    return out


def timed(work: Callable[[], object]) -> tuple[object, dict[str, float]]:
    begin, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, {"CPU s": time.process_time() - begin, "wall s": time.perf_counter() - wall}


def halves(
    data: Path, half: int, most: int | None
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(rows of rsna_lungs of that half, rows of rsna_normal)."""
    normal = rows_of(data, "rsna_normal")
    known = {row["image_id"] for row in normal}
    rows = rows_of(data, "rsna_lungs")
    paired = [row for row in rows if row["same_film"] in known]
    alone = [row for row in rows if row["same_film"] not in known]
    rows_of_half = paired[half::2] + alone[half::2]
    step = len(rows_of_half) // most if most else 1
    return rows_of_half[::step][:most], normal


def lungs_and_normal(
    data: Path, half: int, lungs_most: int | None, most: int | None
) -> tuple[dict[str, object], Signatures, Signatures, list[Path]]:
    rows, normal = halves(data, half, lungs_most)
    sources = {row["same_film"] for row in rows}
    spare = [row for row in normal if row["image_id"] not in sources]
    normal = [row for row in normal if row["image_id"] in sources]
    normal += spare if most is None else spare[:most]
    place = {row["image_id"]: number for number, row in enumerate(normal)}
    paths = [data / "rsna_normal" / row["path"] for row in normal]
    (lungs, whole), cost = timed(
        lambda: (signed([data / "rsna_lungs" / row["path"] for row in rows]), signed(paths))
    )  # type: ignore[misc]
    truth = {(i, place[r["same_film"]]) for i, r in enumerate(rows) if r["same_film"] in place}
    pairs, search = timed(lambda: all_candidates(lungs, whole))
    joined = alike(pairs)  # type: ignore[arg-type]
    out = {
        "signature, CPU ms a film, with reading": 1000 * cost["CPU s"] / (len(lungs) + len(whole)),
        "films": [len(lungs), len(whole)],
        **search,
        **counted(joined, truth),
        "by sketch": known_by_sketch(lungs, whole, truth),
        **in_detail(pairs, truth),  # type: ignore[arg-type]
        "others": [
            [rows[i]["image_id"], normal[j]["image_id"]]
            for i, j in zip(joined.first.tolist(), joined.second.tolist(), strict=True)
            if (i, j) not in truth
        ],
    }
    return out, lungs, whole, paths


def one_patient(data: Path) -> dict[str, object]:
    """Films of `nih`: those of one patient are no twins."""
    films = [row for row in rows_of(data, "nih") if row["image_id"].endswith("@320")]
    nih = signed([data / "nih" / row["path"] for row in films])
    pairs = all_candidates(nih, nih, within=True)
    patients = [row["patient_id"] for row in films]
    joined = alike(pairs)
    lower = np.minimum(pairs.whole, pairs.correlation)
    of = np.array(patients)
    own = of[pairs.first] == of[pairs.second]
    return {
        "films": len(films),
        "pairs of one patient": sum(
            patients[i] == patients[j] for i in range(len(films)) for j in range(i)
        ),
        "of which candidates": int(own.sum()),
        "the lower of both correlations, highest ten": np.sort(lower[own])[::-1][:10]
        .round(3)
        .tolist(),
        "twins": [
            [films[i]["image_id"], films[j]["image_id"], round(float(c), 3)]
            for i, j, c in zip(joined.first, joined.second, joined.correlation, strict=True)
        ],
    }


def many(films: Signatures, count: int) -> tuple[Signatures, Signatures]:
    """Twice so many as there are films: every second one again and again, and the others; so that
    as large a share of the pairs are candidates as among different films."""
    some = np.arange(count) % (len(films) // 2) * 2
    return films.at(some), films.at(some + 1)


def searched(films: Signatures, copies: int) -> dict[str, object]:
    """How long it takes to search that many films among as many."""
    first, second = many(films, copies)
    pairs, cost = timed(lambda: twins_between(first, second))
    return {f"{copies} against as many": {"pairs": len(pairs), **cost}}  # type: ignore[arg-type]


def known_by_sketch(
    films: Signatures, among: Signatures, truth: set[tuple[int, int]]
) -> dict[str, object]:
    """How many films are known by the sketches of others, as `score` knows them, and how many that
    are not among them are taken for one."""
    sketches = Sketches.of(among)
    twins = [twin for at in range(0, len(films), AT_ONCE)
             for twin in sketches.twin_of_each(films.part(at, at + AT_ONCE))]  # fmt: skip
    joined = {(i, twin) for i, twin in enumerate(twins) if twin is not None}
    return {
        "true": len(joined & truth),
        "of": len(truth),
        "other": len(joined - truth),
        "others": sorted(joined - truth),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--half", type=int, default=1)
    parser.add_argument("--lungs", type=int)
    parser.add_argument("--normal", type=int)
    parser.add_argument("--changed", type=int, default=100, help="normal films that are changed")
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--search-alone", action="store_true")
    options = parser.parse_args()
    out: dict[str, object] = {"threads": torch.get_num_threads()}
    if options.search_alone:
        rows = rows_of(options.data, "rsna_normal")
        whole = signed([options.data / "rsna_normal" / row["path"] for row in rows])
        print(json.dumps(out | searched(whole, options.copies), indent=1))
        return
    out["rsna_lungs in rsna_normal"], _, whole, paths = lungs_and_normal(
        options.data, options.half, options.lungs, options.normal
    )
    print(json.dumps(out, indent=1), flush=True)
    out["nih"] = one_patient(options.data)
    print(json.dumps(out["nih"], indent=1), flush=True)
    some = np.linspace(0, len(paths) - 1, min(options.changed, len(paths))).astype(int)
    for name, change in CHANGES.items():
        worn = signed([paths[i] for i in some], change)
        pairs = twins_between(worn, whole.at(some))
        out[name] = counted(pairs, {(i, i) for i in range(len(some))})
        print(json.dumps({name: out[name]}), flush=True)
    if options.copies:
        out |= searched(whole, options.copies)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
