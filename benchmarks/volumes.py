"""ldm-ood and ldm-kl on simulated volumes, some with a lesion at a known place.

Writes a folder of NIfTI volumes (a body, two lungs, a spine, vessels, noise), fits both methods to
the normal ones of the train split through the same sources, films and training as any volumes,
scores the val split, and says how well the scores tell lesions apart and whether the largest value
of the map lies in the lesion. SIMULATED: the numbers say that the program works as meant, and
nothing of how well anything detects disease.

usage: python benchmarks/volumes.py --folder FOLDER [--train 60] [--val 16] [--seed 0] [--threads 1]
           [--methods ldm-ood ldm-kl] [--out benchmarks/results/volumes]
"""

import argparse
import csv
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import nibabel
import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.data.image import fit_cube_mask
from nofinding.data.split import normals
from nofinding.datasets.cohort import Cohort
from nofinding.evaluation.statistics.intervals import Estimate, bootstrap, measure, patient_index
from nofinding.methods import METHODS
from nofinding.methods.base.protocol import dimensions_of
from nofinding.runtime import use_threads
from nofinding.training import TrainingRun
from nofinding.types import Exam, Scores

mpl.use("Agg")
from matplotlib import pyplot as plt

SIDE = 40  # voxels
NEAR = 1  # voxels around the lesion that still count as in it, for the map's largest value
Volume = Float[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Phantom:
    """A chest-like volume: axes right, front, up, each from -1 to 1; values like those of CT."""

    values: Volume
    lesion: Bool[np.ndarray, "x y z"]


def phantom(seed: int, *, lesion: bool) -> Phantom:
    """Every patient has other proportions. A lesion is a bright sphere inside a lung."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 3, indexing="ij")
    wide, deep = 0.82 + 0.05 * rng.standard_normal(), 0.62 + 0.04 * rng.standard_normal()

    def inside(far: Volume) -> Volume:
        return 1 / (1 + np.exp(np.clip(18 * (far - 1), -30, 30)))

    values = np.full(x.shape, -1000.0)
    values += 1030 * inside(np.sqrt((x / wide) ** 2 + (y / deep) ** 2 + (z / 1.3) ** 6))
    lungs = np.zeros_like(values)
    for side in (-1, 1):
        centre = side * (0.4 + 0.02 * rng.standard_normal())
        a, b, c = np.array([0.27, 0.4, 0.72]) * (1 + 0.05 * rng.standard_normal(3))
        lungs += inside(
            np.sqrt(((x - centre) / a) ** 2 + ((y - 0.05) / b) ** 2 + ((z + 0.05) / c) ** 2)
        )
    lungs = lungs.clip(0, 1)
    values -= 800 * lungs
    values += 500 * inside(np.sqrt((x / 0.14) ** 2 + ((y + 0.42) / 0.14) ** 2))  # the spine
    threads = ndimage.gaussian_filter(rng.standard_normal(x.shape), (1, 1, 2.5))
    values += 350 * lungs * (threads > 1.7 * threads.std())  # vessels
    drawn = np.zeros(x.shape, bool)
    if lesion:
        places = np.argwhere(ndimage.binary_erosion(lungs > 0.9, iterations=2))
        at = places[rng.integers(len(places))]
        far = np.sqrt(sum((i - k) ** 2 for i, k in zip(np.indices(x.shape), at, strict=True)))
        radius = rng.uniform(2.5, 4.0)  # voxels
        drawn = far <= radius
        values += (60 - values) / (1 + np.exp(3 * (far - radius)))
    return Phantom(values + 15 * rng.standard_normal(x.shape), drawn)


def write(folder: Path, train: int, val: int, seed: int) -> None:
    """`train` normal volumes, and `val` normal and `val` other ones, with masks and a table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(train + 2 * val):
        lesion = i >= train + val
        volume = phantom(1000 * seed + i, lesion=lesion)
        name = f"patient-{i:03d}"
        nibabel.save(
            nibabel.Nifti1Image(volume.values.astype(np.int16), np.diag([8.0, 8.0, 8.0, 1.0])),
            folder / f"{name}.nii.gz",
        )
        row = {"image_id": name, "path": f"{name}.nii.gz", "patient_id": name}
        row |= {"split": "train" if i < train else "val", "findings": "", "mask": ""}
        if lesion:
            row |= {"findings": "simulated nodule", "mask": f"{name}-mask.nii.gz"}
            nibabel.save(
                nibabel.Nifti1Image(volume.lesion.astype(np.uint8), np.diag([8.0, 8.0, 8.0, 1.0])),
                folder / row["mask"],
            )
        rows.append(row)
    with (folder / "volumes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class FittedMethod:
    """What a method made of the val split."""

    name: str
    scores: Scores
    auroc: Estimate
    pointed: Estimate  # share of lesions in which the map is largest
    fit_seconds: float
    score_seconds: float  # a volume
    chance: float  # share of the voxels that count as in the lesion


def run(name: str, exams: list[Exam], shared: Path) -> tuple[FittedMethod, Films]:
    """Fits the method to the training normals, and scores the val split."""
    method = METHODS[name]
    detector = method(method.PRESETS["small-3d"], EhrStats.of([], []))
    size, dimensions = detector.image_size, dimensions_of(detector)
    train = Films(normals(exams, "train"), detector.stats, size, dimensions=dimensions)
    val = [r for r in exams if r.split == "val"]
    films = Films(val, detector.stats, size, dimensions=dimensions)
    begin = time.process_time()
    detector.fit(train, seed=0, job=TrainingRun(progress=False, accelerator="cpu", shared=shared))
    fitted = time.process_time() - begin
    begin = time.process_time()
    parts = [
        detector.score(films.batch(range(i, min(i + 8, len(films)))))
        for i in range(0, len(films), 8)
    ]
    spent = (time.process_time() - begin) / len(films)
    joined = Scores(
        score=torch.cat([p.score for p in parts]),
        anomaly_map=torch.cat([p.anomaly_map for p in parts if p.anomaly_map is not None]),
        reconstruction=torch.cat([p.reconstruction for p in parts if p.reconstruction is not None]),
    )
    abnormal = np.array([bool(r.findings) for r in val])
    patient = patient_index([r.patient_id for r in val])
    auroc = measure(joined.score.double().numpy(), abnormal, patient)["auroc"]
    assert joined.anomaly_map is not None
    hits, room = [], []
    for i, exam in enumerate(val):
        if exam.lesion is not None:
            near = ndimage.binary_dilation(fit_cube_mask(exam.lesion(), size), iterations=NEAR)
            hits.append(near.flat[int(joined.anomaly_map[i, 0].argmax())])
            room.append(near.mean())
    share = np.array(hits, dtype=float)

    def mean(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 1"]:
        return (weight @ share / weight.sum(1))[:, None]

    pointed = bootstrap(mean, np.arange(len(share)))[0]
    return FittedMethod(name, joined, auroc, pointed, fitted, spent, float(np.mean(room))), films


def draw(fitted: list[FittedMethod], films: Films, exams: list[Exam], out: Path) -> None:
    """Three lesions, a normal volume: the slice, what came back, and each map over it."""
    val = [r for r in exams if r.split == "val"]
    shown = [*[i for i, r in enumerate(val) if r.findings][:3], 0]
    columns = 1 + 2 * len(fitted)
    figure, axes = plt.subplots(len(shown), columns, figsize=(2.1 * columns, 2.25 * len(shown)))
    tops = [
        np.percentile(f.scores.anomaly_map[len(val) // 2 :].numpy(), 99.9)
        for f in fitted
        if f.scores.anomaly_map is not None
    ]
    for number, (row, i) in enumerate(zip(axes, shown, strict=True)):
        lesion = val[i].lesion
        drawn = fit_cube_mask(lesion(), films.size) if lesion is not None else None
        at = int(np.argwhere(drawn)[:, 0].mean()) if drawn is not None else films.size // 2
        grey = (films.batch([i]).image[0, 0, at].numpy() + 1) / 2
        pictures: list[tuple[np.ndarray, np.ndarray | None, float, str]] = [
            (grey, None, 1.0, "volume")
        ]
        for f, top in zip(fitted, tops, strict=True):
            assert f.scores.anomaly_map is not None and f.scores.reconstruction is not None
            pictures.append(
                (
                    (f.scores.reconstruction[i, 0, at].numpy() + 1) / 2,
                    None,
                    1.0,
                    f"{f.name}: normal",
                )
            )
            pictures.append((grey, f.scores.anomaly_map[i, 0, at].numpy(), top, f"{f.name}: map"))
        for axis, (under, heat, top, title) in zip(row, pictures, strict=True):
            axis.imshow(under, cmap="gray", vmin=0, vmax=1)
            if heat is not None:
                strength = np.clip(heat / top, 0, 1)
                axis.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * strength)
            if drawn is not None:
                axis.contour(drawn[at], [0.5], colors="cyan", linewidths=0.8)
            axis.set_title("" if number else title, fontsize=8)
            axis.set_axis_off()
    figure.suptitle(
        "SIMULATED volumes, axial slices; lesion outlined; last row: no lesion", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--train", type=int, default=60)
    parser.add_argument("--val", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=["ldm-ood", "ldm-kl"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    use_threads(options.threads)
    write(options.folder, options.train, options.val, options.seed)
    exams = Cohort([f"nifti:{options.folder}"], dict(FIELDS)).exams
    shared = options.folder / "networks"
    shared.mkdir(exist_ok=True)
    results = [run(name, exams, shared) for name in options.methods]
    fitted = [f for f, _ in results]
    lines = [
        f"| {f.name} | {f.auroc.value:.3f} ({f.auroc.low:.3f} to {f.auroc.high:.3f}) | "
        f"{f.pointed.value:.2f} ({f.pointed.low:.2f} to {f.pointed.high:.2f}) | {f.chance:.3f} | "
        f"{f.fit_seconds:.0f} | {f.score_seconds:.2f} |"
        for f in fitted
    ]
    text = (
        "# Simulated volumes\n\n"
        "**Not clinical numbers**: the volumes are drawn, not of patients.\n\n"
        f"`python benchmarks/volumes.py --folder volumes --train {options.train} --val "
        f"{options.val}`: {options.train} normal volumes to learn from (preset `small-3d`, cubes "
        f"of 32 voxels), {options.val} normal ones and {options.val} with a sphere in a lung "
        f"to tell apart (prevalence 0.50), one volume a patient, seed {options.seed}, normal-only. "
        "Intervals are 95 % bootstraps over patients. The map points at the lesion where its "
        f"largest value lies in it or within {NEAR} voxel of it; by chance it would as often as "
        "the share of such voxels. The first method trains the networks of both, and the second "
        "takes them over. Seconds are CPU time of one thread.\n\n"
        "| method | AUROC | map points at the lesion | by chance | fit, s | score, s a volume |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )
    print(text)
    if options.out:
        options.out.with_suffix(".md").write_text(
            text + "\n![Slices of simulated volumes, what came back, and maps](volumes.png)\n"
        )
        draw(fitted, results[0][1], exams, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
