"""What runs behind an intake begins whole or not at all, and ends where it can do nothing."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nofinding.errors import UserError
from nofinding.service import listen
from nofinding.service.intake.dicom_store import ListenOptions
from nofinding.service.supervisor import Running
from support.serving import options_for


def test_a_damaged_audit_log_starts_nothing(tmp_path: Path) -> None:
    options = options_for(tmp_path, Path("adult"), workers=0)
    running = Running(options)
    (options.home / "audit.log").write_bytes(b"half a li")
    with pytest.raises(UserError, match=r"audit log .* damaged"), running:
        pass
    assert not {"outbox", "watcher", "sweeper"} & {t.name for t in threading.enumerate()}


def test_a_store_whose_workers_cannot_be_replaced_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Running):
        def __enter__(self) -> Running:
            super().__enter__()
            self.pool.broken = True
            return self

    monkeypatch.setattr(listen, "Running", Broken)
    options = ListenOptions(home=tmp_path / "home", accept=["A"], port=0, workers=0)
    with pytest.raises(UserError, match="no worker can load the model any more"):
        listen.listen(options)


def test_a_store_that_is_told_to_stop_while_its_model_loads_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def message() -> Iterator[threading.Event]:
        event = threading.Event()
        event.set()
        yield event

    class Loading(Running):
        def __enter__(self) -> Running:
            super().__enter__()
            object.__setattr__(self.pool.options, "workers", 1)  # which never has its model
            return self

    monkeypatch.setattr(listen, "Running", Loading)
    monkeypatch.setattr(listen, "stopped_by_signals", message)
    ended = threading.Thread(
        target=listen.listen,
        args=(ListenOptions(home=tmp_path / "home", accept=["A"], port=0, workers=0),),
        daemon=True,
    )
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
