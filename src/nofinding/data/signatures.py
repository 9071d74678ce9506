"""What is kept of each film to recognise altered copies of it.

A code of the lungs, of 128 numbers, finds what may be the same film among thousands; the film at
112 pixels decides. Together they take 13 kB; those of more films than memory should hold lie in a
file without a name.
"""

import functools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, UInt8, UInt16
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.image.fine_detail import shows_film
from nofinding.functional.image.fingerprint import course, frames_tried, seen_through

__all__ = [
    "CODE", "SIDE", "WORDS", "Signatures", "codes_of", "common_to_chests", "signatures_of",
    "unpacked_film",
]  # fmt: skip

SIDE = 112  # pixels of the film that is looked at: that of the input gate, so often in the cache
CODE = 128  # numbers that describe the lungs
GREYS = 254  # steps of a stored pixel
IN_MEMORY = 30_000  # films; beyond, the arrays lie on disk
WHOLE = 0  # the number of the frame that is the whole film
FEWEST_CELLS = 100  # of the grid that show film, for a film to have a code
BYTES = SIDE**2 + 2 * CODE
WORDS = -(-BYTES // 2)  # of a signature as the cache stores it


@dataclass(frozen=True, slots=True)
class Signatures:
    """The signatures of some films, by their number."""

    film: UInt8[np.ndarray, "n s s"]
    """Greys from 1 to 255; 0 where no film is."""
    code: Float16[np.ndarray, "n c"]
    """Of the lungs; of unit length, or 0 where nothing is known."""

    def __len__(self) -> int:
        return len(self.film)

    @classmethod
    def room(cls, count: int) -> "Signatures":
        """Space for that many; in memory up to IN_MEMORY films, else on disk."""
        return cls(
            _array((count, SIDE, SIDE), np.uint8),
            _array((count, CODE), np.float16),
        )

    def part(self, start: int, stop: int) -> "Signatures":
        """Those films alone; nothing is copied."""
        return Signatures(self.film[start:stop], self.code[start:stop])

    def at(self, films: Sequence[int]) -> "Signatures":
        """A copy of those films, in that order."""
        rows = np.asarray(films, dtype=np.int64)
        return Signatures(self.film[rows], self.code[rows])

    def put(self, start: int, part: "Signatures") -> None:
        """Writes the films of `part` from that number on."""
        stop = start + len(part)
        self.film[start:stop] = part.film
        self.code[start:stop] = part.code

    def packed(self, film: int) -> UInt16[np.ndarray, " w"]:
        """One film's signature as the cache stores it."""
        data = b"".join(a[film].tobytes() for a in (self.film, self.code))
        return np.frombuffer(data.ljust(2 * WORDS, b"\0"), "<u2").astype(np.uint16)

    @classmethod
    def unpacked(cls, words: UInt16[np.ndarray, " w"]) -> "Signatures":
        """Of one film, from what `packed` gave."""
        data, at, one = words.astype("<u2").tobytes(), 0, cls.room(1)
        for array in (one.film, one.code):
            part = np.frombuffer(data[at : at + array.nbytes], array.dtype)
            array[...] = part.reshape(array.shape)
            at += array.nbytes
        return one


def _array(shape: tuple[int, ...], kind: type) -> np.ndarray:
    if shape[0] <= IN_MEMORY:
        return np.zeros(shape, kind)
    with tempfile.TemporaryFile(prefix="nofinding-twins-") as file:
        return np.memmap(file, kind, "w+", shape=shape)


def unpacked_film(
    stored: UInt8[np.ndarray, "n s s"],
) -> tuple[Float[Tensor, "n s s"], Float[Tensor, "n s s"]]:
    """(film in [0, 1], where it is)."""
    film = torch.from_numpy(np.ascontiguousarray(stored)).float()
    return (film - 1).clamp_min(0) / GREYS, (film > 0).float()


@functools.cache
def common_to_chests() -> tuple[Float[Tensor, "g g"], Float[Tensor, "m c"]]:
    """(cells of the grid that count, what takes them to a code): scripts/twins_weights.py.

    Raises UserError where the file is missing from the package.
    """
    file = resources.files("nofinding") / "weights" / "twins.safetensors"
    try:
        tensors = load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError("the package lacks weights/twins.safetensors") from error
    return tensors["cells"].float(), tensors["whitening"].float()


@functools.cache
def _through(frames: tuple[int, ...]) -> tuple[Bool[Tensor, " n"], Float[Tensor, "k c"]]:
    """(cells of a grid that some of the frames reaches, what takes them to the codes of what is
    within each frame, one behind the other)."""
    cells, whitening = common_to_chests()
    every = torch.cat(
        [seen_through(frames_tried()[number], cells) @ whitening for number in frames], dim=1
    )
    reached = every.any(dim=1)
    return reached, every[reached]


def codes_of(grids: Float[Tensor, "b g g"], frames: Sequence[int]) -> Float[Tensor, "f b c"]:
    """What is within each of the frames of each film's `course`, by their number, as vectors of
    unit length; 0 where too little is."""
    grid = grids.flatten(1)
    reached, through = _through(tuple(frames))
    product = grid[:, reached] @ through
    shape = len(grid), len(frames), product.shape[1] // len(frames)
    codes = product.reshape(shape).transpose(0, 1).contiguous()
    enough = (grid[:, common_to_chests()[0].flatten() > 0] != 0).sum(1) >= FEWEST_CELLS
    result: Tensor = codes / codes.norm(dim=2, keepdim=True).clamp_min(1e-6) * enough[:, None]
    return result


@torch.no_grad()
def signatures_of(films: Iterable[UInt16[np.ndarray, "s s"]]) -> Signatures:
    """Of a few films as `fit` prepares them at SIDE pixels, padded."""
    image = torch.from_numpy(np.stack([film.astype(np.float32) / 65535 for film in films]))
    inside = shows_film(image)
    stored = ((image * GREYS).round() + 1) * inside
    return Signatures(
        stored.to(torch.uint8).numpy(),
        codes_of(course(image, inside), [WHOLE])[0].half().numpy(),
    )
