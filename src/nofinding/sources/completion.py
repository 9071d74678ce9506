"""What is done to every cohort once its source has told what it has: files looked for, values
checked, patients split, overlaps refused. Each loss is counted in the assembly's flow."""

import hashlib
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from nofinding.data.decode import FilmFile
from nofinding.data.ehr import EhrField
from nofinding.errors import UserError
from nofinding.sources.assembly import Assembly
from nofinding.sources.flow import FieldRow, Flow, Part
from nofinding.sources.lists import apply_lists

__all__ = ["DRAWN", "complete", "flow_of"]

DRAWN = "drawn from train for val, where there was none"

ORDER = ("test", "val", "train")  # an overlap is left out of the later one here


def complete(assembly: Assembly, *, official: bool) -> None:
    """Makes the films' table final. `official`: whether the publisher has a split of its own.

    Raises UserError where no film is left, a patient or a film is in two splits, or a field of
    --complete is unknown.
    """
    choices = assembly.choices
    if choices.verify != "none":
        _present(assembly)
    _plausible(assembly)
    for name in choices.complete:
        if name not in assembly.offered:
            allowed = ", ".join(n for n in assembly.fields if n in assembly.offered)
            raise UserError(f"--complete {name}: {assembly.source} has {allowed or 'no record'}")
        assembly.drop(f'"{name}" IS NULL', f"{name} not recorded")
    _split(assembly, official)
    _patients_apart(assembly)
    if choices.verify in ("bytes", "pixels"):
        _films_apart(assembly)
    if not assembly.one("SELECT count(*) FROM films"):
        told = "; ".join(f"{step.reason}: {step.films:,}" for step in assembly.steps)
        raise UserError(f"{assembly.source}:{assembly.root}: no film is left ({told or 'none'})")


def _present(assembly: Assembly) -> None:
    """Leaves out films that are not there, or not where they may be read from."""
    assembly.drop(
        r"starts_with(path, '/') OR regexp_matches(path, '(^|/)\.\.(/|$)') "
        r"OR contains(path, '\')",
        "its path leads out of the folder",
    )
    assembly.walk()
    assembly.drop(
        "path IN (SELECT path FROM present WHERE outside)",
        "a link out of the folder (--follow_links takes it)",
    )
    assembly.drop(
        "path IS NULL OR path NOT IN (SELECT path FROM present)", "its file is not in the folder"
    )
    assembly.remark(
        "image files in the folder that no table lists",
        assembly.one(
            "SELECT count(*) FROM present WHERE path NOT IN "
            "(SELECT path FROM referred WHERE path IS NOT NULL)"
        ),
    )


def _plausible(assembly: Assembly) -> None:
    """Sets values that no living patient could have to missing, with a flag, and counts them.

    The same rule as `data.ehr.plausible`, over the whole table.
    """
    for field in assembly.fields.values():
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
        assembly.remark(
            f"{field.name}: {reason}, set to missing",
            assembly.one(f"SELECT count(*) FROM films WHERE {wrong}"),
        )
        assembly.run(
            f'UPDATE films SET flags = list_append(flags, {shown}), "{field.name}" = NULL '
            f"WHERE {wrong}"
        )
    if {"systolic", "diastolic"} <= assembly.fields.keys():
        assembly.remark(
            "diastolic above systolic pressure, both set to missing",
            assembly.one("SELECT count(*) FROM films WHERE diastolic > systolic"),
        )
        assembly.run(
            "UPDATE films SET flags = list_append(flags, 'diastolic: ' || format('{:g}', diastolic)"
            " || ' is above systolic ' || format('{:g}', systolic) || ' mm[Hg], both left out'), "
            "systolic = NULL, diastolic = NULL WHERE diastolic > systolic"
        )


def _split(assembly: Assembly, official: bool) -> None:
    """Puts every film into train, val or test, by patient: as the publisher does, if he says.

    A patient is drawn by a hash of the seed and the id alone, so that everybody gets the same
    split, whichever other films he has.
    """
    choices = assembly.choices
    draw = "('0x' || substr(sha256(? || '|' || patient_id), 1, 8))::BIGINT / 4294967296.0"
    seed = str(choices.seed)
    if choices.lists is not None:
        apply_lists(assembly, choices.lists)
    elif (
        choices.split == "seeded"
        or not official
        or not assembly.one("SELECT count(*) FROM films WHERE split IS NOT NULL")
    ):
        assembly.run(
            f"UPDATE films SET split = CASE WHEN {draw} < ? THEN 'test' "
            f"WHEN {draw} < ? THEN 'val' ELSE 'train' END",
            [seed, choices.test_share, seed, choices.test_share + choices.val_share],
        )
    if not assembly.one("SELECT count(*) FROM films WHERE split = 'val'"):
        # Of two or more patients one at least, so that there is something to calibrate on.
        assembly.run(
            f"UPDATE films SET split = 'val' WHERE split = 'train' AND ({draw} < ? OR "
            "(patient_id = (SELECT arg_min(patient_id, sha256(? || '|' || patient_id)) FROM films "
            "WHERE split = 'train') AND (SELECT count(DISTINCT patient_id) FROM films WHERE "
            "split = 'train') > 1))",
            [seed, choices.val_share, seed],
        )
        assembly.remark(
            DRAWN,
            assembly.one("SELECT count(*) FROM films WHERE split = 'val'"),
        )


