"""The one film in a multipart answer, however it is cut into pieces."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nofinding.clinical.network.multipart import MultipartError, boundary_of, only_part

HEAD = b"--b0\r\nContent-Type: application/dicom\r\n\r\n"
KIND = "multipart/related; type=application/dicom"


def cut(whole: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes in pieces of these sizes, and the rest as one."""
    pieces = []
    for size in sizes:
        pieces.append(whole[:size])
        whole = whole[size:]
    return [piece for piece in [*pieces, whole] if piece]


def part(whole: bytes, sizes: list[int] | None = None, most: int = 10_000) -> bytes:
    result = bytearray()
    only_part(cut(whole, sizes or []), b"b0", result.extend, most)
    return bytes(result)


@given(st.binary(max_size=200), st.lists(st.integers(1, 40), max_size=30), st.booleans())
def test_the_content_is_given_whole(body: bytes, sizes: list[int], preamble: bool) -> None:
    assume(b"--b0" not in body)
    before = b"to whom it may concern\r\n" if preamble else b""
    assert part(before + HEAD + body + b"\r\n--b0--\r\n", sizes) == body


FRAGMENTS = [HEAD, b"--b0", b"\r\n", b"--", b"\r\n--b0--", b"Content-Type: a/b", b"x" * 60, b"\xff"]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20), st.lists(st.integers(1, 9), max_size=90))
def test_whatever_comes_is_a_film_of_its_own_bytes_or_a_fault(
    fragments: list[bytes], sizes: list[int]
) -> None:
    answer = b"".join(fragments)
    try:
        result = part(answer, sizes, most=100)
    except MultipartError:
        return
    assert result in answer and len(result) <= 100 and b"\r\n--b0" not in result


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        (HEAD + b"x" * 10_001 + b"\r\n--b0--", "more than a film"),
        (b"x" * 9000 + b"\r\n" + HEAD + b"x\r\n--b0--", "more than a film"),
        (b"--b0\r\n" + b"X-Y: z\r\n" * 2000 + b"\r\nx\r\n--b0--", "more than a film"),
        (HEAD + b"half of it", "cut off"),
        (HEAD + b"all of it\r\n--b0", "cut off"),
        (b"", "cut off"),
        (b"--b0--\r\n", "cut off"),
        (HEAD.replace(b"b0", b"b1") + b"x\r\n--b1--", "cut off"),
        (HEAD + b"one\r\n" + HEAD + b"two\r\n--b0--", "more than the one film"),
        (HEAD.replace(b"dicom", b"dicom+json") + b"x\r\n--b0--", "something else than DICOM"),
    ],
)
def test_a_fault_is_told(whole: bytes, said: str) -> None:
    with pytest.raises(MultipartError, match=said):
        part(whole, [7] * 100)


def test_the_boundary_is_read_from_the_header() -> None:
    assert boundary_of(f"{KIND}; boundary=b0") == b"b0"
    assert boundary_of(f'{KIND}; boundary="a b;c"; x=y') == b"a b;c"
    assert boundary_of("application/dicom; transfer-syntax=1.2.840.10008.1.2.1") is None
    for other in ("text/html", "", KIND, f"{KIND}; boundary={'x' * 201}", "multipart/mixed"):
        with pytest.raises(MultipartError, match=r"something else than DICOM|boundary"):
            boundary_of(other)
    with pytest.raises(MultipartError, match="boundary"):
        boundary_of(f'{KIND}; boundary="ä"')
