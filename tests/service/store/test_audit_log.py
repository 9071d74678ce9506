"""The chain holds, and whatever is done to the file shows."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nofinding.errors import UserError
from nofinding.service.store.audit_log import AuditLog, Head, verify_audit

KEY = b"0123456789abcdef"
Lines = list[bytes]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    log = AuditLog(tmp_path / "audit.log", KEY)
    for number in range(5):
        log.write("scanner", "received", film=log.pseudonym(f"1.2.{number}"), size=number)
    log.close()
    return tmp_path / "audit.log"


def test_an_untouched_log_is_whole(file: Path) -> None:
    head = verify_audit(file, KEY)
    assert head.entries == 5
    log = AuditLog(file, KEY)
    later = log.write("reader", "looked", film="x")
    assert verify_audit(file, KEY, head) == later == verify_audit(file, KEY, later)
    assert "1.2." not in file.read_text()


def changed(lines: Lines) -> Lines:
    return [lines[0], lines[1].replace(b'"size": 1', b'"size": 9'), *lines[2:]]


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (changed, "line 2: was changed"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: does not follow"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2: does not follow"),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], "line 3: does not follow"),
        (lambda lines: lines[1:], "line 1: does not follow"),
        (lambda lines: [*lines[:4], b"{}\n"], "line 5: does not follow"),
        (lambda lines: [*lines, b"more"], "line 6: is no entry"),
        (lambda lines: [*lines, b"[" * 60000 + b"\n"], "line 6: is no entry"),
    ],
)
def test_an_attack_shows(file: Path, attack: Callable[[Lines], Lines], said: str) -> None:
    file.write_bytes(b"".join(attack(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(UserError, match=said):
        verify_audit(file, KEY)


def test_what_is_cut_off_shows_against_what_was_noted(file: Path) -> None:
    head = verify_audit(file, KEY)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]))
    assert verify_audit(file, KEY).entries == 3
    with pytest.raises(UserError, match="ends after 3 entries, 5 were noted"):
        verify_audit(file, KEY, head)
    with pytest.raises(UserError, match="is not the entry that was noted"):
        verify_audit(file, KEY, Head(entries=2, hash=head.hash))


def test_without_the_key_nobody_mends_the_chain(file: Path) -> None:
    forger = AuditLog(file.with_name("forged"), b"another key, 16 b")
    forger.write("scanner", "received")
    with pytest.raises(UserError, match="was changed, or the key is another"):
        verify_audit(file.with_name("forged"), KEY)
    with pytest.raises(UserError, match="under 16 bytes"):
        AuditLog(file, b"short")


def test_nothing_is_written_behind_a_torn_line(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="its last line is damaged"):
        AuditLog(file, KEY).write("scanner", "received")


CHILD = """
import sys
from pathlib import Path
from nofinding.service.store.audit_log import AuditLog
log = AuditLog(Path(sys.argv[1]), b"0123456789abcdef")
for _ in range(20):
    log.write(sys.argv[2], "received")
"""


def test_several_processes_keep_one_chain(file: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(file)]
    workers = [subprocess.Popen([*command, f"w{i}"]) for i in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert verify_audit(file, KEY).entries == 65
    numbers = [json.loads(line)["number"] for line in file.read_text().splitlines()]
    assert numbers == list(range(65))


def test_threads_that_share_a_log_keep_one_chain(file: Path) -> None:
    log = AuditLog(file, KEY)
    threads = [
        threading.Thread(target=lambda: [log.write("reader", "looked") for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_audit(file, KEY).entries == 85


def test_a_full_disk_leaves_the_log_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, write = AuditLog(file, KEY), os.write
    monkeypatch.setattr(
        "nofinding.service.store.audit_log.os.write", lambda fd, data: write(fd, data[:30])
    )
    with pytest.raises(OSError, match="no space left"):
        log.write("reader", "looked")
    monkeypatch.undo()
    assert verify_audit(file, KEY).entries == 5
    log.write("reader", "looked")
    assert verify_audit(file, KEY).entries == 6
