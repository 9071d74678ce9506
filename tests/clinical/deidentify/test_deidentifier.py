"""The child that takes the person out: what it makes, and that a hostile file stops at it."""

import hmac
import subprocess
import sys
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from nofinding.clinical.deidentify.deidentifier import Deidentifier
from nofinding.clinical.deidentify.profile import Profile
from nofinding.data.decoding.decode import FilmFile
from nofinding.data.decoding.limits import FilmError
from support.encodings_of_films import film_in

KEY = b"0123456789abcdef"
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless,
            DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless)  # fmt: skip
RAMP = (np.arange(33 * 41, dtype=np.uint16) * 7).reshape(33, 41)


@pytest.fixture(scope="module")
def clean() -> Iterator[Deidentifier]:
    with Deidentifier(Profile(key=KEY)) as deidentifier:
        yield deidentifier


def saved(folder: Path, data: Dataset, name: str = "film.dcm") -> Path:
    data.save_as(folder / name, enforce_file_format=True)
    return folder / name


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_every_encoding_keeps_its_pixels(syntax: UID, clean: Deidentifier, tmp_path: Path) -> None:
    window = {"WindowCenter": "4000", "WindowWidth": "9000", "InstitutionName": "CANARY ward"}
    path = saved(tmp_path, film_in(syntax, RAMP, **window))
    place = tmp_path / "made.dcm"
    place.write_bytes(clean(path).data)
    read = dcmread(place)
    assert read.file_meta.TransferSyntaxUID == syntax and read.InstitutionName == "REMOVED"
    np.testing.assert_array_equal(FilmFile(place)(), FilmFile(path)())
    assert clean(path).data == place.read_bytes()  # and it is the same each time


def test_what_it_is_called(clean: Deidentifier, tmp_path: Path) -> None:
    data = film_in(None, RAMP)
    place = clean(saved(tmp_path, data))
    expected = hmac.digest(KEY, f"film|{data.SOPInstanceUID}".encode(), "sha256").hex()[:20]
    assert place.film == f"film-{expected}"  # as `cohort dicom:` calls it
    assert place.patient == dcmread(BytesIO(place.data)).PatientID
    assert place.burnt_in == "not stated"
    assert clean(saved(tmp_path, film_in(None, RAMP, BurnedInAnnotation="NO"))).burnt_in == "no"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "is neither a CR nor a DX image"),
        ({"BurnedInAnnotation": "YES"}, "burnt into its pixels"),
        ({"SOPInstanceUID": None}, "has no SOP Instance UID"),
        ({"NumberOfFrames": "2"}, "has more than one frame"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000"),
        ({"Rows": 34}, "is damaged or cut short"),
        ({"Rows": None}, "has no pixels"),
    ],
)
def test_what_is_no_film_is_refused(
    fault: dict[str, object], said: str, clean: Deidentifier, tmp_path: Path
) -> None:
    with pytest.raises(FilmError, match=said):
        clean(saved(tmp_path, film_in(None, RAMP, **fault)))


def test_hostile_files_stop_at_the_child(clean: Deidentifier, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = saved(tmp_path, film_in(ImplicitVRLittleEndian, RAMP)).read_bytes()
    deeper = bytes.fromhex("08004011 ffffffff feff00e0 ffffffff")  # a sequence and its first item
    for name, content in {
        "deep": whole + 20_000 * deeper,
        "text": b"PatientName=CANARY",
        "noise": bytes(128) + b"DICM" + rng.bytes(4000),
        "cut": whole[:900],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FilmError) as caught:
            clean(tmp_path / name)
        assert "CANARY" not in str(caught.value)
    assert clean(tmp_path / "film.dcm").data  # and the next film is made


def test_a_bomb_does_not_take_the_memory(clean: Deidentifier, tmp_path: Path) -> None:
    data = film_in(DeflatedExplicitVRLittleEndian, RAMP)
    path = saved(tmp_path, data)
    body = path.read_bytes()
    start = 132 + 12 + int.from_bytes(body[140:144], "little")  # of the deflated data set
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = b"\x99\x00\x10\x10OB\0\0" + (2**32 - 2**20).to_bytes(4, "little")
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands by itself
    path.write_bytes(body[:start] + first + 256 * block + packer.flush())
    with pytest.raises(FilmError):
        clean(path)


def test_the_child_does_not_import_torch_and_may_not_write() -> None:
    code = "import sys, nofinding.clinical.deidentify.child; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_child_is_confined_and_ends(tmp_path: Path) -> None:
    path = saved(tmp_path, film_in(None, RAMP))
    with Deidentifier(Profile(key=KEY)) as clean:
        clean(path)
        process = clean._child.process
        assert process is not None
        limits = Path(f"/proc/{process.pid}/limits")
        if not limits.exists():
            pytest.skip("no /proc on this system")
        lines = {line[:26].strip(): line[26:].split()[0] for line in limits.read_text().split("\n")
                 if line}  # fmt: skip
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    assert int(lines["Max address space"]) == 3 * 2**30 and lines["Max file size"] == "0"
    assert KEY not in command + environment and KEY.hex().encode() not in command + environment
    assert process.poll() is not None


def test_a_child_that_lies_is_not_believed(
    clean: Deidentifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, film_in(None, RAMP))
    metadata = {"film": "../../etc/x", "patient": "0" * 16, "study": "", "burnt_in": "no"}
    monkeypatch.setattr(clean._child, "ask", lambda *_, **__: (metadata, b""))
    with pytest.raises(RuntimeError, match="the child's film"):
        clean(path)
