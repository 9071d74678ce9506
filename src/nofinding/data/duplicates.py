"""Twins: the same film in other clothes, among many films.

It is known again after inversion, masking to the lungs, a crop, another size or aspect, gamma,
JPEG, 8-bit rounding and mirroring. Films of one patient taken at different times are not twins.
Candidates are pairs with like edges in the same place, or like codes within some frame; each is
then laid over the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from nofinding.data.signatures import Signatures, codes_of, common_to_chests, unpacked_film
from nofinding.functional.image.fine_detail import fine_detail
from nofinding.functional.image.fingerprint import edges, frames_tried
from nofinding.functional.image.overlap import agreement, aligned, sampled

__all__ = ["Twins", "alike", "all_candidates", "twins_between", "twins_within"]

BLOCK = 10_000  # films compared with as many at once
ROWS = 512  # films in one product of codes
AT_ONCE = 128  # pairs laid over each other at once
IN_PLACE = 0.6  # correlation of edges, of either sign
SHARED = 0.36  # of the strength of the film that shows less
FEWEST_SHARED = 60  # cells that are film in both
ALIKE = 0.7  # cosine of two codes, of either sign
WHOLE, TILES, FEWEST = 0.75, 0.95, 4  # twins have at least: benchmarks/results/twins.md
MARGIN = 0.9  # of a sampled pixel that must be film


@dataclass(frozen=True, slots=True)
class Twins:
    """Pairs of films that are one film, by their numbers in the two sets."""

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    mirrored: Bool[np.ndarray, " n"]
    inverted: Bool[np.ndarray, " n"]
    correlation: Float[np.ndarray, " n"]
    """Of the fine detail, over the overlap: the median of its tiles."""
    whole: Float[np.ndarray, " n"]
    """Of the fine detail, over the whole overlap."""
    tiles: Float[np.ndarray, " n"]
    """Of TILE pixels a side, that show film in both."""

    def __len__(self) -> int:
        return len(self.first)


def twins_between(first: Signatures, second: Signatures) -> Twins:
    """Every film of the one that is a film of the other, too."""
    return alike(all_candidates(first, second))


def twins_within(films: Signatures) -> Twins:
    """Every two films that are one; `first` is below `second`."""
    return alike(all_candidates(films, films, within=True))


def all_candidates(first: Signatures, second: Signatures, *, within: bool = False) -> Twins:
    """Every pair with like codes, laid over each other; few of them are twins."""
    return _joined([*_blocks(first, second, within=within)])


def _blocks(first: Signatures, second: Signatures, *, within: bool) -> Iterator[Twins]:
    for at in range(0, len(second), BLOCK):
        for start in range(0, (at + BLOCK if within else len(first)), BLOCK):
            if start >= len(first):
                break
            queries = first.part(start, start + BLOCK)
            indexed = second.part(at, at + BLOCK)
            for mirrored in (False, True):
                one, other, frame = candidates(queries, indexed, mirrored)
                if within:
                    ahead = one + start < other + at
                    one, other, frame = one[ahead], other[ahead], frame[ahead]
                for some in range(0, len(one), AT_ONCE):
                    part = slice(some, some + AT_ONCE)
                    whole, correlation, tiles = (
                        value.double().numpy()
                        for value in compared(
                            queries, indexed, one[part], other[part], frame[part], mirrored
                        )
                    )
                    yield Twins(
                        one[part] + start,
                        other[part] + at,
                        np.full(len(whole), mirrored),
                        whole < 0,
                        correlation,
                        abs(whole),
                        tiles,
                    )


@torch.no_grad()
def candidates(
    queries: Signatures, indexed: Signatures, mirrored: bool
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, "n 4"]]:
    """(film of the query, film of the index, frame) of the pairs to be laid over each other."""
    codes = torch.from_numpy(np.ascontiguousarray(indexed.code)).float().T.contiguous()
    edges_there = [_edges(indexed.film[at : at + ROWS]) for at in range(0, len(indexed), ROWS)]
    there, film_there = (torch.cat(part) for part in zip(*edges_there, strict=True))
    hits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(queries), ROWS):
        stored = queries.film[start : start + ROWS]
        stored = stored[:, :, ::-1] if mirrored else stored
        in_place = _in_place(_edges(stored), (there, film_there))
        hits.append((in_place + start * len(indexed), np.full(len(in_place), 2.0), 0 * in_place))
        for number, own in enumerate(codes_of(*unpacked_film(stored), range(len(frames_tried())))):
            cosine = (own @ codes).abs_().flatten()
            place = torch.nonzero(cosine > ALIKE)[:, 0]
            value, frame = cosine[place].numpy(), np.full(len(place), number)
            hits.append((place.numpy() + start * len(indexed), value, frame))
    pair, value, which = (np.concatenate([hit[k] for hit in hits]) for k in range(3))
    best = np.lexsort((-value, pair))
    best = best[np.diff(pair[best], prepend=-1) > 0]
    one, other = np.divmod(pair[best], max(len(indexed), 1))
    return one, other, np.array(frames_tried(), np.float32)[which[best]]


Edges: TypeAlias = tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]


def _edges(stored: UInt8[np.ndarray, "n s s"]) -> Edges:
    """(edges, 1 where they are known) in the cells where lungs usually are."""
    usual = common_to_chests()[0] > 0
    strength, within = edges(*unpacked_film(stored))
    return strength[:, usual], within[:, usual]


def _in_place(first: Edges, second: Edges) -> Int[np.ndarray, " n"]:
    """Pairs of films with like edges wherever both show film, without any shift; numbered along the
    rows of the product.

    The normalised correlation over the overlap takes three products. One is enough to drop nearly
    all pairs: those whose product is small for the strength of the film that shows less.
    """
    (one, in_one), (other, in_other) = first, second
    most = torch.minimum((one**2).sum(1)[:, None], (other**2).sum(1))
    place = torch.nonzero(((one @ other.T).abs_() > SHARED * most).flatten())[:, 0]
    alike = [place[:0]]
    for some in torch.split(place, ROWS * 8):
        i, j = some // len(other), some % len(other)
        overlap = in_one[i] * in_other[j]
        a, b = one[i] * overlap, other[j] * overlap
        value = (a * b).sum(1).abs() / (a**2).sum(1).mul((b**2).sum(1)).sqrt().clamp_min(1e-6)
        alike.append(some[(value > IN_PLACE) & (overlap.sum(1) >= FEWEST_SHARED)])
    return torch.cat(alike).numpy()


@torch.no_grad()
def compared(
    queries: Signatures,
    indexed: Signatures,
    one: Int[np.ndarray, " b"],
    other: Int[np.ndarray, " b"],
    frame: Float[np.ndarray, "b 4"],
    mirrored: bool,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """`agreement` of each pair, one film laid over the other where they are most alike.

    What only one of them shows is cut out of both before their detail is drawn, so that a film and
    its lungs alone have the same detail up to the edge.
    """
    film, inside = unpacked_film(queries.film[one])
    if mirrored:
        film, inside = film.flip(2), inside.flip(2)
    laid, shown = unpacked_film(indexed.film[other])
    scale, shift = torch.split(torch.from_numpy(frame), 2, dim=1)
    start = torch.cat([1 / scale, -shift / scale], dim=1)
    agreed, both = _over(film, inside, laid, shown, start)
    rest = torch.nonzero(~_enough(*agreed))[:, 0]
    if len(rest):
        film, inside, laid, shown = film[rest], inside[rest], laid[rest], shown[rest]
        detail = fine_detail(film, both[rest])
        place = aligned(detail, both[rest], fine_detail(laid, shown), start[rest])
        moved = _over(film, inside, laid, shown, place)[0]
        better = moved[0].abs() > agreed[0][rest].abs()
        for before, after in zip(agreed, moved, strict=True):
            before[rest[better]] = after[better]
    return agreed


def _enough(
    whole: Float[Tensor, " b"], median: Float[Tensor, " b"], tiles: Float[Tensor, " b"]
) -> Bool[Tensor, " b"]:
    """Whether two films agree as one film does."""
    return (whole.abs() >= WHOLE) & (median >= TILES) & (tiles >= FEWEST)


Agreement: TypeAlias = tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]


def _over(
    film: Float[Tensor, "b s s"],
    inside: Float[Tensor, "b s s"],
    laid: Float[Tensor, "b s s"],
    shown: Float[Tensor, "b s s"],
    place: Float[Tensor, "b 4"],
) -> tuple[Agreement, Float[Tensor, "b s s"]]:
    """(agreement at that place, what both show)."""
    there = sampled(shown, place)
    both = inside * (there > MARGIN)
    over = sampled(laid * shown, place) / there.clamp_min(MARGIN)
    return agreement(fine_detail(film, both), fine_detail(over, both), both), both


def _joined(parts: list[Twins]) -> Twins:
    names = Twins.__slots__
    if not parts:
        empty = np.empty(0)
        return Twins(
            empty.astype(int), empty.astype(int), empty.astype(bool), empty.astype(bool),
            empty, empty, empty,
        )  # fmt: skip
    return Twins(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def alike(pairs: Twins) -> Twins:
    """Those alike enough, each pair once, in the order of the films."""
    enough = (pairs.correlation >= TILES) & (pairs.whole >= WHOLE) & (pairs.tiles >= FEWEST)
    order = np.lexsort((-pairs.correlation, pairs.second, pairs.first))
    order = order[enough[order]]
    again = np.r_[False, (np.diff(pairs.first[order]) == 0) & (np.diff(pairs.second[order]) == 0)]
    order = order[~again[: len(order)]]
    return Twins(*(getattr(pairs, name)[order] for name in Twins.__slots__))
