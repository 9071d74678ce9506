"""DICOMweb against a real Orthanc, and against a server that does everything wrong."""

import json
import logging
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from nofinding.clinical.network import dicomweb
from nofinding.clinical.network.dicomweb import Archive, FilmReference, days_of
from nofinding.clinical.network.outgoing import outgoing
from nofinding.datasets.examples import Copy
from nofinding.errors import UserError
from nofinding.net.answers import HttpError, SilentError
from nofinding.net.http import BASIC, TOKEN, BoundedSession
from support.hostile import answer, answering
from support.orthanc import Orthanc

ROOT = "1.2.826.0.1.3680043.8.498"
STUDY, SERIES = f"{ROOT}.1", f"{ROOT}.2"
TAGS = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "PatientID": "CANARY-7",
        "PatientName": "Canary^Bird", "StudyDate": "20240105"}  # fmt: skip
WANTED = FilmReference(study=STUDY, series=SERIES, instance=f"{ROOT}.3")
KIND = 'multipart/related; type="application/dicom"; boundary=b0'


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "WAITS", (0.0, 0.0))
    for name in (TOKEN, BASIC):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("archive")) as running:
        yield running


def a_film(folder: Path, number: int = 0, **tags: object) -> Path:
    copy = Copy(root=folder / f"film-{number}", patients=8, seed=0, size=64)
    return copy.dicom(f"{number}.dcm", copy.film(number), **(TAGS | tags))


# --- a real archive ---------------------------------------------------------------------------


def test_what_is_stored_is_found_and_comes_back_as_it_was(archive: Orthanc, tmp_path: Path) -> None:
    film = a_film(tmp_path)
    here = Archive(archive.dicomweb)
    assert here.store([outgoing(film)]) == []
    (result,) = here.films(STUDY, 8)
    assert result.instance == dcmread(film).SOPInstanceUID and result.series == SERIES
    here.retrieve(result, tmp_path / "back.dcm")
    assert (tmp_path / "back.dcm").read_bytes() == film.read_bytes()
    assert (tmp_path / "back.dcm").stat().st_mode & 0o077 == 0
    assert STUDY in here.studies(days="20240101-20240131")
    assert here.studies(patient="CANARY-7") == here.studies(days="20240105", patient="CANARY-7")
    assert here.studies(days="20250101") == here.studies(patient="CANARY") == []


def test_a_compressed_film_comes_as_it_is_stored(archive: Orthanc, tmp_path: Path) -> None:
    film = a_film(tmp_path, 3, StudyInstanceUID=f"{ROOT}.61", SeriesInstanceUID=f"{ROOT}.62")
    data = dcmread(film)
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(film)
    archive.put(film)
    here = Archive(archive.dicomweb)
    (result,) = here.films(f"{ROOT}.61", 8)
    here.retrieve(result, tmp_path / "back.dcm")
    assert (tmp_path / "back.dcm").read_bytes() == film.read_bytes()


def test_the_same_object_again_is_one(archive: Orthanc, tmp_path: Path) -> None:
    film = a_film(tmp_path, 1, StudyInstanceUID=f"{ROOT}.71", SeriesInstanceUID=f"{ROOT}.72")
    here = Archive(archive.dicomweb)
    before = len(archive.instances())
    assert here.store([outgoing(film)]) == here.store([outgoing(film)]) == []
    assert len(archive.instances()) == before + 1


def test_only_films_are_taken_from_a_study(archive: Orthanc, tmp_path: Path) -> None:
    of = {"StudyInstanceUID": f"{ROOT}.81", "StudyDate": "20230301"}
    kinds = {
        "DX": dicomweb.FILMS[1],
        "CR": dicomweb.FILMS[0],
        "SR": "1.2.840.10008.5.1.4.1.1.88.33",
    }
    raw = "1.2.840.10008.5.1.4.1.1.1.1.1"
    for number, (modality, sop_class) in enumerate([*kinds.items(), ("DX", raw)]):
        tags = of | {"SeriesInstanceUID": f"{ROOT}.82.{number}", "SOPClassUID": sop_class}
        archive.put(a_film(tmp_path, number, modality=modality, **tags))
    result = Archive(archive.dicomweb).films(f"{ROOT}.81", 8)
    assert {film.series for film in result} == {f"{ROOT}.82.0", f"{ROOT}.82.1"}
    with pytest.raises(HttpError, match="over 1 films of one study"):
        Archive(archive.dicomweb).films(f"{ROOT}.81", 1)
    assert Archive(archive.dicomweb).films(f"{ROOT}.99", 8) == []
    for text in ("1", "1.02", "1.2/../3", f"1.{'2' * 63}", "1.2\n", ""):
        with pytest.raises(UserError, match="--study: is no UID"):
            Archive(archive.dicomweb).films(text, 8)


