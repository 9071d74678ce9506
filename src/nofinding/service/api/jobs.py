"""Jobs, their results, and what-if questions."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from nofinding.errors import UserError
from nofinding.service.api.answers import (
    WHAT_IF_BODY,
    WhatIf,
    accepted,
    job_of,
    refusals,
)
from nofinding.service.api.response_models import (
    AcceptedFilm,
    JobList,
    JobWithDeliveries,
    ObjectList,
    Result,
    described,
)
from nofinding.service.api.state import Service, full, refused, service_of, who
from nofinding.service.api.upload import json_of, text_body
from nofinding.service.intake.offer import offer_what_if, stated_record
from nofinding.service.store.job_queue import FullError, State
from nofinding.storage.plain_json import finite

__all__ = ["Id", "router"]

router = APIRouter(tags=["jobs"])
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="The job.")]
Kind = Annotated[str, Path(pattern="^[a-z]{1,20}$", description="Of object: report, map, ...")]


@router.get(
    "/v1/jobs",
    summary="Lists films",
    response_model=None,
    responses=described(JobList) | refusals(422),
)
def get_jobs(
    request: Request,
    order: Annotated[Literal["created", "p_value", "score", "state"], Query()] = "p_value",
    descending: Annotated[bool, Query()] = False,
    state: Annotated[State | None, Query()] = None,
    most: Annotated[int, Query(ge=1, le=500)] = 100,
    skip: Annotated[int, Query(ge=0, le=10**9)] = 0,
) -> JSONResponse:
    """The films in that order, those without the value last; what-if questions are not listed."""
    queue = service_of(request).home.queue
    jobs = queue.listed(order=order, descending=descending, state=state, most=most, skip=skip)
    counts = queue.counts(listed=True)
    return JSONResponse(finite({"jobs": [job_of(job) for job in jobs], "counts": counts}))


@router.get(
    "/v1/jobs/{job}",
    summary="Says how far a job is",
    response_model=None,
    responses=described(JobWithDeliveries) | refusals(404, 422),
)
def get_job(request: Request, job: Id) -> JSONResponse:
    """State, score and p-value, and to whom the result was sent."""
    service = service_of(request)
    queued = service.job(job)
    deliveries = service.home.queue.deliveries(queued.id)
    return JSONResponse(finite(job_of(queued) | {"deliveries": deliveries}))


@router.get(
    "/v1/jobs/{job}/result",
    summary="Gives a result",
    response_model=None,
    responses=described(Result) | refusals(404, 409, 422, 503),
)
def get_result(request: Request, job: Id) -> JSONResponse:
    """All that is said of the film, but for pictures."""
    service = service_of(request)
    queued = service.job(job)
    payload = service.payload(queued)
    service.note(who(request), "saw the result", queued)
    return JSONResponse(finite({"job": queued.id, "state": queued.state, **payload}))


@router.get(
    "/v1/jobs/{job}/objects",
    summary="Lists the DICOM objects of a result",
    response_model=None,
    responses=described(ObjectList) | refusals(404, 409, 422),
)
def get_objects(request: Request, job: Id) -> JSONResponse:
    """Which there are: none where the film is no DICOM, or was refused."""
    service = service_of(request)
    queued = service.job(job)
    service.payload(queued)
    return JSONResponse({"objects": [*service.home.results.objects(queued.id)]})


@router.get(
    "/v1/jobs/{job}/objects/{kind}",
    summary="Gives one DICOM object",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The object; it carries the patient's identity.",
            "content": {
                "application/dicom": {"schema": {"type": "string", "format": "binary"}},
                "application/fhir+json": {"schema": {"type": "object"}},
            },
        },
        **refusals(404, 409, 422, 503),
    },
)
def get_object(request: Request, job: Id, kind: Kind) -> FileResponse:
    """The object as it is sent to archives. Whoever fetches it stands in the audit log."""
    service = service_of(request)
    queued = service.job(job)
    service.payload(queued)
    file = service.home.results.objects(queued.id).get(kind)
    if file is None:
        raise refused(404, "there is no such object of this film")
    service.note(who(request), f"fetched the {kind}", queued)
    media_type = "application/fhir+json" if file.suffix == ".json" else "application/dicom"
    name = f"{queued.id}.{kind}{file.suffix}"
    return FileResponse(file, media_type=media_type, filename=name)


@router.post(
    "/v1/jobs/{job}/what-if",
    status_code=202,
    summary="Asks what the score would be with another record",
    response_model=None,
    openapi_extra={"requestBody": WHAT_IF_BODY},
    responses={
        **described(AcceptedFilm, 202),
        **described(AcceptedFilm),
        **refusals(400, 404, 408, 409, 413, 422, 429, 503),
    },
)
async def post_what_if(request: Request, job: Id) -> JSONResponse:
    """A job of kind what-if with the same film and exactly this record; it comes before films."""
    service = service_of(request)
    data = json_of(await text_body(request), "the body")
    return await run_in_threadpool(_asked, service, job, data, who(request))


def _asked(service: Service, job: str, data: Any, by: str) -> JSONResponse:
    try:
        question = WhatIf.model_validate(data, strict=False)
    except ValidationError:
        raise refused(422, 'send {"record": {"age": 40, "sex": null}}') from None
    queued = service.job(job)
    if queued.kind != "film" or queued.state != "done" or (queued.result or {}).get("refused"):
        raise refused(409, "only a film that was scored can be asked about")
    try:
        record = stated_record(question.record, service.fields)
    except UserError as error:
        raise refused(422, str(error)) from None
    if not service.loaded:
        raise refused(503, "no worker has its model yet", again=10)
    try:
        taken = offer_what_if(service.home, queued, record)
    except FullError as error:
        raise full(error) from None
    service.note(by, "asked what if", queued)
    location = {"Location": f"/v1/jobs/{taken.job.id}"}
    return JSONResponse(accepted(taken), 202 if taken.new else 200, headers=location)
