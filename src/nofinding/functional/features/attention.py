"""Image-EHR cross-attention: which entries of the record matter for this film."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["pool_tokens"]


def pool_tokens(
    query: Float[Tensor, "b d"],
    tokens: Float[Tensor, "b f d"],
    known: Bool[Tensor, "b f"],
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b f"]]:
    """The record as one vector, and the weight of each entry, as the film asks for it.

    One query attends to the tokens (Diff3M, eq. 2): weights are softmax(token . query /
    sqrt(d)) over the known tokens and sum to 1; with none known both results are 0.
    """
    # Missing is a fact, not a number: mask the token, do not write 0 for it.
    logits = torch.einsum("bd,bfd->bf", query, tokens) * query.shape[-1] ** -0.5
    weights = logits.masked_fill(~known, -torch.inf).softmax(dim=-1).nan_to_num(0)
    return torch.einsum("bf,bfd->bd", weights, tokens), weights
