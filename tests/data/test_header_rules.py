"""One age, one picture, and no film lost to an optional element that cannot be read."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from nofinding.clinical.dicom.source import read_source
from nofinding.data.decoding.decode import FilmFile, read_about, read_studies
from nofinding.data.patient_age import DISAGREE, UNUSABLE, ZERO, age_of
from nofinding.datasets.hospital.film_headers import stated_unfit
from nofinding.errors import UserError
from support.dicom_film import RAMP, film, in_bytes, plain, read

BORN = {"PatientBirthDate": "19580101"}


@pytest.mark.parametrize(
    ("header", "years", "flag"),
    [
        ({"PatientAge": "036M"}, 3.0, ""),
        ({"PatientAge": "060y"}, 60.0, ""),
        ({"PatientAge": "60"}, 60.0, ""),
        ({"PatientAge": ""}, None, ""),
        ({}, None, ""),
        ({"PatientAge": "000Y"}, None, ZERO),
        ({"PatientAge": "000D"}, None, ZERO),
        ({"PatientAge": "0"}, None, ZERO),
        ({"PatientAge": "sixty"}, None, UNUSABLE),
        ({"PatientAge": "-5Y"}, None, UNUSABLE),
        ({**BORN, "PatientAge": "sixty", "StudyDate": "20200101"}, 62.0, ""),
        ({**BORN, "PatientAge": "999Y", "StudyDate": "20200101"}, 62.0, ""),
        ({**BORN, "SeriesDate": "20200101"}, 62.0, ""),
        ({**BORN, "StudyDate": "", "ContentDate": "2020.01.01"}, 62.0, ""),
        ({**BORN, "StudyDate": "00000000", "AcquisitionDate": "20200101"}, 62.0, ""),
        ({**BORN, "AcquisitionDateTime": "20200101120000.0+0100"}, 62.0, ""),
        ({"PatientBirthDate": "20200101", "StudyDate": "20200101"}, 0.0, ""),  # a newborn
        ({"PatientBirthDate": "1958", "StudyDate": "20200101"}, None, UNUSABLE),
        ({"PatientBirthDate": "20210101", "StudyDate": "20200101"}, None, UNUSABLE),
        ({"PatientBirthDate": "18000101", "StudyDate": "20200101"}, None, UNUSABLE),
        ({**BORN, "PatientAge": "005Y", "StudyDate": "20200101"}, 5.0, DISAGREE),
        ({**BORN, "PatientAge": "061Y", "StudyDate": "20200101"}, 61.0, ""),
    ],
)
def test_the_age(header: dict[str, str], years: float | None, flag: str) -> None:
    age = age_of(header)
    assert age.years == (years if years is None else pytest.approx(years, abs=0.01))
    assert age.flag == flag


ODD = [
    ("PixelSpacing", "DS", b"0,143\\0,143 "),
    ("ImagerPixelSpacing", "DS", b"a few "),
    ("PatientSize", "DS", b"1,75"),
    ("PatientWeight", "DS", b"80 kg "),
    ("InstanceNumber", "IS", b"ONE "),
    ("SeriesNumber", "IS", b"1.5 "),
    ("WindowCenter", "DS", b"2048,0"),
    ("WindowWidth", "DS", b"NaN "),
    ("RescaleSlope", "DS", b"1,0 "),
    ("RescaleIntercept", "DS", b"none"),
    ("PixelPaddingValue", "LO", b"none"),
    ("PixelPaddingRangeLimit", "LO", b"many"),
    ("PatientAge", "AS", b"6o"),
    ("PatientBirthDate", "DA", b"yesterday "),
    ("StudyDate", "DA", b"20201399"),
    ("AcquisitionDateTime", "DT", b"now "),
    ("SourceImageSequence", "LO", b"text"),
    ("ViewCodeSequence", "LO", b"text"),
    ("VOILUTSequence", "LO", b"text"),
    ("PresentationLUTShape", "LO", b"odd "),
    ("PatientSex", "CS", b"male"),
]


@pytest.mark.parametrize(("keyword", "kind", "value"), ODD)
@pytest.mark.filterwarnings("ignore")
def test_an_optional_element_that_cannot_be_read_counts_as_absent(
    tmp_path: Path, keyword: str, kind: str, value: bytes
) -> None:
    dataset = film(StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)
    file = tmp_path / "film.dcm"
    file.write_bytes(in_bytes(dataset))
    read_about(file)
    read_source(file)
    (header,) = read_studies([file], 1)
    assert stated_unfit(header) is None
    expected = read(tmp_path / "..", film())
    message = FilmFile(file).decode()
    np.testing.assert_array_equal(message.pixels, expected)
    assert all(value.strip().decode() not in flag for flag in message.flags if len(value) > 2)
    if keyword.startswith(("Pixel", "Imager", "Instance", "Window", "Rescale", "VOI")):
        assert keyword in " ".join(message.flags) or keyword == "PixelPaddingRangeLimit"


@pytest.mark.parametrize(
    ("keyword", "kind", "value", "said"),
    [
        ("NumberOfFrames", "IS", b"ONE ", "has a NumberOfFrames that is no whole number"),
        ("BitsStored", "LO", b"twelve", "has a BitsStored that is no whole number"),
        ("Rows", "LO", b"many", "has a Rows that is no whole number"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_needed_element_is_named(
    tmp_path: Path, keyword: str, kind: str, value: bytes, said: str
) -> None:
    dataset, tag = film(), Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)
    (tmp_path / "film.dcm").write_bytes(in_bytes(dataset))
    with pytest.raises(UserError, match=said):
        FilmFile(tmp_path / "film.dcm")()


@pytest.mark.parametrize("missing", ["SamplesPerPixel", "PixelRepresentation", "HighBit"])
def test_what_can_be_assumed_need_not_be_stated(tmp_path: Path, missing: str) -> None:
    message = read(tmp_path, film(**{missing: None}))
    np.testing.assert_array_equal(message, read(tmp_path, film()))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_one_picture_in_every_lossless_form(tmp_path: Path, bits: int, signed: bool) -> None:
    top = 1 << bits
    values = (np.arange(32 * 40).reshape(32, 40) * 7919 % top - signed * top // 2).astype("<i4")
    words = (values & 0xFFFF).astype("<u2")
    stored = words.view("<i2") if signed else words
    if bits == 8:  # in bytes; in words, RLE has a test of its own
        stored = stored.astype(np.int8 if signed else np.uint8)
    expected = None
    for syntax in (None, ImplicitVRLittleEndian, ExplicitVRBigEndian,
                   DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless,
                   JPEGLSLossless):  # fmt: skip
        window = {"WindowCenter": 0 if signed else top // 2, "WindowWidth": top}
        dataset = film(stored, bits=bits, **window)
        if syntax is None or syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
            if syntax is not None:
                dataset.compress(syntax, generate_instance_uid=False)
            whole = in_bytes(dataset)
        else:
            whole = plain(dataset, syntax)
        (tmp_path / "film.dcm").write_bytes(whole)
        message = FilmFile(tmp_path / "film.dcm").decode()
        expected = message.pixels if expected is None else expected
        np.testing.assert_array_equal(message.pixels, expected, err_msg=str(syntax))
        assert message.flags == ()
    assert expected is not None
    np.testing.assert_allclose(expected, (values + signed * top // 2) / (top - 1), atol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_a_film_of_99_megapixels_with_padding_fits_into_the_decoder(
    tmp_path: Path, signed: bool
) -> None:
    # a tenth of it, in a tenth of the memory: 3 GiB less what the program itself takes
    high, wide = 3000, 3300
    values = (np.arange(high * wide, dtype=np.int32) % 4096 - 2048 * signed).reshape(high, wide)
    padding = -2048 if signed else 0
    stored = values.astype("<i2") if signed else values.astype("<u2")
    dataset = film(stored, bits=16, WindowCenter=2048 * (not signed), WindowWidth=4096)
    dataset.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    (tmp_path / "film.dcm").write_bytes(in_bytes(dataset))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from nofinding.data.decoding import codec\n"
        "from nofinding.data.decoding.limits import MEMORY\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "most = used + (MEMORY - used) // 10\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "print(codec.answer(Path(sys.argv[1]), 'pixels')[0]['shape'])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "film.dcm")]
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **one})
    assert done.stdout.strip() == f"({high}, {wide})", done.stderr[-300:]


def rle(words: np.ndarray) -> bytes:
    """A frame of words in RLE (PS3.5 annex G): the high bytes, then the low ones, literal runs."""
    whole = words.astype("<u2").tobytes()
    segments = []
    for half in (whole[1::2], whole[::2]):
        runs = [half[i : i + 128] for i in range(0, len(half), 128)]
        segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(segment + b"\0" * (len(segment) % 2))
    head = np.array([2, 64, 64 + len(segments[0]), *[0] * 13], "<u4").tobytes()
    return head + b"".join(segments)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_rle_of_eight_bits_in_words(tmp_path: Path, signed: bool) -> None:
    values = (np.arange(32 * 40).reshape(32, 40) * 7919 % 256 - signed * 128).astype("<i2")
    words = values.view("<u2")
    dataset = film(values if signed else words, bits=8)
    dataset.WindowCenter, dataset.WindowWidth = (0 if signed else 128), 256
    expected = read(tmp_path, dataset)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([rle(words)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read(tmp_path, dataset), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_frame_of_which_half_is_missing_is_refused(tmp_path: Path) -> None:
    # pydicom 3.0 takes 8 of 16 bits for bytes, and writes two segments of half the length
    dataset = film((np.arange(32 * 40).reshape(32, 40) % 256).astype("<u2"), bits=8)
    dataset.compress(RLELossless, generate_instance_uid=False)
    with pytest.raises(UserError, match="is damaged or cut short"):
        read(tmp_path, dataset)


def voi(descriptor: list[int], data: np.ndarray | None, kind: str = "OW") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    if data is not None:
        item.add_new("LUTData", kind, data.tobytes() if kind == "OW" else data.tolist())
    return item


LINE = (np.arange(4096) * 16).astype("<u2")


@pytest.mark.parametrize(
    "item",
    [
        voi([4096, 0, 16], LINE),
        voi([4096, 0, 12], LINE // 16),
        voi([4096, 0, 16], LINE // 16),
        voi([4096, 0, 16], LINE // 16, "US"),
        voi([4096, 0, 14], LINE // 64 + 0),
        voi([4096, 0, 8], (LINE // 256).astype(np.uint8)),
        voi([4096, 0, 16], LINE.view("<i2"), "SS"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_white_is_what_a_table_reaches(tmp_path: Path, item: Dataset) -> None:
    values = read(tmp_path, film(VOILUTSequence=[item]))
    np.testing.assert_allclose(values, RAMP / 4095, atol=1 / 255)


@pytest.mark.parametrize(
    "item", [Dataset(), voi([4096, 0, 12], None), voi([4096, 0, 12], LINE[:99])]
)
def test_a_table_that_is_none_leaves_the_window(tmp_path: Path, item: Dataset) -> None:
    tags = {"WindowCenter": 2048, "WindowWidth": 4096}
    values = read(tmp_path, film(VOILUTSequence=[item], **tags))
    np.testing.assert_array_equal(values, read(tmp_path, film(**tags)))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("message", [0, 12])
def test_white_of_a_picture_of_16_bits(tmp_path: Path, bits: int, message: int) -> None:
    top = (1 << bits) - 1
    values = (np.arange(6400).reshape(80, 80) * top // 6399).astype(np.uint16)
    file = tmp_path / "film.png"
    Image.fromarray(values).save(file)
    if message:  # a chunk sBIT behind the first one
        whole = file.read_bytes()
        chunk = struct.pack(">I4sB", 1, b"sBIT", message) + struct.pack(
            ">I", zlib.crc32(b"sBIT" + bytes([message]))
        )
        file.write_bytes(whole[:33] + chunk + whole[33:])
    film_ = FilmFile(file).decode()
    stated = message and top < 1 << message
    white = (1 << message) - 1 if stated else top if bits <= 14 and not message else 65535
    np.testing.assert_allclose(film_.pixels, values / white, atol=1e-6)
    assert bool(film_.flags) == (not message and bits <= 14)
