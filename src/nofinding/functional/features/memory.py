"""Which of the remembered codes stand for a film (Gong et al. 2019, arXiv:1904.02639, MemAE; with
few of them chosen by rank, Xiang et al. 2023, arXiv:2111.13495, SQUID)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["Similarity", "address", "enqueue", "entropy", "gumbel_shrink", "hard_shrink", "recall"]

Similarity = Literal["cosine", "dot"]

LEAST = 1e-12  # below this a sum of weights is none


def hard_shrink(w: Float[Tensor, "b n"], threshold: float) -> Float[Tensor, "b n"]:
    """Weights above the threshold as they are, the others 0; a gradient flows through the former.

    Eq. 7 of the paper, max(w - threshold, 0) w / (|w - threshold| + eps), with its eps for the
    0 / 0 at the threshold alone.
    """
    return F.relu(w - threshold) * w / (w - threshold).abs().clamp_min(LEAST)


def address(
    z: Float[Tensor, "b c"],
    memory: Float[Tensor, "n c"],
    threshold: float,
    similarity: Similarity = "cosine",
) -> Float[Tensor, "b n"]:
    """How much each remembered code counts: softmax of cosines (eqs. 4 and 5), the small ones cut
    off (eq. 7), the rest summing to 1; all 0 where every weight was small.

    `dot`: softmax of inner products, as the published programs compute it.
    """
    if similarity == "cosine":
        z, memory = F.normalize(z, dim=1), F.normalize(memory, dim=1)
    weights = (z @ memory.T).softmax(dim=1)
    return F.normalize(hard_shrink(weights, threshold), p=1, dim=1, eps=LEAST)


def entropy(w: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """- sum w log w (eq. 9): 0 where one code says all."""
    return -(w * w.clamp_min(LEAST).log()).sum(dim=1)


def gumbel_shrink(logits: Float[Tensor, "... n"], count: int) -> Float[Tensor, "... n"]:
    """Softmax weights of the `kept` largest, summing to 1, the others 0; the gradient is that of
    the whole softmax, so that every remembered code can still be drawn nearer (SQUID, 3.2)."""
    w = logits.softmax(dim=-1)
    largest, where = w.detach().topk(min(count, w.shape[-1]), dim=-1)
    few = torch.zeros_like(w).scatter(-1, where, F.normalize(largest, p=1, dim=-1, eps=LEAST))
    return (few - w).detach() + w


def recall(
    x: Float[Tensor, "b p c"], codes: Float[Tensor, "p n c"], count: int
) -> Float[Tensor, "b p c"]:
    """What the memory of each place p makes of what is seen there: a mixture of the `kept` codes
    whose inner product with it is largest. No place looks into the memory of another."""
    weights = gumbel_shrink(torch.einsum("bpc,pnc->bpn", x, codes), count)
    return torch.einsum("bpn,pnc->bpc", weights, codes)


def enqueue(
    codes: Float[Tensor, "p n c"], incoming: Float[Tensor, "b p c"]
) -> Float[Tensor, "p n c"]:
    """The queues after the newest were put in front: the oldest drop out at the end."""
    return torch.cat([incoming.transpose(0, 1), codes], dim=1)[:, : codes.shape[1]]
