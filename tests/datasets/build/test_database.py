"""The frame of every publisher's source: tables, files, patients, lists; every loss counted."""

import gzip
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nofinding.data.ehr import FIELDS, plausible
from nofinding.datasets.build.choices import Choices
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.finalize import DRAWN, complete, flow_of
from nofinding.errors import UserError

Make = Callable[..., CohortDatabase]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Assemblies over a folder; closed at the end."""
    (tmp_path / "root").mkdir()
    output: list[CohortDatabase] = []

    def make(**choices: Any) -> CohortDatabase:
        workshop = tmp_path / f"workshop{len(output)}"
        workshop.mkdir()
        settings = {"verify": "none", **choices}
        output.append(
            CohortDatabase("x", tmp_path / "root", FIELDS, Choices(**settings), workshop, 1)
        )
        return output[-1]

    yield make
    for database in output:
        database.close()


def taken(database: CohortDatabase, rows: list[dict[str, Any]]) -> CohortDatabase:
    """The assembly with these films; what is not said: normal, one patient a film."""
    usual = [{"patient_id": f"p-{r['image_id']}", "findings": [], **r} for r in rows]
    names = dict.fromkeys(name for row in usual for name in row)
    database.con.register("rows", pa.table({n: [r.get(n) for r in usual] for n in names}))
    cast = ", ".join('CAST(findings AS VARCHAR[]) AS findings' if n == "findings" else n
                     for n in names)  # fmt: skip
    database.films(f"SELECT {cast} FROM rows")
    return database


def picture(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9), grey, np.uint8)).save(path)


def steps(database: CohortDatabase) -> dict[str, int]:
    return {step.reason: step.films for step in database.steps}


def remarks(database: CohortDatabase) -> dict[str, int]:
    return {remark.what: remark.count for remark in database.remarks}


def splits(database: CohortDatabase) -> dict[str, str | None]:
    return dict(database.run("SELECT image_id, split FROM films"))


# --- tables -------------------------------------------------------------------------------------


def test_titles_are_found_by_name_and_cells_are_text(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes('\ufeffB , a,extra\r\n1.0,,x\r\n"two, ""2""",007,\r\n'.encode())
    database = make()
    assert database.csv("t", file, ("a", "b"), also=("c",)) == ("B", "a", "extra")
    assert database.run("SELECT a, b, c FROM t") == [(None, "1.0", None), ("007", 'two, "2"', None)]
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    database.csv("u", packed, ("a", "b"))
    assert database.run("SELECT a, b FROM u") == database.run("SELECT a, b FROM t")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a\n1\n", "has no column 'b'; version 2 has it"),
        ("t.csv", b"a,b,B\n1,2,3\n", "two columns are called 'b'"),
        ("t.csv", b"a,b\n1,2\n3\n", "row 3 has 1 cells, not 2"),
        ("t.csv", b"a,b\n1,2,3\n", "row 2 has 3 cells, not 2"),
        ("t.csv", b'a,b\n1,"2\n', "a quote is not closed"),
        ("t.csv", b"a,b\n1,2\n\xff,2\n", "row 3: is not UTF-8"),
        ("t.csv", b"a\xff,b\n1,2\n", "is not a CSV file"),
        ("t.csv.gz", b"a,b\n1,2\n", "is not a whole gzip file"),
        ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 999, mtime=0)[:-12], "download it again"),
        (
            "t.csv.gz",
            gzip.compress(b"a,b\n", mtime=0)[:10] + b"\7" * 40,
            "is not a whole gzip file",
        ),
    ],
)
def test_a_faulty_table_is_one_line(
    make: Make, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    database = make()
    with pytest.raises(UserError) as caught:
        database.csv("t", file, ("a", "b"), versions="version 2 has it")
        database.run("SELECT a, b FROM t")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_line_of_titles_has_an_end(make: Make, tmp_path: Path) -> None:
    (tmp_path / "long.csv.gz").write_bytes(gzip.compress(b"a" * 2**26, mtime=0))
    (tmp_path / "many.csv.gz").write_bytes(gzip.compress(b"b," * 2**20 + b"a", mtime=0))
    tracemalloc.start()
    try:
        for name in ("long", "many"):
            with pytest.raises(UserError, match="is not a CSV file"):
                make().csv("t", tmp_path / f"{name}.csv.gz", ("a",))
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_a_missing_table_or_folder_is_named(make: Make, tmp_path: Path) -> None:
    database = make()
    with pytest.raises(UserError, match=r"root: has no file a\.csv; of version 1"):
        database.find("a.csv", "*/a.csv", what="of version 1")
    (tmp_path / "root" / "in").mkdir()
    (tmp_path / "root" / "in" / "a.csv.gz").touch()
    assert database.find("a.csv", "*/a.csv") == tmp_path / "root" / "in" / "a.csv.gz"
    with pytest.raises(UserError, match="is not a folder"):
        CohortDatabase("x", tmp_path / "none", FIELDS, Choices(), tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), (" -2.5 ", -2.5), ("1e3", 1000), (".5", 0.5), (">60", None), ("1,5", None),
     ("", None), ("nan", None), ("inf", None), ("1e999", None), ("0x1", None)],
)  # fmt: skip
def test_numbers_alone_are_numbers(make: Make, text: str, value: float | None) -> None:
    assert make().one("SELECT number(?)", [text]) == value


