"""Films made alike in exposure: what the detector and its processing chose is taken away."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["BLACK", "equalise"]

BLACK = 0.012  # greys below are air, collimation or a mask, and are left as they are
BINS = 256


def equalise(film: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Gives each grey as the share of the film's own pixels that are darker, in [0, 1].

    Histogram equalisation: any rising curve of greys (window, gamma, contrast) leaves the
    result as it was, up to the width of a bin. Films in [0, 1]; black stays 0 and is not
    counted. A film that is all black stays black.
    """
    grey = (film * (BINS - 1)).round().long().clamp(0, BINS - 1).flatten(1)
    dark = grey <= round(BLACK * (BINS - 1))
    counts = torch.zeros(len(film), BINS, device=film.device)
    counts.scatter_add_(1, grey, (~dark).float())
    below = counts.cumsum(1)
    rank = (below - counts / 2) / below[:, -1:].clamp_min(1)
    return torch.where(dark, 0.0, rank.gather(1, grey)).reshape(film.shape)
