"""DICOM films: shown as a viewer shows them, and refused where they are no chest film."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from nofinding.data.decoding.decode import FilmFile, read_header
from nofinding.errors import UserError
from support.dicom_film import RAMP, film, read, with_frame


def test_a_window_is_applied_as_pydicom_does(tmp_path: Path) -> None:
    for tags in (
        {"WindowCenter": 2000, "WindowWidth": 1500},
        {"WindowCenter": [2000, 5], "WindowWidth": [1500, 5]},  # the first one counts
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 100, "WindowWidth": 700, "RescaleSlope": "0.5", "RescaleIntercept": -900},
    ):
        dataset = film(**tags)
        bright = read(tmp_path, dataset)
        theirs = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        theirs = (theirs - intercept) / (4095 * slope)
        np.testing.assert_allclose(bright, theirs, atol=1e-5)


def test_without_a_window_the_percentiles_are_the_range(tmp_path: Path) -> None:
    for tags in ({}, {"WindowCenter": 100, "WindowWidth": 0}):
        bright = read(tmp_path, film(**tags))
        low, high = np.percentile(RAMP, [0.5, 99.5])
        np.testing.assert_allclose(bright, np.clip((RAMP - low) / (high - low), 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
    ],
)
def test_dense_tissue_is_bright(
    tmp_path: Path, photometric: str, shape: str | None, inverted: bool
) -> None:
    tags = {"PresentationLUTShape": shape} if shape else {}
    bright = read(tmp_path, film(PhotometricInterpretation=photometric, **tags))
    assert (bright[0, 0] > bright[-1, -1]) == inverted
    assert (bright.min(), bright.max()) == (0, 1)


def table(first: int, entries: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return item


def test_a_voi_table_comes_before_a_window(tmp_path: Path) -> None:
    curve = [int(4095 * (i / 2999) ** 2) for i in range(3000)]
    dataset = film(VOILUTSequence=[table(100, curve, 12)], WindowCenter=1, WindowWidth=2)
    bright = read(tmp_path, dataset)
    expected = np.array(curve)[np.clip(RAMP.astype(int) - 100, 0, 2999)] / 4095
    np.testing.assert_allclose(bright, expected, atol=1e-5)
    clipped = np.clip(RAMP, 100, 3099)  # where pydicom's arithmetic does not wrap
    np.testing.assert_allclose(
        read(tmp_path, film(clipped, VOILUTSequence=[table(100, curve, 12)])),
        apply_voi_lut(clipped, dataset) / 4095,
        atol=1e-5,
    )


def test_a_modality_table_comes_first(tmp_path: Path) -> None:
    entries = [*range(4095, -1, -1)]
    item = table(0, entries, 12)
    item.ModalityLUTType = "US"
    dataset = film(ModalityLUTSequence=[item], WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(read(tmp_path, dataset), 1 - RAMP / 4095, atol=1e-5)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black(tmp_path: Path, photometric: str) -> None:
    pixels = RAMP.astype(np.int16) + 1000
    pixels[:, :5] = -2000
    dataset = film(pixels, bits=16, PhotometricInterpretation=photometric)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    bright = read(tmp_path, dataset)
    assert (bright[:, :5] == 0).all() and 0.45 < bright[:, 5:].mean() < 0.55
    dataset.add_new("PixelPaddingRangeLimit", "SS", 1200)
    in_range = pixels <= 1200
    bright = read(tmp_path, dataset)
    assert (bright[in_range] == 0).all() and bright[~in_range].mean() > 0.45


def test_signed_values_and_stray_bits_above_the_stored_ones(tmp_path: Path) -> None:
    signed = RAMP.astype(np.int16) - 2000
    window = {"WindowCenter": 48, "WindowWidth": 4096}
    expected = np.clip((signed - 47.5) / 4095 + 0.5, 0, 1)
    np.testing.assert_allclose(read(tmp_path, film(signed, **window)), expected, atol=1e-5)
    stray = RAMP | 0xF000  # an overlay of older days
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_allclose(read(tmp_path, film(stray, **window)), RAMP / 4095, atol=1e-5)


def test_eight_bit_films(tmp_path: Path) -> None:
    pixels = (RAMP % 256).astype(np.uint8)
    bright = read(tmp_path, film(pixels, bits=8, WindowCenter=128, WindowWidth=256))
    np.testing.assert_allclose(bright, pixels / 255, atol=1e-5)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_films_equal_plain_ones(tmp_path: Path, syntax: str) -> None:
    dataset = film(WindowCenter=2048, WindowWidth=4096)
    plain = read(tmp_path, dataset)
    dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read(tmp_path, dataset), plain)


def jpeg(pixels: np.ndarray) -> Dataset:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    dataset = film(pixels, bits=8, WindowCenter=128, WindowWidth=256)
    return with_frame(buffer.getvalue(), JPEGBaseline8Bit, dataset)


def test_a_jpeg_film_is_read(tmp_path: Path) -> None:
    pixels = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (32, 1))
    np.testing.assert_allclose(read(tmp_path, jpeg(pixels)), pixels / 255, atol=0.03)


def test_a_frame_of_another_size_than_its_header_is_refused(tmp_path: Path) -> None:
    dataset = film()
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    for lying in (dataset, jpeg(np.zeros((32, 40), np.uint8))):
        lying.Rows = 31
        with pytest.raises(UserError, match="do not fit its rows and columns"):
            read(tmp_path, lying)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"Modality": "CT"}, "modality CT; CR and DX"),
        ({"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "modality not stated"),
        ({"Modality": "CR\\MG"}, r"modality CR\\MG; CR and DX"),
        ({"Modality": "SOMEBODY SECRET"}, "modality not stated"),
        ({"NumberOfFrames": 2}, "more than one frame"),
        ({"PhotometricInterpretation": "RGB"}, "MONOCHROME"),
        ({"SamplesPerPixel": 3}, "sample"),
        ({"BitsAllocated": 32}, "stores 12 of 32 bits"),
        ({"Rows": 30_000}, "at most 20000"),
        ({"Rows": 0}, "no pixels"),
        ({"PixelData": None}, "has no pixels"),
        ({"PixelData": b"12"}, "damaged or cut short"),
    ],
)
def test_what_is_no_chest_film_is_refused(
    tmp_path: Path, tags: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path, film(**tags))
    text = str(caught.value)
    assert "\n" not in text and "somebody" not in text.lower() and "secret" not in text.lower()


def test_the_header_gives_five_things_and_no_name(tmp_path: Path) -> None:
    read(tmp_path, film(PatientAge="063Y", PatientSex="F", PatientSize="1.7", ViewPosition="AP"))
    assert read_header(tmp_path / "film.dcm") == {
        "PatientAge": "063Y",
        "PatientSex": "F",
        "PatientSize": "1.7",
        "ViewPosition": "AP",
    }


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from([None, RLELossless, JPEG2000Lossless]), st.data())
def test_damage_never_raises_anything_but_a_user_error(
    tmp_path: Path, syntax: str | None, data: st.DataObject
) -> None:
    dataset = film(WindowCenter=2048, WindowWidth=4096)
    if syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    read(tmp_path, dataset)
    file = tmp_path / "film.dcm"
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(132, len(content)))])
    try:
        pixels = FilmFile(file)()
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.ndim == 2 and pixels.min() >= 0 and pixels.max() <= 1


@pytest.mark.films
def test_two_real_films_show_dark_lungs_in_a_bright_chest() -> None:
    here = Path(__file__).parents[3].parent / "shared" / "data"
    folder = Path(os.environ.get("NOFINDING_DATA", here)) / "dicom"
    files = sorted(folder.glob("*.dcm"))
    if not files:
        pytest.skip("no real DICOM films here")
    for file in files:
        pixels = FilmFile(file)()
        high, wide = pixels.shape
        assert (high, wide) == (dcmread(file).Rows, dcmread(file).Columns)
        rows = slice(int(0.3 * high), int(0.5 * high))
        spine = pixels[rows, int(0.47 * wide) : int(0.53 * wide)].mean()
        lungs = pixels[rows, int(0.24 * wide) : int(0.40 * wide)].mean()
        below = pixels[int(0.85 * high) :, int(0.3 * wide) : int(0.5 * wide)].mean()
        assert spine > lungs + 0.1 and below > lungs + 0.1
        assert (pixels == 0).mean() < 0.05 and (pixels == 1).mean() < 0.05
