"""CheXpert as Stanford ships it, on the small copy."""

import shutil
from pathlib import Path

import pytest

from support.shipped import Shipped

FOLDER = "CheXpert-v1.0-small"
TRAIN, VALID = f"{FOLDER}/train.csv", f"{FOLDER}/valid.csv"


def name(number: int) -> str:
    """The image id of a training patient of the copy."""
    return f"patient{number + 1:05d}_study1_view1_frontal"


@pytest.fixture
def copy(tmp_path: Path) -> Shipped:
    return Shipped.write("chexpert", tmp_path)


def test_labels_record_and_split(copy: Shipped) -> None:
    films = copy.films()
    assert films[name(1)].findings == frozenset()
    assert "age" not in films[name(1)].ehr  # it says 0
    assert films[name(1)].flags == ("age: 0 stands for unknown",)
    assert films[name(1)].view == "AP" and films[name(6)].view == "PA"
    assert "sex" not in films[name(2)].ehr and films[name(6)].ehr["age"] == 90
    assert films[name(10)].findings == frozenset({"Pleural Effusion"})  # Atelectasis is uncertain
    assert films[name(16)].findings == frozenset() and films[name(16)].patient_id == "patient00017"
    valid = {i for i, film in films.items() if film.split == "test"}
    assert valid == {i for i in films if i >= "patient64541"}
    losses = copy.losses()
    assert losses["not frontal"] == 8 and losses["neither PA nor AP"] == 1
    assert losses["labelled neither No Finding nor a finding"] == 1
    assert losses["its file is not in the folder"] == 1
    assert losses["image files in the folder that no table lists"] == 1
    assert losses["sex stated as unknown, missing"] == 1
    assert losses["age 0, which stands for unknown, set to missing"] == 1
    assert losses["age 90, which stands for 90 and above"] == 1
    assert losses["normal films with support devices, which the publisher calls No Finding"] == 3


@pytest.mark.parametrize(
    ("policy", "alone", "beside", "normal"),
    [
        ("drop", "left out", {"Pleural Effusion"}, "left out"),
        ("positive", {"Pneumonia"}, {"Pleural Effusion", "Atelectasis"}, "left out"),
        ("negative", set(), {"Pleural Effusion"}, set()),
        ("unlabelled", None, {"Pleural Effusion"}, None),
    ],
)
def test_uncertain_labels_are_what_the_user_says(
    copy: Shipped, policy: str, alone: object, beside: set[str], normal: object
) -> None:
    # one film has nothing but an uncertain label, one a sure one beside it, one No Finding
    copy.cell(TRAIN, "patient00017/", ",1.0,,", ",1.0,-1.0,")
    films = copy.films("--uncertain", policy)
    got = {n: films[name(n)].findings if name(n) in films else "left out" for n in (8, 10, 16)}
    assert got == {8: alone, 10: beside, 16: normal}
    if policy == "drop":
        assert copy.losses()["labels uncertain"] == 2
    if policy == "positive":
        assert copy.losses()["labelled No Finding and a finding at once"] == 1
    if policy == "unlabelled":
        assert copy.losses()["films with uncertain labels, kept without a label"] == 2


def test_contradictions_and_odd_labels_are_left_out(copy: Shipped) -> None:
    copy.cell(TRAIN, "patient00017/", ",1.0,,,,", ",1.0,,1.0,,")
    copy.cell(TRAIN, "patient00018/", ",1.0,", ",yes,")
    copy.cell(TRAIN, "patient00001/study1/view1", ",1.0,", ",yes,")
    films = copy.films()
    assert not {name(0), name(16), name(17)} & set(films)
    losses = copy.losses()
    assert losses["labelled No Finding and a finding at once"] == 1
    assert losses["a label other than 1, 0, -1 and empty"] == 2


def test_a_film_of_the_radiologists_without_a_finding_of_the_list_is_not_normal(
    copy: Shipped,
) -> None:
    copy.cell(VALID, "patient64552/", ",1.0,", ",0.0,")
    film = copy.films()["patient64552_study1_view1_frontal"]
    assert film.findings == frozenset({"Finding without a label"})


def test_the_folder_itself_and_the_batches_of_the_full_download(
    copy: Shipped, tmp_path: Path
) -> None:
    before = {i: (r.split, r.findings, dict(r.ehr)) for i, r in copy.films().items()}
    inner = Shipped("chexpert", copy.root / FOLDER)
    straight = {i: (r.split, r.findings, dict(r.ehr)) for i, r in inner.films().items()}
    assert straight == before
    shutil.rmtree(inner.out)
    full = tmp_path / "full"
    first, second = full / "CheXpert-v1.0 batch 1 (validate & csv)", full / "batch 2 (train 1)"
    first.mkdir(parents=True)
    for part in ("valid", "train.csv", "valid.csv"):
        shutil.move(copy.root / FOLDER / part, first / part)
    shutil.move(copy.root / FOLDER / "train", second)
    got = Shipped("chexpert", full).films()
    assert {i: (r.split, r.findings, dict(r.ehr)) for i, r in got.items()} == before


