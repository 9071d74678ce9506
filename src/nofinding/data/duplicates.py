"""Twins: altered copies of one film, among many films.

It is known again after inversion, masking to the lungs, a crop, another size or aspect, gamma,
JPEG, 8-bit rounding and mirroring. Films of one patient taken at different times are not twins.
Candidates are pairs with like edges in the same place, or like codes within some frame; each is
then laid over the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from nofinding.data.cut_films import likest_places
from nofinding.data.signatures import Signatures, codes_of, common_to_chests, unpacked_film
from nofinding.functional.image.fine_detail import fine_detail
from nofinding.functional.image.fingerprint import course, edges, frames_tried
from nofinding.functional.image.overlap import agreement, aligned, sampled

__all__ = ["Twins", "alike", "all_candidates", "edges_of", "twins_between", "twins_within"]

BLOCK = 10_000  # films compared with as many at once
ROWS = 512  # films in one product of codes
DRAWN = 32  # films whose edges are drawn at once
COLUMNS = 1024  # films of the index in one product: with ROWS 2 MiB, that stay in cache
AT_ONCE = 32  # pairs laid over each other at once: what they take stays in cache
IN_PLACE = 0.6  # correlation of edges, of either sign
SHARED = 0.36  # of the strength of the film that shows less
FEWEST_SHARED = 60  # cells that are film in both
CUT, LEAST = 0.8, 0.06  # of the usual cells: a film that shows less shows the lungs alone
ALIKE = 0.7  # cosine of two codes, of either sign
WHOLE, TILES, FEWEST = 0.75, 0.95, 4  # twins have at least: benchmarks/results/twins.md
SIGNS = 0.75
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
    signs: Float[np.ndarray, " n"]
    """Of the edges of cells, agreeing less disagreeing as a share; 0 where the detail differs."""

    def __len__(self) -> int:
        return len(self.first)

    @classmethod
    def none(cls) -> "Twins":
        """No pair."""
        kinds = (int, int, bool, bool, float, float, float, float)
        return cls(*(np.empty(0, kind) for kind in kinds))


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
        indexed = Indexed.of(second.part(at, at + BLOCK))
        for start in range(0, (at + BLOCK if within else len(first)), BLOCK):
            if start >= len(first):
                break
            queries = first.part(start, start + BLOCK)
            known = [Twins.none()]
            for search in (candidates, cut_candidates):
                hits = search(queries, indexed, alike(_joined(known)))
                if within:
                    hits = hits.at(hits.first + start < hits.second + at)
                known += _laid_over(queries, indexed.films, hits)
            pairs = _joined(known)
            yield replace(pairs, first=pairs.first + start, second=pairs.second + at)


def _laid_over(first: Signatures, second: Signatures, hits: "Candidates") -> Iterator[Twins]:
    """What each pair is like, a few at once."""
    for mirrored in (False, True):
        some = hits.at(hits.mirrored == mirrored)
        for number in range(0, len(some.first), AT_ONCE):
            pairs = some.at(slice(number, number + AT_ONCE))
            whole, correlation, tiles, signs = (
                value.double().numpy() for value in compared(first, second, pairs)
            )
            yield Twins(
                pairs.first,
                pairs.second,
                pairs.mirrored,
                whole < 0,
                correlation,
                abs(whole),
                tiles,
                signs,
            )


Edges: TypeAlias = tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]


Agreement: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""(whole, median of the tiles, tiles, signs) of each pair."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """Films that others are looked for among, with what all of those are compared with."""

    films: Signatures
    codes: Float[Tensor, "c n"]
    edges: Edges

    @classmethod
    @torch.no_grad()
    def of(cls, films: Signatures) -> "Indexed":
        """Draws the edges of each film, once."""
        parts = [edges_of(films.film[at : at + ROWS])[0] for at in range(0, len(films), ROWS)]
        edges_of_all = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        codes = torch.from_numpy(np.ascontiguousarray(films.code)).float().T.contiguous()
        return cls(films, codes, (edges_of_all[0], edges_of_all[1]))


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs to be laid over each other: film of the query, film of the index, whether the first is
    mirrored, and the frame that the second shows of it."""

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    mirrored: Bool[np.ndarray, " n"]
    frame: Float[np.ndarray, "n 4"]

    def at(self, rows: Any) -> "Candidates":
        """Those alone."""
        return Candidates(*(getattr(self, name)[rows] for name in Candidates.__slots__))


