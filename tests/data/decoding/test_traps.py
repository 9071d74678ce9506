"""Files that are made, or happen, to break a reader: each is refused in one line, within bounds."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from rle.rle import decode_frame

from nofinding.data.decoding import codec, decode
from nofinding.data.decoding.decode import (
    FilmFile,
    VolumeFile,
    read_header,
    read_identity,
    read_studies,
)
from nofinding.errors import UserError
from support.dicom_film import (
    PIXELS,
    RAMP,
    film,
    in_bytes,
    plain,
    read,
    sequences,
    with_frame,
    with_syntax,
)

HTJ2K = Path(__file__).parent / "coded" / "ramp.htj2k"  # of RAMP, by OpenJPH
MIB = 2**20


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Starts with a fresh decoder; tells the most memory (MiB) that one had, so far or at its
    end."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")
    most = [0]

    def look(child: decode._Child) -> None:
        if child.process is not None and child.process.poll() is None:
            message = Path(f"/proc/{child.process.pid}/status").read_text().splitlines()
            lines = [int(line.split()[1]) for line in message if line.startswith("VmHWM")]
            most[0] = max(most[0], *lines, 0)

    def close(self: decode._Child, own: Callable[..., None] = decode._Child.close) -> None:
        look(self)
        own(self)

    decode._child.close()
    monkeypatch.setattr(decode._Child, "close", close)

    def memory() -> int:
        look(decode._child)
        return most[0] // 1024

    return memory


def frame_of(syntax: str, pixels: np.ndarray = RAMP) -> bytes:
    """The one frame of a film that was compressed."""
    if syntax == HTJ2KLossless:
        assert pixels is RAMP
        return HTJ2K.read_bytes()
    dataset = film(pixels)
    dataset.compress(syntax, generate_instance_uid=False)
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def claims(frame: bytes, wide: int, high: int) -> bytes:
    """A JPEG 2000 codestream that says it is so large, in one tile."""
    return frame[:8] + struct.pack(">8I", wide, high, 0, 0, wide, high, 0, 0) + frame[40:]


def boxed(frame: bytes, before: bytes = b"") -> bytes:
    """A JPEG 2000 file: boxes, of which the last is the codestream."""
    start = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s4sI4s", 20, b"ftyp", b"jp2 ", 0, b"jp2 ")
    sizes = struct.pack(">IIHBBBB", *RAMP.shape, 1, 15, 7, 0, 0)
    colours = struct.pack(">I4sBBBI", 15, b"colr", 1, 0, 0, 17)
    header = struct.pack(">I4s", 22, b"ihdr") + sizes + colours
    start += struct.pack(">I4s", 8 + len(header), b"jp2h") + header
    other = struct.pack(">I4s", 8 + len(before), b"free") + before if before else b""
    return start + other + struct.pack(">I4s", 8 + len(frame), b"jp2c") + frame


def test_a_kilobyte_of_jpeg_2000_that_claims_60000_x_60000(
    tmp_path: Path, peak: Callable[[], int]
) -> None:
    small = frame_of(JPEG2000Lossless, np.zeros((32, 40), np.uint16))
    bomb = claims(small, 60_000, 60_000).ljust(998, b"\0")
    assert len(bomb) == 998
    with pytest.raises(UserError, match="do not fit its rows and columns"):
        read(tmp_path, with_frame(bomb, JPEG2000Lossless))
    with pytest.raises(UserError, match="60000 x 60000 pixels; at most"):
        read(tmp_path, with_frame(bomb, JPEG2000Lossless, film(Rows=60_000, Columns=60_000)))
    assert 0 < peak() < 200


@pytest.mark.parametrize("where", ["header", "pixels"])
@pytest.mark.parametrize("asked", [FilmFile.__call__, read_header, read_identity, read_studies])
def test_a_megabyte_that_inflates_to_a_gigabyte(
    tmp_path: Path, peak: Callable[[], int], where: str, asked: Callable[..., object]
) -> None:
    """Under the limit of memory, so that only the cap can have stopped it."""
    size = 2**30
    whole = plain(film(), DeflatedExplicitVRLittleEndian)
    body = in_bytes(film())
    start = body.index(b"\x08\x00")  # the first element after those of the file
    tag = b"\xdf\x7f\x10\x00OB\0\0" if where == "header" else PIXELS + b"OW\0\0"
    elements = body[start : body.index(PIXELS)] + tag + struct.pack("<I", size)
    bomb = tmp_path / "bomb.dcm"
    bomb.write_bytes(whole[: deflated_from(whole)] + deflated(elements, size // MIB))
    assert bomb.stat().st_size < 1.1 * MIB
    if asked is read_studies:
        (metadata,) = read_studies([bomb], 1)
        refused = metadata.get("unfit")
    else:
        try:
            refused = None if asked(FilmFile(bomb) if asked is FilmFile.__call__ else bomb) else ""
        except UserError as error:
            refused = str(error)
    if where == "header" or asked is FilmFile.__call__:
        assert refused is not None and refused.endswith("larger than a film when it is inflated")
    assert 0 < peak() < 200


def deflated(start: bytes, mebibytes: int) -> bytes:
    """These bytes and so many MiB of zeros behind them, deflated; a MiB takes a kilobyte."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = machine.compress(start) + machine.flush(zlib.Z_FULL_FLUSH)
    zeros = machine.compress(bytes(MIB)) + machine.flush(zlib.Z_FULL_FLUSH)
    return first + zeros * mebibytes + machine.flush()


