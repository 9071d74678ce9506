"""Altered copies of one film in two splits: refused, left out or listed."""

import pyarrow as pa

from nofinding.data.decoding.decode import FilmFile
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.twin_check import Part, parts_apart, refused, signatures_for
from nofinding.errors import UserError
from nofinding.types import Exam

__all__ = ["twins_apart"]


def twins_apart(database: CohortDatabase, order: tuple[str, ...]) -> None:
    """Compares the films of each split with those of the splits behind it in `order`.

    With --overlap drop those of the latter are left out. Raises UserError where there are some, and
    neither that nor --twins report was chosen; a film that cannot be decoded is no film's twin, and
    is counted.
    """
    parts = [part for part in (_part(database, split) for split in order) if part]
    if len(parts) < 2:
        return
    unreadable: list[str] = []
    ready = [
        Part(
            name,
            exams,
            signatures_for(
                exams, database.cache, unreadable=unreadable, workers=database.threads,
                what=f"looking for twins, {name}",
            ),
        )
        for name, exams in parts
    ]  # fmt: skip
    database.remark("films that cannot be decoded, not compared with others", len(unreadable))
    choices = database.choices
    for place, later in enumerate(ready[:-1]):
        pairs = parts_apart(ready[place + 1 :], later, "report", None)
        if not pairs:
            continue
        twins = sorted({row["second"] for row in pairs})
        if choices.twins == "report":
            database.twins += pairs
            database.remark("altered copies of films of a later split", len(twins))
        elif choices.overlap == "drop":
            database.run_with(
                pa.table({"image_id": twins}),
                "CREATE OR REPLACE TABLE twins AS SELECT * FROM chunk",
            )
            database.drop(
                "image_id IN (SELECT image_id FROM twins)",
                "an altered copy of the film is in a later split",
            )
        else:
            raise UserError(
                f"{database.source}:{database.root}: {refused(pairs, len(later.exams))}, or "
                "--overlap drop"
            )


def _part(database: CohortDatabase, split: str) -> tuple[str, list[Exam]] | None:
    """The films of a split; None where there are none."""
    rows = database.run(
        "SELECT image_id, patient_id, path FROM films WHERE split = ? ORDER BY path", [split]
    )
    exams = [
        Exam(
            image_id=image_id,
            patient_id=patient_id,
            pixels=FilmFile(database.file(path)),
            ehr={},
            view=None,
            split=split,  # type: ignore[arg-type]
        )
        for image_id, patient_id, path in rows
    ]
    return (split, exams) if exams else None
