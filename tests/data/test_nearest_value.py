"""One rule says which value of an EHR is a film's, by whatever route the two come together."""

import json
from contextlib import closing
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from nofinding.clinical.fhir.client import Asking, records_for
from nofinding.data.ehr import FIELDS
from nofinding.data.nearest_value import CHOICE, COUNTS, EhrWindow, Nearest, Reading, nearest
from nofinding.datasets import SOURCES
from nofinding.datasets.build.choices import Choices
from nofinding.datasets.build.database import CohortDatabase
from nofinding.errors import UserError
from support.fhir_server import observation, patient

NOON = datetime(2020, 6, 1, 12)
DAY = datetime(2020, 6, 1)
BEFORE = EhrWindow(direction="before")


def of(*readings: tuple[str, float], taken: datetime = NOON, **window: object) -> float | None:
    ones = [Reading(datetime.fromisoformat(at), value) for at, value in readings]
    one = nearest(ones, taken, EhrWindow(**window))  # type: ignore[arg-type]
    return one.value if one else None


def test_days_then_a_time_then_the_clock_then_before() -> None:
    assert of(("2020-05-30", 1), ("2020-06-02", 2)) == 2
    assert of(("2020-06-01", 1), ("2020-05-31T23:00", 2)) == 2  # a time, of 13 hours
    assert of(("2020-06-01", 1), ("2020-05-31T11:00", 2)) == 1  # 25 hours: a day
    assert of(("2020-06-01T10:00", 1), ("2020-06-01T13:00", 2)) == 2
    assert of(("2020-06-01T13:00", 1), ("2020-06-01T11:00", 2)) == 2  # before the film
    assert of(("2020-06-01T11:00", 1), ("2020-06-01T11:00", 4), ("2020-06-01T11:00", 2)) == 2


def test_the_window_is_of_days_and_of_a_direction() -> None:
    assert of(("2020-03-03", 1)) == 1 and of(("2020-03-03", 1), days=89) is None
    assert of(("2020-06-02", 2), ("2020-05-20", 1), direction="before") == 1
    assert of(("2020-06-01T12:00:01", 2), direction="before") is None
    assert of(("2020-06-01", 2), direction="before") == 2  # of that day, nobody knows when
    # a film without a time counts as taken at the end of its day
    assert of(("2020-06-01T23:00", 2), ("2020-06-01T08:00", 1), taken=DAY, direction="before") == 2
    assert of(("2020-06-02T01:00", 2), ("2020-06-01T08:00", 1), taken=DAY) == 1
    assert nearest([Reading(NOON + timedelta(3), 5.0)], NOON, EhrWindow()) == Nearest(5.0, -3)


@pytest.mark.parametrize("wrong", [{"days": -1}, {"days": 4000}, {"direction": "after"}])
def test_a_window_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match="give "):
        EhrWindow(**wrong)  # type: ignore[arg-type]
    assert EhrWindow.from_json(json.loads(json.dumps(BEFORE.to_json()))) == BEFORE


# Few instants, so that many are equal, at midnight, or as far before as another is after.
MOMENTS = st.builds(
    lambda days, hours: datetime(2020, 6, 1) + timedelta(days, hours=hours),
    st.integers(-4, 4), st.sampled_from([0, 0, 1, 11, 12, 13, 23.5]),
)  # fmt: skip


def june(day: int, hour: int = 0) -> datetime:
    return datetime(2020, 6, day, hour)


@settings(max_examples=60, deadline=None)
@example([(june(1, 11), 9), (june(1, 1), 1)], NOON, EhrWindow())  # the shorter time
@example([(june(1, 11), 9), (june(1, 13), 1)], NOON, EhrWindow())  # before the film
@example([(june(1, 0), 1), (june(1, 13), 9)], NOON, EhrWindow())  # one with a time
@example([(june(3, 1), 1), (june(2, 13), 9)], NOON, EhrWindow(days=1))  # the window
@example([(june(1, 13), 1), (june(1, 1), 9)], NOON, BEFORE)  # the direction
@example([(june(1, 1), 1), (june(1, 23), 9)], DAY, BEFORE)  # a film without a time
@example([(june(1, 1), 1), (june(1, 1), 9), (june(1, 1), 2)], NOON, EhrWindow())  # the median
@given(
    st.lists(st.tuples(MOMENTS, st.integers(1, 9)), min_size=1, max_size=8),
    MOMENTS,
    st.builds(EhrWindow, days=st.integers(0, 4), direction=st.sampled_from(["around", "before"])),
)
def test_sql_and_python_are_one_rule(
    readings: list[tuple[datetime, int]], taken: datetime, window: EhrWindow
) -> None:
    at, values = zip(*readings, strict=True)
    table = pa.table({"noted": pa.array(at, pa.timestamp("us")), "v": pa.array(values)})
    with closing(duckdb.connect()) as con:
        con.execute("SET threads=1")
        con.register("given", table)
        (chosen_one,) = con.execute(
            f"SELECT min({CHOICE}).value FROM (SELECT noted, 0 AS preference, 0 AS seq, "
            "median(v) AS value, NULL::DOUBLE AS second FROM given GROUP BY noted), "
            f"(SELECT ?::TIMESTAMP AS taken) WHERE {COUNTS}",
            [taken, window.days, window.direction],
        ).fetchall()
    one = nearest([Reading(a, float(v)) for a, v in readings], taken, window)
    assert chosen_one[0] == (one.value if one else None)


