"""The synthetic source: normal films as they were, but for the anomalies that it says it put in."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofinding.data.ehr import FIELDS
from nofinding.data.split import check_splits
from nofinding.datasets import SOURCES
from nofinding.datasets.cohort import Cohort
from nofinding.datasets.synthetic import ChangedFilm, Options, innermost, parse_options
from nofinding.errors import UserError
from nofinding.functional.synthetic.suite import SUITE
from nofinding.types import Exam, Pixels

PHANTOM = "phantom:train=4,val=14,test=3,abnormal=1,size=32"
SYNTHETIC = SOURCES["synthetic"]


def read(options: str = "", source: str = PHANTOM) -> list[Exam]:
    return list(SYNTHETIC.read(f"{options}:{source}" if options else source, FIELDS))


def changed(exams: list[Exam]) -> dict[str, frozenset[str]]:
    return {r.image_id: r.findings for r in exams if r.findings}


def test_only_the_normal_films_and_only_one_split_is_changed() -> None:
    exams = read()
    plain = {r.image_id: r for r in SOURCES["phantom"].read(PHANTOM.partition(":")[2], FIELDS)}
    assert [r.image_id for r in exams] == [i for i, r in plain.items() if not r.findings]
    assert Counter(r.split for r in exams) == {"train": 4, "val": 14, "test": 3}
    touched = [r for r in exams if r.findings]
    assert len(touched) == 7 and {r.split for r in touched} == {"val"}
    assert {f for r in touched for f in r.findings} == {f"synthetic {kind}" for kind in SUITE}
    for exam in exams:
        before = plain[exam.image_id]
        if not exam.findings:
            assert exam == before
        else:
            # All that is known of the patient, and all that a method or scores.csv may see.
            for name in ("image_id", "patient_id", "ehr", "view", "taken", "split", "flags"):
                assert getattr(exam, name) == getattr(before, name)


def test_a_changed_film_is_the_normal_one_outside_its_lesion() -> None:
    for exam in (r for r in read() if r.findings):
        film, lesion = exam.pixels.draw()
        assert film.dtype == np.float32 and film.shape == lesion.shape == (32, 32)
        assert film.min() >= 0 and film.max() <= 1
        assert lesion.dtype == np.bool_ and lesion.any()
        normal = exam.pixels.pixels()
        np.testing.assert_array_equal(film[~lesion], normal[~lesion])
        assert (film[lesion] != normal[lesion]).mean() > 0.7
    again = pickle.loads(pickle.dumps(exam))  # the last one
    np.testing.assert_array_equal(again.pixels(), exam.pixels())
    np.testing.assert_array_equal(again.lesion(), exam.lesion())
    np.testing.assert_array_equal(again.lesion(), exam.pixels.draw()[1])


def test_seeded_and_independent_of_what_else_is_read() -> None:
    first, same, other = read(), read("seed=0"), read("seed=1")
    assert changed(first) == changed(same) != changed(other)
    assert [r.pixels for r in first] == [r.pixels for r in same]
    prints = {r.pixels.fingerprint() for part in (first, other) for r in part if r.findings}
    assert len(prints) == 14
    # Nobody else's film, nor the order, decides what is drawn on this one.
    film = next(r.pixels for r in first if r.findings and r.pixels.partner is None)
    np.testing.assert_array_equal(film(), film())


def test_the_fingerprint_tells_apart_all_that_the_pixels_depend_on() -> None:
    films = [r.pixels for r in read() if not r.findings]
    base = {
        "pixels": films[0],
        "partner": films[1],
        "kind": "blend",
        "seed": 0,
        "image_id": "a",
    }
    ways = [
        {},
        {"pixels": films[2]},
        {"partner": films[2]},
        {"partner": None},
        {"kind": "perlin"},
        {"seed": 1},
        {"image_id": "b"},
    ]
    prints = [ChangedFilm(**(base | way)).fingerprint() for way in ways]
    assert len(set(prints)) == len(ways)
    assert ChangedFilm(**base).fingerprint() == prints[0]
    # Pixels without a fingerprint of their own are hashed.
    bare = ChangedFilm(**(base | {"pixels": Plain(0.4), "partner": None}))
    assert bare.fingerprint() != ChangedFilm(Plain(0.5), None, "blend", 0, "a").fingerprint()


class Plain:
    """A film of one grey."""

    def __init__(self, grey: float) -> None:
        self.grey = grey

    def __call__(self) -> Pixels:
        return np.full((40, 40), self.grey, np.float32)


def test_all_films_of_a_patient_are_changed_or_none() -> None:
    pictures = [_record(f"{n}-{k}", f"p{n}") for n in range(10) for k in range(3)]
    source = type(SYNTHETIC)(of={"list": _List(pictures)})
    exams = list(source.read("share=0.4:list:x", FIELDS))
    by_patient: dict[str, set[bool]] = {}
    for exam in exams:
        by_patient.setdefault(exam.patient_id, set()).add(bool(exam.findings))
    assert all(len(kinds) == 1 for kinds in by_patient.values())
    assert sum(kinds == {True} for kinds in by_patient.values()) == 4
    per_kind = Counter(f for r in exams for f in r.findings)
    assert max(per_kind.values()) - min(per_kind.values()) <= 1
    check_splits(exams)


def test_a_foreign_piece_is_of_another_patient() -> None:
    pictures = [_record(f"{n}-{k}", f"p{n}") for n in range(2) for k in range(6)]
    source = type(SYNTHETIC)(of={"list": _List(pictures)})
    changed = [r for r in source.read("kinds=blend+perlin:list:", FIELDS) if r.findings]
    assert len(changed) == 6
    assert all(r.pixels.partner.patient != r.patient_id for r in changed)
    plain = [r for r in source.read("kinds=deform:list:", FIELDS) if r.findings]
    assert all(r.pixels.partner is None for r in plain)  # so that no second film is decoded


class Named(Plain):
    """A film that knows whose it is."""

    def __init__(self, grey: float, patient: str) -> None:
        super().__init__(grey)
        self.patient = patient


def _record(image_id: str, patient: str, findings: frozenset[str] | None = frozenset()) -> Exam:
    return Exam(
        image_id=image_id,
        patient_id=patient,
        pixels=Named(0.5, patient),
        ehr={},
        findings=findings,
        split="val",
    )


class _List:
    """A source of given records."""

    name = "list"
    summary = "a list"

    def __init__(self, exams: list[Exam]) -> None:
        self.exams = exams

    def read(self, root: str, fields: object) -> list[Exam]:
        return self.exams

    def offers(self, root: str, fields: object) -> tuple[str, ...]:
        return ()


def test_unlabelled_films_are_not_taken_for_normal() -> None:
    pictures = [_record("a", "pa"), _record("b", "pb"), _record("c", "pc", None)]
    exams = list(type(SYNTHETIC)(of={"list": _List(pictures)}).read("list:", FIELDS))
    assert [r.image_id for r in exams] == ["a", "b"]


def test_a_film_on_which_nothing_shows_is_refused() -> None:
    film = ChangedFilm(Plain(0.0), None, "nodule", 0, "black")
    with pytest.raises(UserError, match="'black' no nodule can be seen"):
        film()


def test_partners_of_another_size_are_fitted() -> None:
    noise = np.random.default_rng(0).random((64, 30)).astype(np.float32)
    for kind in ("blend", "perlin"):
        film = ChangedFilm(Plain(0.5), lambda: noise, kind, 0, "a")
        assert film().shape == (40, 40)


def test_it_offers_what_the_other_source_offers() -> None:
    for root in (PHANTOM, f"share=0.2:{PHANTOM},record=demographics"):
        inner = root.partition("phantom:")[2]
        assert SYNTHETIC.offers(root, FIELDS) == SOURCES["phantom"].offers(inner, FIELDS)


def test_options_stand_before_the_source_and_commas_after_it_are_its_own() -> None:
    assert innermost("synthetic", "share=0.5,seed=1:phantom:val=2,size=64") == (
        "synthetic:share=0.5,seed=1:",
        "phantom",
        "val=2,size=64",
    )
    assert innermost("synthetic", "table:/a/b=c:d.csv") == ("synthetic:", "table", "/a/b=c:d.csv")
    assert innermost("table", "kinds=a:films.csv") == ("", "table", "kinds=a:films.csv")
    assert parse_options("") == Options() == parse_options("kinds=all")
    assert parse_options(" kinds = blend+deform , share=0.25,split=test,seed=7,") == Options(
        kinds=("blend", "deform"), share=0.25, split="test", seed=7
    )


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("", "SOURCE is one of phantom, table"),
        ("films.csv", "SOURCE is one of phantom, table"),
        ("synthetic:phantom:", "SOURCE is one of phantom, table"),
        ("share=0.5", "SOURCE is one of"),
        (f"kind=nodule:{PHANTOM}", "'kind=nodule': write key=value; keys are kinds, share"),
        (f"kinds=nodule+flu:{PHANTOM}", "kinds=flu: all, or some of blend, cutpaste"),
        (f"share=1:{PHANTOM}", "share=1: a number above 0 and below 1"),
        (f"share=half:{PHANTOM}", "share=half"),
        (f"share=nan:{PHANTOM}", "share=nan"),
        (f"split=train:{PHANTOM}", "split=train: allowed are val, test"),
        (f"seed=-1:{PHANTOM}", "seed=-1: a whole number from 0"),
        (f"seed={'9' * 5000}:{PHANTOM}", "a whole number"),
        (f"seed=1,seed=2:{PHANTOM}", "seed is given twice"),
        ("phantom:val=1", "of 1 patients in split val; there must be 2 or more"),
        ("phantom:size=8", "phantom: size=8"),
        ("table:absent.csv", "absent.csv: does not exist"),
    ],
)
def test_faulty_options_are_named(root: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        list(SYNTHETIC.read(root, FIELDS))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_cohort_knows_whose_films_they_are(tmp_path: Path) -> None:
    phantom = Cohort([f"synthetic:share=0.3:{PHANTOM}"], FIELDS)
    assert phantom.phantom
    assert phantom.name == f"synthetic:share=0.3:{PHANTOM}"
    folder = tmp_path / "secret" / "films"
    folder.mkdir(parents=True)
    lines = ["path,split,findings"]
    for n in range(4):
        grey = np.random.default_rng(n).integers(90, 160, (40, 40)).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{n}.png")
        lines.append(f"{n}.png,val,")
    table = folder / "films.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    real = Cohort([f"synthetic:kinds=blend:table:{table}"], FIELDS)
    assert real.name == "synthetic:kinds=blend:table:films/films.csv"
    assert not real.phantom
    assert sum(bool(r.findings) for r in real.exams) == 2
    assert all(r.pixels().shape == (40, 40) for r in real.exams)
    for n in range(4):
        (folder / f"{n}.png").unlink()
        with pytest.raises(UserError, match=f"{n}.png"):
            Cohort([f"synthetic:kinds=blend:table:{table}"], FIELDS)
        Image.new("L", (40, 40), 99).save(folder / f"{n}.png")
