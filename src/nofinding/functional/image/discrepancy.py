"""Where networks that learnt from different films, or with different chance, disagree.

Cai et al. 2022, arXiv:2206.03935 (DDAD). Each takes the outputs of k networks on the same b films.
"""

from jaxtyping import Float
from torch import Tensor

__all__ = ["inter", "intra", "sigma"]

Outputs = Float[Tensor, "k b 1 h w"]
Map = Float[Tensor, "b 1 h w"]


def inter(a: Outputs, b: Outputs) -> Map:
    """|mean of A's outputs - mean of B's|: what A learnt from films that B never saw."""
    return (a.mean(dim=0) - b.mean(dim=0)).abs()


def intra(b: Outputs) -> Map:
    """Standard deviation of the outputs about their mean, by 1 / k: what B is unsure of."""
    return b.std(dim=0, correction=0)


def sigma(logvar: Outputs) -> Map:
    """Root of the mean of the predicted variances: how hard the networks find each pixel."""
    return logvar.exp().mean(dim=0).sqrt()
