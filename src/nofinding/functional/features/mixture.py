"""The normal films among unlabelled ones: where their scores lie, and how surely that is known.

A hospital's films are a mixture. What is taken for known is the shape that normal films' scores
had elsewhere, that abnormal films score higher, and the most of them that there can be. Place and
spread of the normal part follow from Bayes' rule on a grid; nothing is drawn, nothing is iterated.
What cannot be known: abnormal films that score like normal ones are taken for normal, and where
hardly any film is normal the normal part is sought among the abnormal.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

__all__ = ["NormalPart", "Shape", "normal_part", "shape_of"]

PLACES, SPREADS = 41, 7  # points of the grid of the normal part
DIFFERS = 0.2  # of the logarithm of a site's spread, about that of the films fitted on
HIGHER = (2.0, 3.5)  # normal spreads that abnormal films lie above normal ones
WIDER = (1.25,)  # normal spreads that abnormal films scatter by
BELIEVED = (0.9, 0.05, 0.03, 0.02)
"""How likely each share of abnormal films is held, from none to the most, in equal steps. Leaning
towards none errs on the side of calling too few: there the normal part reaches higher."""
KERNEL = 0.3  # spreads, of the kernel that makes a density of the films' scores
REACH = 8.0  # spreads, beyond which the density is that at the end
KNOTS = 321


class Shape(NamedTuple):
    """How scores of normal films are distributed, in their own spreads about their own mean."""

    log_density: Float64[Tensor, " k"]  # at KNOTS places from -REACH to REACH
    below: Float64[Tensor, " k"]  # share of normal films below each


class NormalPart(NamedTuple):
    """The normal films among some."""

    place: float  # of their mean score
    spread: float
    share: float  # of all films that are normal, in expectation
    chance: Float64[Tensor, " n"]  # of each film, to be normal
    quantiles: Float64[Tensor, " n"]  # of the next normal film's score, at i / (n + 1)


def shape_of(standard: Float[Tensor, " n"]) -> Shape:
    """The shape of normal films' standardised scores, smoothed; a bell curve of fewer than 30."""
    knots = _knots()
    if len(standard) < 30:
        log_density = -0.5 * knots.square() - 0.5 * math.log(2 * math.pi)
        return Shape(log_density, torch.special.ndtr(knots))
    centred = standard.double() - standard.double().mean()
    centred = centred / centred.std().clamp_min(1e-12) * math.sqrt(1 - KERNEL**2)
    apart = (knots[:, None] - centred) / KERNEL
    density = (-0.5 * apart.square()).exp().mean(1) / (KERNEL * math.sqrt(2 * math.pi))
    # A film beyond all others is unlikely, not impossible.
    wide = (-0.5 * (knots / 2).square()).exp() / (2 * math.sqrt(2 * math.pi))
    log_density = (0.98 * density + 0.02 * wide).log()
    below = 0.98 * torch.special.ndtr(apart).mean(1) + 0.02 * torch.special.ndtr(knots / 2)
    return Shape(log_density, below)


def normal_part(
    scores: Float[Tensor, " n"], shape: Shape, spread: float, *, abnormal_at_most: float
) -> NormalPart:
    """Where the normal films among these lie; with `abnormal_at_most` 0 all of them are normal.

    `spread` is that of normal films elsewhere; the site's own is believed to be within about a
    fifth of it, the more freely the more films there are. Raises ValueError for fewer than two
    films or a share of abnormal ones that is not from 0 to below 1.
    """
    if len(scores) < 2 or not 0 <= abnormal_at_most < 1:
        raise ValueError("two films or more, and a share from 0 to below 1")
    x = scores.double()
    spread = max(spread, 1e-9)
    place, scale = _grid(x, spread)
    normal = (
        _at(shape.log_density, (x - place[:, None, None]) / scale[:, None]) - scale.log()[:, None]
    )
    prior = -0.5 * ((scale / spread).log() / DIFFERS).square()
    if abnormal_at_most == 0:
        weight = _normalised(normal.sum(2) + prior)
        chance = torch.ones_like(x)
        share = 1.0
    else:
        weight, chance, share = _with_abnormal(x, place, scale, normal, prior, abnormal_at_most)
    where = float((weight.sum(1) * place).sum())
    second = (weight.sum(0) * scale).sum()
    return NormalPart(
        where, float(second), share, chance, _quantiles(len(x), place, scale, weight, shape)
    )


