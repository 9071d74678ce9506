"""What the routes take, and how they refuse it, in the words of the OpenAPI description."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nofinding.service.api.response_models import ErrorMessage
from nofinding.service.store.feedback import COMMENT_LONGEST
from nofinding.service.store.job_queue import Accepted, QueuedJob

__all__ = [
    "BATCH_BODY",
    "FEEDBACK_BODY",
    "FILM_BODY",
    "LOGIN_BODY",
    "WHAT_IF_BODY",
    "Remark",
    "WhatIf",
    "accepted",
    "job_of",
    "refusals",
]

MEANINGS = {
    400: "The request is damaged or cut short.",
    401: "A token is needed.",
    404: "There is none.",
    408: "The body came too slowly.",
    409: "Not now: the job is not done, or does not have it.",
    413: "Too large.",
    415: "Not multipart, or no DICOM, PNG or JPEG film.",
    422: "What was sent is not to be understood; one line says what.",
    429: "Too many films wait; Retry-After says when to come again.",
    503: "Films or results cannot be handled now; Retry-After says when to come again.",
}


class WhatIf(BaseModel):
    """The whole record that is wanted; a field that is null or absent is not known."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"record": {"age": 40, "sex": None}}]}
    )
    record: dict[str, float | str | None] = Field(max_length=200)


class Remark(BaseModel):
    """What a reader says of a result."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"verdict": "disagree", "comment": "skin fold"}]},
    )
    verdict: Literal["agree", "disagree"]
    comment: str = Field(default="", max_length=COMMENT_LONGEST)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    return {
        "required": True,
        "content": {"application/json": {"schema": model.model_json_schema()}},
    }


BINARY = {"type": "string", "format": "binary"}
FILM_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "film": {**BINARY, "description": "DICOM, PNG or JPEG"},
                    "record": {"type": "string", "contentMediaType": "application/json",
                               "description": "values or texts as in --ehr, JSON"},
                },
                "required": ["film"],
            },
            "encoding": {
                "film": {"contentType": "application/dicom, image/png, image/jpeg"},
            },
            "example": {"film": "(the file)", "record": '{"age": 63, "sex": "M"}'},
        }
    },
}  # fmt: skip
BATCH_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "film": {"type": "array", "items": BINARY, "minItems": 1},
                    "records": {"type": "string", "contentMediaType": "application/json",
                                "description": "a list in the order of the films, one each, or an "
                                "object by file name"},
                },
                "required": ["film"],
            },
            "example": {"film": ["(a file)", "(a file)"], "records": '[{"age": 63}, {}]'},
        }
    },
}  # fmt: skip
WHAT_IF_BODY, FEEDBACK_BODY = _body(WhatIf), _body(Remark)
LOGIN_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"token": {"type": "string", "maxLength": 1000}},
                "required": ["token"],
            },
            "example": {"token": "(the token)"},
        }
    },
}

ERROR = {"schema": ErrorMessage.model_json_schema(), "example": {"error": "one line"}}
"""Not by FastAPI's `model`, which files it under the type of the route's own good answer."""


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route says no; 401 and 403 go without saying."""
    reasons = {401: "A token is needed.", 403: "Asked from another web page or under another name."}
    reasons |= {status: MEANINGS[status] for status in statuses}
    return {
        status: {"description": meaning, "content": {"application/json": ERROR}}
        for status, meaning in reasons.items()
    }


def accepted(taken: Accepted) -> dict[str, Any]:
    """What is said of a film that was sent."""
    job = taken.job
    return {"job": job.id, "state": job.state, "new": taken.new, "film": job.film}


def job_of(job: QueuedJob) -> dict[str, Any]:
    """A job, as lists and its own route show it: no record, no array."""
    said = job.result or {}
    names = ("score", "p_value", "model", "sha256", "refused", "seconds")
    return {
        "job": job.id,
        "film": job.film,
        "kind": job.kind,
        "state": job.state,
        "created": job.created,
        "tries": job.tries,
        "why": job.why,
        "conflict": job.conflict,
        "twin": job.twin,
        **{name: said.get(name) for name in names},
        "flags": [*(said.get("flags") or ())],
    }
