"""An archive by DICOMweb (PS3.18): films found (QIDO-RS) and fetched (WADO-RS), objects stored
(STOW-RS).

Searches are those of dicomweb-client, over a session that bounds every answer. Films are not
fetched by it: it would hold them in memory and parse them in this process, and here they go to the
disk as they come, for the killable child to look at. Nor does it store: it drops what the archive
says of single objects.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dicomweb_client.uri import URI
from dicomweb_client.web import DICOMwebClient

from nofinding.clinical.network.multipart import MultipartError, boundary_of, only_part
from nofinding.clinical.network.outgoing import Outgoing, Refused
from nofinding.errors import UserError
from nofinding.net.answers import BUSY, HttpError, patiently
from nofinding.net.http import BoundedSession, StatusError, address_of, authorization
from nofinding.storage.atomic import streamed

__all__ = ["Archive", "FilmReference", "days_of"]

# CR and DX images, those "for presentation"
FILMS = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1")
STUDY, SERIES, SOP_CLASS, INSTANCE = "0020000D", "0020000E", "00080016", "00080018"
MODALITY, PATIENT = "00080060", "00100020"
FAILED, STORED, REFERENCED, REASON = "00081198", "00081199", "00081155", "00081197"
PAGE, MOST = 200, 100_000  # results of a search at a time, and altogether
WAITS = (1.0, 3.0)  # seconds before an archive that is busy or silent is asked again
BATCH = 2**25  # bytes of objects from which a request of its own begins
MARK = "nofinding-6f1c0b7e4d5a49b3a2f8"  # between objects that are stored
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", re.ASCII)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FilmReference:
    """One film that an archive says it has."""

    study: str
    series: str
    instance: str


def days_of(text: str) -> str:
    """The days of "20240101" or "20240101-20240131", as a search takes them. Raises UserError."""
    parts = text.split("-")
    days = []
    for part in parts if len(parts) <= 2 else ():
        try:
            if re.fullmatch(r"\d{8}", part, re.ASCII):
                days.append(datetime.strptime(part, "%Y%m%d"))
        except ValueError:
            continue
    if len(days) != len(parts) or days != sorted(days):
        raise UserError("--date: give a day or a range of days, such as 20240101-20240131")
    return text


class Archive:
    """One archive. Everything that it does wrong is an HttpError, in one line."""

    def __init__(
        self,
        address: str,
        *,
        login: Path | None = None,
        ca: Path | None = None,
        option: str = "--archive",
    ) -> None:
        """`address` is the base of its DICOMweb services; `login` and `ca` are files, see
        `net/http.py`. Asks nothing yet. Raises UserError."""
        self.address = address_of(address, option)
        self.name = f"{option} {self.address}"
        self.session = BoundedSession(
            self.address, name=self.name, accept="application/dicom+json",
            login=authorization(login), ca=ca,
        )  # fmt: skip
        self._client = DICOMwebClient(self.address, session=self.session)
        self._client.set_http_retry_params(retry=False)  # it would send an emptied body again

    def studies(self, *, days: str | None = None, patient: str | None = None) -> list[str]:
        """The UIDs of the studies with a CR or DX film, of these days (`days_of`), of that patient,
        in the archive's order."""
        asked = {"StudyDate": days, "PatientID": patient}
        filters = {keyword: value for keyword, value in asked.items() if value is not None}
        if patient is not None and (set(patient) & set("*?\\") or not patient.strip()):
            raise UserError("--patient: give one PatientID, without * and ?")
        studies: dict[str, None] = {}
        for modality in ("CR", "DX"):
            query = {**filters, "ModalitiesInStudy": modality}
            for study in self._search("studies", STUDY, search_filters=query):
                if patient is None or _text(study, PATIENT) in (patient.strip(), ""):
                    studies[self._uid(study, STUDY)] = None
        return [*studies]

    def films(self, study: str, most: int) -> list[FilmReference]:
        """The CR and DX films of a study. Raises HttpError where there are more than `most`."""
        if not _is_uid(study):
            raise UserError("--study: is no UID")
        films: dict[str, FilmReference] = {}
        for modality in ("CR", "DX"):
            query = {"Modality": modality}
            for one in self._search("series", SERIES, study, search_filters=query):
                if _text(one, MODALITY) not in (modality, ""):
                    continue  # it cannot search by modality
                series = self._uid(one, SERIES)
                for item in self._search("instances", INSTANCE, study, series):
                    if _text(item, SOP_CLASS) in FILMS:
                        uid = self._uid(item, INSTANCE)
                        films[uid] = FilmReference(study=study, series=series, instance=uid)
                    if len(films) > most:
                        raise HttpError(f"{self.name}: has over {most} films of one study")
        return [*films.values()]

    def _search(self, level: str, key: str, *of: str, **named: Any) -> Iterator[dict[str, Any]]:
        """All results, page by page; a page that brings nothing new is the last."""
        ask = getattr(self._client, f"search_for_{level}")
        instances: set[str] = set()
        while True:
            page = self._patiently(partial(ask, *of, limit=PAGE, offset=len(instances), **named))
            if not isinstance(page, list) or not all(isinstance(item, dict) for item in page):
                raise self._no_json()
            new = [item for item in page if _text(item, key) not in instances]
            yield from new
            instances |= {_text(item, key) for item in new}
            if not new or len(page) < PAGE:
                return
            if len(instances) > MOST:
                raise HttpError(f"{self.name}: finds over {MOST} {level}; ask for fewer days")

    def retrieve(self, film: FilmReference, path: Path) -> None:
        """Fetches a film as it is stored there; the whole file is on the disk when this returns,
        or nothing is. Raises HttpError; OSError where the disk refuses."""
        address = str(URI(self.address, film.study, film.series, film.instance))

        def fetch() -> None:
            with self.session.get(address, headers={"Accept": ACCEPT}, stream=True) as answer:
                answer.raise_for_status()
                boundary = boundary_of(answer.headers.get("Content-Type", ""))
                framed = {"content-length", "transfer-encoding"} & {*map(str.lower, answer.headers)}
                if boundary is None and not framed:
                    raise MultipartError("answered with a film that nobody knows the end of")
                pieces = answer.iter_content(2**16)
                with streamed(path) as take:
                    if boundary is not None:
                        only_part(pieces, boundary, take, self.session.film_most)
                        return
                    for piece in pieces:  # the session bounds it
                        take(piece)

        self._patiently(fetch)

    def store(self, objects: Sequence[Outgoing]) -> list[Refused]:
        """Stores objects; gives those that the archive did not take, and why. Raises HttpError
        where it takes no request at all."""
        refused: list[Refused] = []
        batch: list[Outgoing] = []
        for number, one in enumerate(objects, start=1):
            batch.append(one)
            if number == len(objects) or sum(b.size for b in batch) >= BATCH:
                refused += self._stored(batch)
                batch = []
        return refused

    def _stored(self, batch: Sequence[Outgoing]) -> list[Refused]:
        head = f"--{MARK}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(head + one.path.read_bytes() + b"\r\n" for one in batch)
        body += f"--{MARK}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={MARK}'

        def post() -> dict[str, Any]:
            answer = self.session.post(
                f"{self.address}/studies", data=body, headers={"Content-Type": kind}
            )
            payload = _json(answer.content)
            if answer.status_code in BUSY or payload is None:
                answer.raise_for_status()
            if payload is None:
                raise self._no_json()
            return payload

        payload = self._patiently(post)
        failed = {_text(item, REFERENCED): _text(item, REASON) for item in _items(payload, FAILED)}
        stored = {_text(item, REFERENCED) for item in _items(payload, STORED)}
        return [
            Refused(name=one.path.name, why=_why(failed.get(one.instance)))
            for one in batch
            if one.instance in failed or one.instance not in stored
        ]

    def _patiently(self, call: Callable[[], T]) -> T:
        """What the call gives; an archive that is busy or silent is asked again, a few times."""

        def once() -> T:
            try:
                return self.session.guarded(call)
            except StatusError as error:
                status = 0 if error.response is None else error.response.status_code
                said = f"{self.name}: answered {status}{_about(status)}"
                raise HttpError(said, busy=status in BUSY) from None
            except MultipartError as error:
                raise HttpError(f"{self.name}: {error}") from None
            except (ValueError, RecursionError):
                raise self._no_json() from None

        return patiently(once, WAITS)

    def _uid(self, item: dict[str, Any], tag: str) -> str:
        uid = _text(item, tag)
        if not _is_uid(uid):
            raise HttpError(f"{self.name}: finds something without a valid UID")
        return uid

    def _no_json(self) -> HttpError:
        return HttpError(f"{self.name}: answered with something else than DICOM JSON")


def _is_uid(text: str) -> bool:
    """Whether it is one (PS3.5 chapter 9); pydicom would quote it in a warning."""
    return len(text) <= 64 and UID.fullmatch(text) is not None


def _about(status: int) -> str:
    if status in (401, 403):
        return ": is the login (--login) right?"
    return ": it has no such film, or no DICOMweb there" if status == 404 else ""


def _json(content: bytes) -> dict[str, Any] | None:
    """What an archive says of the objects that it was given; None where it says nothing of them."""
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) and {FAILED, STORED} & payload.keys() else None


def _why(reason: str | None) -> str:
    """A failure reason (PS3.3 C.12.1.1.10) as the standard writes it."""
    if reason is None:
        return "the archive does not say that it has it"
    return f"failure {int(reason):04X}" if re.fullmatch(r"[0-9]{1,5}", reason) else "failure"


def _values(item: dict[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _items(item: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    return [one for one in _values(item, tag) if isinstance(one, dict)]


def _text(item: dict[str, Any], tag: str) -> str:
    """The first value of an element of DICOM JSON; "" where there is none."""
    values = _values(item, tag)
    first = values[0] if values else ""
    return str(first)[:128].strip() if isinstance(first, (str, int)) else ""
