"""What is done to every cohort once its source has told what it has: files looked for, values
checked, patients split, overlaps refused. Each loss is counted in the assembly's flow."""

import hashlib
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from nofinding.data.decoding.decode import FilmFile
from nofinding.data.ehr import EhrField
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.build.flow import FieldRow, Flow, Part
from nofinding.datasets.build.splits import apply_lists
from nofinding.datasets.build.twins import twins_apart
from nofinding.errors import UserError

__all__ = ["DRAWN", "complete", "flow_of"]

DRAWN = "drawn from train for val, where there was none"

ORDER = ("test", "val", "train")  # an overlap is left out of the later one here


def complete(database: CohortDatabase, *, official: bool) -> None:
    """Makes the films' table final. `official`: whether the publisher has a split of its own.

    Raises UserError where no film is left, a patient or a film is in two splits, or a field of
    --complete is unknown.
    """
    choices = database.choices
    if choices.verify != "none":
        _present(database)
    _plausible(database)
    for name in choices.complete:
        if name not in database.offered:
            allowed = ", ".join(n for n in database.fields if n in database.offered)
            raise UserError(f"--complete {name}: {database.source} has {allowed or 'no record'}")
        database.drop(f'"{name}" IS NULL', f"{name} not recorded")
    _split(database, official)
    _patients_apart(database)
    if choices.verify in ("bytes", "pixels"):
        _films_apart(database)
        if choices.twins != "skip":
            twins_apart(database, ORDER)
    if not database.one("SELECT count(*) FROM films"):
        losses = "; ".join(f"{step.reason}: {step.films:,}" for step in database.steps)
        raise UserError(f"{database.source}:{database.root}: no film is left ({losses or 'none'})")


def _present(database: CohortDatabase) -> None:
    """Leaves out films that are not there, or not where they may be read from."""
    database.drop(
        r"starts_with(path, '/') OR regexp_matches(path, '(^|/)\.\.(/|$)') "
        r"OR contains(path, '\')",
        "its path leads out of the folder",
    )
    database.list_files()
    database.drop(
        "path IN (SELECT path FROM present WHERE outside)",
        "a link out of the folder (--follow-links takes it)",
    )
    database.drop(
        "path IS NULL OR path NOT IN (SELECT path FROM present)", "its file is not in the folder"
    )
    database.remark(
        "image files in the folder that no table lists",
        database.one(
            "SELECT count(*) FROM present WHERE path NOT IN "
            "(SELECT path FROM referred WHERE path IS NOT NULL)"
        ),
    )


def _plausible(database: CohortDatabase) -> None:
    """Sets values that no living patient could have to missing, with a flag, and counts them.

    The same rule as `data.ehr.plausible`, over the whole table.
    """
    for field in database.fields.values():
        if field.kind == "categorical":
            allowed = ", ".join(f"'{category}'" for category in field.categories)
            wrong = f'"{field.name}" NOT IN ({allowed})'
            shown, reason = f"'{field.name}: is none of {'; '.join(field.categories)}'", "unknown"
        else:
            low = "-inf" if field.low is None else f"{field.low:g}"
            high = "inf" if field.high is None else f"{field.high:g}"
            wrong = f"NOT (\"{field.name}\" BETWEEN '{low}'::DOUBLE AND '{high}'::DOUBLE)"
            bounds = f"{low} to {high} {field.unit}".rstrip()
            shown = (
                f"'{field.name}: ' || format('{{:g}}', \"{field.name}\") || ' is outside {bounds}'"
            )
            reason = f"outside {bounds}"
        wrong = f'"{field.name}" IS NOT NULL AND {wrong}'
        database.remark(
            f"{field.name}: {reason}, set to missing",
            database.one(f"SELECT count(*) FROM films WHERE {wrong}"),
        )
        database.run(
            f'UPDATE films SET flags = list_append(flags, {shown}), "{field.name}" = NULL '
            f"WHERE {wrong}"
        )
    if {"systolic", "diastolic"} <= database.fields.keys():
        database.remark(
            "diastolic above systolic pressure, both set to missing",
            database.one("SELECT count(*) FROM films WHERE diastolic > systolic"),
        )
        database.run(
            "UPDATE films SET flags = list_append(flags, 'diastolic: ' || format('{:g}', diastolic)"
            " || ' is above systolic ' || format('{:g}', systolic) || ' mm[Hg], both left out'), "
            "systolic = NULL, diastolic = NULL WHERE diastolic > systolic"
        )