# --- films and files ----------------------------------------------------------------------------


def test_ids_that_are_none_twice_or_dangerous_are_left_out(make: Make) -> None:
    rows = [{"image_id": i, "patient_id": "p"} for i in ("a", "a", "..", "b/c", "d\n", "e" * 201)]
    database = taken(make(), [*rows, {"image_id": None}, {"image_id": "f", "patient_id": None}])
    assert [*splits(database)] == ["a"]
    assert steps(database) == {
        "no id of the film or the patient": 2,
        "listed twice (the first stays)": 1,
        "an id that cannot name a file": 4,
    }
    assert database.counts_at_start == (8, 2)


def test_films_are_looked_for_inside_the_folder(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    picture(root / "in" / "a.png", 1)
    picture(root / "b.PNG", 2)
    picture(root / ".hidden.png", 3)
    picture(tmp_path / "out" / "c.png", 4)
    (root / "link.png").symlink_to(tmp_path / "out" / "c.png")
    (root / "linked").symlink_to(tmp_path / "out")
    (root / "again").symlink_to(root)  # round and round
    (root / "inside.png").symlink_to(root / "b.PNG")
    paths = {"a": "in/a.png", "b": "b.PNG", "c": "link.png", "d": "linked/c.png", "e": "gone.png",
             "f": "../out/c.png", "g": str(tmp_path / "out" / "c.png"), "h": "in\\a.png",
             "i": None, "j": "inside.png"}  # fmt: skip
    rows = [{"image_id": i, "path": path} for i, path in paths.items()]
    database = taken(make(verify="present", split="seeded"), rows)
    complete(database, official=True)
    assert sorted(splits(database)) == ["a", "b", "j"]
    assert steps(database) == {
        "its file is not in the folder": 3,
        "its path leads out of the folder": 3,
        "a link out of the folder (--follow-links takes it)": 1,
    }
    assert "image files in the folder that no table lists" not in remarks(database)
    followed = taken(make(verify="present", split="seeded", follow_links=True), rows)
    complete(followed, official=True)
    assert sorted(splits(followed)) == ["a", "b", "c", "d", "j"]


def test_files_that_no_table_lists_are_counted(make: Make, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        picture(tmp_path / "root" / name, 1)
    (tmp_path / "root" / "notes.txt").touch()
    database = taken(make(verify="present"), [{"image_id": "a", "path": "a.png"}])
    complete(database, official=False)
    assert remarks(database)["image files in the folder that no table lists"] == 2


def test_no_film_is_lost_without_a_reason(make: Make) -> None:
    rows = [{"image_id": f"{n}", "patient_id": f"{n // 2}", "age": n * 1.0} for n in range(20)]
    database = taken(make(), rows)
    assert database.drop("age < 3", "young") == 3
    assert database.drop("age > 99", "old") == 0
    complete(database, official=False)
    flow = flow_of(database)
    assert (flow.films, flow.patients, flow.left) == (20, 10, 17)
    assert [(s.reason, s.films, s.patients) for s in flow.steps] == [("young", 3, 1)]
    assert sum(part.normal for part in flow.parts) == 17
    empty = taken(make(), rows)
    empty.drop("true", "all of them")
    with pytest.raises(UserError, match=r"no film is left \(all of them: 20\)"):
        complete(empty, official=False)


# --- the record ---------------------------------------------------------------------------------

NUMBERS = [f.name for f in FIELDS.values() if f.kind == "numeric"]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(
    st.sampled_from(NUMBERS), st.floats(-1e4, 1e4).map(lambda v: float(f"{v:.3g}"))),
    min_size=1, max_size=6))  # fmt: skip