def deflated_from(whole: bytes) -> int:
    """Where the deflated part of a file begins: behind the elements of group 2."""
    at = 132
    while whole[at : at + 2] == b"\x02\x00":
        if whole[at + 4 : at + 6] in (b"OB", b"UN"):
            at += 12 + int.from_bytes(whole[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(whole[at + 6 : at + 8], "little")
    return at


def test_a_deflated_film_is_read_as_if_it_were_not(tmp_path: Path) -> None:
    tags = {"PatientAge": "063Y", "WindowCenter": 2048, "WindowWidth": 4096}
    file = tmp_path / "film.dcm"
    file.write_bytes(plain(film(**tags), DeflatedExplicitVRLittleEndian))
    np.testing.assert_array_equal(FilmFile(file)(), read(tmp_path / "..", film(**tags)))
    assert read_header(file) == {"PatientAge": "063Y"}
    assert read_identity(file)["00080018"]["Value"] == ["1.2.3.4"]
    assert next(read_studies([file], 1))["age"] == "063Y"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged or cut short"):
        FilmFile(file)()


def test_a_gz_volume_is_inflated_to_its_header_and_no_further(
    tmp_path: Path, peak: Callable[[], int]
) -> None:
    volume = nibabel.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4))
    packed = deflated(volume.to_bytes(), 2048)
    gz = b"\x1f\x8b\x08" + bytes(7) + packed + bytes(8)
    (tmp_path / "a.nii.gz").write_bytes(gz)
    assert VolumeFile(tmp_path / "a.nii.gz")().shape == (8, 8, 8)
    assert 0 < peak() < 200


def test_rle_that_runs_over_is_caught_and_the_decoder_lives(tmp_path: Path) -> None:
    """128 pixels, one by one, where 28 are missing: the decoder, which is Rust, panics. That is no
    Exception."""
    segment = b"\x81\0" * 10  # runs of 128, as many as there are pixels: 1280
    over = b"\x81\0" * 9 + b"\x9d\0" + b"\x7f" + bytes(128)
    short = b"\x81\0" * 9 + b"\x82\0\x80\x80"  # 127, and a byte that means nothing, twice
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    black = read(tmp_path, with_frame(header + 2 * segment, RLELossless))
    assert black.shape == RAMP.shape and black.max() == 0
    before = decode._child.process
    with pytest.raises(BaseException) as caught:
        decode_frame(header + segment + over, RAMP.size, 16, "<")
    assert not isinstance(caught.value, Exception)
    for broken in (over, short, segment[:-2] + b"\x7f\x01"):
        with pytest.raises(UserError, match="damaged or cut short"):
            read(tmp_path, with_frame(header + segment + broken, RLELossless))
    assert decode._child.process is before


class Panic(BaseException):
    """As pyo3 raises it."""


def test_whatever_a_decoder_raises_is_damage() -> None:
    def panics(path: Path, request: dict[str, Any]) -> codec.Answer:
        raise Panic("PatientName=Somebody")

    message = codec._safely({"path": "a", "what": "pixels"}, panics)
    assert message == ({"error": "is damaged or cut short"}, b"")


