"""Who is let in, and what every answer carries; nothing that goes wrong says more than one line."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nofinding.service.api.auth import COOKIE, SESSION, is_loopback
from nofinding.service.api.guard import Guard
from nofinding.service.api.state import Limits
from nofinding.service.store.home import Home
from support.service_app import TOKEN, app_for, client_of, done_job, home_in, png

BEARER = {"Authorization": f"Bearer {TOKEN}"}
OWN = {"Origin": "http://127.0.0.1:8000"}
OTHER = {"Origin": "http://evil.example"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_in(tmp_path)


@pytest.fixture
def closed(home: Home) -> TestClient:
    return client_of(app_for(home, token=TOKEN))


@pytest.fixture
def local(home: Home) -> TestClient:
    return client_of(app_for(home))


def test_without_the_token_only_what_says_nothing_is_answered(closed: TestClient) -> None:
    described = closed.get("/openapi.json").json()["paths"]
    assert len(described) > 15
    for path, operations in described.items():
        for method in operations:
            url = path.format(job="0" * 32, kind="report")
            answer = closed.request(method, url)
            open_ = path in ("/live", "/ready", "/metrics", "/v1/login")
            assert (answer.status_code != 401) == open_, path
            if not open_:
                assert answer.headers["www-authenticate"] == "Bearer"
    assert closed.get("/v1/unknown").status_code == 401
    assert closed.get("/docs").status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ",
        "", "Bearer \xff\xfe",
    ],
)  # fmt: skip
def test_another_token_is_none(closed: TestClient, given: str) -> None:
    headers = {"Authorization": given.encode("latin-1")}
    answer = closed.get("/v1/jobs", headers=headers)
    assert answer.status_code == 401 and "this service's token" in answer.json()["error"]


def test_the_token_opens_and_who_it_was_stands_in_the_audit_log(
    closed: TestClient, home: Home
) -> None:
    job = done_job(home)
    assert closed.get("/v1/jobs", headers=BEARER).status_code == 200
    assert closed.get(f"/v1/jobs/{job.id}/result", headers=BEARER).status_code == 200
    who = closed.get("/v1/session", headers=BEARER).json()["who"]
    log = (home.folder / "audit.log").read_text()
    assert f'"who": "{who}"' in log and len(who) == 16 and TOKEN not in log


def test_a_browser_logs_in_and_only_its_own_page_may_write(closed: TestClient, home: Home) -> None:
    job = done_job(home)
    url = f"/v1/jobs/{job.id}/feedback"
    remark = {"verdict": "agree"}
    assert closed.post("/v1/login", json={"token": "wrong"}).status_code == 401
    assert closed.post("/v1/login", json={"token": TOKEN}, headers=OTHER).status_code == 403
    answer = closed.post("/v1/login", json={"token": TOKEN}, headers=OWN)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204 and TOKEN not in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    assert closed.get("/v1/jobs").status_code == 200
    assert closed.post(url, json=remark).status_code == 403
    assert closed.post(url, json=remark, headers=OTHER).status_code == 403
    assert closed.post(url, json=remark, headers={"Origin": "null"}).status_code == 403
    assert closed.post(url, json=remark, headers={"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert closed.post(url, json=remark, headers=OWN).status_code == 201
    assert closed.post("/v1/logout", headers=OWN).status_code == 204
    assert closed.get("/v1/jobs").status_code == 401


def test_a_cookie_ends_and_cannot_be_made_up(
    closed: TestClient, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed.post("/v1/login", json={"token": TOKEN})
    cookie = closed.cookies[COOKIE]
    until, _, signed = cookie.partition(".")
    closed.cookies.clear()

    def asked(value: str) -> int:
        return closed.get("/v1/jobs", headers={"Cookie": f"{COOKIE}={value}"}).status_code

    assert asked(cookie) == 200
    for forged in (f"{int(until) + 9}.{signed}", f"{until}.{'0' * 64}", until, "", ".", "x.y"):
        assert asked(forged) == 401
    other = client_of(app_for(home, token=TOKEN + "2"))
    headers = {"Cookie": f"{COOKIE}={cookie}"}
    assert other.get("/v1/jobs", headers=headers).status_code == 401
    later = time.time() + SESSION + 1
    monkeypatch.setattr("nofinding.service.api.auth.time.time", lambda: later)
    assert asked(cookie) == 401


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:8000", True),
        ("evil.example", False), ("127.0.0.1.evil.example", False), ("10.0.0.1", False),
        ("localhost.evil.example:8000", False), ("", False), ("[::1", True),
    ],
)  # fmt: skip
def test_without_a_token_only_this_machine_by_its_name_is_answered(
    local: TestClient, host: str, allowed: bool
) -> None:
    answer = local.get("/v1/jobs", headers={"Host": host})
    assert answer.status_code == (200 if allowed else 403)


def test_without_a_token_no_other_page_sends_films(local: TestClient) -> None:
    for headers, status in ((OTHER, 403), ({"Sec-Fetch-Site": "cross-site"}, 403), (OWN, 202),
                            ({"Sec-Fetch-Site": "same-origin"}, 200), ({}, 200)):  # fmt: skip
        answer = local.post("/v1/films", files={"film": ("f", png())}, headers=headers)
        assert answer.status_code == status


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.1.1.1", "example.org", "")))


@pytest.mark.parametrize("path", ["/live", "/viewer/", "/docs", "/v1/jobs", "/no", "/openapi.json"])
def test_every_answer_has_the_headers(local: TestClient, path: str) -> None:
    headers = local.get(path).headers
    assert headers["x-research-use-only"] == "true"
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
    scripts = [part for part in policy.split(";") if "script" in part]
    assert not any("unsafe" in part for part in scripts)


def test_the_report_may_have_its_style_in_it_and_no_script(local: TestClient, home: Home) -> None:
    policy = local.get(f"/v1/jobs/{done_job(home).id}/report").headers["content-security-policy"]
    assert "script" not in policy and "default-src 'none'" in policy


def test_what_goes_wrong_inside_is_one_line_without_its_words(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CANARY")

    monkeypatch.setattr(type(home.queue), "listed", broken)
    answer = client_of(app_for(home)).get("/v1/jobs")
    assert answer.status_code == 500
    assert answer.json() == {"error": "something is wrong with the service itself"}
    assert "RuntimeError" in caplog.text and "CANARY" not in caplog.text
    assert answer.headers["x-research-use-only"] == "true"


def asked(
    app: Guard,
    headers: dict[str, str],
    receive: Callable[[], Awaitable[Any]],
    path: str = "/v1/films",
) -> tuple[int, dict[bytes, bytes]]:
    """The answer to a request whose body comes from `receive`."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def body() -> Any:
        if sent:  # it is only thrown away now
            return {"type": "http.disconnect"}
        return await receive()

    given = {"host": "127.0.0.1", **headers}
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    asyncio.run(app(scope, body, send))
    return sent[0]["status"], dict(sent[0]["headers"])


