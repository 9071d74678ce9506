"""What looks like a lesion and is none, painted so that a network learns to let it pass.

Vessels seen end on, nipples, ribs that cross, folds of skin, breasts, shoulder blades; and what
another hospital does to its films: local contrast enhancement, film grain, a digitiser's curve,
collimation, everything but the lungs blacked out. Films in [0, 1], dense tissue bright.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from nofinding.functional.image.draws import Draws, softened
from nofinding.functional.image.lesions import Chest, chest, side_of
from nofinding.functional.noise import gaussian
from nofinding.functional.synthetic.acquisition import coarse, field, span

__all__ = ["LOOKALIKES", "paint_lookalikes", "reprocessed"]

Map = Float[Tensor, "h w"]
Film = Float[Tensor, "b 1 h w"]
SHARE = 0.2  # of films that show one of a kind


def _from(on: Chest, y0: float, x0: float) -> tuple[Map, Map]:
    """Pixels down and to the right of a place."""
    high, wide = on.film.shape
    return torch.arange(high)[:, None] - y0, torch.arange(wide)[None] - x0


def end_on_vessels(on: Chest, draws: Draws) -> Map:
    """Small bright discs near the hila, some with the ring of a bronchus beside them."""
    thickness = torch.zeros_like(on.film)
    high, wide = on.film.shape
    middle = torch.exp(-(((torch.linspace(-1, 1, wide)[None]) / 0.35) ** 4))
    rows = torch.exp(-(((torch.linspace(-1, 1, high)[:, None] + 0.05) / 0.4) ** 4))
    for _ in range(int(draws.span(1, 5))):
        at = draws.place((on.lung > 0.5) * middle * rows)
        if at is None:
            break
        y, x = _from(on, *at)
        radius, away = draws.span(0.8, 1.9) * high / 224, (y.square() + x.square()).sqrt()
        thickness += draws.span(0.1, 0.4) * (1 - (away / radius).square()).clamp_min(0).sqrt()
        if draws.chance(0.4):
            y, x = _from(on, at[0] + draws.span(-1, 1), at[1] + 2.2 * radius)
            ring = ((y.square() + x.square()).sqrt() - radius).abs()
            thickness += draws.span(0.05, 0.2) * (1 - ring).clamp_min(0)
    return on.added(thickness)


def nipples(on: Chest, draws: Draws) -> Map:
    """A pair of faint discs, alike, at one height of the lower lungs."""
    high, wide = on.film.shape
    y0, out = draws.span(0.55, 0.78) * high, draws.span(0.17, 0.32) * wide
    radius, much = draws.span(2, 4.5) * high / 224, draws.span(0.06, 0.3)
    thickness = torch.zeros_like(on.film)
    for sign in (-1, 1):
        y, x = _from(on, y0 + 3 * draws.normal(), wide / 2 + sign * (out + 2 * draws.normal()))
        away = (y.square() + (draws.span(0.9, 1.1) * x).square()).sqrt() / radius
        one_sided = torch.sigmoid(sign * x / radius * draws.span(0, 3) + 1)
        thickness += much * torch.sigmoid((1 - away) * draws.span(4, 12)) * one_sided
    return on.added(thickness)


def crossing_ribs(on: Chest, draws: Draws) -> Map:
    """Two soft bands that cross."""
    at = draws.place((on.lung > 0.5).float())
    if at is None:
        return on.film
    y, x = _from(on, *at)
    length, tilt = draws.span(12, 45), draws.span(0.2, 0.9)
    thickness = torch.zeros_like(on.film)
    for sign in (-1, 1):
        bend = draws.span(-0.01, 0.01)
        off = (y + sign * tilt * x + bend * x.square()) / math.hypot(1, tilt)
        band = torch.sigmoid((draws.span(2.5, 5) - off.abs()) * 1.5)
        thickness += draws.span(0.03, 0.12) * band * torch.exp(-((x / length) ** 4))
    return on.added(thickness)


def skin_fold(on: Chest, draws: Draws) -> Map:
    """An edge, not a line, that runs down a lung and beyond it."""
    high, wide = on.film.shape
    sign = -1 if draws.chance(0.5) else 1
    y, x = _from(on, high / 2, wide * (0.5 + sign * draws.span(0.15, 0.35)))
    away = sign * (x + draws.span(-0.3, 0.3) * y + draws.span(-0.002, 0.002) * y.square())
    step = torch.sigmoid(away * draws.span(0.5, 2)) * torch.exp(-(away.clamp_min(0)) / 18)
    return on.added(draws.span(0.05, 0.2) * step * (softened(on.film, 25) > 0.05))


def breasts(on: Chest, draws: Draws) -> Map:
    """A veil with a round lower border over both lower zones, or over one after surgery."""
    high, wide = on.film.shape
    y0, out = draws.span(0.52, 0.72) * high, draws.span(0.2, 0.28) * wide
    tall, broad = draws.span(0.12, 0.26) * high, draws.span(0.13, 0.22) * wide
    sides = (-1, 1) if draws.chance(0.85) else (1,)
    thickness, edge = torch.zeros_like(on.film), draws.span(4, 20)
    for sign in sides:
        y, x = _from(on, y0, wide / 2 + sign * out)
        away = ((y / tall).square() + (x / broad).square()).sqrt()
        below = torch.sigmoid((1 - away) * torch.where(y > 0, edge, 3.0))
        thickness = torch.maximum(thickness, below)
    return on.added(draws.span(0.08, 0.35) * thickness)


def shoulder_blade(on: Chest, draws: Draws) -> Map:
    """A slanting edge over the outer upper lung."""
    high, wide = on.film.shape
    sign = -1 if draws.chance(0.5) else 1
    y, x = _from(on, high * draws.span(0.25, 0.4), wide * (0.5 + sign * draws.span(0.28, 0.4)))
    away = sign * x - draws.span(0.1, 0.5) * y
    band = torch.sigmoid(away) * torch.sigmoid(draws.span(10, 25) - away)
    return on.added(draws.span(0.04, 0.15) * band * torch.exp(-((y / (0.25 * high)) ** 4)))


def rotated(on: Chest, draws: Draws) -> Map:
    """One lung a little darker than the other, as when the patient is turned."""
    more = softened(side_of(on.lung, draws.chance(0.5)), 31)
    return on.added(draws.span(0.03, 0.15) * more)


LOOKALIKES: dict[str, Callable[[Chest, Draws], Map]] = {
    "end-on vessels": end_on_vessels,
    "nipples": nipples,
    "crossing ribs": crossing_ribs,
    "skin fold": skin_fold,
    "breasts": breasts,
    "shoulder blade": shoulder_blade,
    "rotation": rotated,
}


def paint_lookalikes(
    film: Film, lung: Float[Tensor, "b 1 h w"], rows: Sequence[Generator], share: float = SHARE
) -> Film:
    """Films each of which shows each kind with this probability."""
    out = []
    for one, area, row in zip(film[:, 0], lung[:, 0], rows, strict=True):
        draws = Draws(row)
        for paint in LOOKALIKES.values():
            if draws.chance(share):
                painted = paint(chest(one, area, draws), draws)
                one = torch.where(one > 0.012, painted.clamp(0, 1), one)
        out.append(one)
    return torch.stack(out)[:, None]


def reprocessed(film: Film, lung: Float[Tensor, "b 1 h w"], rows: Sequence[Generator]) -> Film:
    """Another hospital's film: local contrast, a film's curve, grain, collimation, masked lungs."""
    fine = film - coarse(film, 28)
    broad = coarse(film, 28) - coarse(film, 6)
    some = (span(0, 1, rows) < 0.5).float()
    film = film + some * (span(-0.3, 1.5, rows) * fine + span(-0.5, 0.5, rows) * broad)
    steep, centre = span(0, 8, rows), span(0.3, 0.7, rows)
    curve = torch.sigmoid(steep * (film - centre))
    low, high = torch.sigmoid(-steep * centre), torch.sigmoid(steep * (1 - centre))
    some = (span(0, 1, rows) < 0.3).float() * (steep > 0.5)
    film = film + some * ((curve - low) / (high - low).clamp_min(1e-3) - film)
    some = (span(0, 1, rows) < 0.3).float()
    film = film + some * span(0, 0.03, rows) * field(112, film, rows)
    film = film + some * span(0, 0.02, rows) * gaussian(film.shape[1:], rows)
    return film.clamp(0.02, 1) * _window(film, lung, rows)


def _window(film: Film, lung: Float[Tensor, "b 1 h w"], rows: Sequence[Generator]) -> Film:
    """1 in what is shown: nine films of ten whole, else collimated, or the lungs alone."""
    high, wide = film.shape[-2:]
    y, x = torch.linspace(0, 1, high)[:, None], torch.linspace(0, 1, wide)[None]
    kind = span(0, 1, rows)
    top, left, bottom, right = (span(0, 0.1, rows) for _ in range(4))
    box = ((y > top) & (y < 1 - bottom) & (x > left) & (x < 1 - right)).float()
    lungs = (lung > 0.5).float()
    lungs = torch.where(lungs.mean(dim=(2, 3), keepdim=True) > 0.08, lungs, 1.0)
    shown = torch.where(kind < 0.12, box, 1.0)
    return torch.where(kind > 0.9, lungs, shown)
