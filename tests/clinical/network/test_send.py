"""C-STORE out: to Orthanc, and to peers that refuse, break off or say nothing."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    DigitalXRayImageStorageForPresentation,
    Verification,
)

from nofinding.clinical.network import send as sending
from nofinding.clinical.network.outgoing import Outgoing, outgoing
from nofinding.clinical.network.send import Peer, send
from nofinding.datasets.examples import Copy
from nofinding.errors import UserError
from support.orthanc import Orthanc, free_port

ROOT = "1.2.826.0.1.3680043.8.498"
TAGS = {"StudyInstanceUID": f"{ROOT}.1", "SeriesInstanceUID": f"{ROOT}.2",
        "PatientID": "CANARY-7", "PatientName": "Canary^Bird"}  # fmt: skip


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "WAITS", (0.0, 0.0))


@pytest.fixture
def objects(tmp_path: Path) -> list[Outgoing]:
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=64)
    return [outgoing(copy.dicom(f"{n}.dcm", copy.film(n), **TAGS)) for n in range(3)]


@contextmanager
def peer(
    store: Callable[[Any], int],
    *,
    echo: int = 0,
    more: Sequence[Any] = (),
    syntax: str = ExplicitVRLittleEndian,
    **settings: Any,
) -> Iterator[Peer]:
    """An SCP that answers C-STORE with what `store` gives."""
    ae = AE(ae_title="PEER")
    ae.add_supported_context(Verification)
    ae.add_supported_context(DigitalXRayImageStorageForPresentation, syntax)
    for name, value in settings.items():
        setattr(ae, name, value)
    handlers: list[Any] = [(evt.EVT_C_STORE, store), (evt.EVT_C_ECHO, lambda event: echo), *more]
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Peer(title="PEER", host="127.0.0.1", port=server.server_address[1])
    finally:
        server.shutdown()


def test_orthanc_takes_them_as_they_are(tmp_path: Path, objects: list[Outgoing]) -> None:
    with Orthanc(tmp_path) as archive:
        to = Peer.parse(archive.dicom)
        assert send(objects, to, title="NOFINDING") == send(objects, to, title="NOFINDING") == []
        stored = [archive.file(instance) for instance in archive.instances()]
        (tmp_path / "kept.dcm").write_bytes(stored[0])
        with pytest.raises(UserError, match="does not let us in"):
            send(objects, Peer(title="OTHER", host=to.host, port=to.port), title="NOFINDING")
    assert len(stored) == 3
    back = dcmread(tmp_path / "kept.dcm")
    (sent,) = (dcmread(o.path) for o in objects if o.instance == back.SOPInstanceUID)
    assert back == sent and back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_a_peer_that_reads_implicit_vr_alone_gets_that(objects: list[Outgoing]) -> None:
    taken = []

    def store(event: Any) -> int:
        taken.append((event.context.transfer_syntax, event.dataset))
        return 0

    with peer(store, syntax=ImplicitVRLittleEndian) as to:
        assert send(objects[:1], to, title="NOFINDING") == []
    ((syntax, dataset),) = taken
    assert syntax == ImplicitVRLittleEndian
    assert dataset.PixelData == dcmread(objects[0].path).PixelData


@pytest.mark.parametrize(
    ("status", "why", "calls"),
    [
        (0xA700, "has no room (status A700)", 9),
        (0xA900, "status A900", 3),
        (0xC000, "status C000", 3),
        (0x0122, "status 0122", 3),
        (0xB000, None, 3),
    ],
)
def test_each_status_is_looked_at(
    status: int, why: str | None, calls: int, objects: list[Outgoing],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    observed = []

    def store(event: Any) -> int:
        observed.append(str(event.request.AffectedSOPInstanceUID))
        return status

    caplog.set_level(logging.DEBUG)
    with peer(store) as to:
        refused = send(objects, to, title="NOFINDING")
    assert len(observed) == calls
    names = [one.path.name for one in objects]
    assert [(r.name, r.why) for r in refused] == ([(n, why) for n in names] if why else [])
    assert ROOT not in caplog.text and "CANARY" not in caplog.text.upper()


def test_what_was_taken_is_not_sent_again(objects: list[Outgoing]) -> None:
    calls: list[str] = []

    def store(event: Any) -> int:
        calls.append(str(event.request.AffectedSOPInstanceUID))
        return 0xA700 if len(calls) == 2 else 0

    with peer(store) as to:
        assert send(objects, to, title="NOFINDING") == []
    uids = [one.instance for one in objects]
    assert calls == [*uids, uids[1]]


def test_an_association_that_breaks_is_made_again(objects: list[Outgoing]) -> None:
    calls: list[str] = []

    def store(event: Any) -> int:
        calls.append(str(event.request.AffectedSOPInstanceUID))
        if len(calls) == 2:
            event.assoc.abort()
        return 0

    with peer(store) as to:
        assert send(objects, to, title="NOFINDING", seconds=0.7) == []
    uids = [one.instance for one in objects]
    assert calls == [uids[0], uids[1], uids[1], uids[2]]


def test_a_peer_that_always_breaks_off_is_given_up(objects: list[Outgoing]) -> None:
    calls = []

    def store(event: Any) -> int:
        calls.append(1)
        event.assoc.abort()
        return 0

    with peer(store) as to:
        refused = send(objects, to, title="NOFINDING", seconds=0.7)
    assert len(refused) == len(calls) == 3
    assert {one.why for one in refused} == {"broke off, or did not answer"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"require_called_aet": True, "ae_title": "ELSE"}, "does not let us in"),
        ({"require_calling_aet": ["ELSE"]}, "does not let us in"),
    ],
)
def test_who_is_not_let_in_says_so(
    settings: dict[str, Any], said: str, objects: list[Outgoing]
) -> None:
    with peer(lambda event: 0, **settings) as to, pytest.raises(UserError, match=said) as error:
        send(objects, to, title="NOFINDING")
    assert len(str(error.value).splitlines()) == 1


def test_a_peer_that_is_full_is_asked_again_and_a_strict_one_is_not(
    objects: list[Outgoing],
) -> None:
    rejected: list[Any] = []
    handler = (evt.EVT_REJECTED, rejected.append)
    with peer(lambda event: 0, more=[handler], maximum_associations=1) as to:
        ae = AE(ae_title="OTHER")
        ae.add_requested_context(Verification)
        held = ae.associate(to.host, to.port, ae_title=to.title)
        with pytest.raises(UserError, match="does not let us in"):
            send(objects, to, title="NOFINDING")
        held.release()
    assert len(rejected) == 3
    with (
        peer(lambda event: 0, more=[handler], require_calling_aet=["ELSE"]) as to,
        pytest.raises(UserError, match="does not let us in"),
    ):
        send(objects, to, title="NOFINDING")
    assert len(rejected) == 4


def test_echo_comes_first(objects: list[Outgoing]) -> None:
    calls: list[Any] = []
    with (
        peer(lambda event: calls.append(1) or 0, echo=0x0122) as to,
        pytest.raises(UserError, match="does not answer C-ECHO"),
    ):
        send(objects, to, title="NOFINDING")
    assert not calls


def test_objects_that_a_peer_has_no_context_for(objects: list[Outgoing]) -> None:
    other = Outgoing(path=objects[0].path, sop_class="1.2.840.10008.5.1.4.1.1.88.33",
                     instance="1.2.3", syntax=ExplicitVRLittleEndian, size=1)  # fmt: skip
    with peer(lambda event: 0) as to:
        refused = send([other, *objects], to, title="NOFINDING")
    assert [one.why for one in refused] == ["objects of its kind are not taken"]


def test_silence_has_an_end(objects: list[Outgoing]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        taken: list[socket.socket] = []
        thread = threading.Thread(target=lambda: taken.extend(silent.accept()[0] for _ in range(3)))
        thread.start()
        to = Peer(title="PEER", host="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(UserError, match="does not answer"):
            send(objects, to, title="NOFINDING", seconds=0.2)
        thread.join()
    assert len(taken) == 3  # and no more
    for one in taken:
        one.close()
    nobody = Peer(title="PEER", host="127.0.0.1", port=free_port())
    with pytest.raises(UserError, match="does not answer"):
        send(objects, nobody, title="NOFINDING", seconds=0.2)


def test_peers_as_they_are_written() -> None:
    assert Peer.parse("ARCHIVE@10.0.0.5:104") == Peer(title="ARCHIVE", host="10.0.0.5", port=104)
    assert str(Peer.parse("A B@[::1]:104")) == "A B@[::1]:104"
    for text in ("", "A@b", "@b:1", "A@b:0", "A@b:65536", "A@b:c", f"{'A' * 17}@b:1", "A\\B@c:1",
                 "A@b c:1", "Ä@b:1", "A@:1", " @b:1", "A@[::1:1"):  # fmt: skip
        with pytest.raises(UserError, match="--peer"):
            Peer.parse(text)
