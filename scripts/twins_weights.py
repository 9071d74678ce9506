"""What `nofinding twins` knows of chests: where lungs are, and what is common to all.

usage: scripts/twins_weights.py DATA

DATA holds the folders rsna_normal and rsna_lungs; the column same_film of the latter's films.csv
names the whole film that a masked one was cut from. Of these pairs every second one, from the
first, is learnt from; benchmarks/twins.py judges on the others. The result is written into
src/nofinding/weights/twins.safetensors.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from nofinding.data.signatures import CODE, SIDE
from nofinding.functional.image.fine_detail import shows_film
from nofinding.functional.image.fingerprint import GRID, course
from nofinding.progress import say
from nofinding.storage.checkpoint import write_atomic

WEIGHTS = Path(__file__).resolve().parents[1] / "src" / "nofinding" / "weights"
BLACK = 0.05  # a masked film's grey outside the lungs
USUAL = 0.2  # of the films that must show lung in a cell for it to count
STRETCH, SHIFT = 0.02, 0.03  # of half a film: how far two views of a film may be apart
RIDGE = 0.05  # of the mean variance, added to each cell
AT_ONCE = 64


def pairs(data: Path) -> list[tuple[Path, Path]]:
    """(masked film, whole film) of the pairs that are learnt from."""
    whole = {row["image_id"]: row["path"] for row in _rows(data, "rsna_normal")}
    both = [
        (data / "rsna_lungs" / row["path"], data / "rsna_normal" / whole[row["same_film"]])
        for row in _rows(data, "rsna_lungs")
        if row["same_film"] in whole
    ]
    return both[::2]


def _rows(data: Path, name: str) -> list[dict[str, str]]:
    with (data / name / "films.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def read(files: list[Path]) -> Tensor:
    """Films in [0, 1]."""
    films = []
    for file in files:
        film = Image.open(file).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        films.append(torch.from_numpy(np.asarray(film).copy()))
    return torch.stack(films).float() / 255


def lung_masks(masked: Tensor) -> Tensor:
    """Where a masked film shows lung; JPEG speckles outside, and black lung inside, do not count."""
    return (F.avg_pool2d((masked > BLACK).float()[:, None], 5, 1, 2)[:, 0] > 0.5).float()


def usual_cells(masks: Tensor) -> Tensor:
    """Cells of the grid where many films show lung, the same in a mirror."""
    share = F.interpolate(masks.mean(0)[None, None], size=(GRID, GRID), mode="area")[0, 0]
    return ((share > USUAL) & (share.flip(1) > USUAL)).float()


def views(films: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The cells of each film, and of the film a little displaced, with another gamma."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random) * 2 - 1

    first, second = [], []
    for start in range(0, len(films), AT_ONCE):
        film = films[start : start + AT_ONCE]
        count = len(film)
        first.append(course(film, shows_film(film))[:, cells > 0])
        to = torch.zeros(count, 2, 3)
        to[:, 0, 0], to[:, 1, 1] = (1 + STRETCH * draw(count, 2)).unbind(1)
        to[:, :, 2] = SHIFT * draw(count, 2)
        film = film ** (2 ** (0.7 * draw(count)))[:, None, None]
        grid = F.affine_grid(to, [count, 1, SIDE, SIDE], align_corners=False)
        film = F.grid_sample(film[:, None], grid, align_corners=False)[:, 0]
        second.append(course(film, shows_film(film))[:, cells > 0])
    return torch.cat(first), torch.cat(second)


def whitened(first: Tensor, second: Tensor) -> Tensor:
    """The directions that tell films apart and stay the same from view to view.

    Those of the largest variance between films for that within one (Fisher 1936), each scaled to
    unit variance, so that strangers are about at right angles. No mean is taken off: a film and
    its negative are alike but for the sign.
    """
    half = (first - second) / 2**0.5
    within, every = half.T @ half / len(half), torch.cat([first, second])
    total = every.T @ every / len(every)
    ridge = RIDGE * total.diagonal().mean() * torch.eye(len(total))
    root = torch.linalg.cholesky(within + ridge)
    inner = torch.linalg.solve_triangular(root, total + ridge, upper=False)
    inner = torch.linalg.solve_triangular(root, inner.T.contiguous(), upper=False)
    values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
    best = values[-CODE:]
    say(f"{len(total)} cells; variance of all for that within one {best[-1]:.1f} to {best[0]:.1f}")
    directions = torch.linalg.solve_triangular(root.T, vectors[:, -CODE:], upper=True)
    return directions / best.sqrt()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    both = pairs(parser.parse_args().data)
    films = read([whole for _, whole in both])
    masks = lung_masks(read([masked for masked, _ in both]))
    say(f"{len(films)} films, {time.process_time():.0f} s of CPU")
    with torch.no_grad():
        cells = usual_cells(masks)
        whitening = whitened(*views(films, cells))
    tensors = {"cells": cells.half(), "whitening": whitening.half().contiguous()}
    write_atomic(WEIGHTS / "twins.safetensors", save(tensors))
    say(f"{time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
