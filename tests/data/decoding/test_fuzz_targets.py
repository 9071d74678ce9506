"""The fuzzing targets still ask what there is to ask: they are run by hand, and may rot unseen."""

import contextlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks" / "fuzz"


@pytest.fixture
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with nothing in place of atheris."""
    atheris = types.ModuleType("atheris")
    monkeypatch.setattr(
        atheris, "instrument_imports", lambda **_: contextlib.nullcontext(), raising=False
    )
    monkeypatch.setitem(sys.modules, "atheris", atheris)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = importlib.util.spec_from_file_location("fuzzed", FOLDER / f"{request.param}.py")
    assert result is not None and result.loader is not None
    module = importlib.util.module_from_spec(result)
    result.loader.exec_module(module)
    return module


@pytest.mark.parametrize("target", ["dicom", "tables"], indirect=True)
def test_a_target_takes_its_own_seeds_and_nothing_at_all(target: Any, tmp_path: Path) -> None:
    target.seeds(tmp_path)
    seeds = sorted(tmp_path.iterdir())
    assert len(seeds) >= 5
    for data in (b"", *(file.read_bytes() for file in seeds[:6])):
        target.one(data)
