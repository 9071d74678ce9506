"""One film has one score, however it is stored."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless, JPEGLossless

from nofinding.cli import main
from nofinding.data.decoding.decode import FilmFile
from support.dicom_film import film, in_bytes, with_frame
from support.recoded import forms

CODED = Path(__file__).parents[1] / "data" / "decoding" / "coded"
HERE = Path(__file__).parents[2].parent / "shared" / "data"
REAL = sorted((Path(os.environ.get("NOFINDING_DATA", HERE)) / "dicom").glob("*.dcm"))


def phantom(**tags: object) -> tuple[Dataset, dict[str, bytes]]:
    """A phantom's film of 12 bits, and forms that only other programs can make: high-throughput
    JPEG 2000 (by OpenJPH) and lossless JPEG."""
    stored = {
        "HTJ2K": (CODED / "phantom.htj2k", HTJ2KLossless),
        "JPEG": (CODED / "phantom.ljpeg", JPEGLossless),
    }
    blank = np.zeros((128, 112), np.uint16)
    films = {
        name: with_frame(file.read_bytes(), syntax, film(blank, **tags))
        for name, (file, syntax) in stored.items()
    }
    pixels = films["HTJ2K"].pixel_array
    assert pixels.max() == 4095 and (films["JPEG"].pixel_array == pixels).all()
    return film(pixels, **tags), {name: in_bytes(dataset) for name, dataset in films.items()}


def scores(files: dict[str, bytes], folder: Path, *options: str) -> dict[str, float]:
    """The score of each form, by the command line."""
    paths = {}
    for number, (name, content) in enumerate(files.items()):
        paths[name] = folder / f"form-{number}.dcm"
        paths[name].write_bytes(content)
    out = folder / "scores"
    command = ["score", *map(str, paths.values()), "--no-maps", "--out", str(out)]
    assert main([*command, *options]) == 0
    with (out / "scores.csv").open(newline="") as lines:
        by_id = {row["image_id"]: float(row["score"]) for row in csv.DictReader(lines)}
    return {name: by_id[path.stem] for name, path in paths.items()}


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1800, "WindowWidth": 2500}])
def test_a_phantom_has_one_score(window: dict[str, int], model: Path, tmp_path: Path) -> None:
    dataset, others = phantom(**window)
    files = {**dict(forms(dataset)), **others}
    assert len(files) >= 12
    result = scores(files, tmp_path, "--model", str(model), "--gate", "off")
    assert max(result.values()) - min(result.values()) <= 1e-6, result
    first, *rest = (FilmFile(path)() for path in sorted(tmp_path.glob("*.dcm")))
    for pixels in rest:
        np.testing.assert_allclose(pixels, first, atol=1e-6)


def test_a_film_that_was_changed_has_another(model: Path, tmp_path: Path) -> None:
    """What the test above would not see if nothing changed a score."""
    dataset, _ = phantom()
    lossy = dataset.pixel_array.copy()
    lossy[40:60, 30:50] += 40
    files = {"one": in_bytes(dataset), "other": in_bytes(film(lossy))}
    result = scores(files, tmp_path, "--model", str(model), "--gate", "off")
    assert abs(result["one"] - result["other"]) > 1e-5


@pytest.mark.films
@pytest.mark.skipif(not REAL, reason="no real DICOM films here")
@pytest.mark.parametrize("file", REAL, ids=lambda file: file.stem[:8])
def test_a_real_film_has_one_score(file: Path, tmp_path: Path) -> None:
    """By the shipped model, and through its gate."""
    dataset = dcmread(file)
    dataset.PixelData = dataset.pixel_array.tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    files = {"as it came": file.read_bytes(), **dict(forms(dataset))}
    assert len(files) >= 10
    result = scores(files, tmp_path, "--model", "adult")
    assert max(result.values()) - min(result.values()) <= 1e-6, result
