"""C-STORE: on the disk before the sender is told so, and only from those who may."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    Verification,
)

from nofinding.cli import main
from nofinding.datasets.examples import Copy
from nofinding.errors import UserError
from nofinding.service.intake import dicom_store
from nofinding.service.intake.dicom_store import Listener, ListenOptions
from nofinding.service.store.spool import Received, Spool

TAGS = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2", "PatientID": "CANARY-7"}
KEY = b"0123456789abcdef"
HOME = Path("home")  # which these tests do not use


@pytest.fixture
def film(tmp_path: Path) -> Path:
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    return copy.dicom("film.dcm", copy.film(0), **TAGS)


@pytest.fixture
def arrived() -> list[Received]:
    return []


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", KEY, keep_free=0)


@pytest.fixture
def listener(spool: Spool, arrived: list[Received]) -> Iterator[Listener]:
    options = ListenOptions(port=0, home=HOME, accept=["SCANNER"], associations=3, seconds=5)
    with Listener(options, spool, arrived.append) as running:
        yield running


def send(port: int, film: Path, sender: str = "SCANNER", called: str = "NOFINDING") -> int | None:
    """The status of a C-STORE; None where the association is not accepted."""
    ae = AE(ae_title=sender)
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    status = association.send_c_store(dcmread(film))
    association.release()
    return int(status.Status)


def test_a_film_is_on_the_disk_as_it_was_sent(
    listener: Listener, film: Path, arrived: list[Received]
) -> None:
    assert send(listener.port, film) == 0
    (received,) = arrived
    stored, sent = dcmread(received.path), dcmread(film)
    assert stored.PixelData == sent.PixelData and stored.SOPInstanceUID == sent.SOPInstanceUID
    assert stored.file_meta.TransferSyntaxUID in dicom_store.SYNTAXES
    assert sent.SOPInstanceUID not in received.path.name and "CANARY" not in received.path.name


def test_the_same_film_again_is_one_file_and_other_pixels_are_two(
    listener: Listener, film: Path, arrived: list[Received], spool: Spool
) -> None:
    assert send(listener.port, film) == send(listener.port, film) == 0
    assert arrived[0] == arrived[1] and len(list(spool.folder.iterdir())) == 1
    data = dcmread(film)
    data.PixelData = bytes(reversed(data.PixelData))
    data.save_as(film)
    assert send(listener.port, film) == 0
    assert arrived[2].film == arrived[0].film and arrived[2].digest != arrived[0].digest
    assert len(list(spool.folder.iterdir())) == 2


@pytest.mark.parametrize(("sender", "called"), [("STRANGER", "NOFINDING"), ("SCANNER", "OTHER")])
def test_others_are_not_let_in(
    spool: Spool, film: Path, sender: str, called: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = ListenOptions(port=0, home=HOME, accept=["SCANNER"], only_called=True)
    with Listener(options, spool, lambda received: None) as listener:
        assert send(listener.port, film, sender, called) is None
        assert send(listener.port, film) == 0
    why = "--accept does not name it" if sender == "STRANGER" else "it calls 'OTHER'"
    assert f"{sender!r} was turned away: {why}" in caplog.text


def test_whatever_they_call_us_they_are_let_in(
    listener: Listener, film: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert send(listener.port, film, called="ANY-SCP") == 0  # as storescu does, untold
    assert send(listener.port, film, "STRANGER", "ANY-SCP") is None
    assert "'STRANGER' was turned away: --accept does not name it" in caplog.text


def test_echo_and_what_is_no_film(listener: Listener) -> None:
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(Verification)
    ae.add_requested_context(CTImageStorage)
    association = ae.associate("127.0.0.1", listener.port, ae_title="NOFINDING")
    assert association.send_c_echo().Status == 0
    refused = [context.abstract_syntax for context in association.rejected_contexts]
    association.release()
    assert refused == [CTImageStorage]


def test_a_full_disk_and_a_full_queue_are_told(
    spool: Spool, film: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(received: Received) -> None:
        raise RuntimeError("the queue is full")

    options = ListenOptions(port=0, home=HOME, accept=["SCANNER"], seconds=5)
    with Listener(options, spool, full) as running:
        assert send(running.port, film) == 0xA700
    roomy = Spool(tmp_path / "other", KEY, keep_free=2**62)
    with Listener(options, roomy, lambda received: None) as running:
        assert send(running.port, film) == 0xA700
    assert not list(roomy.folder.iterdir())

    def broken(descriptor: int) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr("nofinding.storage.atomic.os.fsync", broken)
    empty = Spool(tmp_path / "third", KEY, keep_free=0)
    with Listener(options, empty, lambda received: None) as running:
        assert send(running.port, film) == 0xA700
    assert not list(empty.folder.iterdir())


def test_who_announces_more_than_memory_holds_is_cut_off(listener: Listener) -> None:
    with socket.create_connection(("127.0.0.1", listener.port), 3) as stranger:
        stranger.sendall(b"\x01\x00" + (2**32 - 1).to_bytes(4, "big") + bytes(100))
        stranger.settimeout(3)
        assert stranger.recv(1) == b""


def test_an_object_that_does_not_end_is_cut_off(
    listener: Listener, film: Path, arrived: list[Received], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(listener.port, film) == send(listener.port, film) == 0
    monkeypatch.setattr(dicom_store, "LARGEST", 2000)
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    data = dcmread(film)
    data.PixelData = bytes(2**20)
    association = ae.associate("127.0.0.1", listener.port, ae_title="NOFINDING")
    assert "Status" not in association.send_c_store(data)
    assert len(arrived) == 2


def test_more_than_allowed_wait_outside(listener: Listener) -> None:
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(Verification)
    held = [ae.associate("127.0.0.1", listener.port, ae_title="NOFINDING") for _ in range(4)]
    established = [association.is_established for association in held]
    for association in held:
        association.release()
    assert established == [True, True, True, False]


def test_storescu_sends_a_film(listener: Listener, film: Path, arrived: list[Received]) -> None:
    command = ["storescu", "-aet", "SCANNER", "-aec", "NOFINDING", "127.0.0.1"]
    try:
        subprocess.run([*command, str(listener.port), str(film)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("storescu (dcmtk) is not installed")
    assert len(arrived) == 1


def test_left_overs_of_a_killed_process_are_cleared_and_not_what_is_being_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "spool").mkdir()
    old, new = (tmp_path / "spool" / f".film.dcm.{name}.tmp" for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert [*Spool(tmp_path / "spool", KEY).folder.iterdir()] == [new]


def test_an_upload_that_nobody_writes_any_more_is_cleared_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", KEY, keep_free=0)
    (held, descriptor), (dropped, other) = spool.open_temporary(), spool.open_temporary()
    os.close(other)  # as a kill does
    assert [*Spool(tmp_path / "spool", KEY).folder.iterdir()] == [held] != [dropped]
    os.write(descriptor, b"film")
    received = spool.adopt(held, "1.2.3", "ab" * 32, ".dcm")
    assert received.path.read_bytes() == b"film" and not held.exists()
    assert received == spool.adopt(tmp_path / "again", "1.2.3", "ab" * 32, ".dcm")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accept": ()}, "--accept is missing"),
        ({"title": "x" * 17}, "1 to 16 ASCII"),
        ({"associations": 0}, "--associations 0"),
        ({"port": 70000}, "--port 70000"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ListenOptions(**({"home": HOME, "accept": ["A"]} | changes))  # type: ignore[arg-type]


def test_a_model_that_is_none_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert main(["listen", "--home", str(home), "--accept", "PACS", "--model", "nowhere"]) == 2
    assert capsys.readouterr().err == "nofinding: --model nowhere: holds no model.json\n"
    assert not home.exists()