def test_with_the_labels_of_the_test_set_valid_is_val(copy: Shipped) -> None:
    films = copy.films()
    rows = (copy.root / VALID).read_text().splitlines()
    columns = [0, *range(5, 19)]  # without sex, age and view, as in life
    moved = [
        ",".join(row.split(",")[column] for column in columns)
        for row in rows
        if row.startswith("Path") or "patient64544" in row or "patient64548" in row
    ]
    (copy.root / FOLDER / "test_labels.csv").write_text("\n".join(moved) + "\n")
    copy.edit(VALID, lambda t: "\n".join(r for r in t.splitlines() if "6454" not in r) + "\n")
    got = copy.films()
    assert {r.split for i, r in got.items() if i.startswith("patient6454")} == {"test"}
    assert {r.split for i, r in got.items() if i.startswith("patient6455")} == {"val"}
    moved_film = "patient64544_study1_view1_frontal"
    assert got[moved_film].findings == films[moved_film].findings
    assert dict(got[moved_film].ehr) == {}
    assert not any("lateral" in i for i in got)


def test_two_copies_in_one_folder_are_refused(
    copy: Shipped, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(copy.root / FOLDER, copy.root / "CheXpert-v1.0")
    assert "holds two copies" in copy.refused(capsys)


def test_bad_tables_are_one_line(copy: Shipped, capsys: pytest.CaptureFixture[str]) -> None:
    copy.edit(TRAIN, lambda text: text.replace("AP/PA", "View", 1))
    line = copy.refused(capsys)
    assert "train.csv: has no column 'AP/PA'; train.csv and valid.csv of CheXpert-v1.0" in line
    copy.edit(TRAIN, lambda text: text.replace("View", "AP/PA", 1))
    (copy.root / VALID).unlink()
    assert "has no file valid.csv; it lies beside train.csv" in copy.refused(capsys)


def test_paths_of_the_table_do_not_lead_out(copy: Shipped) -> None:
    copy.cell(TRAIN, "patient00017/", f"{FOLDER}/train/", "../../etc/")
    copy.cell(TRAIN, "patient00018/", "patient00018/study1/view1_frontal.jpg", "x.png")
    copy.cell(TRAIN, "patient00021/", "view1", "view9")
    films = copy.films()
    assert name(16) not in films and name(17) not in films and name(20) not in films
    losses = copy.losses()
    assert losses["its file is not in the folder"] == 2  # one of them was so before
    assert losses["its path leads out of the folder"] == 1
    assert losses["no id of the film or the patient"] == 1


def test_labels_by_study_hold_for_each_film_of_it(copy: Shipped) -> None:
    films = copy.films()
    study = next(i for i, film in films.items() if film.split == "test").rsplit("_view", 1)[0]
    head = (copy.root / VALID).read_text().splitlines()[0].split(",")
    labels = [title for title in head if title not in ("Path", "Sex", "Age", "Frontal/Lateral",
                                                       "AP/PA")]  # fmt: skip
    place = study.replace("_", "/")
    valid = copy.root / VALID  # the study is not of valid.csv then
    valid.write_text("".join(
        line for line in valid.read_text().splitlines(keepends=True) if place not in line
    ))  # fmt: skip
    rows = [["Study", *labels]]
    for named in (f"CheXpert-v1.0/{place}", "CheXpert-v1.0\\patient99999\\study1"):
        rows.append([named, *("1.0" if label == "Edema" else "0.0" for label in labels)])
    text = "\n".join(",".join(row) for row in rows)
    (copy.root / FOLDER / "groundtruth.csv").write_text(text + "\n")
    again = {i: film for i, film in copy.films().items() if film.split == "test"}
    assert {i.rsplit("_view", 1)[0] for i in again} == {study}
    assert all(film.findings == {"Edema"} for film in again.values())
    assert copy.losses()["its file is not in the folder"] == 2  # the study that is not here, too


def test_backslashes_and_other_words_for_a_sex(copy: Shipped) -> None:
    before = copy.films()
    for table in (TRAIN, VALID):
        file = copy.root / table
        head, *rows = file.read_text().splitlines()
        changed = [row.split(",")[0].replace("/", "\\") + row[row.index(",") :] for row in rows]
        text = "\n".join([head, *changed]) + "\n"
        file.write_text(text.replace(",Male,", ",male,").replace(",Female,", ",F,"))
    after = copy.films()
    assert {i: (f.ehr, f.findings, f.split, f.flags) for i, f in after.items()} == {
        i: (f.ehr, f.findings, f.split, f.flags) for i, f in before.items()
    }
