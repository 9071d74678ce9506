"""The multipart reader: cut anywhere it gives the same films, and whatever comes is one refusal."""

import asyncio
import hashlib
import itertools
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException, Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nofinding.service.api.state import Service
from nofinding.service.api.upload import json_of, receive_form
from support.service_app import app_for, home_in, png

CALM = settings(
    max_examples=60, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
FILMS = [png(seed) for seed in range(2)]
BODY = (
    b"".join(
        b'--B\r\nContent-Disposition: form-data; name="film"; filename="%d"\r\n'
        b"Content-Type: image/png\r\n\r\n%b\r\n" % (number, film)
        for number, film in enumerate(FILMS)
    )
    + b'--B\r\nContent-Disposition: form-data; name="records"\r\n\r\n[{}]\r\n--B--\r\n'
)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return app_for(home_in(tmp_path)).service


def received(
    service: Service, pieces: list[bytes]
) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """Name and SHA-256 of each film on the disk, and the texts."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    async def main() -> Any:
        headers = [(b"content-type", b"multipart/form-data; boundary=B")]
        request = Request({"type": "http", "headers": headers}, receive)
        async with receive_form(request, service, most=3, text="records") as form:
            films = []
            for film in form.films:
                assert film.why is None and film.kind == "PNG"
                digest = hashlib.sha256(film.file.read_bytes()).hexdigest()
                assert digest == film.sha256.hexdigest()
                films.append((film.name, digest))
            return films, form.texts

    try:
        return asyncio.run(main())  # type: ignore[no-any-return]
    finally:
        assert not [*service.home.spool.folder.iterdir()]


@given(st.lists(st.integers(1, len(BODY) - 1), max_size=12))
@CALM
def test_however_a_body_is_cut_it_is_the_same(service: Service, cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), len(BODY)]
    pieces = [BODY[a:b] for a, b in itertools.pairwise(edges)]
    films, texts = received(service, pieces)
    assert films == [(str(n), hashlib.sha256(f).hexdigest()) for n, f in enumerate(FILMS)]
    assert texts == {"records": b"[{}]"}


@given(st.integers(0, len(BODY) - 1), st.binary(max_size=40), st.integers(0, 40), st.booleans())
@CALM
def test_whatever_comes_is_films_or_one_refusal(
    service: Service, at: int, put: bytes, gone: int, cut: bool
) -> None:
    body = BODY[:at] + put + (b"" if cut else BODY[at + gone :])
    try:
        received(service, [body])
    except HTTPException as error:
        assert error.status_code in (400, 413, 415, 422) and "\n" not in str(error.detail)
    except AssertionError as error:  # a film whose bytes or kind were changed is told of
        assert "film.why" in str(error) or "why" in str(error)


@given(st.binary(max_size=60) | st.text('[]{}:,"1eN', max_size=40).map(str.encode))
@CALM
def test_whatever_json_comes_is_read_or_refused(data: bytes) -> None:
    try:
        json_of(data, "record")
    except HTTPException as error:
        assert error.status_code == 400


def test_brackets_in_a_text_are_no_depth() -> None:
    assert json_of(b'{"a": "' + b"[" * 50 + b'"}', "record") == {"a": "[" * 50}
    with pytest.raises(HTTPException):
        json_of(b"[" * 17 + b"]" * 17, "record")
    assert json_of(b"[" * 16 + b"]" * 16, "record")
