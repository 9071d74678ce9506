"""The application: every route, the viewer, the description, and the guard around all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.staticfiles import StaticFiles

from nofinding import __version__
from nofinding.clinical.dicom.codes import NOTICE
from nofinding.service.api import films, health, jobs, opinions, pictures, session
from nofinding.service.api.guard import Guard
from nofinding.service.api.health import Counted
from nofinding.service.api.report import docs_page
from nofinding.service.api.state import Service

__all__ = ["VIEWER", "make_app"]

VIEWER = Path(__file__).parents[1] / "viewer"
ABOUT = (
    "How far a chest radiograph is from the normal ones, where, and with what confidence. "
    f'{NOTICE}. Errors are one line: {{"error": "..."}}.'
)
OPEN = {"/live", "/ready", "/metrics", "/v1/login"}
DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def make_app(service: Service) -> Guard:
    """The service as an ASGI application."""
    app = FastAPI(
        title="nofinding", version=__version__, description=ABOUT, docs_url=None, redoc_url=None,
        openapi_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.service, app.state.counted = service, Counted(service)
    for part in (films, jobs, pictures, opinions, health, session):
        app.include_router(part.router)
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    described = description(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def get_description() -> JSONResponse:
        return JSONResponse(described)

    @app.get("/docs", include_in_schema=False)
    def get_docs() -> HTMLResponse:
        policy = {"Content-Security-Policy": DOCS_POLICY}
        return HTMLResponse(docs_page(described), headers=policy)

    @app.get("/", include_in_schema=False)
    async def get_root() -> RedirectResponse:
        return RedirectResponse("/viewer/", 307)

    app.mount("/viewer", StaticFiles(directory=VIEWER, html=True, check_dir=False), "viewer")
    return Guard(app, service)


def description(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, with how to be let in."""
    schema = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
    schema.setdefault("components", {})["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": "nofinding_session"},
    }
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in OPEN else [{"token": []}, {"session": []}]
            for answer in operation["responses"].values():
                _with_example(answer, schema["components"].get("schemas", {}))
                answer.setdefault("headers", {})["X-Research-Use-Only"] = {
                    "schema": {"type": "string", "const": "true"}
                }
    return schema


def _with_example(answer: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    """Puts the example of an answer's model beside it, for readers of the page."""
    for body in answer.get("content", {}).values():
        name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
        if name in schemas:
            body["example"] = schemas[name]["examples"][0]


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnyHTTPException)
    return JSONResponse(
        {"error": error.detail}, error.status_code, headers=dict(error.headers or {})
    )


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Which parameter is wrong and why, without what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:2])
    return JSONResponse({"error": f"{name}: {first['msg']}"}, 422)


async def _broken(request: Request, error: Exception) -> JSONResponse:
    """The guard logs its kind; its words may quote what nobody may read."""
    return JSONResponse({"error": "something is wrong with the service itself"}, 500)
