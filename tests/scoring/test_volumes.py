"""Volumes from the command line: fit, score, and what lies in the folder afterwards."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nofinding.cli import main
from nofinding.data.decoding.decode import VolumeFile
from nofinding.data.image import fit_cube

SMALL = [
    "--method.dimensions", "3", "--method.image-size", "16", "--method.unet.train.steps", "3",
    "--method.codec.train.steps", "3", "--gate", "auto", "--calibrate", "val",
]  # fmt: skip


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("volumes")
    lines = ["path,patient_id,split,findings"]
    for i in range(16):
        rng = np.random.default_rng(i)
        grid = np.linspace(-1, 1, 16)
        far = grid[:, None, None] ** 2 + grid[None, :, None] ** 2 + grid[None, None] ** 2
        values = (np.exp(-far * 2) * 900 + rng.normal(0, 20, far.shape)).astype(np.int16)
        if i == 15:
            values[12:15, 7:10, 2:5] = 1500
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"v{i}.nii.gz")
        split = "train" if i < 10 else "val" if i < 14 else "test"
        lines.append(f"v{i}.nii.gz,p{i},{split},{'Nodule' if i == 15 else ''}")
    (folder / "volumes.csv").write_text("\n".join(lines) + "\n")
    return f"nifti:{folder}"


@pytest.fixture(scope="module")
def model(volumes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "m"
    given = ["fit", "ldm-kl", "--preset", "tiny", "--films", volumes, "--out", str(out), *SMALL]
    assert main(given) == 0
    return out


def test_maps_and_normal_volumes_are_nifti_files_beside_a_picture(
    volumes: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    given = ["score", "--model", str(model), "--films", volumes, "--split", "test"]
    assert main([*given, "--out", str(out)]) == 0
    assert "no input gate: it looks at films, and these are volumes" in capsys.readouterr().err
    with (out / "scores.csv").open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["v14", "v15"] and float(rows["v14"]["p_value"]) >= 0.2
    for image_id in rows:
        map_ = np.load(out / "maps" / f"{image_id}.npy")
        assert map_.shape == (16, 16, 16) and map_.min() >= 0
        assert (out / "maps" / f"{image_id}.png").stat().st_size > 100
        stored = nibabel.load(out / "maps" / f"{image_id}.nii.gz")
        assert (stored.affine == np.eye(4)).all()
        np.testing.assert_array_equal(
            np.asarray(stored.dataobj)[::-1, ::-1].transpose(2, 1, 0), map_
        )
        normal = np.load(out / "normal" / f"{image_id}.npy")
        assert normal.shape == (16, 16, 16) and normal.min() >= 0 and normal.max() <= 1
        # Read as a volume, it lies as the volume that was scored.
        again = VolumeFile(out / "normal" / f"{image_id}.nii.gz")()
        low, high = np.percentile(normal.astype(np.float32), [0.5, 99.5])
        expected = fit_cube(np.clip((normal.astype(np.float32) - low) / (high - low), 0, 1), 16)
        assert np.abs(fit_cube(again, 16).astype(float) - expected).max() < 0.01 * 65535
    run = json.loads((out / "run.json").read_text())
    assert run["config"]["dimensions"] == 3 and run["gate"]["note"].startswith("no input gate")
    assert json.loads((model / "model.json").read_text())["gate"] == {
        "fitted": False,
        "why": "volumes",
    }


def test_films_for_volumes_and_volumes_for_films_are_refused(
    volumes: str, model: Path, cohort: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    films = f"table:{cohort / 'films.csv'}"
    line = refused("score", "--model", model, "--films", films, "--out", tmp_path / "a")
    assert "has 2 dimensions, not 3; the method as configured takes volumes" in line
    line = refused("fit", "mean-grey", "--films", volumes, "--out", tmp_path / "b")
    assert "has 3 dimensions, not 2; the method as configured takes films" in line
    line = refused(
        "score", "--model", model, "--films", volumes, "--gate-from", model, "--out", tmp_path / "c"
    )
    assert "the model scores volumes, gates judge films" in line
    scores = tmp_path / "scores.csv"
    scores.write_text("image_id,score\n")
    line = refused("evaluate", "--scores", scores, "--films", volumes, "--out", tmp_path / "d")
    assert "holds volumes; evaluate judges films" in line
