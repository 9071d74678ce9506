"""Draws docs/images/synthetic.png: one phantom film, and each kind of synthetic anomaly in it.

    .venv/bin/python docs/make_synthetic.py

The film is simulated; no film of a patient is drawn here.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

from nofinding.datasets.phantom.film import PhantomFilm
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.suite import SUITE

SIZE, SEED = 256, 6
OUTLINE = "#40e0d0"


def draw(file: Path, seed: int = SEED) -> None:
    """Writes the picture: the normal film, then each kind with the outline of its mask."""
    film, other = (
        torch.from_numpy(PhantomFilm(seed=0, index=index, size=SIZE)())[None, None]
        for index in (4, 2)
    )
    mpl.use("Agg")
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), facecolor="white")
    shown = {"normal (phantom)": (film, torch.zeros_like(film, dtype=torch.bool))}
    for name, kind in SUITE.items():
        shown[name] = kind(film, generators(seed, [name]), other)
    for axis, (name, (changed, mask)) in zip(axes.flat, shown.items(), strict=True):
        axis.imshow(changed[0, 0], cmap="gray", vmin=0, vmax=1)
        if mask.any():
            axis.contour(mask[0, 0].float(), [0.5], colors=OUTLINE, linewidths=0.9)
        axis.set_title(name, fontsize=10)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=72, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent / "images" / "synthetic.png"
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else here, *map(int, sys.argv[2:]))
