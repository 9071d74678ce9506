"""Films, maps and pseudo-healthy films: as numbers for the viewer, and as PNG."""

import io
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response
from jaxtyping import Float, UInt8
from PIL import Image

from nofinding.clinical.result import on_the_film
from nofinding.evaluation.report.colours import tinted
from nofinding.service.api.answers import refusals
from nofinding.service.api.jobs import Id
from nofinding.service.api.report import report_page
from nofinding.service.api.state import Service, refused, service_of, who
from nofinding.service.store.job_queue import QueuedJob
from nofinding.service.store.result_store import Array

__all__ = ["router"]

router = APIRouter(tags=["pictures"])
Format = Annotated[Literal["png", "raw"], Query(description="raw: little endian, row by row.")]
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)  # the page is one file, to be kept: its style is in it, and no script
BINARY = {"schema": {"type": "string", "format": "binary"}}
SIZE = {
    "X-Rows": {"schema": {"type": "integer"}, "description": "of raw"},
    "X-Columns": {"schema": {"type": "integer"}, "description": "of raw"},
}
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture.",
        "headers": SIZE,
        "content": {"image/png": BINARY, "application/octet-stream": BINARY},
    },
    **refusals(404, 409, 422, 503),
}


@router.get(
    "/v1/jobs/{job}/film", summary="Gives the film", response_class=Response, responses=PICTURES
)
def get_film(request: Request, job: Id, format: Format = "png") -> Response:
    """At most 1024 pixels a side. png: 8 bit. raw: uint16, for a window and level of one's own."""
    service = service_of(request)
    queued, _ = _done(service, job)
    film = _array(service, queued, "film")
    service.note(who(request), "saw the film", queued)
    if format == "raw":
        return _raw(film.astype("<u2"))
    return _png((film >> 8).astype(np.uint8))


@router.get(
    "/v1/jobs/{job}/map", summary="Gives the map", response_class=Response, responses=PICTURES
)
def get_map(request: Request, job: Id, format: Format = "raw") -> Response:
    """raw: float32 on the model's own grid, the part that the film covers; X-Threshold is what 99 %
    of the pixels of normal films stay below. png: in colour over the film."""
    service = service_of(request)
    queued, payload = _done(service, job)
    heat = _on_film(_array(service, queued, "map"), payload)
    if format == "raw":
        return _raw(heat.astype("<f4"), payload.get("threshold"))
    under = service.home.results.array(_film_job(service, queued), "film")
    return _png(coloured(under, heat, payload.get("threshold")))


@router.get(
    "/v1/jobs/{job}/normal",
    summary="Gives the pseudo-healthy film",
    response_class=Response,
    responses=PICTURES,
)
def get_normal(request: Request, job: Id, format: Format = "raw") -> Response:
    """What the model takes for this patient's normal film, on the grid of the map, in [0, 1].

    raw: float32. png: 8 bit.
    """
    service = service_of(request)
    queued, payload = _done(service, job)
    normal = _on_film(_array(service, queued, "normal"), payload)
    if format == "raw":
        return _raw(normal.astype("<f4"))
    return _png((255 * normal.clip(0, 1)).round().astype(np.uint8))


@router.get(
    "/v1/jobs/{job}/report",
    summary="Gives a page to keep",
    response_class=HTMLResponse,
    responses={
        200: {"description": "One file.", "content": {"text/html": {"schema": {"type": "string"}}}},
        **refusals(404, 409, 422, 503),
    },
)
def get_report(request: Request, job: Id) -> HTMLResponse:
    """Film, map, score, what the p-value means, record and flags: one HTML file, no script."""
    service = service_of(request)
    queued, payload = _done(service, job)
    results = service.home.results
    film, heat = results.array(queued.id, "film"), results.array(queued.id, "map")
    normal = results.array(queued.id, "normal")
    service.note(who(request), "saw the report", queued)
    pictures: dict[str, bytes] = {}
    if film is not None:
        pictures["The film"] = png_of((film >> 8).astype(np.uint8))
    if film is not None and heat is not None:
        over = coloured(film, _on_film(heat, payload), payload.get("threshold"))
        pictures["Its map"] = png_of(over)
    if normal is not None:
        shown = (255 * _on_film(normal, payload).clip(0, 1)).round().astype(np.uint8)
        pictures["Pseudo-healthy"] = png_of(shown)
    page = report_page(queued.id, payload, pictures)
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


def coloured(
    film: np.ndarray | None, heat: Float[np.ndarray, "a b"], threshold: float | None
) -> UInt8[np.ndarray, "h w 3"]:
    """The film in grey under its map. One colour means one thing in all films of a model: the scale
    ends at twice the threshold."""
    if film is None:
        film = np.zeros(heat.shape, np.uint16)
    size = (film.shape[1], film.shape[0])
    grown = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    span = 2 * threshold if threshold else float(heat.max()) or 1.0
    mixed = tinted((film / 65535).astype(np.float32), np.asarray(grown) / span)
    return (mixed.clip(0, 1) * 255).round().astype(np.uint8)


def _done(service: Service, job: str) -> tuple[QueuedJob, dict[str, Any]]:
    queued = service.job(job)
    return queued, service.payload(queued)


def _film_job(service: Service, job: QueuedJob) -> str:
    """The job that has the film: of a what-if the one that it asks about."""
    return str(job.payload.get("of", job.id))


def _array(service: Service, job: QueuedJob, name: Array) -> np.ndarray:
    """Raises 404 where there is none."""
    of = _film_job(service, job) if name == "film" else job.id
    array = service.home.results.array(of, name)
    if array is None:
        what = "pseudo-healthy film: the model makes none" if name == "normal" else name
        raise refused(404, f"there is no {what}")
    return array


def _on_film(square: np.ndarray, payload: dict[str, Any]) -> np.ndarray:
    high, wide = payload["size"]
    return np.ascontiguousarray(on_the_film(square, high, wide, payload["aspect"]))


def _raw(array: np.ndarray, threshold: float | None = None) -> Response:
    headers = {"X-Rows": str(array.shape[0]), "X-Columns": str(array.shape[1])}
    if threshold is not None:
        headers["X-Threshold"] = f"{threshold:.9g}"
    return Response(array.tobytes(), media_type="application/octet-stream", headers=headers)


def _png(picture: np.ndarray) -> Response:
    return Response(png_of(picture), media_type="image/png")


def png_of(picture: np.ndarray) -> bytes:
    """The picture as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="png", compress_level=3)
    return stream.getvalue()
