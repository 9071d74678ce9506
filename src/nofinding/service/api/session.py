"""The viewer's log-in: who shows the token gets a cookie that stands for it."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from nofinding.service.api.answers import LOGIN_BODY, refusals
from nofinding.service.api.auth import COOKIE, SESSION, Door
from nofinding.service.api.response_models import Session, described
from nofinding.service.api.state import refused, who
from nofinding.service.api.upload import json_of, text_body

__all__ = ["router"]

router = APIRouter(tags=["session"])


@router.get(
    "/v1/session",
    summary="Says who asks",
    response_model=None,
    responses=described(Session) | refusals(),
)
async def get_session(request: Request) -> JSONResponse:
    """401 where a token is needed and none was given."""
    door: Door = request.scope["nofinding.door"]
    return JSONResponse({"token_needed": door.asks, "who": who(request)})


@router.post(
    "/v1/login",
    status_code=204,
    summary="Logs a browser in",
    response_class=Response,
    openapi_extra={"requestBody": LOGIN_BODY},
    responses=refusals(400, 408, 413, 422),
)
async def post_login(request: Request) -> Response:
    """Sets a cookie that scripts cannot read and other pages do not send; it lasts twelve hours."""
    data = json_of(await text_body(request), "the body")
    token = data.get("token") if isinstance(data, dict) else None
    if not isinstance(token, str):
        raise refused(422, 'send {"token": "..."}')
    door: Door = request.scope["nofinding.door"]
    answer = Response(status_code=204)
    if not door.asks:
        return answer
    if not door.is_token(token.encode("utf-8", "replace")):
        raise refused(401, "that is not the token")
    answer.set_cookie(
        COOKIE,
        door.session(),
        max_age=SESSION,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post(
    "/v1/logout",
    status_code=204,
    summary="Logs a browser out",
    response_class=Response,
    responses=refusals(),
)
async def post_logout() -> Response:
    """Takes the cookie away."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