def test_what_is_plausible_is_so_for_single_films_too(
    tmp_path_factory: pytest.TempPathFactory, exams: list[dict[str, float]]
) -> None:
    folder = tmp_path_factory.mktemp("a")
    with closing(
        CohortDatabase("x", folder, FIELDS, Choices(verify="none"), folder, 1)
    ) as database:
        database.con.register("rows", pa.table({
            "image_id": [f"{n}" for n in range(len(exams))],
            "patient_id": [f"{n}" for n in range(len(exams))],
            **{name: pa.array([r.get(name) for r in exams], pa.float64()) for name in NUMBERS},
        }))  # fmt: skip
        database.films("SELECT * FROM rows")
        complete(database, official=False)
        columns = ", ".join(NUMBERS)
        got = database.run(f"SELECT flags, {columns} FROM films ORDER BY image_id")
        for exam, (flags, *values) in zip(exams, got, strict=True):
            remaining, said = plausible(exam, FIELDS)
            assert dict(zip(NUMBERS, values, strict=True)) == {n: remaining.get(n) for n in NUMBERS}
            assert sorted(f.split(":")[0] for f in flags) == sorted(s.split(":")[0] for s in said)


def test_fields_of_complete_must_be_recorded(make: Make) -> None:
    rows = [{"image_id": f"{n}", "age": 50.0 if n % 2 else None} for n in range(10)]
    database = taken(make(complete=("age",)), rows)
    complete(database, official=False)
    assert sorted(splits(database)) == ["1", "3", "5", "7", "9"]
    assert steps(database) == {"age not recorded": 5}
    with pytest.raises(UserError, match="--complete bmi: x has age"):
        complete(taken(make(complete=("bmi",)), rows), official=False)


# --- the split ----------------------------------------------------------------------------------