def _grid(x: Float64[Tensor, " n"], spread: float) -> tuple[Tensor, Tensor]:
    """Places and spreads that are considered."""
    low, high = x.quantile(0.02), x.quantile(0.9)
    place = torch.linspace(float(low), max(float(high), float(low) + spread), PLACES, dtype=x.dtype)
    steps = torch.linspace(-2.5, 2.5, SPREADS, dtype=x.dtype) * DIFFERS
    return place, spread * steps.exp()


def _with_abnormal(
    x: Tensor, place: Tensor, scale: Tensor, normal: Tensor, prior: Tensor, most: float
) -> tuple[Tensor, Tensor, float]:
    """Weight of each place and spread, each film's chance to be normal, and their share."""
    total = torch.zeros(len(place), len(scale), dtype=x.dtype)
    pieces = []
    shares = torch.linspace(0, most, len(BELIEVED), dtype=x.dtype).tolist()
    for share, believed in zip(shares, BELIEVED, strict=True):
        for higher in HIGHER if share else (0.0,):
            for wider in WIDER if share else (1.0,):
                far = (x - place[:, None, None] - higher * scale[:, None]) / (
                    wider * scale[:, None]
                )
                abnormal = -0.5 * far.square() - (wider * scale[:, None]).log()
                abnormal = abnormal - 0.5 * math.log(2 * math.pi)
                first = normal + math.log1p(-share)
                both = torch.logaddexp(first, abnormal + math.log(share)) if share else first
                kinds = math.log(len(HIGHER) * len(WIDER)) if share else 0.0
                log_weight = both.sum(2) + prior + math.log(believed) - kinds
                pieces.append((log_weight, first - both, share))
    top = max(float(piece[0].max()) for piece in pieces)
    chance, expected, whole = torch.zeros_like(x), 0.0, 0.0
    for log_weight, log_chance, share in pieces:
        own = (log_weight - top).exp()
        total += own
        chance += torch.einsum("ps,psn->n", own, log_chance.exp())
        expected += float(own.sum()) * (1 - share)
        whole += float(own.sum())
    return total / whole, (chance / whole).clamp(0, 1), expected / whole


def _quantiles(n: int, place: Tensor, scale: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """Of the next normal film, whose place and spread are known only so well."""
    reach = REACH * float(scale.max())
    at = torch.linspace(float(place[0]) - reach, float(place[-1]) + reach, 601, dtype=place.dtype)
    below = torch.zeros_like(at)
    for j, one in enumerate(scale):
        far = (at - place[:, None]) / one
        below += (weight[:, j, None] * _at(shape.below, far)).sum(0)
    expected = torch.arange(1, n + 1, dtype=place.dtype) / (n + 1)
    right = torch.searchsorted(below.contiguous(), expected).clamp(1, len(at) - 1)
    rise = (below[right] - below[right - 1]).clamp_min(1e-15)
    part = ((expected - below[right - 1]) / rise).clamp(0, 1)
    return at[right - 1] + part * (at[right] - at[right - 1])


def _normalised(log_weight: Tensor) -> Tensor:
    weight = (log_weight - log_weight.max()).exp()
    return weight / weight.sum()


def _knots() -> Float64[Tensor, " k"]:
    return torch.linspace(-REACH, REACH, KNOTS, dtype=torch.float64)


def _at(values: Float64[Tensor, " k"], far: Tensor) -> Tensor:
    """The values between the knots, by a straight line."""
    step = 2 * REACH / (KNOTS - 1)
    place = ((far + REACH) / step).clamp(0, KNOTS - 1.001)
    left = place.long()
    share = place - left
    return values[left] * (1 - share) + values[left + 1] * share
