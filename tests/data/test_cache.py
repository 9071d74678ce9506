"""The cache of prepared films: never another film than a fresh one."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from nofinding.data.cache import FilmCache
from nofinding.data.image import fit_square
from nofinding.errors import UserError
from nofinding.types import Pixels


@dataclass
class Counted:
    """Pixels that count how often they were decoded."""

    seed: int = 0
    calls: list[int] = field(default_factory=list)

    def __call__(self) -> Pixels:
        self.calls.append(1)
        return np.random.default_rng(self.seed).random((20, 30), dtype=np.float32)

    def fingerprint(self) -> str:
        return hashlib.sha256(str(self.seed).encode()).hexdigest()


def test_the_second_time_is_not_decoded_and_equal(tmp_path: Path) -> None:
    pixels = Counted()
    first = FilmCache(tmp_path).get(pixels, 16, "pad")
    second = FilmCache(tmp_path).get(pixels, 16, "pad")
    assert len(pixels.calls) == 1
    assert second.dtype == np.uint16
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(second, fit_square(pixels(), 16, "pad"))


def test_content_size_and_aspect_are_told_apart(tmp_path: Path) -> None:
    cache = FilmCache(tmp_path)
    cache.get(Counted(), 16, "pad")
    assert cache.get(Counted(), 8, "pad").shape == (8, 8)
    for other in (cache.get(Counted(1), 16, "pad"), cache.get(Counted(), 16, "squash")):
        assert (other != cache.get(Counted(), 16, "pad")).any()


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_entry_is_decoded_anew_and_mended(tmp_path: Path, damage: bytes | None) -> None:
    pixels, cache = Counted(), FilmCache(tmp_path)
    first = cache.get(pixels, 16, "pad")
    (entry,) = tmp_path.rglob("*.film")
    data = bytearray(entry.read_bytes())
    data[100] ^= 1
    entry.write_bytes(bytes(data) if damage is None else damage)
    np.testing.assert_array_equal(cache.get(pixels, 16, "pad"), first)
    assert len(pixels.calls) == 2
    cache.get(pixels, 16, "pad")
    assert len(pixels.calls) == 2
    assert [*tmp_path.rglob("*.tmp")] == []


def test_pixels_without_a_fingerprint_are_decoded_each_time(tmp_path: Path) -> None:
    pixels = Counted()
    cache = FilmCache(tmp_path)
    for _ in range(2):
        cache.get(lambda: pixels(), 16, "pad")
    assert len(pixels.calls) == 2 and [*tmp_path.iterdir()] == []


def test_a_cache_that_cannot_be_written_warns_and_gives_the_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nofinding.data.cache.os.replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        film = FilmCache(tmp_path).get(Counted(), 16, "pad")
    np.testing.assert_array_equal(film, fit_square(Counted()(), 16, "pad"))
    assert [*tmp_path.rglob("*.tmp")] == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache"):
        FilmCache(tmp_path / "file" / "cache")
