"""The paediatric films of Kermany et al. as downloaded, on the small copy."""

import csv
import os
import re
import shutil
from pathlib import Path

import pytest

from nofinding.datasets.public.kermany import PATIENT
from support.shipped import Shipped


@pytest.fixture
def copy(tmp_path: Path) -> Shipped:
    return Shipped.write("kermany", tmp_path)


def test_names_say_patient_and_germ(copy: Shipped) -> None:
    films = copy.films()
    virus, bacteria = films["k-person4_virus_36"], films["k-person4_bacteria_42"]
    assert virus.findings == {"Pneumonia", "Virus"} and virus.patient_id == "k-person4_virus"
    assert bacteria.findings == {"Pneumonia", "Bacteria"}
    assert bacteria.patient_id == "k-person4_bacteria"
    both = [films[f"k-IM-0123-0001-000{n}"] for n in (1, 2)]
    assert {film.patient_id for film in both} == {"k-IM-0123"}
    assert films["k-NORMAL2-IM-0116-0001"].patient_id == "k-NORMAL2-IM-0116"
    assert all(film.findings == frozenset() for film in both)
    assert copy.losses() == {
        "films of the val folder, which are train: 16 are too few to tune on": 3,
        "second copies of films, one folder deeper": 1,
        "image files in the folder that no table lists": 1,
        "files and folders whose names begin with a dot, not looked at": 1,
        "drawn from train for val, where there was none": 5,
    }


def test_the_folders_are_the_split_and_val_is_train(copy: Shipped) -> None:
    films = copy.films()
    held = {f"k-{path.stem}" for path in copy.root.glob("chest_xray/test/*/*")}
    assert held == {i for i, film in films.items() if film.split == "test"} and len(held) == 6
    tuned = {f"k-{path.stem}" for path in copy.root.glob("chest_xray/val/*/*")}
    assert tuned and {films[i].split for i in tuned} <= {"train", "val"}
    assert not any("chest_xray/chest_xray" in str(film.pixels) for film in films.values())


def test_the_folder_itself_is_taken_too(copy: Shipped) -> None:
    before = {i: (r.split, r.findings) for i, r in copy.films().items()}
    inner = Shipped("kermany", copy.root / "chest_xray").films()
    assert {i: (r.split, r.findings) for i, r in inner.items()} == before


def test_names_of_the_third_version_and_names_that_say_nothing(copy: Shipped) -> None:
    for old, new in (
        ("person4_virus_36", "VIRUS-1000043-0001"),
        ("person4_bacteria_42", "BACTERIA-1008087-0001"),
        ("person3_virus_24", "film 7"),
    ):
        (paths,) = copy.root.glob(f"chest_xray/train/PNEUMONIA/{old}.jpeg")
        paths.rename(paths.with_stem(new))
    films = copy.films()
    assert films["k-VIRUS-1000043-0001"].findings == {"Pneumonia", "Virus"}
    assert films["k-VIRUS-1000043-0001"].patient_id == "k-VIRUS-1000043"
    assert films["k-BACTERIA-1008087-0001"].findings == {"Pneumonia", "Bacteria"}
    assert films["k-film 7"].findings == {"Pneumonia"} and films["k-film 7"].flags
    assert films["k-film 7"].patient_id == "k-film 7"
    losses = copy.losses()
    assert losses["films whose name does not say the patient: each counts as one"] == 1


def test_a_patient_in_two_folders_and_a_film_in_two_are_no_loss_unseen(
    copy: Shipped, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy.root / "chest_xray"
    shutil.copy(root / "test/NORMAL/NORMAL2-IM-0122-0001.jpeg", root / "train/NORMAL")
    films = copy.films()
    assert films["k-NORMAL2-IM-0122-0001"].split == "test"
    assert copy.losses()["listed twice (the first stays)"] == 1
    twin = root / "train/NORMAL/NORMAL2-IM-0122-0002.jpeg"
    (root / "train/NORMAL/NORMAL2-IM-0122-0001.jpeg").rename(twin)
    shutil.rmtree(copy.out)
    assert "1 patients with 2 films are in more than one split" in copy.refused(capsys)


def test_a_link_out_of_the_folder_is_counted(copy: Shipped, tmp_path: Path) -> None:
    film = copy.root / "chest_xray/train/NORMAL/IM-0117-0001.jpeg"
    shutil.move(film, tmp_path / "elsewhere.jpeg")
    film.symlink_to(tmp_path / "elsewhere.jpeg")
    assert "k-IM-0117-0001" not in copy.films()
    assert copy.losses()["a link out of the folder (--follow-links takes it)"] == 1
    assert "k-IM-0117-0001" in copy.films("--follow-links")


def test_a_folder_of_something_else_is_refused(
    copy: Shipped, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy.root / "chest_xray" / "chest_xray")
    (copy.root / "chest_xray").rename(copy.root / "films")
    for part in ("train", "test", "val"):
        (copy.root / "films" / part).rename(copy.root / "films" / f"my {part}")
    assert "has no film chest_xray/train/NORMAL/*.jpeg" in copy.refused(capsys)
    assert "has no use for it" in copy.refused(capsys, "--record", "x")


@pytest.mark.films
def test_patients_are_those_of_the_films_at_hand() -> None:
    here = Path(__file__).parents[3].parent / "shared" / "data"
    table = Path(os.environ.get("NOFINDING_DATA", here)) / "kermany" / "films.csv"
    if not table.exists():
        pytest.skip("no real films here")
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        match = re.match(PATIENT, Path(row["path"]).stem)
        assert match is not None and f"k-{match[1]}" == row["patient_id"]