def test_what_it_has_not_and_what_it_will_not_take(archive: Orthanc, tmp_path: Path) -> None:
    here = Archive(archive.dicomweb)
    with pytest.raises(HttpError, match="answered 404") as error:
        here.retrieve(WANTED, tmp_path / "back.dcm")
    assert ROOT not in str(error.value) and not list(tmp_path.iterdir())
    film = a_film(tmp_path, 2, StudyInstanceUID=f"{ROOT}.91")
    sent = outgoing(film)
    film.write_bytes(b"no DICOM at all")
    (refused,) = here.store([sent])
    assert refused.name == "2.dcm" and "does not say that it has it" in refused.why


def test_a_login_is_asked_for_and_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Orthanc(tmp_path, login=("ward", "s3cret-canary")) as locked:
        with pytest.raises(HttpError, match="answered 401: is the login"):
            Archive(locked.dicomweb).studies(days="20240101")
        secret = tmp_path / "login"
        secret.write_text("basic ward:s3cret-canary\n")
        secret.chmod(0o600)
        assert Archive(locked.dicomweb, login=secret).studies(days="20240101") == []
        monkeypatch.setenv(BASIC, "ward:wrong-canary")
        caplog.set_level(logging.DEBUG)
        with pytest.raises(HttpError, match="401") as error:
            Archive(locked.dicomweb).studies(patient="CANARY-7")
        assert "canary" not in (str(error.value) + caplog.text).lower()


# --- a server that does everything wrong ------------------------------------------------------


