"""Films that readers marked normal: which count, and what of them is handed to `adapt`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nofinding.cli import main
from nofinding.errors import UserError
from nofinding.service.marked import marked_normal
from nofinding.service.store.feedback import Feedback, Verdict
from nofinding.service.store.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return Home(folder)


def scored(home: Home, film: str, p: float, *remarks: tuple[str, Verdict]) -> None:
    """A film with its result, and what readers said of it in turn."""
    job = home.queue.offer(film, f"digest {film}", {"patient": f"patient of {film}"}).job
    about: dict[str, Any] = {
        "film": film, "p_value": p, "score": 1.0,
        "record": [{"field": "age", "value": 50.0}, {"field": "sex", "value": None}],
    }  # fmt: skip
    grey = np.full((8, 6), 65535 // 3, dtype="<u2")
    home.results.put(job.id, about, {"film": grey}, {})
    feedback = Feedback(home.folder / "feedback.sqlite")
    for who, verdict in remarks:
        feedback.add(job.id, film, verdict, "", who, about)


def test_only_films_that_every_reader_marked_normal_last_are_taken(home: Home) -> None:
    scored(home, "quiet", 0.5, ("a", "agree"))
    scored(home, "false-alarm", 0.01, ("a", "disagree"))
    scored(home, "changed", 0.5, ("a", "disagree"), ("a", "agree"))
    scored(home, "found", 0.01, ("a", "agree"))
    scored(home, "missed", 0.5, ("a", "disagree"))
    scored(home, "divided", 0.5, ("a", "agree"), ("b", "disagree"))
    scored(home, "unread", 0.5)
    films = {exam.image_id: exam for exam in marked_normal(home.folder)}
    assert set(films) == {"quiet", "false-alarm", "changed"}
    one = films["quiet"]
    assert one.patient_id == "patient of quiet" and one.ehr == {"age": 50.0}
    assert one.findings == frozenset()
    assert one.pixels().shape == (8, 6) and float(one.pixels().max()) == pytest.approx(1 / 3)


def test_a_folder_without_remarks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no home"):
        marked_normal(tmp_path)
    assert not list(tmp_path.iterdir())


def test_few_marks_are_refused_in_a_line(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(home, "quiet", 0.5, ("a", "agree"))
    out = str(tmp_path / "out")
    assert main(["adapt", "--feedback", str(home.folder), "--out", out]) == 2
    assert "20 are needed" in capsys.readouterr().err
