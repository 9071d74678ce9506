"""Of a folder of anything, only chest films get a score; all are in `benchmarks/odd_films.py`."""

import csv
from pathlib import Path

import pydicom.data
import pytest
from pydicom import dcmread

from nofinding.cli import main

TESTS = Path(pydicom.data.__file__).parent / "test_files"
NO_FILMS = {  # and what is said of each
    "README.txt": "is not a PNG, JPEG or DICOM file",
    "zipMR.gz": "is not a PNG, JPEG or DICOM file",
    "test-SR.dcm": "has modality SR; CR and DX are read",
    "dicomdirtests/DICOMDIR": "has modality not stated; CR and DX are read",
    "rtdose.dcm": "has modality RTDOSE; CR and DX are read",
    "image_dfl.dcm": "has modality OT; CR and DX are read",
    "MR_truncated.dcm": "has modality MR; CR and DX are read",
}
NO_CHESTS = ("MR_small.dcm", "CT_small.dcm", "JPGExtended.dcm", "image_dfl.dcm", "693_J2KI.dcm",
             "examples_overlay.dcm", "J2K_pixelrep_mismatch.dcm")  # fmt: skip


def test_only_the_chest_film_gets_a_score(tmp_path: Path) -> None:
    store = pytest.importorskip("data_store")
    real = Path(store.__file__).parent / "data"
    rows = {name.replace("/", "-"): str(TESTS / name) for name in NO_FILMS}
    rows |= {"chest": str(real / "RG1_J2KI.dcm"), "limb": str(real / "RG3_UNCR.dcm")}
    for name in NO_CHESTS:  # under a header that calls them chest films
        dataset = dcmread(TESTS / name)
        dataset.Modality, dataset.BodyPartExamined = "CR", "CHEST"
        dataset.save_as(tmp_path / name)
        rows[f"disguised-{name}"] = str(tmp_path / name)
    with (tmp_path / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "path"), *rows.items()])
    command = ["score", "--films", f"table:{tmp_path / 'films.csv'}", "--model", "adult"]
    more = ["--unreadable", "list", "--missing-fields", "mask", "--no-maps"]
    assert main([*command, *more, "--out", str(tmp_path / "s")]) == 0
    with (tmp_path / "s" / "scores.csv").open(newline="") as file:
        scored = {row["image_id"]: row for row in csv.DictReader(file)}
    with (tmp_path / "s" / "unreadable.csv").open(newline="") as file:
        unread = {row["image_id"]: row["reason"] for row in csv.DictReader(file)}
    assert [name for name, row in scored.items() if row["score"]] == ["chest"]
    assert unread == {name.replace("/", "-"): said for name, said in NO_FILMS.items()}
    others = {name for name in rows if name.startswith(("disguised", "limb"))}
    assert set(scored) == {"chest", *others}
    assert all("refused" in scored[name]["flags"] for name in others)