def multipart(body: bytes, kind: str = KIND) -> bytes:
    return answer(b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n--b0--", kind)


def endless(start: bytes) -> Iterator[bytes]:
    yield start
    while True:
        yield b"x" * 2**16


def trickle(start: bytes) -> Iterator[bytes]:
    yield start
    while True:
        time.sleep(0.05)
        yield b"x"


OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n" % KIND.encode()
HUGE = OPEN + b"Content-Length: 4294967296\r\n\r\n--b0\r\n\r\n"
FAULTS = {
    "endless": (lambda _: endless(OPEN + b"\r\n--b0\r\n\r\n"), "more than a film may have"),
    "endless headers": (lambda _: endless(b"HTTP/1.1 200 OK\r\nX: "), "does not answer|cut off"),
    "huge Content-Length": (lambda _: endless(HUGE), "more than a film may have"),
    "huge, and then nothing": (lambda _: [HUGE, b"few"], "cut off"),
    "another boundary": (lambda _: [multipart(b"x").replace(b"--b0", b"--b1")], "cut off"),
    "cut off": (lambda _: [multipart(b"x" * 99)[:-40]], "cut off"),
    "cut off, chunked": (
        lambda _: [OPEN + b"Transfer-Encoding: chunked\r\n\r\nff\r\n--b0\r\n\r\nx"], "cut off"),
    "a page of HTML": (lambda _: [answer(b"<p>Bird^Canary</p>", "text/html")], "else than DICOM"),
    "an error": (lambda _: [answer(b"Bird^Canary", status="500 No")], "answered 500"),
    "busy": (lambda _: [answer(b"", status="503 Busy")], "answered 503"),
    "elsewhere": (
        lambda _: [answer(b"", status="302 Found", Location="http://127.0.0.1:9/Canary")],
        "leads to another address"),
    "compressed": (
        lambda _: [answer(b"x", KIND, Content_Encoding="gzip")], "compressed"),
    "two films": (lambda _: [multipart(b"a\r\n--b0\r\n\r\nb")], "more than the one film"),
    "no end known": (
        lambda _: [b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\n\r\nhalf"],
        "nobody knows the end"),
    "silent": (lambda _: (time.sleep(2), b"")[1:], "does not answer"),
    "slow": (lambda _: trickle(OPEN + b"\r\n--b0\r\n\r\n"), r"took over 0\.3 s"),
    "slow headers": (lambda _: trickle(b"HTTP/1.1 200 OK\r\nX: "), r"took over 0\.3 s"),
    "no HTTP": (lambda _: [b"Canary\r\n\r\n"], "does not answer|cut off"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    reply, said = FAULTS[fault]
    caplog.set_level(logging.DEBUG)
    with answering(reply) as server:
        here = Archive(server.address)
        here.session.seconds, here.session.exchange = 0.2, 0.3 if "slow" in fault else 20
        here.session.film_most = 2**20
        with pytest.raises(HttpError, match=said) as error:
            here.retrieve(WANTED, tmp_path / "back.dcm")
        tries = 3 if isinstance(error.value, SilentError) or fault == "busy" else 1
        assert len(server.asked) <= tries
    assert not list(tmp_path.iterdir())
    text = str(error.value)
    assert len(text.splitlines()) == 1 and text.startswith(f"--archive {server.address}: ")
    calls = text + caplog.text + "".join(capsys.readouterr())
    assert "canary" not in calls.lower() and ROOT not in calls


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "else than DICOM JSON"),
        (b'"text"', "else than DICOM JSON"),
        (b"[1, 2]", "else than DICOM JSON"),
        (b"[" * 200_000, "else than DICOM JSON"),
        (b"\xff\xfe", "else than DICOM JSON"),
        (b'[{"0020000D": {"vr": "UI", "Value": ["../../etc"]}}]', "without a valid UID"),
        (b'[{"0020000D": 7}]', "without a valid UID"),
        (b"[" + b" " * 2**20 + b"]", "more than 0 MiB"),
    ],
)
def test_a_search_takes_only_what_it_understands(
    body: bytes, said: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with answering(lambda _: [answer(body)]) as server:
        here = Archive(server.address)
        here.session.most = 2**19
        with pytest.raises(HttpError, match=said):
            here.studies(patient="CANARY-7")
    assert "CANARY" not in caplog.text and "CANARY" not in capsys.readouterr().err


def page(first: int, count: int) -> bytes:
    message = [
        {"0020000D": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(first, first + count)
    ]
    return answer(json.dumps(message).encode())


def test_pages_are_followed_to_their_end_and_no_further() -> None:
    with answering(
        lambda asked: [page(200, 50) if "offset=200" in asked else page(0, 200)]
    ) as all_:
        assert len(Archive(all_.address).studies(days="20240101")) == 250
    with answering(lambda _: [page(0, 200)]) as same:  # does not know of pages
        assert len(Archive(same.address).studies(days="20240101")) == 200
        assert len(same.asked) == 4  # CR and DX, twice


def test_an_archive_that_ignores_the_patient_is_not_believed() -> None:
    metadata = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}
    other = metadata | {"00100020": {"vr": "LO", "Value": ["P-2"]}}
    with answering(lambda _: [answer(json.dumps([other]).encode())]) as server:
        assert Archive(server.address).studies(patient="P-1") == []
    for text in ("*", "P-?", "", " "):
        with pytest.raises(UserError, match="one PatientID"):
            Archive("http://127.0.0.1:9/x").studies(patient=text)


def test_a_busy_archive_is_asked_again() -> None:
    replies = iter([answer(b"", status="503 Busy"), page(0, 1), page(0, 1)])
    with answering(lambda _: [next(replies)]) as server:
        assert Archive(server.address).studies(days="20240101") == ["1.2.0"]


def stored(film: Path, **elements: list[object]) -> bytes:
    names = {"failed": "00081198", "stored": "00081199"}
    return json.dumps({names[k]: {"vr": "SQ", "Value": v} for k, v in elements.items()}).encode()


def test_what_is_not_taken_is_told_object_by_object(tmp_path: Path) -> None:
    objects = [outgoing(a_film(tmp_path, number)) for number in range(3)]
    items = [{"00081155": {"vr": "UI", "Value": [one.instance]}} for one in objects]
    items[0] |= {"00081197": {"vr": "US", "Value": [0xA700]}}
    body = stored(tmp_path, failed=items[:1], stored=items[1:2])
    with answering(lambda _: [answer(body, status="202 Accepted")]) as server:
        refused = Archive(server.address).store(objects)
    assert [(one.name, one.why) for one in refused] == [
        ("0.dcm", "failure A700"),
        ("2.dcm", "the archive does not say that it has it"),
    ]
    body = stored(tmp_path, failed=items[:1])
    with answering(lambda _: [answer(body, status="409 Conflict")]) as server:
        assert len(Archive(server.address).store(objects[:1])) == 1
    with (
        answering(lambda _: [answer(b"<a/>", "application/dicom+xml")]) as server,
        pytest.raises(HttpError, match="else than DICOM JSON"),
    ):
        Archive(server.address).store(objects)


def test_many_objects_go_in_several_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = [outgoing(a_film(tmp_path, number)) for number in range(3)]
    items: list[object] = [{"00081155": {"vr": "UI", "Value": [o.instance]}} for o in objects]
    monkeypatch.setattr(dicomweb, "BATCH", 2 * objects[0].size)
    with answering(lambda _: [answer(stored(tmp_path, stored=items))]) as server:
        assert Archive(server.address).store(objects) == []
        assert [line.split()[0] for line in server.asked] == ["POST", "POST"]


# --- logins and addresses ---------------------------------------------------------------------


def test_a_token_goes_along_and_netrc_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password netrc-canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with answering(lambda _: [page(0, 1)]) as server:
        Archive(server.address).studies(days="20240101")
        assert not any(line.startswith("authorization") for line in server.headers)
        assert f"host: {server.address.split('/')[2]}" in server.headers
        monkeypatch.setenv(TOKEN, "abc.def")
        Archive(server.address).studies(days="20240101")
        assert "authorization: bearer abc.def" in server.headers


@pytest.mark.parametrize(
    "address",
    ["http://ward:canary@127.0.0.1/x", "https://a/x?token=canary", "ftp://a/x", "dicom-web",
     "https://", "http://a:99999/x", "https://a/x y", "https://a/x#canary"],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UserError, match="--archive") as error:
        Archive(address)
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("bearer abc", 0o644, "others may read it"),
        ("abc", 0o600, "holds one line"),
        ("digest abc", 0o600, "holds one line"),
        ("basic canary", 0o600, "is not USER:PASSWORD"),
        ("bearer ca\nnary", 0o600, "is not a token"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_what_is_no_login(text: str | None, mode: int, said: str, tmp_path: Path) -> None:
    file = tmp_path / "login"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(UserError, match=said) as error:
        Archive("https://archive.example/x", login=file)
    assert "canary" not in str(error.value)


def test_a_login_does_not_go_over_http_or_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "canary")
    with pytest.raises(UserError, match="not sent over http"):
        Archive("http://archive.example/x")
    Archive("https://archive.example/x")
    monkeypatch.setenv(BASIC, "a:canary")
    with pytest.raises(UserError, match="both set"):
        Archive("https://archive.example/x")


def test_certificates_are_looked_at(tmp_path: Path) -> None:
    session = BoundedSession("https://archive.example", name="--archive", accept="*/*")
    assert session.verify is True and session.trust_env is False
    with pytest.raises(UserError, match="is not a file"):
        Archive("https://archive.example", ca=tmp_path / "no.pem")


def test_a_certificate_must_be_trusted(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    own, key = tmp_path / "own.pem", tmp_path / "key.pem"
    outputs = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
            "/CN=archive", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out",
            own]  # fmt: skip
    subprocess.run(outputs, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    with answering(lambda _: [page(0, 1)], context) as server:
        with pytest.raises(HttpError, match="certificate is not trusted"):
            Archive(server.address).studies(days="20240101")
        assert not server.asked
        assert Archive(server.address, ca=own).studies(days="20240101") == ["1.2.0"]
    with answering(lambda _: trickle(OPEN + b"\r\n--b0\r\n\r\n"), context) as slow:
        here = Archive(slow.address, ca=own)
        here.session.exchange = 0.3
        with pytest.raises(HttpError, match="took over"):
            here.retrieve(WANTED, tmp_path / "back.dcm")


@pytest.mark.parametrize("text", ["2024", "20240132", "20240102-20240101", "20240101-", "",
                                  "20240101-20240102-20240103", "2024-01-01"])  # fmt: skip
def test_what_is_no_range_of_days(text: str) -> None:
    with pytest.raises(UserError, match="--date"):
        days_of(text)


def test_days_are_days() -> None:
    assert days_of("20240229") == "20240229"
    assert days_of("20240101-20240101") == "20240101-20240101"