def test_a_patient_is_drawn_whoever_else_is_there(make: Make) -> None:
    rows = [{"image_id": f"{n}", "patient_id": f"p{n // 2}"} for n in range(600)]
    whole = taken(make(split="seeded"), rows)
    complete(whole, official=True)
    part = taken(make(split="seeded"), rows[100:160][::-1])
    complete(part, official=True)
    assert splits(part).items() <= splits(whole).items()
    shares = [[*splits(whole).values()].count(s) / 600 for s in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
    other = taken(make(split="seeded", seed=1), rows)
    complete(other, official=True)
    assert splits(other) != splits(whole)


def test_val_is_drawn_from_train_where_there_is_none(make: Make) -> None:
    rows = [{"image_id": f"{n}", "split": "test" if n < 20 else "train"} for n in range(100)]
    database = taken(make(), rows)
    complete(database, official=True)
    got = splits(database)
    assert {i for i, s in got.items() if s == "test"} == {f"{n}" for n in range(20)}
    held = [*got.values()].count("val")
    assert 1 <= held <= 20 and remarks(database)[DRAWN] == held
    two = taken(make(), [{"image_id": "a", "split": "train"}, {"image_id": "b", "split": "train"}])
    complete(two, official=True)
    assert sorted(str(s) for s in splits(two).values()) == ["train", "val"]


def test_a_publisher_who_does_not_say_has_his_patients_drawn(make: Make) -> None:
    database = taken(make(), [{"image_id": f"{n}"} for n in range(60)])
    complete(database, official=True)
    assert set(splits(database).values()) == {"train", "val", "test"}


def test_patients_in_two_splits_are_refused_or_left_out(make: Make) -> None:
    rows = [{"image_id": f"{n}", "patient_id": "p" if n in (0, 4, 8) else f"{n}",
             "split": ("train", "val", "test")[n // 4]} for n in range(12)]  # fmt: skip
    with pytest.raises(UserError, match=r"1 patients with 3 films are in more than one split"):
        complete(taken(make(), rows), official=True)
    database = taken(make(overlap="drop"), rows)
    complete(database, official=True)
    assert steps(database) == {"the patient is in a later split, too": 2}
    assert splits(database)["8"] == "test"


@pytest.mark.parametrize(("verify", "kind"), [("bytes", "file"), ("pixels", "pixels")])
def test_one_film_in_two_splits_is_refused_or_left_out(
    make: Make, tmp_path: Path, verify: str, kind: str
) -> None:
    greys = (1, 2, 3, 3, 1)  # 4 is 0 again, in another split; 3 is 2 again, in the same
    rows = []
    for n, grey in enumerate(greys):
        picture(tmp_path / "root" / f"{n}.png", grey)
        split = ("train", "val", "test", "test", "test")[n]
        rows.append({"image_id": f"{n}", "path": f"{n}.png", "split": split})
    (tmp_path / "root" / "5.png").write_bytes(b"")
    rows.append({"image_id": "5", "path": "5.png", "split": "train"})
    if verify == "pixels":  # other bytes, the same film
        film = Image.open(tmp_path / "root" / "4.png")
        film.save(tmp_path / "root" / "4.png", compress_level=0)
    with pytest.raises(UserError, match="2 films are 1 different"):
        complete(taken(make(verify=verify), rows), official=True)
    database = taken(make(verify=verify, overlap="drop"), rows)
    complete(database, official=True)
    assert sorted(splits(database)) == ["1", "2", "3", "4"]
    assert steps(database)[f"the same {kind} is in a later split, too"] == 1
    assert sum(steps(database).values()) == 2  # and the empty one
    assert remarks(database)[f"films that have the {kind} of another one in the same split"] == 1


# --- lists --------------------------------------------------------------------------------------


def listed(make: Make, tmp_path: Path, text: str, rows: list[dict[str, Any]]) -> CohortDatabase:
    file = tmp_path / "lists.csv"
    file.write_text("film,split,label\n" + text)
    database = taken(make(lists=file), rows)
    complete(database, official=True)
    return database


def test_lists_decide_by_id_by_name_and_by_as_much_of_the_path_as_it_takes(
    make: Make, tmp_path: Path
) -> None:
    rows = [
        {"image_id": "p1_view1", "path": "d/train/p1/view1.jpg", "split": "test"},
        {"image_id": "p2_view1", "path": "d/train/p2/view1.jpg"},
        {"image_id": "only", "path": "d/seen.png"},
        {"image_id": "other", "path": "d/p3/other.png"},
        {"image_id": "left", "path": "d/left.png"},
    ]
    text = ("data/d/train/p1/view1.jpg,train,\np2/view1,val,\nseen.png,test,\nother,test,\n"
            "view1,test,\ngone,train,\n")  # fmt: skip
    database = listed(make, tmp_path, text, rows)
    assert splits(database) == {"p1_view1": "train", "p2_view1": "val", "only": "test",
                                "other": "test"}  # fmt: skip
    assert steps(database) == {"not in the published lists": 1}
    notes = remarks(database)
    assert notes["films of the published lists that are not here, or were left out above"] == 1
    assert notes["names in the published lists that fit several films: left out"] == 1


def test_labels_of_lists_are_compared_and_hidden(make: Make, tmp_path: Path) -> None:
    rows = [{"image_id": i, "findings": ["Mass"] if i == "b" else []} for i in "abcdv"]
    text = "a,train,0\nb,train,0\nc,train,unlabelled\nd,test,1\nv,val,0\n"
    database = listed(make, tmp_path, text, rows)
    notes = remarks(database)
    assert notes["films whose label in the published lists is another than the publisher's"] == 2
    assert notes["films that the published lists take without a label"] == 1
    findings = dict(database.run("SELECT image_id, findings FROM films"))
    assert findings == {"a": [], "b": ["Mass"], "c": None, "d": [], "v": []}


@pytest.mark.parametrize(
    "text", ["a,train,\na,test,\n", "a,train,\nd/a,test,\n", "a,val,0\na,val,1\n"]
)
def test_a_film_listed_in_two_ways_is_refused(make: Make, tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is listed twice, in two ways"):
        listed(make, tmp_path, text, [{"image_id": "a", "path": "d/a.png"}])


def test_choices_out_of_range_are_refused() -> None:
    for change, said in (
        ({"window": 3651}, "--window 3651"),
        ({"direction": "after"}, "--direction after: give one of around, before"),
        ({"val_share": 0.0}, "--val-share 0"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave no patient"),
        ({"complete": ("age", "age")}, "named twice"),
    ):
        with pytest.raises(UserError, match=said):
            replace(Choices(), **change)
