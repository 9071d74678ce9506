"""What readers say of results, the record's fields, and drift."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from nofinding.errors import UserError
from nofinding.service.api.answers import (
    FEEDBACK_BODY,
    Remark,
    refusals,
)
from nofinding.service.api.jobs import Id
from nofinding.service.api.response_models import (
    DriftReport,
    FeedbackAdded,
    FeedbackList,
    FieldList,
    described,
)
from nofinding.service.api.state import Service, refused, service_of, who
from nofinding.service.api.upload import json_of, text_body
from nofinding.service.store.feedback import TooManyError, as_csv
from nofinding.storage.plain_json import finite

__all__ = ["router"]

router = APIRouter(tags=["readers"])


@router.post(
    "/v1/jobs/{job}/feedback",
    status_code=201,
    summary="Says what a reader thinks of a result",
    response_model=None,
    openapi_extra={"requestBody": FEEDBACK_BODY},
    responses={**described(FeedbackAdded, 201), **refusals(400, 404, 408, 409, 413, 422, 503)},
)
async def post_feedback(request: Request, job: Id) -> JSONResponse:
    """Agree or disagree, and a comment of at most 2000 characters. Write no name into it."""
    service = service_of(request)
    data = json_of(await text_body(request), "the body")
    return await run_in_threadpool(_said, service, job, data, who(request))


def _said(service: Service, job: str, data: Any, by: str) -> JSONResponse:
    try:
        remark = Remark.model_validate(data)
    except ValidationError:
        raise refused(422, 'send {"verdict": "agree" or "disagree", "comment": "..."}') from None
    try:
        remark.comment.encode()
    except UnicodeEncodeError:
        raise refused(422, "the comment has characters that cannot be kept") from None
    queued = service.job(job)
    service.payload(queued)
    said = queued.result or {}
    try:
        number = service.feedback.add(
            queued.id, queued.film, remark.verdict, remark.comment, by, said
        )
    except TooManyError:
        raise refused(409, "this result has as many remarks as are kept") from None
    service.note(by, f"said {remark.verdict}", queued)
    return JSONResponse({"id": number, "job": queued.id}, 201)


@router.get(
    "/v1/jobs/{job}/feedback",
    summary="Gives what readers said of a result",
    response_model=None,
    responses=described(FeedbackList) | refusals(404, 422),
)
def get_feedback(request: Request, job: Id) -> JSONResponse:
    """The first remark first."""
    service = service_of(request)
    return JSONResponse(finite({"feedback": service.feedback.of(service.job(job).id)}))


@router.get(
    "/v1/feedback",
    summary="Exports what readers said",
    response_model=None,
    response_class=JSONResponse,
    responses={
        200: {
            **described(FeedbackList)[200],
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
        **refusals(422, 503),
    },
)
def export_feedback(
    request: Request, format: Annotated[Literal["csv", "json"], Query()] = "json"
) -> StreamingResponse:
    """Every remark beside the score that it is on, as JSON or CSV."""
    service = service_of(request)
    service.note(who(request), "exported the feedback")
    rows = service.feedback.all()
    if format == "csv":
        name = {"Content-Disposition": 'attachment; filename="feedback.csv"'}
        return StreamingResponse(as_csv(rows), media_type="text/csv", headers=name)
    return StreamingResponse(_as_json(rows), media_type="application/json")


def _as_json(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    import json

    yield '{"feedback": ['
    for number, row in enumerate(rows):
        yield (", " if number else "") + json.dumps(finite(row))
    yield "]}"


@router.get(
    "/v1/fields",
    summary="Lists what a record may hold",
    response_model=None,
    responses=described(FieldList) | refusals(),
)
def get_fields(request: Request) -> JSONResponse:
    """Each field with its unit and its plausible range, or its categories."""
    fields = service_of(request).fields
    rows = [
        {
            "field": name,
            "kind": field.kind,
            "unit": field.unit,
            "low": field.low,
            "high": field.high,
            "categories": [*field.categories],
        }
        for name, field in fields.items()
    ]
    return JSONResponse(finite({"fields": rows}))


@router.get(
    "/v1/drift",
    summary="Says whether films have drifted",
    response_model=None,
    responses=described(DriftReport) | refusals(503),
)
def get_drift(request: Request) -> JSONResponse:
    """Of the latest 2000 films: whether they look like those that the p-values are calibrated on,
    what came day by day, and the record beside that of the training films."""
    try:
        return JSONResponse(finite(service_of(request).drifting()))
    except UserError:
        raise refused(503, "the model's folder is damaged") from None