def _split(database: CohortDatabase, official: bool) -> None:
    """Puts every film into train, val or test, by patient: as the publisher does, if he says.

    A patient is drawn by a hash of the seed and the id alone, so that everybody gets the same
    split, whichever other films he has.
    """
    choices = database.choices
    draw = "('0x' || substr(sha256(? || '|' || patient_id), 1, 8))::BIGINT / 4294967296.0"
    seed = str(choices.seed)
    if choices.lists is not None:
        apply_lists(database, choices.lists)
    elif (
        choices.split == "seeded"
        or not official
        or not database.one("SELECT count(*) FROM films WHERE split IS NOT NULL")
    ):
        database.run(
            f"UPDATE films SET split = CASE WHEN {draw} < ? THEN 'test' "
            f"WHEN {draw} < ? THEN 'val' ELSE 'train' END",
            [seed, choices.test_share, seed, choices.test_share + choices.val_share],
        )
    if not database.one("SELECT count(*) FROM films WHERE split = 'val'"):
        # Of two or more patients one at least, so that there is something to calibrate on.
        database.run(
            f"UPDATE films SET split = 'val' WHERE split = 'train' AND ({draw} < ? OR "
            "(patient_id = (SELECT arg_min(patient_id, sha256(? || '|' || patient_id)) FROM films "
            "WHERE split = 'train') AND (SELECT count(DISTINCT patient_id) FROM films WHERE "
            "split = 'train') > 1))",
            [seed, choices.val_share, seed],
        )
        database.remark(
            DRAWN,
            database.one("SELECT count(*) FROM films WHERE split = 'val'"),
        )


def _patients_apart(database: CohortDatabase) -> None:
    """Refuses patients in two splits, or leaves them out of all but the one judged last."""
    both = "SELECT patient_id FROM films GROUP BY 1 HAVING count(DISTINCT split) > 1"
    count = database.one(f"SELECT count(*) FROM ({both})")
    if not count:
        return
    if database.choices.overlap == "refuse":
        films = database.one(f"SELECT count(*) FROM films WHERE patient_id IN ({both})")
        raise UserError(
            f"{database.source}:{database.root}: {count:,} patients with {films:,} films are in "
            "more than one split; a patient must be in one (--overlap drop leaves them out of "
            "what is learnt from)"
        )
    _keep_last(database, "patient_id", "the patient is in a later split, too")


def _keep_last(database: CohortDatabase, key: str, reason: str) -> None:
    """Leaves out films that share `key` with one of a later split: test before val before train."""
    for place, later in enumerate(ORDER[:-1]):
        earlier = ", ".join(f"'{split}'" for split in ORDER[place + 1 :])
        database.drop(
            f"split IN ({earlier}) AND {key} IN "
            f"(SELECT {key} FROM films WHERE split = '{later}' AND {key} IS NOT NULL)",
            reason,
        )