@torch.no_grad()
def candidates(queries: Signatures, indexed: Indexed, _: Twins | None = None) -> Candidates:
    """The pairs with like edges in place, or with like codes within some frame."""
    parts: list[Candidates] = []
    frames = np.array(frames_tried(), np.float32)
    for start in range(0, len(queries), ROWS):
        stored = queries.film[start : start + ROWS]
        grid = torch.cat([course(*unpacked_film(some)) for some in _few(stored)])
        for mirrored, own in enumerate(edges_of(stored)):
            codes = codes_of(grid.flip(2) if mirrored else grid, range(len(frames)))
            place = _in_place(own, indexed.edges)
            other, number = _in_some_frame(codes, indexed.codes)
            every, first = np.unique(np.r_[place, other], return_index=True)
            one, two = np.divmod(every, max(len(indexed.films), 1))
            frame = frames[np.r_[0 * place, number][first]]  # in place comes first: the whole film
            parts.append(Candidates(one + start, two, np.full(len(one), bool(mirrored)), frame))
    if not parts:
        none = np.empty(0, int)
        return Candidates(none, none, none > 0, np.empty((0, 4), np.float32))
    return Candidates(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in Candidates.__slots__)
    )


def cut_candidates(queries: Signatures, indexed: Indexed, known: Twins) -> Candidates:
    """The likest pairs of a film that shows little but the lungs, and is in no pair of `known`, and
    any other: wherever it lies on that as a crop."""
    one, two = (
        np.setdiff1d(_cut(films), paired)
        for films, paired in ((queries.film, known.first), (indexed.films.film, known.second))
    )
    cut, there, mirrored, place = likest_places(queries.at(one.tolist()), indexed.films)
    side, shift = place[:, :1], place[:, 1:]
    ours = Candidates(one[cut], there, mirrored, np.hstack([1 / side, 1 / side, -shift / side]))
    cut, here, mirrored, place = likest_places(indexed.films.at(two.tolist()), queries)
    side, shift = place[:, :1], place[:, 1:].copy()
    shift[mirrored, 1] *= -1  # where the other film is mirrored in its place
    theirs = Candidates(here, two[cut], mirrored, np.hstack([side, side, shift]))
    return Candidates(
        *(
            np.concatenate([getattr(pairs, name) for pairs in (ours, theirs)])
            for name in Candidates.__slots__
        )
    )


def _cut(stored: UInt8[np.ndarray, "n s s"]) -> Int[np.ndarray, " k"]:
    """The films that show less than CUT of the cells where lungs usually are, but enough."""
    usual = (common_to_chests()[0] > 0).numpy()
    step = stored.shape[1] // len(usual)
    share = (stored[:, ::step, ::step][:, usual] > 0).mean(axis=1)
    return np.flatnonzero((share < CUT) & (share > LEAST))


def edges_of(stored: UInt8[np.ndarray, "n s s"]) -> tuple[Edges, Edges]:
    """(edges, 1 where they are known) in the cells where lungs usually are; and of the films
    mirrored."""
    usual = common_to_chests()[0] > 0
    parts = [edges(*unpacked_film(some)) for some in _few(stored)]
    if not parts:
        none = torch.empty(0, int(usual.sum()))
        return (none, none), (none, none)
    strength, within = (torch.cat(part) for part in zip(*parts, strict=True))
    return (
        (strength[:, usual], within[:, usual]),
        (strength.flip(2)[:, usual], within.flip(2)[:, usual]),
    )


def _few(stored: UInt8[np.ndarray, "n s s"]) -> Iterator[UInt8[np.ndarray, "k s s"]]:
    """The films, so many at once as a processor's cache holds."""
    for start in range(0, len(stored), DRAWN):
        yield stored[start : start + DRAWN]


