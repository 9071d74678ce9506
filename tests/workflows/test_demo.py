"""The demo on a cohort small enough for a test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.evaluation import assess
from nofinding.workflows.demo import demo


def test_demo_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_module(), "COHORT", "phantom:train=12,val=6,test=6,abnormal=1,size=32")
    monkeypatch.setattr(assess, "DETECTORS", ())
    out = tmp_path / "out"
    for _ in range(2):  # its own folder is replaced
        assert main(["demo", "--out", str(out), "--preset", "tiny"]) == 0
    report = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert report == (out / "report" / "report.html").resolve()
    assert "PHANTOM" in report.read_text()
    assert (out / "real-film" / "scores.csv").exists() == (demo_module().real_film() is not None)


def test_demo_never_replaces_what_is_not_its_own(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    assert "not a demo's" in refused("demo", "--out", tmp_path, "--preset", "tiny")
    assert (tmp_path / "model" / "precious").exists()


def demo_module():  # type: ignore[no-untyped-def]
    """The module, which the function of the same name hides in the package."""
    import sys

    return sys.modules[demo.__module__]
