"""Several kinds of evidence as one: each as a p-value among normal films, then combined.

A mean of standardised scores drowns one clear sign among many quiet ones; the largest alone
throws away what many faint signs have in common. What is combined here are tail probabilities,
each from the component's own distribution over normal films, so that a component with a long
tail does not shout.
"""

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LEVELS", "Combination", "combined", "quantiles", "surprise"]

Combination: TypeAlias = Literal["mean", "fisher", "tippett", "harmonic"]

LEVELS = (0.0, *(k / 50 for k in range(1, 45)), 0.9, 0.92, 0.94, 0.96, 0.98)
"""Shares of normal films whose component lies below a stored quantile."""
FROM, TO = 0.9, 0.98  # the tail beyond the last quantile falls as it does between these two


def quantiles(values: Float[Tensor, " n"]) -> Float[Tensor, " q"]:
    """The quantiles LEVELS of normal films' component; twenty films or more make them worth it."""
    levels = torch.tensor(LEVELS, dtype=values.dtype, device=values.device)
    return torch.quantile(values, levels)


def surprise(values: Float[Tensor, " b"], of: Float[Tensor, " q"]) -> Float[Tensor, " b"]:
    """Minus the natural logarithm of the share of normal films that lie higher: 0 and more.

    Linear between the quantiles. Beyond the last one the tail is taken to be exponential, and as
    steep as between 90 and 98 %, so that values no normal film had are still told apart.
    """
    levels = torch.tensor(LEVELS, dtype=values.dtype, device=values.device)
    of = of.to(values)
    at = torch.searchsorted(of, values.contiguous()).clamp(1, len(LEVELS) - 1)
    width = (of[at] - of[at - 1]).clamp_min(1e-12)
    share = ((values - of[at - 1]) / width).clamp(0, 1)
    below = levels[at - 1] + share * (levels[at] - levels[at - 1])
    inside = -torch.log1p(-below)
    fall = math.log((1 - FROM) / (1 - TO)) / (of[-1] - of[LEVELS.index(FROM)]).clamp_min(1e-6)
    beyond = -math.log(1 - TO) + (values - of[-1]) * fall
    return torch.where(values > of[-1], beyond, inside)


def combined(
    surprises: Float[Tensor, "k b"], how: Combination, weights: Float[Tensor, " k"] | None = None
) -> Float[Tensor, " b"]:
    """One number a film of k surprises. Higher is more anomalous.

    fisher: their mean (Fisher 1932). tippett: the largest (Tippett 1931). harmonic: minus the
    log of the mean of 1 / p, turned round: between the two (Wilson, PNAS 2019). mean: as fisher.
    """
    k = len(surprises)
    share = torch.full((k,), 1 / k) if weights is None else weights / weights.sum()
    share = share.to(surprises)[:, None]
    if how == "tippett":
        return (surprises * share * k).amax(0)
    if how == "harmonic":
        return torch.logsumexp(surprises + share.log(), dim=0)
    return (surprises * share).sum(0)
