"""VinDr-CXR as PhysioNet and Kaggle ship it, on the small copy."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from support.shipped import Shipped

TRAIN, TEST = "annotations/image_labels_train.csv", "annotations/image_labels_test.csv"
DRAWN = "annotations/annotations_train.csv"


DX = "1.2.840.10008.5.1.4.1.1.1.1"
# By keyword, the tags of de-identification/tags.csv of github.com/vinbigdata-medical/vindr-cxr.
SHIPPED = {
    "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "PhotometricInterpretation",
    "Rows", "Columns", "PixelSpacing", "PixelAspectRatio", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "SmallestImagePixelValue", "LargestImagePixelValue",
    "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "PixelData",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "SamplesPerPixel", "NumberOfFrames",
}  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Shipped:
    return Shipped.write("vindr", tmp_path)


def ids(copy: Shipped) -> list[str]:
    """The training films of the copy, in order: of patients 0, 1, 2, 4, 5, 6, 8, ..."""
    rows = csv.DictReader(io.StringIO((copy.root / TRAIN).read_text()))
    return [*dict.fromkeys(row["image_id"] for row in rows)]


def kaggle(copy: Shipped) -> None:
    """Makes the copy one of Kaggle's: one table, and no labels of the test films."""
    rows = csv.DictReader(io.StringIO((copy.root / DRAWN).read_text()))
    titles = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    with (copy.root / "train.csv").open("w") as lines:
        table = csv.DictWriter(lines, titles)
        table.writeheader()
        table.writerows({**row, "class_id": 14} for row in rows)
    for file in (copy.root / "annotations").iterdir():
        file.unlink()


def test_the_copy_holds_what_the_publisher_ships(copy: Shipped) -> None:
    files = [*copy.root.rglob("*.dicom")]
    headers = [dcmread(file) for file in files]
    keywords = {element.keyword for header in headers for element in header}
    assert keywords == SHIPPED and len(SHIPPED) == 25 and files
    assert {header.file_meta.MediaStorageSOPClassUID for header in headers} == {DX}


def test_votes_boxes_and_record(copy: Shipped) -> None:
    films, train = copy.films(), ids(copy)
    assert films[train[1]].findings == frozenset() and films[train[1]].lesion is None
    assert "age" not in films[train[1]].ehr and "sex" in films[train[1]].ehr  # it says 000Y
    assert "age" not in films[train[4]].ehr and films[train[4]].flags == ()
    assert train[2] not in films  # one of three found something
    assert films[train[3]].findings == {"Aortic enlargement", "Atelectasis", "Calcification"}
    mass = films[train[4]]
    assert mass.findings == {"Lung Opacity"} and mass.lesion is not None and mass.view == "PA"
    rows, columns = mass.lesion().nonzero()
    # readers drew from 12.5, 13.5 and 14.5 to 40.25 in pixels of the film
    assert (columns.min(), columns.max()) == (12, 40) and (rows.min(), rows.max()) == (20, 43)
    test = {film.image_id for film in films.values() if film.split == "test"}
    assert len(test) == 6 and not test & set(train)
    assert copy.losses()["its readers disagree"] == 1
    assert copy.losses()["age 0, which stands for unknown, set to missing"] == 1


@pytest.mark.parametrize(
    ("policy", "findings", "drawn"),
    [
        ("positive", {"Calcification"}, True),
        ("negative", set(), False),
        ("unlabelled", None, False),
    ],
)
def test_disagreement_is_what_the_user_says(
    copy: Shipped, policy: str, findings: object, drawn: bool
) -> None:
    film = copy.films("--uncertain", policy)[ids(copy)[2]]
    assert film.findings == findings and (film.lesion is not None) == drawn
    assert copy.losses()[f"films whose readers disagree, taken as {policy}"] == 1


def test_findings_are_those_that_two_readers_named(copy: Shipped) -> None:
    film = ids(copy)[4]
    rows = (copy.root / TRAIN).read_text().splitlines()
    places = [place for place, row in enumerate(rows) if row.startswith(film)]
    third = rows[places[2]].split(",")
    third[2] = "1"  # Aortic enlargement, too
    rows[places[2]] = ",".join(third)
    (copy.root / TRAIN).write_text("\n".join(rows) + "\n")
    assert copy.films()[film].findings == {"Lung Opacity"}
    third[-1] = "1"  # and No finding
    rows[places[2]] = ",".join(third)
    (copy.root / TRAIN).write_text("\n".join(rows) + "\n")
    assert film not in copy.films()
    assert copy.losses()["a reader said No finding and a finding at once, or neither"] == 1
    third[-1] = "yes"
    rows[places[2]] = ",".join(third)
    (copy.root / TRAIN).write_text("\n".join(rows) + "\n")
    copy.films()
    assert copy.losses()["a label other than 1 and 0"] == 1


def test_the_table_of_kaggle_gives_the_same_training_films(copy: Shipped) -> None:
    before = {i: (r.findings, dict(r.ehr)) for i, r in copy.films().items() if r.split != "test"}
    kaggle(copy)
    films = copy.films()
    assert {i: (r.findings, dict(r.ehr)) for i, r in films.items()} == before
    assert {film.split for film in films.values()} == {"train", "val", "test"}  # drawn
    assert copy.losses()["image files in the folder that no table lists"] == 7


def test_copies_of_another_size_need_the_size_of_the_original(copy: Shipped) -> None:
    film = ids(copy)[4]
    kaggle(copy)
    (copy.root / f"train/{film}.dicom").unlink()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).resize((32, 32)).save(
        copy.root / f"train/{film}.png"
    )
    assert copy.films()[film].lesion is None
    said = "films whose boxes are left out: a picture, and train_meta.csv lacks its size"
    assert copy.losses()[said] == 1
    (copy.root / "train_meta.csv").write_text(f"image_id,dim0,dim1\n{film},128,64\n")
    lesion = copy.films()[film].lesion
    assert lesion is not None and said not in copy.losses()
    rows, columns = lesion().nonzero()
    # 128 rows and 64 columns became 32 and 32
    assert (columns.min(), columns.max()) == (6, 20) and (rows.min(), rows.max()) == (5, 10)


def test_bad_tables_are_one_line(copy: Shipped, capsys: pytest.CaptureFixture[str]) -> None:
    film = ids(copy)[4]
    copy.edit(TRAIN, lambda text: text.replace("rad_id", "reader", 1))
    assert "has no column 'rad_id'; image_labels_train.csv of PhysioNet" in copy.refused(capsys)
    copy.edit(TRAIN, lambda text: text.replace("reader", "rad_id", 1))
    other = next(row for row in (copy.root / TEST).read_text().splitlines() if ",1" in row)
    copy.edit(TEST, lambda text: text.replace(other[:32], film))
    assert "a film is in the labels of train and of test" in copy.refused(capsys)
    (copy.root / TEST).unlink()
    assert "has no file image_labels_test.csv" in copy.refused(capsys)
    (copy.root / TRAIN).unlink()
    assert "PhysioNet's, nor Kaggle's train.csv" in copy.refused(capsys)