CASES = [
    [("2020-05-30T23:00:00", 60), ("2020-06-02T01:00:00", 61)],
    [("2020-05-31", 62), ("2020-05-31T08:00:00", 63), ("2020-06-01T13:00:00", 64)],
    [("2020-06-01T11:00:00", 65), ("2020-06-01T13:00:00", 66)],
    [("2020-06-01", 67), ("2020-05-31T23:30:00", 68), ("2020-06-20", 69)],
    [("2020-06-03", 70), ("2020-03-04", 71), ("2020-03-04", 73)],
    [("2020-03-02", 74)],
]
WHEN = [NOON, NOON, NOON, NOON, DAY, DAY]


def by_clinical_fhir(root: Path, window: EhrWindow) -> list[float | None]:
    films = []
    for number, taken in enumerate(WHEN):
        film = Dataset()
        film.PatientID, film.StudyDate = f"P{number}", f"{taken:%Y%m%d}"
        film.StudyTime = "" if taken.time() == time.min else f"{taken:%H%M%S}"
        films.append(film)
    asking = Asking(source=str(root), window=window, zone=UTC)
    return [one.ehr.get("weight") for one in records_for(asking, films, FIELDS)]


def by_cohort(name: str, root: Path, window: EhrWindow) -> list[float | None]:
    spill = root.parent / "spill"
    choices = Choices(window=window.days, direction=window.direction, verify="none",
                      key=root.parent / "key")  # fmt: skip
    source = SOURCES[name]
    with closing(CohortDatabase(name, root, FIELDS, choices, spill, 1, place=str(root))) as base:
        source.assemble(base)  # type: ignore[attr-defined]
        rows = dict(base.run("SELECT path, weight FROM films"))
    return [rows[f"{number}.png"] for number in range(len(CASES))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same readings as FHIR and as an OMOP CDM, each beside one list of films."""
    from PIL import Image

    root = tmp_path_factory.mktemp("routes")
    (root / "spill").mkdir()
    (root / "key").touch(mode=0o600)
    (root / "key").write_text("0123456789abcdef")
    for name in ("fhir", "omop"):
        (root / name).mkdir()
        for number in range(len(CASES)):
            Image.new("L", (9, 9)).save(root / name / f"{number}.png")
    people = [patient(f"p{n}", f"P{n}") for n in range(len(CASES))]
    values = [observation("29463-7", value, "kg", at if len(at) == 10 else f"{at}Z", of=f"p{n}")
              for n, case in enumerate(CASES) for at, value in case]  # fmt: skip
    lines = map(json.dumps, [*people, *values])
    (root / "fhir" / "all.ndjson").write_text("\n".join(lines))
    for name, key in (("fhir", "patient"), ("omop", "person_id")):
        films = [f"p{n},{n}.png,{at}" for n, at in enumerate(WHEN)]
        (root / name / "films.csv").write_text("\n".join([f"{key},path,taken", *films]))
    (root / "omop" / "person.csv").write_text(
        "\n".join(
            ["person_id,gender_concept_id,year_of_birth", *(f"p{n},8532,1960" for n in range(9))]
        )
    )
    measured = [f"p{n},3025315,{at[:10]},{at if len(at) > 10 else ''},{value},9529"
                for n, case in enumerate(CASES) for at, value in case]  # fmt: skip
    head = ("person_id,measurement_concept_id,measurement_date,measurement_datetime,"
            "value_as_number,unit_concept_id")  # fmt: skip
    (root / "omop" / "measurement.csv").write_text("\n".join([head, *measured]))
    return root


@pytest.mark.parametrize("direction", ["around", "before"])
def test_every_route_gives_a_film_the_same_value(folder: Path, direction: str) -> None:
    window = EhrWindow(direction=direction)  # type: ignore[arg-type]
    expected: list[float | None] = []
    for case, taken in zip(CASES, WHEN, strict=True):
        ones = [Reading(datetime.fromisoformat(at), float(value)) for at, value in case]
        one = nearest(ones, taken, window)
        expected.append(one.value if one else None)
    around = direction == "around"
    assert expected == ([61, 64, 65, 68, 70, None] if around else [60, 63, 65, 68, 72, None])
    assert by_clinical_fhir(folder / "fhir", window) == expected
    assert by_cohort("fhir", folder / "fhir", window) == expected
    assert by_cohort("omop", folder / "omop", window) == expected