async def never() -> Any:
    raise AssertionError("the body was read")


FORM = {"content-type": "multipart/form-data; boundary=B"}


def test_four_gigabytes_are_refused_unread(home: Home) -> None:
    status, headers = asked(app_for(home), {**FORM, "content-length": f"{4 * 2**30}"}, never)
    assert status == 413 and headers[b"connection"] == b"close"
    small = {"content-length": str(2**17)}
    assert asked(app_for(home), small, never, "/v1/jobs/" + "0" * 32 + "/feedback")[0] == 413
    assert asked(app_for(home), {**FORM, "content-length": "-1"}, never)[0] == 400


def test_who_sends_too_slowly_is_let_go(home: Home) -> None:
    async def silent() -> Any:
        await asyncio.sleep(60)

    app = app_for(home, limits=Limits(silence=0.05))
    assert asked(app, {**FORM, "content-length": "1000"}, silent)[0] == 408

    async def dribble() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"-", "more_body": True}

    app = app_for(home, limits=Limits(silence=5, upload=0.3))
    begin = time.monotonic()
    assert asked(app, {**FORM, "content-length": "1000"}, dribble)[0] in (400, 408)
    long = f"{2**15}"
    path = "/v1/jobs/" + "0" * 32 + "/what-if"
    assert asked(app, {"content-length": long}, dribble, path)[0] == 408
    assert time.monotonic() - begin < 5


def test_a_cut_upload_leaves_nothing(home: Home) -> None:
    head = b'--B\r\nContent-Disposition: form-data; name="film"\r\n\r\n' + png() * 300
    messages = [
        {"type": "http.request", "body": head, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def cut() -> Any:
        if len(messages) == 1:  # by now the first piece is on the disk
            assert len([*home.spool.folder.iterdir()]) == 1
        return messages.pop(0)

    assert asked(app_for(home), {**FORM, "transfer-encoding": "chunked"}, cut)[0] == 400
    assert not [*home.spool.folder.iterdir()]


def test_too_many_at_once_are_told_to_come_again(home: Home) -> None:
    status, headers = asked(app_for(home, limits=Limits(requests=0)), FORM, never)
    assert status == 503 and headers[b"retry-after"] == b"1"


def test_a_service_that_stops_answers_who_is_waiting(home: Home) -> None:
    async def silent() -> Any:
        task.cancel()
        await asyncio.sleep(60)

    async def main() -> list[Any]:
        nonlocal task
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/v1/films", "raw_path": b"/v1/films",
            "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
            "headers": [(b"host", b"localhost"), (b"content-length", b"100"),
                        (b"content-type", b"multipart/form-data; boundary=B")],
        }  # fmt: skip
        task = asyncio.create_task(app_for(home)(scope, silent, send))  # type: ignore[arg-type]
        await task
        return sent

    task: Any = None
    assert asyncio.run(main())[0]["status"] == 503


def test_a_log_line_names_the_route_and_nothing_else(
    local: TestClient, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nofinding")
    job = done_job(home)
    local.get(f"/v1/jobs/{job.id}/film?format=raw")
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("nofinding")]
    assert line.startswith("GET /v1/jobs/{job}/film 200 ") and line.endswith(" ms")
    assert job.id not in caplog.text.replace(f"/{job.id}/film?format=raw", "")


def test_a_damaged_audit_log_lets_nothing_out(local: TestClient, home: Home) -> None:
    job = done_job(home)
    (home.folder / "audit.log").write_bytes(b"half a line")
    for what in ("result", "film", "report", "objects/report"):
        answer = local.get(f"/v1/jobs/{job.id}/{what}")
        assert answer.status_code == 503 and "audit log" in answer.json()["error"]
