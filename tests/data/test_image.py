"""From stored values to brightness, and on to a square film."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nofinding.data.image import fit_square, fit_square_mask, from_stored, window


def test_linear_window_is_that_of_the_standard() -> None:
    # PS3.3 C.11.2.1.2.1: c = 2048, w = 4096 maps 0 to black and 4095 to white
    values = np.array([[-5, 0, 4095, 9000]], dtype=np.float32)
    assert window(values, 2048, 4096).tolist() == [[0, 0, 1, 1]]
    assert window(np.float32([[1, 2, 3]]), 2, 1).tolist() == [[0, 1, 1]]


def test_other_window_functions() -> None:
    values = np.array([[0, 50, 100]], dtype=np.float32)
    assert window(values, 50, 100, "LINEAR_EXACT").tolist() == [[0, 0.5, 1]]
    sigmoid = window(values, 50, 100, "SIGMOID")
    np.testing.assert_allclose(sigmoid, [[1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-2)]], rtol=1e-6)


def test_rescale_comes_before_the_window_and_inversion_after() -> None:
    stored = np.array([[0, 50, 100]], dtype=np.uint16)
    voi = (110.0, 200.0, "LINEAR_EXACT")
    bright = from_stored(stored, slope=2, intercept=10, voi=voi, inverted=True)
    np.testing.assert_allclose(bright, [[1, 0.5, 0]])
    assert bright.dtype == np.float32


def test_padding_is_black_and_does_not_count_for_the_range() -> None:
    stored = np.linspace(100, 200, 10_000).astype(np.int16).reshape(100, 100)
    stored[:10] = -2000
    padding = stored == -2000
    for inverted in (False, True):
        bright = from_stored(stored, padding=padding, inverted=inverted)
        assert (bright[:10] == 0).all()
        assert 0.4 < bright[10:].mean() < 0.6


def test_without_a_window_the_range_is_robust() -> None:
    stored = np.linspace(0, 1000, 10_000).astype(np.uint16).reshape(100, 100)
    stored[0, 0] = 65535  # one hot pixel must not darken the film
    assert from_stored(stored).mean() > 0.45


@pytest.mark.parametrize("inverted", [False, True])
def test_a_film_of_one_value_is_black(inverted: bool) -> None:
    assert (from_stored(np.full((5, 5), 7, np.uint8), inverted=inverted) == 0).all()


def test_padding_keeps_the_aspect_and_centres_the_film() -> None:
    film = fit_square(np.ones((100, 50), np.float32), 40)
    assert film.dtype == np.uint16
    assert (film[:, 10:30] == 65535).all()
    assert (film[:, :10] == 0).all() and (film[:, 30:] == 0).all()
    wide = fit_square(np.ones((50, 100), np.float32), 40)
    assert (wide == film.T).all()


def test_squashing_fills_the_square() -> None:
    assert (fit_square(np.ones((100, 50), np.float32), 40, "squash") == 65535).all()


def test_a_film_of_the_right_size_is_only_quantised() -> None:
    pixels = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    np.testing.assert_allclose(fit_square(pixels, 32) / 65535, pixels, atol=0.6 / 65535)


def test_reduction_is_antialiased() -> None:
    stripes = np.tile(np.float32([0, 1]), (256, 128))  # finer than the result can show
    assert np.ptp(fit_square(stripes, 32)[:, 2:-2].astype(int)) < 0.1 * 65535


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 7, 32]))
def test_every_shape_becomes_a_square(high: int, wide: int, size: int) -> None:
    for aspect in ("pad", "squash"):
        film = fit_square(np.full((high, wide), 0.5, np.float32), size, aspect)
        assert film.shape == (size, size) and film.max() == 32768


def test_a_mask_lies_where_the_film_lies() -> None:
    lesion = np.zeros((100, 50), dtype=np.bool_)
    lesion[20:60, 10:30] = True
    small = fit_square_mask(lesion, 50, "pad")
    expected = np.zeros((50, 50), dtype=np.bool_)
    expected[10:30, 17:27] = True  # the film begins at column 12: 25 of 50 wide
    assert (small == expected).all()


def test_a_tiny_finding_is_not_lost_and_none_is_not_made() -> None:
    lesion = np.zeros((200, 200), dtype=np.bool_)
    lesion[100, 100] = True
    assert 1 <= fit_square_mask(lesion, 20, "pad").sum() <= 4
    assert not fit_square_mask(np.zeros((200, 200), np.bool_), 20, "pad").any()