def _films_apart(database: CohortDatabase) -> None:
    """Refuses equal films in two splits; counts those of one split. Films that cannot be read or
    decoded are left out."""
    pixels = database.choices.verify == "pixels"
    paths = [row[0] for row in database.run("SELECT path FROM films ORDER BY path")]
    files = [database.file(path) for path in paths]
    workers = database.threads
    pool: Executor
    if pixels:  # a decoder child each
        pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
    else:
        pool = ThreadPoolExecutor(workers)
    with pool:
        digests = pool.map(_pixel_hash if pixels else _byte_hash, files, chunksize=16)
        hashes = [
            digest
            for _, digest in zip(database.progress(files, "comparing films"), digests, strict=True)
        ]
    database.run_with(
        pa.table({"path": paths, "hash": pa.array(hashes, pa.string())}),
        "CREATE TABLE hashes AS SELECT * FROM chunk",
    )
    database.run("ALTER TABLE films ADD COLUMN hash VARCHAR")
    database.run("UPDATE films SET hash = hashes.hash FROM hashes WHERE films.path = hashes.path")
    database.drop(
        "hash IS NULL", "cannot be decoded" if pixels else "cannot be read, or is no film"
    )
    same = "SELECT hash FROM films GROUP BY 1 HAVING count(DISTINCT split) > 1"
    kind = "pixels" if pixels else "file"
    if database.choices.overlap == "drop":
        _keep_last(database, "hash", f"the same {kind} is in a later split, too")
    elif count := database.one(f"SELECT count(*) FROM ({same})"):
        films = database.one(f"SELECT count(*) FROM films WHERE hash IN ({same})")
        raise UserError(
            f"{database.source}:{database.root}: {films:,} films are {count:,} different "
            f"{'pictures' if pixels else 'files'} that are in more than one split (--overlap drop "
            "leaves them out of what is learnt from)"
        )
    database.remark(
        f"films that have the {kind} of another one in the same split",
        database.one("SELECT count(*) - count(DISTINCT hash) FROM films"),
    )


def _byte_hash(file: Path) -> str | None:
    """SHA-256 of the file's bytes; None where it cannot be read, or is empty, or begins like no
    film."""
    try:
        FilmFile(file).check()
        return FilmFile(file).fingerprint()
    except UserError:
        return None


def _pixel_hash(file: Path) -> str | None:
    """SHA-256 of the decoded film in 16 bits, and its shape; None where it cannot be decoded."""
    try:
        film = FilmFile(file)()
    except UserError:
        return None
    stored = np.round(film * 65535).astype("<u2")
    return hashlib.sha256(f"{stored.shape}".encode() + stored.tobytes()).hexdigest()


def flow_of(database: CohortDatabase) -> Flow:
    """What was found, left out and changed, and the record of what is left."""
    parts = database.run(
        "SELECT coalesce(split, 'none') AS part, count(DISTINCT patient_id), "
        "count(*) FILTER (len(findings) = 0), count(*) FILTER (len(findings) > 0), "
        "count(*) FILTER (findings IS NULL) FROM films GROUP BY 1 "
        "ORDER BY list_position(['train', 'val', 'test', 'none'], part)"
    )
    rows = [
        _field_row(database, field, part[0])
        for field in database.fields.values()
        if field.name in database.offered
        for part in parts
    ]
    return Flow(
        source=database.source,
        films=database.counts_at_start[0],
        patients=database.counts_at_start[1],
        steps=tuple(database.steps),
        parts=tuple(
            Part(split=split, patients=patients, normal=n, abnormal=a, unlabelled=u)
            for split, patients, n, a, u in parts
        ),
        remarks=tuple(database.remarks),
        record=tuple(rows),
    )


def _field_row(database: CohortDatabase, field: EhrField, split: str) -> FieldRow:
    of = "FROM films WHERE coalesce(split, 'none') = ?"
    numeric = field.kind == "numeric"
    summary = f'avg("{field.name}"), stddev_pop("{field.name}")' if numeric else "NULL, NULL"
    pair = "starts_with(flag, 'diastolic:') AND ends_with(flag, 'both left out')"
    about = f"starts_with(flag, '{field.name}:')"
    about += f" OR ({pair})" if field.name == "systolic" else ""
    films, known, unusable, mean, sd = database.run(
        f'SELECT count(*), count("{field.name}"), count(*) FILTER ("{field.name}" IS NULL AND '
        f"len(list_filter(flags, lambda flag: {about})) > 0), {summary} {of}",
        [split],
    )[0]
    shares = {}
    if not numeric and known:
        counts = database.run(
            f'SELECT "{field.name}", count(*) {of} AND "{field.name}" IS NOT NULL GROUP BY 1',
            [split],
        )
        by_kind = dict(counts)
        shares = {name: by_kind.get(name, 0) / known for name in field.categories}
    return FieldRow(
        field=field.name, unit=field.unit, split=split, films=films, known=known, unusable=unusable,
        mean=mean, sd=sd, shares=shares,
    )  # fmt: skip
