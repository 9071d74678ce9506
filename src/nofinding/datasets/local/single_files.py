"""Records for single films named on the command line, with `--ehr key=value` for all of them.

A DICOM file's header fills in age, sex, view, height and weight where `--ehr` says nothing, and
a hospital's record what neither says.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from nofinding.data.decoding.decode import FilmFile, read_header
from nofinding.data.decoding.limits import unusable
from nofinding.data.ehr import EhrField, parse, plausible
from nofinding.data.patient_age import age_of
from nofinding.errors import UserError
from nofinding.types import Exam, View

__all__ = ["NOTHING", "Known", "file_exam", "file_exams", "file_name"]

HEADER = {  # DICOM keyword -> (field, unit that the standard gives it)
    "PatientSex": ("sex", None),
    "ViewPosition": ("view", None),
    "PatientSize": ("height", "m"),
    "PatientWeight": ("weight", "kg"),
}
PRESSURES = frozenset({"systolic", "diastolic"})  # one of which alone means little
UID = re.compile(r"[0-2](\.\d+){3,}", re.ASCII)


class Known(NamedTuple):
    """What a hospital's record says of the patient of one film, all of it plausible."""

    ehr: Mapping[str, float]
    flags: tuple[str, ...]
    header: Mapping[str, str] | None = None
    """What the film's header says, where it was read to ask for the record."""


NOTHING = Known({}, ())
"""What is known of somebody of whom nobody was asked."""


def file_exams(
    paths: Sequence[str | Path],
    ehr_pairs: Sequence[str],
    fields: Mapping[str, EhrField],
    known: Sequence[Known] = (),
) -> list[Exam]:
    """One record a file, unlabelled. A pair is "age=63", "sex=M", "weight=180 lb", ...; `known` is
    empty, or has an entry a file.

    image_id is the file's name without ending. A name that is a DICOM UID, which must not
    go into an output, is replaced by "film-" and 12 digits of the file's SHA-256.

    Raises UserError for a file that is absent or no film, two files of one name, and a pair
    that is unknown, given twice or not to be understood. What a header says and cannot be used
    becomes a flag.
    """
    stated = _pairs(ehr_pairs, fields)
    exams: dict[str, Exam] = {}
    facts = known or [NOTHING] * len(paths)
    for path, own in zip(map(Path, paths), facts, strict=True):
        film = FilmFile(path)
        film.check()
        name = file_name(path, film)
        if name in exams:
            raise UserError(f"{path}: another film is called {name!r} too; use table: for those")
        exams[name] = file_exam(film, name, stated, fields, own, own.header)
    return [*exams.values()]


def file_exam(
    film: FilmFile,
    name: str,
    stated: Mapping[str, float],
    fields: Mapping[str, EhrField],
    known: Known = NOTHING,
    header: Mapping[str, str] | None = None,
) -> Exam:
    """The record of one file: what is `stated`, in the fields' units, before what its `header` says
    (None: it is read), before what is `known` of the patient. Of the blood pressure both are known,
    or none.

    Raises UserError where the file is absent or its header cannot be read.
    """
    header = read_header(film.path) if header is None else header
    written, faults = _from_header(header, fields, stated)
    ehr, flags = plausible({**written, **stated}, fields)
    left = PRESSURES if PRESSURES & ehr.keys() else frozenset()
    ehr = {**{name: value for name, value in known.ehr.items() if name not in left}, **ehr}
    view = fields["view"].categories[int(ehr["view"])] if "view" in ehr else None
    return Exam(
        image_id=name,
        patient_id=name,
        pixels=film,
        ehr=ehr,
        view=next((one for one in get_args(View) if one == view), None),
        flags=(*faults, *flags, *known.flags),
    )


def file_name(path: Path, film: FilmFile) -> str:
    """The image_id of a single file: its name without ending, unless that is a DICOM UID."""
    name = path.stem
    if UID.fullmatch(name) or not name.isprintable():
        return f"film-{film.fingerprint()[:12]}"
    return name


def _pairs(pairs: Sequence[str], fields: Mapping[str, EhrField]) -> dict[str, float]:
    """The values that the user gave, in the fields' units."""
    stated: dict[str, float] = {}
    named: set[str] = set()
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals:
            raise UserError(f"--ehr {pair!r}: is not key=value, such as age=63")
        if name not in fields:
            raise UserError(f"--ehr {pair}: {name!r} is not one of {', '.join(fields)}")
        if name in named:
            raise UserError(f"--ehr {pair}: {name!r} is given twice")
        named.add(name)
        try:
            value = parse(fields[name], text)
        except UserError as error:
            raise UserError(f"--ehr {error}") from None
        if value is not None:
            stated[name] = value
    return stated


def _from_header(
    header: Mapping[str, str], fields: Mapping[str, EhrField], stated: Mapping[str, float]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The header's values for fields that the user did not give, and which cannot be used.

    A flag does not quote the header: nobody knows what somebody typed there.
    """
    values: dict[str, float] = {}
    faults: list[str] = []
    if "age" in fields and "age" not in stated:
        age = age_of(header)
        faults += [age.flag] if age.flag else []
        if age.years is not None:
            values["age"] = age.years
    for keyword, (name, unit) in HEADER.items():
        if keyword not in header or name in stated or name not in fields:
            continue
        try:
            value = parse(fields[name], header[keyword], unit)
        except UserError:
            faults.append(unusable(name))
            continue
        if value is not None:
            values[name] = value
    return values, tuple(faults)
