"""Two sets of feature maps against each other: where they disagree, on the film's grid.

What teacher and student of a distillation are compared by (Deng and Li, CVPR 2022,
arXiv:2201.10703, eq. 1 to 3); a map is (b, c, i, j), and a film may be any size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nofinding.functional.image.blur import gaussian_blur

__all__ = ["cosine_map", "film_cosine", "summed_map"]

Maps = Float[Tensor, "b c i j"]
NORM = 1e-8  # the least length of a vector, as in torch's own cosine similarity


def cosine_map(a: Maps, b: Maps) -> Float[Tensor, "b 1 i j"]:
    """1 - cos of the two vectors at every position: 0 where they point the same way, 2 at most."""
    # In double precision: of two nearly parallel vectors, 1 - cos is a small difference.
    cosine = F.cosine_similarity(a.double(), b.double(), dim=1, eps=NORM)
    return (1 - cosine).clamp_min(0).float()[:, None]


def film_cosine(a: Maps, b: Maps) -> Float[Tensor, " b"]:
    """1 - cos of the two whole maps, each taken as one long vector."""
    return 1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=NORM)


def summed_map(
    maps: Sequence[Float[Tensor, "b 1 _ _"]], size: tuple[int, int], sigma: float
) -> Float[Tensor, "b 1 h w"]:
    """Maps of several scales, stretched to `size` with their corners on the film's, added, blurred.

    `sigma` is in pixels of the film; 0: not blurred.
    """
    stretched = [F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in maps]
    total = torch.stack(stretched).sum(0)
    return gaussian_blur(total, sigma, border="reflect")