def _patients_apart(assembly: Assembly) -> None:
    """Refuses patients in two splits, or leaves them out of all but the one judged last."""
    both = "SELECT patient_id FROM films GROUP BY 1 HAVING count(DISTINCT split) > 1"
    count = assembly.one(f"SELECT count(*) FROM ({both})")
    if not count:
        return
    if assembly.choices.overlap == "refuse":
        films = assembly.one(f"SELECT count(*) FROM films WHERE patient_id IN ({both})")
        raise UserError(
            f"{assembly.source}:{assembly.root}: {count:,} patients with {films:,} films are in "
            "more than one split; a patient must be in one (--overlap drop leaves them out of "
            "what is learnt from)"
        )
    _keep_last(assembly, "patient_id", "the patient is in a later split, too")


def _keep_last(assembly: Assembly, key: str, reason: str) -> None:
    """Leaves out films that share `key` with one of a later split: test before val before train."""
    for place, later in enumerate(ORDER[:-1]):
        earlier = ", ".join(f"'{split}'" for split in ORDER[place + 1 :])
        assembly.drop(
            f"split IN ({earlier}) AND {key} IN "
            f"(SELECT {key} FROM films WHERE split = '{later}' AND {key} IS NOT NULL)",
            reason,
        )


def _films_apart(assembly: Assembly) -> None:
    """Refuses equal films in two splits; counts those of one split. Films that cannot be read or
    decoded are left out."""
    pixels = assembly.choices.verify == "pixels"
    paths = [row[0] for row in assembly.run("SELECT path FROM films ORDER BY path")]
    files = [assembly.file(path) for path in paths]
    workers = assembly.threads
    pool: Executor
    if pixels:  # a decoder child each
        pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
    else:
        pool = ThreadPoolExecutor(workers)
    with pool:
        found = pool.map(_pixel_hash if pixels else _byte_hash, files, chunksize=16)
        hashes = [
            digest
            for _, digest in zip(assembly.progress(files, "comparing films"), found, strict=True)
        ]
    assembly.run_with(
        pa.table({"path": paths, "hash": pa.array(hashes, pa.string())}),
        "CREATE TABLE hashes AS SELECT * FROM chunk",
    )
    assembly.run("ALTER TABLE films ADD COLUMN hash VARCHAR")
    assembly.run("UPDATE films SET hash = hashes.hash FROM hashes WHERE films.path = hashes.path")
    assembly.drop(
        "hash IS NULL", "cannot be decoded" if pixels else "cannot be read, or is no film"
    )
    same = "SELECT hash FROM films GROUP BY 1 HAVING count(DISTINCT split) > 1"
    kind = "pixels" if pixels else "file"
    if assembly.choices.overlap == "drop":
        _keep_last(assembly, "hash", f"the same {kind} is in a later split, too")
    elif count := assembly.one(f"SELECT count(*) FROM ({same})"):
        films = assembly.one(f"SELECT count(*) FROM films WHERE hash IN ({same})")
        raise UserError(
            f"{assembly.source}:{assembly.root}: {films:,} films are {count:,} different "
            f"{'pictures' if pixels else 'files'} that are in more than one split (--overlap drop "
            "leaves them out of what is learnt from)"
        )
    assembly.remark(
        f"films that have the {kind} of another one in the same split",
        assembly.one("SELECT count(*) - count(DISTINCT hash) FROM films"),
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


def flow_of(assembly: Assembly) -> Flow:
    """What was found, left out and changed, and the record of what is left."""
    parts = assembly.run(
        "SELECT coalesce(split, 'none') AS part, count(DISTINCT patient_id), "
        "count(*) FILTER (len(findings) = 0), count(*) FILTER (len(findings) > 0), "
        "count(*) FILTER (findings IS NULL) FROM films GROUP BY 1 "
        "ORDER BY list_position(['train', 'val', 'test', 'none'], part)"
    )
    rows = [
        _field_row(assembly, field, part[0])
        for field in assembly.fields.values()
        if field.name in assembly.offered
        for part in parts
    ]
    return Flow(
        source=assembly.source,
        films=assembly.found[0],
        patients=assembly.found[1],
        steps=tuple(assembly.steps),
        parts=tuple(
            Part(split=split, patients=patients, normal=n, abnormal=a, unlabelled=u)
            for split, patients, n, a, u in parts
        ),
        remarks=tuple(assembly.remarks),
        record=tuple(rows),
    )


def _field_row(assembly: Assembly, field: EhrField, split: str) -> FieldRow:
    of = "FROM films WHERE coalesce(split, 'none') = ?"
    numeric = field.kind == "numeric"
    summary = f'avg("{field.name}"), stddev_pop("{field.name}")' if numeric else "NULL, NULL"
    pair = "starts_with(flag, 'diastolic:') AND ends_with(flag, 'both left out')"
    about = f"starts_with(flag, '{field.name}:')"
    about += f" OR ({pair})" if field.name == "systolic" else ""
    films, known, unusable, mean, sd = assembly.run(
        f'SELECT count(*), count("{field.name}"), count(*) FILTER ("{field.name}" IS NULL AND '
        f"len(list_filter(flags, lambda flag: {about})) > 0), {summary} {of}",
        [split],
    )[0]
    shares = {}
    if not numeric and known:
        counts = assembly.run(
            f'SELECT "{field.name}", count(*) {of} AND "{field.name}" IS NOT NULL GROUP BY 1',
            [split],
        )
        told = dict(counts)
        shares = {name: told.get(name, 0) / known for name in field.categories}
    return FieldRow(
        field=field.name, unit=field.unit, split=split, films=films, known=known, unusable=unusable,
        mean=mean, sd=sd, shares=shares,
    )  # fmt: skip
