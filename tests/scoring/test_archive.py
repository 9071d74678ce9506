"""Scoring that is killed, shared out or fed with damaged films ends with the same files."""

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nofinding.cli import main
from nofinding.errors import UserError
from nofinding.scoring import batch_scorer, merge, workspace
from nofinding.scoring.batch_scorer import Scorer
from nofinding.storage.journal import Journal, entries
from nofinding.workflows import score
from support.tables import Rows, write_table

Refused = Callable[..., str]
BATCHES = 12  # of three films
MEASURED = ("seconds_per_film",)


@pytest.fixture(scope="module")
def plain(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "m"
    films = f"table:{cohort / 'films.csv'}"
    assert main(["fit", "thumbnail", "--films", films, "--gate", "none", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def command(cohort: Path, plain: Path) -> list[str]:
    films = f"table:{cohort / 'films.csv'}"
    return ["score", "--model", str(plain), "--films", films, "--batch-size", "3"]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that nobody disturbs leaves."""
    out = tmp_path_factory.mktemp("whole") / "s"
    assert main([*command, "--out", str(out)]) == 0
    return files_of(out)


def files_of(out: Path) -> dict[str, bytes]:
    """Every file; of run.json all but what a clock measured."""
    paths = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run = json.loads(paths["run.json"])
    paths["run.json"] = json.dumps({k: run[k] for k in run if k not in MEASURED}).encode()
    return paths


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def apart(arguments: list[str], arm: Callable[[], None], log: Path) -> int:
    """Runs a command in a process of its own; batches that it scores are noted in `log`."""
    child = os.fork()
    if child == 0:
        own = Scorer.__call__

        def noting(self: Scorer, number: int) -> dict[str, Any]:
            with log.open("a") as file:
                file.write(f"{number}\n")
            return own(self, number)

        Scorer.__call__ = noting  # type: ignore[method-assign]
        arm()
        os._exit(main(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dies_in(where: Any, name: str, *, after: bool = False, calls: int = 1) -> Callable[[], None]:
    """What has a process kill itself at the n-th call of a function, before or after its work."""

    def arm() -> None:
        own, count = getattr(where, name), [0]

        def deadly(*given: Any, **more: Any) -> Any:
            count[0] += 1
            if count[0] == calls and not after:
                die()
            result = own(*given, **more)
            if count[0] == calls and after:
                die()
            return result

        setattr(where, name, deadly)

    return arm


def dies_half_written() -> None:
    own = Journal.append

    def torn(self: Journal, entry: Any) -> Any:
        place = own(self, entry)
        os.truncate(self.path, place.start + 100)
        die()

    Journal.append = torn  # type: ignore[method-assign]


KILLS = [
    dies_in(Scorer, "prepared"),
    dies_in(Scorer, "_write_maps", after=True),
    dies_half_written,
    dies_in(Journal, "append", after=True, calls=2),
    dies_in(batch_scorer, "write_maps", calls=2),
    dies_in(Journal, "append", calls=3),
    dies_in(score, "write_scores"),
    dies_in(merge, "_write", after=True),
    dies_in(workspace.Workspace, "move"),
    dies_in(workspace, "_remove"),
]


def test_ten_kills_change_nothing(
    command: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, log = tmp_path / "s", tmp_path / "log"
    run = [*command, "--out", str(out)]
    for number, arm in enumerate(KILLS):
        assert apart(run, arm, log) == -signal.SIGKILL, number
        assert not out.exists() or number == len(KILLS) - 1
    assert apart(run, lambda: None, log) == 0
    assert files_of(out) == whole
    scored = log.read_text().split()
    assert {*scored} == {str(number) for number in range(BATCHES)}
    assert len(scored) <= BATCHES + len(KILLS)
    assert len(scored) == BATCHES + 5  # those killed between scoring and the journal
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "s"]


def test_a_finished_job_is_not_done_again(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    run = [*command, "--no-maps", "--out", str(tmp_path / "s")]
    assert main(run) == 0
    log = tmp_path / "log"
    assert apart(run, lambda: None, log) == 0 and not log.exists()
    assert "is not empty" in refused(*run, "--seed", "3")
    assert apart([*run, "--overwrite"], lambda: None, log) == 0
    assert len(log.read_text().split()) == BATCHES


def test_another_job_does_not_go_on_in_the_same_folder(
    command: list[str], tmp_path: Path, refused: Refused, whole: dict[str, bytes]
) -> None:
    out, log = tmp_path / "s", tmp_path / "log"
    run = [*command, "--out", str(out)]
    assert apart([*run, "--seed", "7"], KILLS[3], log) == -signal.SIGKILL
    line = refused(*run)
    assert "seed differs" in line and "--overwrite" in line
    assert main([*run, "--overwrite"]) == 0
    assert files_of(out) == whole


@pytest.mark.parametrize("last", [0, 2])
def test_shards_join_to_the_same_files(
    command: list[str], whole: dict[str, bytes], tmp_path: Path, last: int
) -> None:
    out, log = tmp_path / "s", tmp_path / "log"
    run = [*command, "--out", str(out), "--shard"]
    order = [shard for shard in range(3) if shard != last]
    for shard in order:
        assert main([*run, f"{shard}/3"]) == 0
        assert not out.exists()
    assert apart([*run, f"{last}/3"], lambda: None, log) == 0
    assert [int(number) % 3 for number in log.read_text().split()] == [last] * 4
    assert files_of(out) == whole
    log.unlink()
    assert apart([*run, "1/3"], lambda: None, log) == 0 and not log.exists()


def test_shards_at_once_join_exactly_once(
    command: list[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, joined = tmp_path / "s", tmp_path / "joined"
    all_done = multiprocessing.get_context("fork").Barrier(3)  # each sees that nothing is missing

    def shard(number: int) -> int:
        child = os.fork()
        if child == 0:
            own, finish = score.write_scores, score._finish

            def together(*given: Any) -> None:
                all_done.wait(60)
                finish(*given)

            score._finish = together

            def noting(*given: Any) -> None:
                with joined.open("a") as file:
                    file.write(f"{number}\n")
                own(*given)

            score.write_scores = noting  # type: ignore[assignment]
            os._exit(main([*command, "--out", str(out), "--shard", f"{number}/3"]))
        return child

    children = [shard(number) for number in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert files_of(out) == whole
    assert len(joined.read_text().split()) == 1


def test_the_shard_comes_from_torchrun(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert main([*command, "--no-maps", "--out", str(tmp_path / "s")]) == 0
    parts = [p.name for p in (tmp_path / ".s.partial").glob("*.journal")]
    assert parts == ["part-1-of-4.journal"]


@pytest.mark.parametrize("shard", ["3", "3/3", "-1/3", "a/b", "1/"])
def test_a_wrong_shard_is_refused(
    command: list[str], tmp_path: Path, refused: Refused, shard: str
) -> None:
    line = refused(*command, "--out", tmp_path / "s", f"--shard={shard}")
    assert "--shard" in line and "K/N" in line
    assert not [*tmp_path.iterdir()]


def test_a_second_process_on_the_same_part_is_refused(
    command: list[str], tmp_path: Path, refused: Refused
) -> None:
    run = [*command, "--out", str(tmp_path / "s")]
    apart(run, KILLS[3], tmp_path / "log")
    with Journal(tmp_path / ".s.partial" / "part-0-of-1.journal"):
        assert "another process is at work" in refused(*run)
    assert main(run) == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "length"])
def test_a_torn_last_entry_is_dropped(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "j"
    with Journal(file) as journal:
        for number in range(3):
            place = journal.append({"batch": number, "text": "ä" * 50})
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[:-1]
    else:
        data[place.start + (5 if damage == "length" else 60)] ^= 1
    file.write_bytes(data)
    assert [entry["batch"] for _, entry in entries(file)] == [0, 1]
    with Journal(file) as journal:
        journal.append({"batch": 9})
    assert [entry["batch"] for _, entry in entries(file)] == [0, 1, 9]


@pytest.fixture
def damaged(cohort: Path, rows: Rows, tmp_path: Path) -> str:
    """The cohort with a film that is cut short and one that is gone."""
    wrong = [{**r, "path": str(cohort / r["path"])} for r in rows]
    data = Path(wrong[4]["path"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    wrong[4]["path"] = str(tmp_path / "cut.png")
    wrong[30]["path"] = str(tmp_path / "gone.png")
    return write_table(tmp_path / "t.csv", wrong)


def test_unreadable_films_are_listed_and_the_others_scored(
    plain: Path, damaged: str, rows: Rows, tmp_path: Path, whole: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "s"
    assert main(
        ["score", "--model", str(plain), "--films", damaged, "--batch-size", "3",
         "--unreadable", "list", "--out", str(out)]
    ) == 0  # fmt: skip
    assert "34 films, 2 cannot be read (unreadable.csv)" in capsys.readouterr().err
    with (out / "unreadable.csv").open(newline="") as file:
        listed = [(row["image_id"], row["reason"]) for row in csv.DictReader(file)]
    assert listed == [
        (rows[4]["image_id"], "is damaged or cut short"),
        (rows[30]["image_id"], "does not exist"),
    ]
    run = json.loads((out / "run.json").read_text())
    assert run["unreadable"] == 2 and run["n"] == 34
    expected = whole["scores.csv"].decode().splitlines()
    ids = {rows[4]["image_id"], rows[30]["image_id"]}
    remaining = [line for line in expected if line.split(",")[0] not in ids]
    assert (out / "scores.csv").read_text().splitlines() == remaining


def test_a_long_run_that_a_film_stops_can_go_on(
    plain: Path, cohort: Path, rows: Rows, tmp_path: Path, refused: Refused,
    monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes],
) -> None:  # fmt: skip
    table = [{**r, "path": str(cohort / r["path"])} for r in rows]
    film = Path(table[30]["path"])
    (tmp_path / "cut.png").write_bytes(film.read_bytes()[:100])
    table[30]["path"] = str(tmp_path / "cut.png")
    out, log = tmp_path / "s", tmp_path / "log"
    films = ["--films", write_table(tmp_path / "t.csv", table)]
    run = ["score", "--model", str(plain), *films, "--batch-size", "3", "--out", str(out)]
    assert "cut.png" in refused(*run)
    assert not (tmp_path / ".s.partial").exists()  # a short run leaves nothing
    monkeypatch.setattr(score, "KEEP", 0.0)
    for _ in range(2):  # the second time it stops before anything is added
        assert "cut.png" in refused(*run)
    assert not out.exists() and (tmp_path / ".s.partial").exists()
    (tmp_path / "cut.png").write_bytes(film.read_bytes())
    assert apart(run, lambda: None, log) == 0
    assert log.read_text().split() == ["10", "11"]
    assert (out / "scores.csv").read_bytes() == whole["scores.csv"]


def test_a_film_that_changed_since_is_scored_again(
    plain: Path, cohort: Path, rows: Rows, tmp_path: Path
) -> None:
    table = [{**r, "path": str(cohort / r["path"])} for r in rows]
    own = tmp_path / "own.png"
    own.write_bytes(Path(table[0]["path"]).read_bytes())
    table[0]["path"] = str(own)
    films = ["--films", write_table(tmp_path / "t.csv", table)]
    run = ["score", "--model", str(plain), *films, "--batch-size", "3", "--no-maps"]
    log = tmp_path / "log"
    killed = dies_in(Journal, "append", calls=5)
    assert apart([*run, "--out", str(tmp_path / "s")], killed, log) == -signal.SIGKILL
    own.write_bytes(Path(table[1]["path"]).read_bytes())
    log.unlink()
    assert apart([*run, "--out", str(tmp_path / "s")], lambda: None, log) == 0
    assert log.read_text().split() == ["0", *map(str, range(4, BATCHES))]
    assert main([*run, "--out", str(tmp_path / "t")]) == 0
    names = [(tmp_path / name / "scores.csv").read_bytes() for name in ("s", "t")]
    assert names[0] == names[1]


def test_a_full_disk_cuts_the_half_written_entry_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append({"batch": 0})

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("nofinding.storage.journal.os.fsync", full)
            with pytest.raises(OSError, match="No space"):
                journal.append({"batch": 1})
        journal.append({"batch": 2})
    assert [entry["batch"] for _, entry in entries(tmp_path / "j")] == [0, 2]


def test_where_no_film_can_be_read_nothing_is_written(
    plain: Path, damaged: str, tmp_path: Path, refused: Refused
) -> None:
    file = Path(damaged.removeprefix("table:"))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[5], lines[31]]) + "\n")
    line = refused("score", "--model", plain, "--films", damaged, "--unreadable", "list",
                   "--out", tmp_path / "s")  # fmt: skip
    assert "none of the 2 films can be read" in line
    assert not (tmp_path / "s").exists() and not (tmp_path / ".s.partial").exists()


def test_unreadable_survives_a_pickle() -> None:
    import pickle

    from nofinding.data.decoding.decode import UnreadableError

    error = pickle.loads(pickle.dumps(UnreadableError("a.png is cut", "is cut")))
    assert isinstance(error, UserError) and (str(error), error.reason) == ("a.png is cut", "is cut")
