"""What the titles of a user's table mean, and what is said of those that nearly mean something."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from nofinding.data.units import factor
from nofinding.datasets.build.flow import Remark
from nofinding.errors import UserError

__all__ = ["Titles", "lacks_column", "name_and_unit", "read_titles", "require_commas"]

# What other tables call a patient: ignored, it would let one into two splits.
PATIENT = ("subjectid", "subject", "patient", "personid", "mrn", "patid", "patientnumber",
           "patientno", "patientidentifier")  # fmt: skip
# What other tables call the rest: not read, but said.
ALSO = {
    "path": ("file", "filename", "filepath", "image", "imagepath", "imagefile", "dicompath"),
    "image_id": ("id", "film", "filmid", "imagename"),
    "findings": ("label", "labels", "findinglabels", "diagnosis", "target", "class"),
    "split": ("set", "fold", "subset", "part", "partition", "dataset", "phase"),
    "mask": ("maskpath", "segmentation"),
    "sex": ("gender", "patientsex", "patientgender"),
    "age": ("patientage", "ageyears"),
    "view": ("viewposition", "projection", "appa"),
    "taken": ("date", "studydate", "acquisitiondate", "datetime"),
    "height": ("patientsize",),
    "weight": ("patientweight",),
}
CLOSE = 0.8  # of two spellings, by difflib: "heigth", "pateint_id"


class Titles(NamedTuple):
    """The titles of a table, understood."""

    columns: tuple[tuple[str, str | None], ...]
    """(name, unit) of each, in their order; the name is empty where it is not of the table."""
    remarks: tuple[Remark, ...]
    """Of titles that are spelt otherwise, and of those that are not read but nearly known."""


def name_and_unit(title: str) -> tuple[str, str | None]:
    """("height", "in") of "Height [in]" or "height (in)"; no name where it is written otherwise."""
    match = re.fullmatch(r"(\w+)\s*(?:\[(.+)\]|\((.+)\))?", title.strip(), re.ASCII)
    return (match[1].lower(), match[2] or match[3]) if match else ("", None)


def read_titles(titles: Sequence[str], known: Sequence[str]) -> Titles:
    """What each title means. A known name is read in any spelling ("Patient ID", "patientid"), and
    `patient_id` under the names that others have for it ("subject_id"); each is remarked.
    """
    columns = [name_and_unit(title) for title in titles]
    columns = [(name, unit) if name in known else ("", None) for name, unit in columns]
    remarks: list[Remark] = []
    spelt = {_folded(name): name for name in known}
    for also in (spelt, dict.fromkeys(PATIENT, "patient_id") if "patient_id" in known else {}):
        there = {name for name, _ in columns}
        for place, title in enumerate(titles):
            bare, unit = _split(title)
            name = also.get(_folded(bare), "")
            if not columns[place][0] and name and name not in there:
                columns[place] = (name, unit)
                remarks.append(Remark(what=f"column {title.strip()!r}, read as {name}", count=1))
    there = {name for name, _ in columns}
    for place, title in enumerate(titles):
        near = "" if columns[place][0] else _near(title, known)
        if near and near.split(" ")[0] not in there:
            remarks.append(
                Remark(what=f"column {title.strip()!r}, not read (is it {near}?)", count=1)
            )
    return Titles(tuple(columns), tuple(remarks))


def lacks_column(file: Path | str, name: str, titles: Sequence[str]) -> str:
    """One line that says which column a file lacks, and which of its titles may be meant for it."""
    meant = next((title for title in titles if _near(title, (name,)) == name
                  or _folded(title) == _folded(name)), None)  # fmt: skip
    hint = f"; is {meant.strip()!r} meant for it? Then rename it" if meant is not None else ""
    return f"{file}: has no column {name!r}{hint}"


def require_commas(file: Path, titles: Sequence[str]) -> None:
    """Raises UserError where the first row is that of a table with another separator."""
    first = titles[0].strip()
    if re.match(r"sep=", first, re.IGNORECASE):
        raise UserError(
            f"{file}: its first line, {first[:8]!r}, is for a spreadsheet; take it out, and "
            "separate the columns by commas"
        )
    line = ",".join(titles)
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if line.count(separator) >= len(titles):
            raise UserError(f"{file}: its columns are separated by {called}; separate them by "
                            "commas (CSV, UTF-8), and write decimals with a point")  # fmt: skip


def _folded(title: str) -> str:
    return re.sub(r"[\W_]+", "", title.casefold())


def _split(title: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"(.+?)\s*(?:\[(.+)\]|\((.+)\))?", title.strip(), re.DOTALL)
    return (match[1], match[2] or match[3]) if match else (title, None)


def _near(title: str, known: Sequence[str]) -> str:
    """The known name that the title may be meant for, perhaps with a unit; empty: none."""
    bare = _split(title)[0]
    folded = _folded(bare)
    for name in known:
        if folded in ALSO.get(name, ()) or (name == "patient_id" and folded in PATIENT):
            return name
    words = re.split(r"[\W_]+", bare.casefold())
    if len(words) == 2 and words[0] in known and factor(words[1]) is not None:
        return f"{words[0]} [{words[1]}]"
    spelt = {_folded(name): name for name in known}
    close = get_close_matches(folded, spelt, n=1, cutoff=CLOSE)
    return spelt[close[0]] if close else ""
