"""POST /v1/films and /v1/batches: films come in."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from nofinding.errors import UserError
from nofinding.service.api.answers import (
    BATCH_BODY,
    FILM_BODY,
    accepted,
    refusals,
)
from nofinding.service.api.response_models import AcceptedFilm, Batch, described
from nofinding.service.api.state import Service, full, no_disk, refused, service_of, who
from nofinding.service.api.upload import ENDINGS, Film, json_of, receive_form
from nofinding.service.intake.offer import Identity, identity_of, offer, stated_record
from nofinding.service.store.job_queue import Accepted, FullError

__all__ = ["router"]

router = APIRouter(tags=["films"])
READ_WITHIN = 60.0  # seconds until a film's turn to be looked at has to come


@router.post(
    "/v1/films",
    status_code=202,
    summary="Sends a film",
    response_model=None,
    openapi_extra={"requestBody": FILM_BODY},
    responses={
        **described(AcceptedFilm, 202),
        **described(AcceptedFilm),
        **refusals(400, 408, 413, 415, 422, 429, 503),
    },
)
async def post_film(request: Request) -> JSONResponse:
    """A film, as DICOM, PNG or JPEG, with what is known of the patient.

    202: it is on the disk and will be scored. 200: this film with this record is known already, and
    the job is that one. What a DICOM header says of age, sex, view, height and weight counts where
    the record says nothing.
    """
    service = service_of(request)
    await run_in_threadpool(service.require_room)
    async with receive_form(request, service, most=1, text="record") as form:
        record = _record(form.texts.get("record"), service)
        if not form.films:
            raise refused(422, "there is no part film")
        taken = await _take(form.films[0], record, service, who(request))
    return JSONResponse(
        accepted(taken),
        202 if taken.new else 200,
        headers={"Location": f"/v1/jobs/{taken.job.id}"},
    )


@router.post(
    "/v1/batches",
    status_code=202,
    summary="Sends several films",
    response_model=None,
    openapi_extra={"requestBody": BATCH_BODY},
    responses={**described(Batch, 202), **refusals(400, 408, 413, 415, 422, 429, 503)},
)
async def post_batch(request: Request) -> JSONResponse:
    """Several films at once; their records in the order of the films, one each, or by file name.

    202 where one of them or more is taken; each other one is told of with its number in the body,
    from 0. Where none is, the answer is that of the first.
    """
    service = service_of(request)
    await run_in_threadpool(service.require_room)
    jobs: list[dict[str, Any]] = []
    refused_films: list[dict[str, Any]] = []
    first: HTTPException | None = None
    async with receive_form(request, service, most=service.limits.films, text="records") as form:
        stated = form.texts.get("records")
        records = json_of(stated, "records") if stated else {}
        if not form.films:
            raise refused(422, "there is no part film")
        _require_fit(records, [film.name for film in form.films])
        for number, film in enumerate(form.films):
            try:
                record = _one_of(records, number, film.name, service)
                taken = await _take(film, record, service, who(request))
            except HTTPException as error:
                first = first or error
                refused_films.append({"number": number, "error": error.detail})
                continue
            jobs.append({"number": number, **accepted(taken)})
    if first is not None and not jobs:
        raise first
    return JSONResponse({"jobs": jobs, "refused": refused_films}, 202)


def _record(text: bytes | None, service: Service) -> dict[str, float]:
    """What a request says of the patient. Raises 400 or 422."""
    return _stated(json_of(text, "record") if text else {}, service)


def _stated(data: object, service: Service) -> dict[str, float]:
    try:
        return stated_record(data, service.fields)
    except UserError as error:
        raise refused(422, str(error)) from None


def _require_fit(exams: object, names: Sequence[str]) -> None:
    """Raises 422 where it is not certain which film each record is of: a record must never get to
    another patient's film."""
    if isinstance(exams, list):
        if len(exams) != len(names):
            raise refused(
                422, f"records: {len(exams)} for {len(names)} films; give one each, {{}} for none"
            )
    elif isinstance(exams, dict):
        if lost := sum(names.count(name) == 0 for name in exams):
            raise refused(422, f"records: {lost} of them by a file name that no film has")
        if sum(names.count(name) > 1 for name in exams):
            raise refused(422, "records: several films have one file name; give a list instead")
    else:
        raise refused(422, "records: is neither a list nor an object by file name")


def _one_of(
    records: Mapping[str, Any] | list[Any], number: int, name: str, service: Service
) -> dict[str, float]:
    """The record of one film of a batch; none is no record."""
    if isinstance(records, list):
        return _stated(records[number], service)
    return _stated(records.get(name, {}), service)


async def _take(film: Film, record: Mapping[str, float], service: Service, by: str) -> Accepted:
    """Puts a film that is on the disk into the queue. Raises what is wrong with it."""
    if film.why is not None:
        raise film.why
    identity = Identity()
    if film.kind == "DICOM":
        identity = await _read(film, service)
    return await run_in_threadpool(_offer, film, identity, record, service, by)


async def _read(film: Film, service: Service) -> Identity:
    """There is one decoder child: whoever waits for it holds no thread, and not for ever."""
    try:
        async with asyncio.timeout(READ_WITHIN):
            await service.reading.acquire()
    except TimeoutError:
        raise refused(503, "too many films are being looked at", again=5) from None
    try:
        return await run_in_threadpool(_identity, film)
    finally:
        service.reading.release()


def _identity(film: Film) -> Identity:
    try:
        return identity_of(film.file)
    except UserError as error:
        raise refused(422, str(error)) from None


def _offer(
    film: Film, identity: Identity, record: Mapping[str, float], service: Service, by: str
) -> Accepted:
    home = service.home
    try:
        digest = film.sha256.hexdigest()
        received = home.spool.adopt(film.file, identity.uid or digest, digest, ENDINGS[film.kind])
        taken = offer(home, received, record, identity.patient)
    except FullError as error:
        raise full(error) from None
    except OSError:
        raise no_disk() from None
    service.note(by, "sent" if taken.new else "sent again", taken.job)
    return taken
