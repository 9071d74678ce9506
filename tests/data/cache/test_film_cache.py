"""The cache of prepared films: never another film than a fresh one."""

import hashlib
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofinding.data.cache.film_cache import FilmCache, Once
from nofinding.data.cache.ledger import Ledger
from nofinding.data.decoding.decode import FilmFile
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

    monkeypatch.setattr("nofinding.data.cache.film_cache.os.pwrite", full)
    with pytest.warns(UserWarning, match="No space left"):
        film = FilmCache(tmp_path).get(Counted(), 16, "pad")
    np.testing.assert_array_equal(film, fit_square(Counted()(), 16, "pad"))
    assert [*tmp_path.rglob("*.tmp")] == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache"):
        FilmCache(tmp_path / "file" / "cache")


def test_processes_that_write_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    cache = FilmCache(tmp_path)
    cache.get(Counted(999), 16)  # the parent writes a shard when its children are made
    children = []
    for child in range(4):
        if (pid := os.fork()) == 0:
            for seed in range(child, child + 12):  # most films by two or more of them
                cache.get(Counted(seed), 16)
            os._exit(0)
        children.append(pid)
    cache.get(Counted(1000), 16)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    for seed in (*range(15), 999, 1000):
        pixels = Counted(seed)
        film = cache.get(pixels, 16)
        assert not pixels.calls
        np.testing.assert_array_equal(film, fit_square(Counted(seed)(), 16, "pad"))
    assert 1 < len([*tmp_path.rglob("*.film")]) <= 5  # a shard a process


def test_a_shard_that_is_full_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nofinding.data.cache.film_cache.SHARD", 3 * (32 + 2 * 16 * 16))
    for cache in (FilmCache(tmp_path), FilmCache(tmp_path)):
        films = [Counted(seed) for seed in range(7)]
        for pixels in films:
            np.testing.assert_array_equal(
                cache.get(pixels, 16), fit_square(Counted(pixels.seed)(), 16, "pad")
            )
    assert not any(pixels.calls for pixels in films)
    assert len([*tmp_path.rglob("*.film")]) == 3


def test_a_key_that_was_cut_short_is_overwritten(tmp_path: Path) -> None:
    cache = FilmCache(tmp_path)
    for seed in range(3):
        cache.get(Counted(seed), 16)
    del cache
    (keys,) = tmp_path.rglob("*.keys")
    os.truncate(keys, keys.stat().st_size - 7)
    cache = FilmCache(tmp_path)
    last = [Counted(2), Counted(2), Counted(1)]
    for pixels in last:
        np.testing.assert_array_equal(
            cache.get(pixels, 16), fit_square(Counted(pixels.seed)(), 16, "pad")
        )
    assert [len(pixels.calls) for pixels in last] == [1, 0, 0]
    assert len([*tmp_path.rglob("*.keys")]) == 1


def test_many_keys_are_found_by_a_process_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nofinding.data.cache.ledger.LATE", 5)
    keys = [hashlib.sha256(bytes([i])).digest() for i in range(40)]
    for half in (keys[:20], keys[20:]):
        ledger = Ledger(tmp_path, ".seen", 32, 16)
        for key in half:
            assert not [*ledger.find(key)]
            ledger.add(key, key[::-1])
    later = Ledger(tmp_path, ".seen", 32, 16)
    for key in keys:
        assert [value for _, _, value in later.find(key)] == [key[::-1]]


@pytest.fixture
def film_file(tmp_path: Path) -> FilmFile:
    """A film whose file is older than the clock's resolution."""
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "f.png")
    return FilmFile(tmp_path / "f.png")


def test_a_file_that_was_read_before_is_not_read_again(
    film_file: FilmFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert film_file.stamp() is None  # just written
    monkeypatch.setattr("nofinding.data.decoding.decode.SETTLED", -1.0)
    first = FilmCache(tmp_path / "c").get(film_file, 8)
    with monkeypatch.context() as patch:
        patch.setattr(FilmFile, "fingerprint", None)
        patch.setattr(FilmFile, "__call__", None)
        np.testing.assert_array_equal(FilmCache(tmp_path / "c").get(film_file, 8), first)


def test_a_file_that_was_changed_is_read_again_even_with_its_old_time(
    film_file: FilmFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nofinding.data.decoding.decode.SETTLED", -1.0)
    cache = FilmCache(tmp_path / "c")
    first = cache.get(film_file, 8)
    before = film_file.path.stat()
    other = np.arange(256, dtype=np.uint8)[::-1].reshape(16, 16)
    Image.fromarray(other).save(tmp_path / "g.png")
    data = (tmp_path / "g.png").read_bytes().ljust(before.st_size, b"\0")
    film_file.path.write_bytes(data)
    os.utime(film_file.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (cache.get(film_file, 8) != first).any()


def test_pixels_for_two_sizes_are_decoded_and_read_once(tmp_path: Path) -> None:
    pixels = Counted()
    once = Once(pixels)
    cache = FilmCache(tmp_path)
    for size in (16, 8):
        np.testing.assert_array_equal(cache.get(once, size), fit_square(Counted()(), size, "pad"))
    assert len(pixels.calls) == 1


def test_a_cache_can_be_sent_to_another_process(tmp_path: Path) -> None:
    cache = FilmCache(tmp_path)
    cache.get(Counted(), 16)
    pixels = Counted()
    pickle.loads(pickle.dumps(cache)).get(pixels, 16)
    assert not pixels.calls