@pytest.mark.parametrize(
    ("count", "segments", "said"),
    [
        (1, [b"\x81\0" * 10], "another kind than its header says"),
        (3, [b"\x81\0" * 10] * 3, "another kind than its header says"),
        (15, [b"\x81\0" * 10] * 15, "another kind than its header says"),
        (2, [b"\x81\0" * 10, b"\x81\0" * 9], "do not fit its rows and columns"),
        (2, [b"", b"\x81\0" * 10], "do not fit its rows and columns"),
    ],
)
def test_rle_segments_are_counted_and_measured_first(
    tmp_path: Path, count: int, segments: list[bytes], said: str
) -> None:
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    header = struct.pack("<16I", count, *offsets, *[0] * (15 - len(offsets)))
    with pytest.raises(UserError, match=said):
        read(tmp_path, with_frame(header + b"".join(segments), RLELossless))


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((RAMP // 16).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


GREY = {"pixels": (RAMP // 16).astype(np.uint8), "bits": 8}
FRAMES = {
    JPEG2000Lossless: lambda: frame_of(JPEG2000Lossless),
    HTJ2KLossless: lambda: frame_of(HTJ2KLossless),
    JPEGLSLossless: lambda: frame_of(JPEGLSLossless),
    RLELossless: lambda: frame_of(RLELossless),
    JPEGBaseline8Bit: jpeg,
}


@pytest.mark.parametrize("syntax", FRAMES)
def test_a_frame_of_another_size_than_its_header_is_refused(tmp_path: Path, syntax: str) -> None:
    frame = FRAMES[syntax]()
    of = GREY if syntax == JPEGBaseline8Bit else {}
    assert read(tmp_path, with_frame(frame, syntax, film(**of))).shape == RAMP.shape
    for rows, columns in ((31, 40), (32, 41), (40, 32), (64, 40), (3200, 4000)):
        lying = with_frame(frame, syntax, film(**of, Rows=rows, Columns=columns))
        said = "damaged|do not fit" if syntax == RLELossless else "do not fit its rows and columns"
        if syntax == RLELossless and rows * columns == RAMP.size:
            continue  # as many pixels: RLE cannot tell
        with pytest.raises(UserError, match=said):
            read(tmp_path, lying)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit])
def test_a_frame_of_three_colours_or_of_more_bits_is_refused(tmp_path: Path, syntax: str) -> None:
    frame = bytearray(FRAMES[syntax]())
    of = GREY if syntax == JPEGBaseline8Bit else {}
    if syntax == JPEG2000Lossless:
        places = [(40, b"\x40\x00"), (42, b"\x17")]
    else:
        sof = frame.index(b"\xff\xf7" if syntax == JPEGLSLossless else b"\xff\xc0")
        places = [(sof + 9, b"\x03"), (sof + 4, b"\x18")]
    for at, value in places:
        other = frame[:at] + value + frame[at + len(value) :]
        with pytest.raises(UserError, match="another kind than its header says"):
            read(tmp_path, with_frame(bytes(other), syntax, film(**of)))


def test_a_jpeg_2000_in_boxes_is_read_by_its_codestream(
    tmp_path: Path, peak: Callable[[], int]
) -> None:
    frame = frame_of(JPEG2000Lossless)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    there = read(tmp_path, with_frame(boxed(frame), JPEG2000Lossless, film(**window)))
    np.testing.assert_allclose(there, RAMP / 4095, atol=1e-6)
    bomb = claims(frame, 60_000, 60_000)
    for before in (frame, b"a" * 5000):  # what looks like a codestream, or hides one
        with pytest.raises(UserError, match="do not fit its rows and columns"):
            read(tmp_path, with_frame(boxed(bomb, before), JPEG2000Lossless))
    assert 0 < peak() < 200
    endless = boxed(frame)[:12] + struct.pack(">I4s", 0, b"free") + frame
    for broken in (endless, boxed(frame)[:60], b"\0" * 16 + frame, frame[:40]):
        with pytest.raises(UserError, match="damaged or cut short"):
            read(tmp_path, with_frame(broken, JPEG2000Lossless))


def test_a_jpeg_of_several_frames_is_refused(tmp_path: Path) -> None:
    """DHP gives a size for frames of other sizes behind it; a decoder would make room for it."""
    frame = jpeg()
    sof = frame.index(b"\xff\xc0")
    larger = struct.pack(">HHBHHBBBB", 0xFFDE, 11, 8, 60_000, 60_000, 1, 1, 17, 0)
    with pytest.raises(UserError, match="compressed in a way that is not read"):
        read(
            tmp_path, with_frame(frame[:sof] + larger + frame[sof:], JPEGBaseline8Bit, film(**GREY))
        )


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2.4.102",  # MPEG-4
        "1.2.840.10008.1.2.4.94",  # JPIP: an address, no pixels
        "1.2.840.10008.1.2.4.92",  # JPEG 2000 of several components
        "1.2.840.10008.1.2.4.110",  # JPEG XL
        "1.2.840.113619.5.2",  # General Electric's own
        "1.2.3",
    ],
)
def test_a_syntax_that_is_not_known_is_refused(tmp_path: Path, syntax: str) -> None:
    file = tmp_path / "film.dcm"
    whole = in_bytes(with_frame(frame_of(JPEG2000Lossless), JPEG2000Lossless))
    file.write_bytes(with_syntax(whole, syntax))
    with pytest.raises(UserError, match="compressed in a way that is not read"):
        FilmFile(file)()


