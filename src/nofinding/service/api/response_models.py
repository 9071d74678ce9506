"""What the routes answer, as models: FastAPI describes them in OpenAPI from here."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AcceptedFilm",
    "Batch",
    "DriftReport",
    "ErrorMessage",
    "FeedbackAdded",
    "FeedbackList",
    "FieldList",
    "JobList",
    "JobSummary",
    "JobWithDeliveries",
    "Liveness",
    "ObjectList",
    "Readiness",
    "Result",
    "Session",
    "described",
]

ID = "4f2d8c1b9e7a46d0a3c5e8f7b6d91c20"
FILM = "9b0e6a7d5c4f43218f7e6d5c4b3a2910"
JOB: Mapping[str, Any] = {
    "job": ID, "film": FILM, "kind": "film", "state": "done", "created": 1767225600.0, "tries": 1,
    "why": None, "conflict": False, "twin": None, "score": 1.83, "p_value": 0.024,
    "model": "adult", "sha256": "83a0...", "refused": None, "flags": [], "seconds": 0.41,
}  # fmt: skip
ACCEPTED: Mapping[str, Any] = {"job": ID, "state": "waiting", "new": True, "film": FILM}


def example(**values: Any) -> ConfigDict:
    """A model's configuration with one example."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class ErrorMessage(BaseModel):
    """Why a request was refused, in one line."""

    model_config = example(error="one line")
    error: str


class AcceptedFilm(BaseModel):
    """The job that scores the film."""

    model_config = example(**ACCEPTED)
    job: str
    state: str
    new: bool
    film: str


class BatchEntry(AcceptedFilm):
    """A film of a batch that was accepted; `number` counts the films from 0."""

    model_config = example(number=0, **ACCEPTED)
    number: int


class RefusedEntry(ErrorMessage):
    """A film of a batch that was refused."""

    model_config = example(number=1, error="the film is not a PNG, JPEG or DICOM file")
    number: int


class Batch(BaseModel):
    """What became of each film."""

    model_config = example(
        jobs=[{"number": 0, **ACCEPTED}],
        refused=[{"number": 1, "error": "the film is not a PNG, JPEG or DICOM file"}],
    )
    jobs: list[BatchEntry]
    refused: list[RefusedEntry]


class JobSummary(BaseModel):
    """A film's way through the queue, and its score when it is done."""

    model_config = example(**JOB)
    job: str
    film: str
    kind: str
    state: str
    created: float  # seconds since 1970
    tries: int
    why: str | None
    conflict: bool
    twin: str | None
    score: float | None
    p_value: float | None
    model: str | None
    sha256: str | None
    refused: str | None
    flags: list[str]
    seconds: float | None


class Delivery(BaseModel):
    """A target of a result, and how far its delivery is."""

    target: str
    state: str
    tries: int
    why: str | None


class JobWithDeliveries(JobSummary):
    """The job."""

    model_config = example(
        **JOB,
        deliveries=[{"target": "stow:https://pacs.example/dicom-web", "state": "done", "tries": 1,
                     "why": None}],
    )  # fmt: skip
    deliveries: list[Delivery]


class JobList(BaseModel):
    """Films in that order, and how many there are of each state."""

    model_config = example(
        jobs=[dict(JOB)], counts={"waiting": 0, "working": 0, "done": 1, "failed": 0}
    )
    jobs: list[JobSummary]
    counts: dict[str, int]


class RecordValue(BaseModel):
    """One value of the patient's record, and where it comes from."""

    field: str
    value: float | None
    text: str
    unit: str | None
    categories: list[str]
    used: bool
    attention: float | None
    source: str | None


class Result(BaseModel):
    """What is said of the film."""

    model_config = example(
        job=ID, state="done", schema=1,
        notice="RESEARCH USE ONLY - not a medical device, not for diagnosis", film=FILM,
        refused=None, flags=[], conflict=False, size=[2828, 2320],
        record=[{"field": "age", "value": 63.0, "text": "63", "unit": "a", "categories": [],
                 "used": True, "attention": 0.31, "source": "request"}],
        seconds=0.41, score=1.83, p_value=0.024, calibration="412 normal films of val, mondrian",
        stratum="view=PA", method="diff3m-f", model="adult", sha256="83a0...", version="0.1.0",
        aspect="pad", threshold=2.24, map=True, normal=True,
    )  # fmt: skip
    job: str
    state: str
    notice: str
    record: list[RecordValue]
    flags: list[str]


class ObjectList(BaseModel):
    """The kinds of DICOM objects that there are."""

    model_config = example(objects=["map", "picture", "report"])
    objects: list[str]


class FeedbackAdded(BaseModel):
    """The number of the remark."""

    model_config = example(id=7, job=ID)
    id: int
    job: str


class FeedbackRow(BaseModel):
    """What a reader said, beside the score that it is on."""

    id: int
    created: float = Field(alias="made")  # seconds since 1970
    job: str
    film: str
    verdict: str
    comment: str
    who: str
    score: float | None
    p_value: float | None
    model: str | None
    sha256: str | None


class FeedbackList(BaseModel):
    """What readers said."""

    model_config = example(
        feedback=[{"id": 7, "made": 1767225600.0, "job": ID, "film": FILM, "verdict": "disagree",
                   "comment": "skin fold", "who": "local", "score": 1.83, "p_value": 0.024,
                   "model": "adult", "sha256": "83a0..."}],
    )  # fmt: skip
    feedback: list[FeedbackRow]


class DriftReport(BaseModel):
    """By model: the test, what came each day, and the record beside the training's."""

    model_config = example(
        models={"adult": {
            "n": 320, "tested": True, "patients": 301, "p": 0.21, "effect": 0.03,
            "alarming": False, "line": None, "why": None, "median_calibration_score": 0.9,
            "days": [{"day": "2026-01-01", "n": 32, "median_score": 0.95, "median_p": 0.47,
                      "share_p05": 0.06, "refused": 1}],
            "record": [{"field": "age", "unit": "a", "n": 320, "known_share": 0.98,
                        "median": 61.0, "shares": {}, "training_known_share": 1.0,
                        "training_mean": 52.1, "training_sd": 17.0}]}},
        refused=[], films=320,
    )  # fmt: skip
    models: dict[str, dict[str, Any]]
    refused: list[Any]
    films: int


class FieldDescription(BaseModel):
    """A field that a record may hold."""

    field: str
    kind: str
    unit: str | None
    low: float | None
    high: float | None
    categories: list[str]


class FieldList(BaseModel):
    """The record's fields."""

    model_config = example(
        fields=[{"field": "age", "kind": "numeric", "unit": "a", "low": 0, "high": 120,
                 "categories": []}],
    )  # fmt: skip
    fields: list[FieldDescription]


class Session(BaseModel):
    """Whether a token is needed, and who asks."""

    model_config = example(token_needed=True, who="3f2a9c0d1e4b5a67")
    token_needed: bool
    who: str


class Liveness(BaseModel):
    """The service is there."""

    model_config = example(live=True)
    live: bool


class Readiness(BaseModel):
    """Films are taken and scored."""

    model_config = example(ready=True, workers=1, queue=True, disk=True)
    ready: bool
    workers: int
    queue: bool
    disk: bool


def described(
    model: type[BaseModel], status: int = 200, description: str = ""
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with the model."""
    first = (model.__doc__ or "").partition("\n")[0]
    return {status: {"model": model, "description": description or first}}
