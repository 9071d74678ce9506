"""Which of the remembered codes stand for a film (Gong et al. 2019, arXiv:1904.02639, MemAE)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["address", "entropy", "hard_shrink"]

LEAST = 1e-12  # below this a sum of weights is none


def hard_shrink(w: Float[Tensor, "b n"], threshold: float) -> Float[Tensor, "b n"]:
    """Weights above the threshold as they are, the others 0; a gradient flows through the former.

    Eq. 7 of the paper, max(w - threshold, 0) w / (|w - threshold| + eps), with its eps for the
    0 / 0 at the threshold alone.
    """
    return F.relu(w - threshold) * w / (w - threshold).abs().clamp_min(LEAST)


def address(
    z: Float[Tensor, "b c"], memory: Float[Tensor, "n c"], threshold: float
) -> Float[Tensor, "b n"]:
    """How much each remembered code counts: softmax of cosines (eqs. 4 and 5), the small ones cut
    off (eq. 7), the rest summing to 1; all 0 where every weight was small."""
    cosine = F.normalize(z, dim=1) @ F.normalize(memory, dim=1).T
    return F.normalize(hard_shrink(cosine.softmax(dim=1), threshold), p=1, dim=1, eps=LEAST)


def entropy(w: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """- sum w log w (eq. 9): 0 where one code says all."""
    return -(w * w.clamp_min(LEAST).log()).sum(dim=1)