def test_a_film_that_does_not_say_how_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(with_syntax(in_bytes(film()), ""))
    with pytest.raises(UserError, match="does not say how its pixels are stored"):
        FilmFile(tmp_path / "a.dcm")()


@pytest.mark.parametrize("where", ["before", "after"])
def test_twenty_thousand_sequences_in_one_another(tmp_path: Path, where: str) -> None:
    whole = in_bytes(film())
    at = whole.index(PIXELS) if where == "before" else len(whole)
    file = tmp_path / "deep.dcm"
    file.write_bytes(whole[:at] + sequences(20_000) + whole[at:])
    began = time.monotonic()
    metadata = []
    for asked in (lambda p: FilmFile(p)(), read_header, read_identity):
        try:
            asked(file)
        except UserError as error:
            metadata.append(str(error).removeprefix(f"{file} "))
    metadata += [study["unfit"] for study in read_studies([file], 1) if "unfit" in study]
    assert metadata == ["is damaged or cut short"] * (4 if where == "before" else 1)
    assert time.monotonic() - began < 10
    few = tmp_path / "few.dcm"
    few.write_bytes(whole[:at] + sequences(20) + whole[at:])
    assert FilmFile(few)().shape == RAMP.shape


@pytest.mark.parametrize("bits", [8, 12])
def test_a_big_endian_film_is_the_same_film(tmp_path: Path, bits: int) -> None:
    def dataset_of() -> Dataset:
        return film(WindowCenter=2048, WindowWidth=4096) if bits == 12 else film(**GREY)

    file = tmp_path / "big.dcm"
    file.write_bytes(plain(dataset_of(), ExplicitVRBigEndian))
    bright = FilmFile(file)()
    assert bright.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(bright, read(tmp_path, dataset_of()))


def test_values_that_lie_high_in_their_words_are_taken_down(tmp_path: Path) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    high = film(RAMP << 4, HighBit=15, **window)
    np.testing.assert_array_equal(read(tmp_path, high), read(tmp_path, film(**window)))
    signed = (RAMP.astype(np.int16) - 2000) << 4
    low = {"WindowCenter": 48, "WindowWidth": 4096}
    np.testing.assert_array_equal(
        read(tmp_path, film(signed, HighBit=15, **low)), read(tmp_path, film(signed >> 4, **low))
    )
    for impossible in (3, 16):
        with pytest.raises(UserError, match="impossible place in their words"):
            read(tmp_path, film(HighBit=impossible))


def test_pydicom_leaves_an_inverse_shape_alone_and_we_do_not(tmp_path: Path) -> None:
    dataset = film(PresentationLUTShape="INVERSE")
    assert dataset.pixel_array[0, 0] < dataset.pixel_array[-1, -1]
    bright = read(tmp_path, dataset)
    assert bright[0, 0] == 1 and bright[-1, -1] == 0


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "JPEG2000"])
@pytest.mark.parametrize("ending", ["png", "jpg", "dcm"])
def test_other_pictures_are_refused_whatever_their_name(
    tmp_path: Path, kind: str, ending: str
) -> None:
    Image.fromarray((RAMP // 16).astype(np.uint8)).save(tmp_path / "a", kind)
    file = (tmp_path / "a").rename(tmp_path / f"film.{ending}")
    with pytest.raises(UserError, match="is not a PNG, JPEG or DICOM file"):
        FilmFile(file)()


def test_extended_jpeg_of_12_bits_is_read_or_refused_never_guessed(tmp_path: Path) -> None:
    """Of pydicom's two such films one is damaged: no decoder takes it."""
    for name, said in (("JPGExtended.dcm", None), ("JPEG-lossy.dcm", "damaged or cut short")):
        path = get_testdata_file(name)
        assert isinstance(path, str)
        dataset = dcmread(path)
        dataset.Modality = "CR"
        if said is None:
            bright = read(tmp_path, dataset)
            assert bright.shape == (1024, 256) and bright.max() == 1
        else:
            with pytest.raises(UserError, match=said):
                read(tmp_path, dataset)
