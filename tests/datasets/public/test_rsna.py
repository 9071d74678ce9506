"""The RSNA Pneumonia Detection Challenge as Kaggle ships it, on the small copy."""

import csv
import json
from pathlib import Path

import pytest

from support.shipped import Shipped

LABELS, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


@pytest.fixture
def copy(tmp_path: Path) -> Shipped:
    return Shipped.write("rsna", tmp_path)


@pytest.fixture
def ids(copy: Shipped) -> dict[str, str]:
    """Ids of films by number of the patient and of the film."""
    entries = json.loads((copy.root / MAPPING).read_text())
    return {entry["img_id"][4:12]: entry["subset_img_id"] for entry in entries}


def test_labels_boxes_and_record(copy: Shipped, ids: dict[str, str]) -> None:
    films = copy.films()
    normal, opaque, other = (films[ids[k]] for k in ("0002_000", "0003_000", "0010_000"))
    assert normal.findings == frozenset() and normal.lesion is None
    assert opaque.findings == {"Lung Opacity"} and opaque.lesion is not None
    assert other.findings == {"No Lung Opacity / Not Normal"} and other.lesion is None
    rows, columns = opaque.lesion().nonzero()
    # two boxes of 213 x 379 from 264 and from 564 on a film of 1024; ours has 64
    assert (columns.min(), columns.max()) == (16, 48) and (rows.min(), rows.max()) == (9, 33)
    assert normal.view == "AP" and other.view == "AP" and opaque.view == "PA"
    assert "age" not in normal.ehr and "sex" in normal.ehr  # it says 148
    assert "age" not in opaque.ehr  # it says UNK
    assert opaque.flags == ("age: what the file's header says cannot be used",)
    assert 18 <= other.ehr["age"] <= 100
    losses = copy.losses()
    assert losses["of the challenge's test set, which has no labels"] == 2
    assert losses["its file is not in the folder"] == 1
    assert losses["its header cannot be read"] == 1
    assert losses["image files in the folder that no table lists"] == 1
    assert losses["age: what the file's header says cannot be used, missing"] == 1
    assert losses["age: outside 0 to 120 a, set to missing"] == 1


def test_patients_are_those_of_the_mapping(copy: Shipped, ids: dict[str, str]) -> None:
    films = copy.films()
    assert films[ids["0004_000"]].patient_id == films[ids["0004_001"]].patient_id == "nih00004"
    entries = json.loads((copy.root / MAPPING).read_text())
    (copy.root / MAPPING).write_text(json.dumps(entries[1:]))
    assert copy.films()[ids["0001_000"]].patient_id == ids["0001_000"]
    assert copy.losses()["films that are not in the mapping, each counted as one patient"] == 1
    (copy.root / MAPPING).unlink()
    assert all(film.patient_id == i for i, film in copy.films().items())
    said = next(what for what in copy.losses() if "patient is not known" in what)
    assert copy.losses()[said] == len(films) + 1  # one is not there


def test_tables_that_disagree_are_counted(copy: Shipped, ids: dict[str, str]) -> None:
    copy.cell(LABELS, ids["0002_000"], ",0", ",1")
    copy.cell(CLASSES, ids["0006_000"], "Normal", "Fracture")
    copy.edit(CLASSES, lambda t: "".join(r for r in t.splitlines(True) if ids["0007_000"] not in r))
    films = copy.films()
    assert not {ids["0002_000"], ids["0006_000"], ids["0007_000"]} & films.keys()
    losses = copy.losses()
    assert losses["its class and its Target, or two of its rows, disagree"] == 1
    assert losses["a class that stage 2 does not have"] == 1
    assert losses["no class in stage_2_detailed_class_info.csv"] == 1


def test_pictures_in_place_of_dicom_files_have_no_record(
    copy: Shipped, ids: dict[str, str]
) -> None:
    from PIL import Image

    (copy.root / f"stage_2_train_images/{ids['0003_000']}.dcm").unlink()
    picture = copy.root / f"stage_2_train_images/{ids['0003_000']}.png"
    Image.linear_gradient("L").save(picture)
    film = copy.films()[ids["0003_000"]]
    assert film.ehr == {} and film.view is None and film.lesion is not None
    assert film.lesion()[38:132, 66:119].all() and film.lesion().sum() == 2 * 95 * 54


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"img_id": "1"}]', "[", "[]"])
def test_a_mapping_of_something_else_is_refused(
    copy: Shipped, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy.root / MAPPING).write_text(text)
    assert "must be a list with subset_img_id and img_id" in copy.refused(capsys)


def test_bad_tables_are_one_line(copy: Shipped, capsys: pytest.CaptureFixture[str]) -> None:
    copy.edit(LABELS, lambda text: text.replace("Target", "target_", 1))
    assert f"{LABELS}: has no column 'Target'; is 'target_' meant for it?" in copy.refused(capsys)
    (copy.root / LABELS).unlink()
    assert f"has no file {LABELS}; stage 2" in copy.refused(capsys)


def test_the_lists_of_med_ad_decide(copy: Shipped, ids: dict[str, str]) -> None:
    films = copy.films()
    normal = sorted(i for i, film in films.items() if not film.findings)
    abnormal = sorted(i for i, film in films.items() if film.findings)
    (copy.root / MAPPING).unlink()  # films of one patient stand in both parts of the list

    def names(of: list[str]) -> list[str]:
        return [f"{i}.png" for i in of]

    lists = {
        "train": {
            "0": names(normal[:8]),
            "unlabeled": {"0": names(normal[8:10]), "1": names(abnormal[:3])},
        },
        "test": {"0": [*names(normal[10:14]), "gone.png"], "1": names(abnormal[3:7])},
    }
    file = copy.root.parent / "data.json"
    file.write_text(json.dumps(lists))
    got = copy.films("--recipe", "rsna-medad", "--lists", str(file))
    free = {i for i, film in got.items() if film.findings is None}
    assert free == {*normal[8:10], *abnormal[:3]}
    assert {i for i, film in got.items() if film.split == "test"} == {
        *normal[10:14],
        *abnormal[3:7],
    }
    description = json.loads((copy.out / "cohort.json").read_text())
    assert description["deviations"][:2] == [
        "8 normal films to learn from, where the protocol has 3,851",
        "4 normal films judged, where the protocol has 1,000",
    ]
    said = copy.losses()
    assert said["films that the published lists take without a label"] == 5
    assert said["films of the published lists that are not here, or were left out above"] == 1
    assert said["not in the published lists"] == len(films) - 21


def test_the_published_order_of_rows_does_not_matter(copy: Shipped, ids: dict[str, str]) -> None:
    before = {i: (film.split, film.findings) for i, film in copy.films().items()}
    for name in (LABELS, CLASSES):
        with (copy.root / name).open() as lines:
            head, *rows = csv.reader(lines)
        with (copy.root / name).open("w") as lines:
            csv.writer(lines).writerows([head, *reversed(rows)])
    assert {i: (film.split, film.findings) for i, film in copy.films().items()} == before