def _in_some_frame(
    codes: Float[Tensor, "f n c"], there: Float[Tensor, "c m"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """(pairs with like codes, numbered along the rows of the product; frame of the likest).

    The likest frame is kept as it goes, in tiles that a processor's cache holds.
    """
    pairs, best = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
    for start in range(0, there.shape[1], COLUMNS):
        some = there[:, start : start + COLUMNS].contiguous()
        likest, cosine = torch.zeros(2, codes.shape[1], some.shape[1]).unbind(0)
        for own in codes:
            torch.maximum(likest, torch.mm(own, some, out=cosine).abs_(), out=likest)
        i, j = torch.nonzero(likest > ALIKE).unbind(1)
        for part in torch.split(torch.arange(len(i)), ROWS * 8):
            a, b = i[part], j[part]
            in_each = (codes[:, a] * some.T[b]).sum(2).abs()
            pairs.append(a * there.shape[1] + b + start)
            best.append(in_each.argmax(dim=0))
    return torch.cat(pairs).numpy(), torch.cat(best).numpy()


def _in_place(first: Edges, second: Edges) -> Int[np.ndarray, " n"]:
    """Pairs of films with like edges wherever both show film, without any shift; numbered along the
    rows of the product.

    The normalised correlation over the overlap takes three products. One is enough to drop nearly
    all pairs: those whose product is small for the strength of the film that shows less.
    """
    (one, in_one), (other, in_other) = first, second
    low, high = (SHARED * (strength**2).sum(1) for strength in (one, other))
    alike = [torch.empty(0, dtype=torch.long)]
    for start in range(0, len(other), COLUMNS):
        least = torch.minimum(low[:, None], high[start : start + COLUMNS])
        product = one @ other[start : start + COLUMNS].T
        rows, columns = torch.nonzero(product.abs_() > least).unbind(1)
        for part in torch.split(torch.arange(len(rows)), ROWS * 8):
            i, j = rows[part], columns[part] + start
            overlap = in_one[i] * in_other[j]
            a, b = one[i] * overlap, other[j] * overlap
            value = (a * b).sum(1).abs() / (a**2).sum(1).mul((b**2).sum(1)).sqrt().clamp_min(1e-6)
            enough = (value > IN_PLACE) & (overlap.sum(1) >= FEWEST_SHARED)
            alike.append((i * len(other) + j)[enough])
    return torch.cat(alike).numpy()


@torch.no_grad()
def compared(queries: Signatures, indexed: Signatures, pairs: Candidates) -> Agreement:
    """Of each pair, one film laid over the other where they are most alike; all pairs
    are mirrored, or none.

    What only one of them shows is cut out of both before their detail is drawn, so that a film and
    its lungs alone have the same detail up to the edge.
    """
    film, inside = unpacked_film(queries.film[pairs.first])
    if pairs.mirrored.any():
        film, inside = film.flip(2), inside.flip(2)
    laid, shown = unpacked_film(indexed.film[pairs.second])
    scale, shift = torch.split(torch.from_numpy(pairs.frame), 2, dim=1)
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


def _enough(whole: Tensor, median: Tensor, tiles: Tensor, signs: Tensor) -> Bool[Tensor, " b"]:
    """Whether two films agree as one film does."""
    return (whole.abs() >= WHOLE) & (median >= TILES) & (tiles >= FEWEST) & (signs >= SIGNS)


def _over(
    film: Float[Tensor, "b s s"],
    inside: Float[Tensor, "b s s"],
    laid: Float[Tensor, "b s s"],
    shown: Float[Tensor, "b s s"],
    place: Float[Tensor, "b 4"],
) -> tuple[Agreement, Float[Tensor, "b s s"]]:
    """(agreement at that place, what both show).

    Signs are those of the edges of cells; they are compared where the fine detail agrees, and are 0
    elsewhere. Phantoms and other smooth films may agree in detail by their common shape alone.
    """
    there = sampled(shown, place)
    both = inside * (there > MARGIN)
    over = sampled(laid * shown, place) / there.clamp_min(MARGIN)
    whole, median, tiles = agreement(fine_detail(film, both), fine_detail(over, both), both)
    signs = torch.ones_like(whole)
    rows = torch.nonzero(_enough(whole, median, tiles, signs))[:, 0]
    signs = torch.zeros_like(whole)
    if len(rows):
        (one, known), (other, _) = edges(film[rows], both[rows]), edges(over[rows], both[rows])
        signs[rows] = (one.sign() * other.sign()).sum((1, 2)).abs() / known.sum((1, 2)).clamp_min(1)
    return (whole, median, tiles, signs), both


def _joined(parts: list[Twins]) -> Twins:
    every = [Twins.none(), *parts]
    return Twins(
        *(np.concatenate([getattr(part, name) for part in every]) for name in Twins.__slots__)
    )


def alike(pairs: Twins) -> Twins:
    """Those alike enough, each pair once, in the order of the films."""
    enough = (pairs.correlation >= TILES) & (pairs.whole >= WHOLE) & (pairs.tiles >= FEWEST)
    enough &= pairs.signs >= SIGNS
    order = np.lexsort((-pairs.correlation, pairs.second, pairs.first))
    order = order[enough[order]]
    again = np.r_[False, (np.diff(pairs.first[order]) == 0) & (np.diff(pairs.second[order]) == 0)]
    order = order[~again[: len(order)]]
    return Twins(*(getattr(pairs, name)[order] for name in Twins.__slots__))
