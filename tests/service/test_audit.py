"""audit verify and audit show, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.service.store.audit_log import AuditLog

KEY = b"0123456789abcdef"
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_bytes(KEY + b"\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def log(tmp_path: Path) -> Path:
    entries = AuditLog(tmp_path / "audit.log", KEY, clock=lambda: 1_767_225_600.5)
    for number in range(4):
        entries.write("reader \x1b[2J", "looked", film=entries.pseudonym(f"1.2.{number % 2}"))
    entries.close()
    return tmp_path / "audit.log"


@pytest.fixture
def said(key: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["audit", *map(str, arguments), "--key", str(key)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_a_whole_log_gives_its_head_and_goes_through_it(log: Path, said: Said) -> None:
    code, out, _ = said("verify", log)
    last = json.loads(log.read_text().splitlines()[-1])
    assert code == 0 and "4 entries" in out and out.strip().endswith(f"head 4:{last['hash']}")
    head = out.split()[-1]
    assert said("verify", log, "--head", head)[0] == 0
    AuditLog(log, KEY).write("reader", "looked")
    assert said("verify", log, "--head", head)[0] == 0
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    code, out, err = said("verify", log, "--head", head)
    assert code == 2 and not out and "ends after 2 entries, 4 were noted" in err
    assert said("verify", log)[0] == 0  # of itself it does not show


def test_a_changed_line_is_named(log: Path, said: Said) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:2], lines[2].replace(b"looked", b"gazed"), lines[3]]))
    code, out, err = said("verify", log)
    assert code == 2 and not out
    assert err.strip() == f"nofinding: audit log {log}: line 3: was changed, or the key is another"
    code, out, err = said("show", log)
    assert code == 2 and len(out.splitlines()) == 2 and "line 3" in err


def test_show_gives_what_was_done_to_a_film(log: Path, said: Said) -> None:
    code, out, _ = said("show", log)
    assert code == 0 and len(out.splitlines()) == 4 and "\x1b" not in out
    first = json.loads(out.splitlines()[0])
    assert first["time"] == "2026-01-01T00:00:00+00:00" and first["what"] == "looked"
    code, out, _ = said("show", log, "--about", first["film"])
    assert [json.loads(line)["number"] for line in out.splitlines()] == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "none.log"], "none.log"),
        (["verify", "LOG", "--head", "4"], "write ENTRIES:HASH"),
        (["verify", "LOG", "--about", "x"], "goes with `audit show`"),
        (["mend", "LOG"], "mend"),
    ],
)
def test_a_fault_is_one_line(arguments: list[str], message: str, log: Path, said: Said) -> None:
    given = [str(log) if word == "LOG" else word for word in arguments]
    code, out, err = said(*given)
    assert code == 2 and not out and message in err and len(err.strip().splitlines()) == 1


def test_a_key_that_everybody_may_read_is_refused(log: Path, key: Path, said: Said) -> None:
    key.chmod(0o644)
    code, _, err = said("verify", log)
    assert code == 2 and "everybody may read it" in err
