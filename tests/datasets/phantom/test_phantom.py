"""The phantom source: films as pure functions, options, splits, and what is recorded."""

import pickle
from itertools import pairwise

import numpy as np
import pytest

from nofinding.data.ehr import FIELDS
from nofinding.datasets.phantom import PHANTOM
from nofinding.datasets.phantom.anomalies import KINDS
from nofinding.datasets.phantom.film import PhantomFilm, PhantomLesion
from nofinding.datasets.phantom.options import Options, parse_options
from nofinding.datasets.phantom.patients import FIELD_NAMES, patient
from nofinding.errors import UserError

SMALL = "train=3,val=2,test=2,abnormal=1,size=64"


def test_films_are_grey_images_and_the_same_every_time() -> None:
    for exam in PHANTOM.read("train=4,val=0,test=0,abnormal=1,size=64", FIELDS):
        film = exam.pixels()
        assert film.shape == (64, 64)
        assert film.dtype == np.float32
        assert film.min() >= 0
        assert film.max() <= 1
        assert film.std() > 0.15  # a picture, not a grey wall
        np.testing.assert_array_equal(film, pickle.loads(pickle.dumps(exam)).pixels())


def test_a_film_depends_on_seed_and_index_and_not_on_the_cohort() -> None:
    first = next(iter(PHANTOM.read(SMALL, FIELDS))).pixels()
    np.testing.assert_array_equal(first, next(iter(PHANTOM.read("size=64", FIELDS))).pixels())
    other = next(iter(PHANTOM.read(SMALL + ",seed=1", FIELDS))).pixels()
    assert np.abs(first - other).mean() > 0.02
    neighbour = PhantomFilm(seed=0, index=1, size=64)()
    assert np.abs(first - neighbour).mean() > 0.02


def test_dense_tissue_is_bright() -> None:
    film = PhantomFilm(seed=0, index=0, size=128).clean()
    belly, corner, lung = film[-6:, 40:80].mean(), film[:3, :3].mean(), film[45:70, 28:45].mean()
    assert belly > 0.8
    assert corner < 0.15
    assert corner < lung < 0.6


def test_fingerprints_tell_apart_all_that_changes_a_film() -> None:
    base = {"seed": 0, "index": 1, "size": 64, "kind": "nodule"}
    changes = [{"seed": 1}, {"index": 2}, {"size": 65}, {"kind": None}, {"kind": "mass"}, {}]
    films = [PhantomFilm(**(base | change)) for change in changes]
    prints = [film.fingerprint() for film in films]
    prints += [PhantomLesion(film=film).fingerprint() for film in films]
    assert len(set(prints)) == len(prints)
    assert prints[5] == PhantomFilm(**base).fingerprint()


def test_the_default_cohort_is_the_documented_one() -> None:
    exams = list(PHANTOM.read("", FIELDS))
    normal = [exam for exam in exams if not exam.findings]
    assert [sum(r.split == s for r in normal) for s in ("train", "val", "test")] == [600, 150, 150]
    for kind in KINDS:
        films = [exam for exam in exams if exam.findings == {kind}]
        assert len(films) == 15
        assert {exam.split for exam in films} == {"test"}
    assert len(exams) == 600 + 150 + 150 + 15 * len(KINDS)
    assert len({exam.image_id for exam in exams}) == len(exams)
    assert len({exam.patient_id for exam in exams}) == len(exams)
    assert exams[123].image_id == "phantom-000123"
    assert exams[123].patient_id == "phantom-p000123"
    assert all((exam.lesion is None) == (not exam.findings) for exam in exams)


def test_kinds_are_chosen() -> None:
    text = "train=1,val=0,test=0,abnormal=2,kinds=mass+device"
    findings = [exam.findings for exam in PHANTOM.read(text, FIELDS)]
    assert findings == [set(), {"mass"}, {"mass"}, {"device"}, {"device"}]


@pytest.mark.parametrize(
    ("record", "offered"),
    [
        ("full", FIELD_NAMES),
        ("mixed", FIELD_NAMES),
        ("demographics", ("age", "sex", "view")),
        ("none", ()),
    ],
)
def test_what_is_recorded(record: str, offered: tuple[str, ...]) -> None:
    text = f"train=60,val=0,test=0,abnormal=0,record={record}"
    assert set(PHANTOM.offers(text, FIELDS)) == set(offered)
    films = list(PHANTOM.read(text, FIELDS))
    known = [set(film.ehr) for film in films]
    assert set().union(*known) == set(offered)
    assert all((film.view is None) == ("view" not in film.ehr) for film in films)
    if record == "mixed":
        assert set() in known
        assert set(offered) in known
        assert len({frozenset(names) for names in known}) > 10
    else:
        assert all(names == set(offered) for names in known)


def test_only_fields_that_were_asked_for() -> None:
    few = {"bmi": FIELDS["bmi"], "age": FIELDS["age"]}
    assert PHANTOM.offers("", few) == ("bmi", "age")
    assert set(next(iter(PHANTOM.read(SMALL, few))).ehr) == {"bmi", "age"}


def test_missingness_changes_no_film() -> None:
    for record in ("none", "mixed"):
        film = next(iter(PHANTOM.read(f"{SMALL},record={record}", FIELDS)))
        assert film.pixels == next(iter(PHANTOM.read(SMALL, FIELDS))).pixels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("films=3", "keys are train, val, test"),
        ("train", "key=value"),
        ("train=-1", "train=-1: a whole number from 0"),
        ("train=many", "train=many"),
        ("train=²", "a whole number"),
        ("train=" + "9" * 5000, "a whole number"),
        ("size=8", "from 32 to 2048"),
        ("train=1,train=2", "given twice"),
        ("kinds=nodule+flu", "kinds=flu: kinds are nodule, mass"),
        ("kinds=", "kinds are nodule"),
        ("record=some", "record=some: allowed are full, demographics, none, mixed"),
    ],
)
def test_faulty_options_are_named(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        list(PHANTOM.read(text, FIELDS))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_may_have_spaces_and_be_empty() -> None:
    assert parse_options(" train = 5 , record=none,") == Options(train=5, record="none")
    assert parse_options("") == Options()


def test_records_are_plausible_and_hang_together() -> None:
    exams = [patient(0, index) for index in range(800)]
    column = {name: np.array([ehr[name] for ehr in exams]) for name in FIELD_NAMES}
    for name, values in column.items():
        field = FIELDS[name]
        if field.kind == "numeric":
            assert field.low is None or values.min() >= field.low
            assert field.high is None or values.max() <= field.high
        else:
            assert set(values) == {0.0, 1.0}
    assert column["age"].min() >= 18
    assert column["age"].max() <= 95
    assert (column["systolic"] > column["diastolic"]).all()
    bmi = column["weight"] / (column["height"] / 100) ** 2
    assert np.abs(bmi - column["bmi"]).max() < 0.06
    men = column["sex"] == FIELDS["sex"].categories.index("M")
    assert column["height"][men].mean() - column["height"][~men].mean() > 10
    for one, other in (("age", "systolic"), ("bmi", "systolic"), ("systolic", "diastolic")):
        assert np.corrcoef(column[one], column[other])[0, 1] > 0.08
    portable = column["view"] == FIELDS["view"].categories.index("AP")
    old = [portable[column["age"] < 50].mean(), portable[column["age"] > 65].mean()]
    assert all(young < aged for young, aged in pairwise(old))
