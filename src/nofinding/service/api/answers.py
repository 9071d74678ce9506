"""What the routes answer, and how the OpenAPI description says so."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nofinding.service.store.feedback import COMMENT_LONGEST
from nofinding.service.store.job_queue import Accepted, QueuedJob

__all__ = [
    "ACCEPTED",
    "BATCH",
    "BATCH_BODY",
    "FEEDBACK_BODY",
    "FILM_BODY",
    "LOGIN_BODY",
    "WHAT_IF_BODY",
    "Remark",
    "WhatIf",
    "accepted",
    "job_of",
    "json_answer",
    "refusals",
]

ID = "4f2d8c1b9e7a46d0a3c5e8f7b6d91c20"
FILM = "9b0e6a7d5c4f43218f7e6d5c4b3a2910"
RECORD = {"age": 63, "sex": "M", "weight": "180 lb", "view": "PA"}
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
JOB_EXAMPLE = {
    "job": ID, "film": FILM, "kind": "film", "state": "done", "created": 1767225600.0, "tries": 1,
    "why": None, "conflict": False, "twin": None, "score": 1.83, "p_value": 0.024,
    "model": "adult", "sha256": "83a0...", "refused": None, "flags": [], "seconds": 0.41,
}  # fmt: skip


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


def _answer(description: str, schema: Mapping[str, Any], example: object) -> dict[str, Any]:
    content = {"schema": {**schema, "examples": [example]}, "example": example}
    return {"description": description, "content": {"application/json": content}}


def _object(**properties: str) -> dict[str, Any]:
    """A schema of required properties, each "type" or "type|null"."""
    kinds: dict[str, Any] = {}
    for name, kind in properties.items():
        several = kind.split("|")
        kinds[name] = {"type": several if len(several) > 1 else kind}
    return {"type": "object", "properties": kinds, "required": [*properties]}


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
_ACCEPTED = _object(job="string", state="string", new="boolean", film="string")
_ACCEPTED_EXAMPLE = {"job": ID, "state": "waiting", "new": True, "film": FILM}
ACCEPTED = _answer("The job that scores the film.", _ACCEPTED, _ACCEPTED_EXAMPLE)
BATCH = _answer(
    "What became of each film.",
    _object(jobs="array", refused="array"),
    {
        "jobs": [{"number": 0, **_ACCEPTED_EXAMPLE}],
        "refused": [{"number": 1, "error": "the film is not a PNG, JPEG or DICOM file"}],
    },
)
_JOB = _object(
    job="string", film="string", kind="string", state="string", created="number", tries="integer",
    why="string|null", conflict="boolean", twin="string|null", score="number|null",
    p_value="number|null", model="string|null", sha256="string|null", refused="string|null",
    flags="array", seconds="number|null",
)  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "job": _answer(
        "The job.", _JOB,
        JOB_EXAMPLE | {"deliveries": [{"target": "stow:https://pacs.example/dicom-web",
                                       "state": "done", "tries": 1, "why": None}]},
    ),
    "jobs": _answer(
        "Films in that order, and how many there are of each state.",
        _object(jobs="array", counts="object"),
        {"jobs": [JOB_EXAMPLE],
         "counts": {"waiting": 0, "working": 0, "done": 1, "failed": 0}},
    ),
    "result": _answer(
        "What is said of the film.",
        _object(job="string", state="string", notice="string", record="array", flags="array"),
        {"job": ID, "state": "done", "schema": 1,
         "notice": "RESEARCH USE ONLY - not a medical device, not for diagnosis", "film": FILM,
         "refused": None, "flags": [], "conflict": False, "size": [2828, 2320],
         "record": [{"field": "age", "value": 63.0, "text": "63", "unit": "a", "categories": [],
                     "used": True, "attention": 0.31, "source": "request"}],
         "seconds": 0.41, "score": 1.83, "p_value": 0.024,
         "calibration": "412 normal films of val, mondrian", "stratum": "view=PA",
         "method": "diff3m-f", "model": "adult", "sha256": "83a0...", "version": "0.1.0",
         "aspect": "pad", "threshold": 2.24, "map": True, "normal": True},
    ),
    "objects": _answer(
        "The kinds of DICOM objects that there are.", _object(objects="array"),
        {"objects": ["map", "picture", "report"]},
    ),
    "remark": _answer(
        "It is kept.", _object(id="integer", job="string"), {"id": 7, "job": ID}
    ),
    "remarks": _answer(
        "What readers said.", _object(feedback="array"),
        {"feedback": [{"id": 7, "made": 1767225600.0, "job": ID, "film": FILM,
                       "verdict": "disagree", "comment": "skin fold", "who": "local",
                       "score": 1.83, "p_value": 0.024, "model": "adult", "sha256": "83a0..."}]},
    ),
    "drift": _answer(
        "By model: the test, what came each day, and the record beside the training's.",
        _object(models="object", refused="array", films="integer"),
        {"models": {"adult": {
            "n": 320, "tested": True, "patients": 301, "p": 0.21, "effect": 0.03,
            "alarming": False, "line": None, "why": None, "median_calibration_score": 0.9,
            "days": [{"day": "2026-01-01", "n": 32, "median_score": 0.95, "median_p": 0.47,
                      "share_p05": 0.06, "refused": 1}],
            "record": [{"field": "age", "unit": "a", "n": 320, "known_share": 0.98,
                        "median": 61.0, "shares": {}, "training_known_share": 1.0,
                        "training_mean": 52.1, "training_sd": 17.0}]}},
         "refused": [], "films": 320},
    ),
    "fields": _answer(
        "The record's fields.", _object(fields="array"),
        {"fields": [{"field": "age", "kind": "numeric", "unit": "a", "low": 0, "high": 120,
                     "categories": []}]},
    ),
    "session": _answer(
        "Whether a token is needed, and who asks.", _object(token_needed="boolean", who="string"),
        {"token_needed": True, "who": "3f2a9c0d1e4b5a67"},
    ),
    "live": _answer("The service is there.", _object(live="boolean"), {"live": True}),
    "ready": _answer(
        "Films are taken and scored.",
        _object(ready="boolean", workers="integer", queue="boolean", disk="boolean"),
        {"ready": True, "workers": 1, "queue": True, "disk": True},
    ),
}  # fmt: skip
_ERROR = _object(error="string")


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route says no; 401 and 403 go without saying."""
    reasons = {401: "A token is needed.", 403: "Asked from another web page or under another name."}
    reasons |= {status: MEANINGS[status] for status in statuses}
    return {
        status: _answer(meaning, _ERROR, {"error": "one line"})
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


def json_answer(name: str) -> dict[int | str, dict[str, Any]]:
    """The good answer of a route, by its name in EXAMPLES."""
    return {200: EXAMPLES[name]}
