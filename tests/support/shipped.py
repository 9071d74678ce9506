"""A dataset's small copy on disk, and what `nofinding cohort` makes of it or says against it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nofinding.cli import main
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.types import Exam


@dataclass(frozen=True)
class Shipped:
    """A copy, in a folder of its own beside which cohorts are made."""

    name: str
    root: Path

    @classmethod
    def write(cls, name: str, folder: Path, patients: int = 24) -> "Shipped":
        EXAMPLES[name](Copy(root=folder / name, patients=patients, seed=0, size=64))
        return cls(name, folder / name)

    @property
    def out(self) -> Path:
        return self.root.parent / "cohort"

    def films(self, *options: str) -> dict[str, Exam]:
        """The films by id."""
        arguments = ["cohort", f"{self.name}:{self.root}", "--out", str(self.out), "--overwrite"]
        assert main([*arguments, *options]) == 0
        return {r.image_id: r for r in SOURCES["cohort"].read(str(self.out), FIELDS)}

    def losses(self) -> dict[str, int]:
        """What was left out or changed in the last cohort, and how often."""
        flow = json.loads((self.out / "cohort.json").read_text())["flow"]
        steps = {step["reason"]: step["films"] for step in flow["steps"]}
        return steps | {remark["what"]: remark["count"] for remark in flow["remarks"]}

    def splits(self) -> dict[str, int]:
        """How many films are in each split of the last cohort."""
        flow = json.loads((self.out / "cohort.json").read_text())["flow"]
        return {p["split"]: p["normal"] + p["abnormal"] + p["unlabelled"] for p in flow["parts"]}

    def refused(self, capsys: pytest.CaptureFixture[str], *options: str) -> str:
        """The one line that says why there is no cohort; nothing is left behind."""
        before = sorted(self.root.parent.iterdir())
        capsys.readouterr()
        arguments = ["cohort", f"{self.name}:{self.root}", "--out", str(self.out), *options]
        assert main(arguments) == 2
        line = capsys.readouterr().err.strip()
        assert len(line.splitlines()) == 1, line
        assert sorted(self.root.parent.iterdir()) == before
        return line

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        """Changes a text file of the copy."""
        path = self.root / file
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    def cell(self, file: str, row: str, old: str, new: str) -> None:
        """Changes text in the one line of a table that holds `row`."""

        def change(text: str) -> str:
            (line,) = (line for line in text.splitlines() if row in line)
            assert re.search(re.escape(old), line), line
            return text.replace(line, line.replace(old, new, 1))

        self.edit(file, change)
