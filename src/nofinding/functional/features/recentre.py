"""A Gaussian of normal films elsewhere, moved to the normal films of this place.

Seen through the old Gaussian, whose films have the same spread in all directions, the local films
lie off the centre and are wider in some directions. As far as that is more than their number
would make it by chance, the new Gaussian follows them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nofinding.functional.features.gaussian import Gaussian

__all__ = ["recentred"]

LEAST = 0.02  # of the mean variance, in a direction in which no local film differs


def recentred(of: Gaussian, local: Float[Tensor, "n d"], *, widths: bool = True) -> Gaussian:
    """The Gaussian with the centre and the spread of local films, each as far as it is sure.

    The centre moves by the positive-part James-Stein share of the way to the local mean: all of
    it where the shift is large for so many films, none where it is what chance makes. The
    covariance is Ledoit and Wolf's (J. Multivariate Analysis 88, 2004), whose sphere here is the
    old covariance, scaled. Without `widths` it stays the old one: what varies among films that
    are not all normal may be disease. Raises ValueError for fewer than two films.
    """
    n, d = local.shape
    if n < 2:
        raise ValueError("a local spread takes two films")
    z = (local - of.mean).double() @ of.whiten.double().T
    middle = z.mean(0)
    centred = z - middle
    variance = float(centred.square().sum()) / ((n - 1) * d)
    chance = variance / n  # of a direction's mean, where nothing is shifted
    signal = max(float(middle.square().mean()) - chance, 0.0)
    share = signal / max(signal + chance, 1e-300)
    mean = of.mean + (share * (local.double().mean(0) - of.mean.double())).to(of.mean)
    return Gaussian(mean, _whiten(of, centred / (n - 1) ** 0.5, variance) if widths else of.whiten)


def _whiten(of: Gaussian, rows: Float[Tensor, "n d"], variance: float) -> Float[Tensor, "d d"]:
    """The old whitening, with the local films' own directions narrowed; `rows`' squares sum to the
    local covariance."""
    d = rows.shape[1]
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    values = singular.square()
    apart = float((values - variance).square().sum()) + (d - len(values)) * variance**2
    n = len(rows)
    noise = (
        float((rows.square().sum(1).square().sum() * n - values.square().sum()).clamp_min(0)) / n
    )
    sphere = min(max(noise / apart, LEAST), 1.0) if apart > 0 else 1.0
    old = max(sphere * variance, 1e-12)
    new = (1 - sphere) * values + old
    turn = directions.T * ((old / new).sqrt() - 1) @ directions
    extractor = torch.eye(d, dtype=torch.float64)
    white: Tensor = (extractor + turn) @ of.whiten.double() / old**0.5
    return white.to(of.whiten)
