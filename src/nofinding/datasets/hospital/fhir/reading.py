"""FHIR resources out of files, or from a server, within bounds: whatever is in them, no crash.

Files are ndjson (Bulk Data), one resource a line, or JSON, a resource or a Bundle; either may be
gzipped. A line or a file that is too long, or is no JSON, is counted and passed over.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from nofinding.datasets.hospital.fhir.resources import resources_in
from nofinding.datasets.hospital.fhir.server import TOKEN, Server, escaped, is_address
from nofinding.errors import UserError
from nofinding.storage.folder_walk import walk_files

__all__ = ["TOKEN", "UNREADABLE", "is_address", "read_folder", "read_server"]

LINE = 2**22  # bytes of a resource on a line
WHOLE = 2**26  # bytes of a JSON file
BATCH = 20  # patients asked for at a time: an address may not be long
LINKED = "links to folders in the folder of FHIR files, not entered"
UNREADABLE = "FHIR lines or files that cannot be read, or are too long"

Resource = dict[str, Any]


def read_folder(folder: Path, kinds: Sequence[str], counts: Counter[str]) -> Iterator[Resource]:
    """All resources of these kinds in the files below the folder, in the order of their names.

    Raises UserError where there is no such file, one is cut off, or a JSON file is over 64 MiB.
    """
    any_file = False
    for walked in walk_files(folder, links="never", hidden=True):
        file, name = folder / walked.path, walked.path.lower()
        bare = name.removesuffix(".gz")
        if walked.kind == "folder link":
            counts[LINKED] += 1
        if not bare.endswith((".ndjson", ".json")) or not file.is_file():
            continue
        any_file = True
        try:
            with (gzip.open if name.endswith(".gz") else open)(file, "rb") as stream:
                binary = cast("BinaryIO", stream)
                if bare.endswith(".ndjson"):
                    yield from _lines(binary, kinds, counts)
                else:
                    yield from _whole(file, binary, kinds, counts)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise UserError(f"{file}: is not a whole gzip file; download it again") from None
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    if not any_file:
        raise UserError(f"fhir:{folder}: has no .ndjson or .json file")


def _lines(stream: BinaryIO, kinds: Sequence[str], counts: Counter[str]) -> Iterator[Resource]:
    marks = [f'"{kind}"'.encode() for kind in kinds]
    while line := stream.readline(LINE + 1):
        if len(line) > LINE:
            counts[UNREADABLE] += 1
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE)
            continue
        if not line.strip():
            continue
        if not line.rstrip().endswith(b"}"):
            counts[UNREADABLE] += 1
        elif any(mark in line for mark in marks):  # most lines of an export are of other kinds
            yield from resources_in(_parsed(line, counts), kinds)


def _whole(
    file: Path, stream: BinaryIO, kinds: Sequence[str], counts: Counter[str]
) -> Iterator[Resource]:
    text = stream.read(WHOLE + 1)
    if len(text) > WHOLE:
        raise UserError(f"{file}: is over {WHOLE // 2**20} MiB; export it as ndjson")
    yield from resources_in(_parsed(text, counts), kinds)


def _parsed(text: bytes, counts: Counter[str]) -> Any:
    """The JSON's content; None, and counted, where it is none or nested without end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        counts[UNREADABLE] += 1
        return None


def read_server(
    address: str, ids: Sequence[str], by: str, codes: Sequence[str]
) -> Iterator[Resource]:
    """The Patients that the ids name (by: "_id" or "identifier"), and of each the Observations
    with one of these LOINC codes; nobody else is asked for. Raises UserError, see `Server`."""
    server = Server(address)
    coded = ",".join(f"http://loinc.org|{code}" for code in codes)
    for start in range(0, len(ids), BATCH):
        some = [escaped(one) for one in ids[start : start + BATCH]]
        patients = [*server.search("Patient", {by: ",".join(some), "_count": "200"})]
        yield from patients
        theirs = [escaped(one) for p in patients if isinstance(one := p.get("id"), str)]
        for first in range(0, len(theirs), BATCH):
            of = ",".join(theirs[first : first + BATCH])
            yield from server.search("Observation", {"patient": of, "code": coded, "_count": "500"})
