"""Anomalies painted on normal films: the only hint of disease that a method here may see.

Crude on purpose and of many kinds, so that what learns from them learns "something is here that
does not belong", as in foreign patch interpolation (Tan et al. 2020, arXiv:2011.04197), NSA
(Schlueter et al. 2022, arXiv:2109.15222) and AnatPaste (Sato et al. 2023), which paste patches.
No abnormal film is looked at. Films in [0, 1], dense tissue bright, a frontal chest; lungs are
where they usually are. Every number is drawn from the row's own generator.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from nofinding.functional.noise import integers
from nofinding.functional.synthetic.acquisition import coarse, field, span

__all__ = ["ANOMALIES", "changed", "paint"]

Film = Float[Tensor, "b 1 h w"]
Number = Float[Tensor, "b 1 1 1"]
Rows = Sequence[Generator]

SECOND = 0.4  # share of films that get two kinds
VISIBLE = 0.025  # the least change of grey, over 4 x 4 pixels, that counts as one


def _grid(film: Film) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, in shares of the side."""
    high, wide = film.shape[-2:]
    return ((torch.arange(high) + 0.5) / high)[:, None], ((torch.arange(wide) + 0.5) / wide)[None]


def _side(rows: Rows) -> Number:
    """0 for the lung on the left of the film, 1 for the other."""
    return integers(0, 2, rows).float()[:, None, None, None]


def _lung(film: Film, side: Number) -> Film:
    """Where a lung usually is: 1 inside, falling smoothly."""
    y, x = _grid(film)
    return torch.exp(-((((x - 0.30 - 0.40 * side) / 0.17) ** 2 + ((y - 0.47) / 0.33) ** 2) ** 2))


def _shown(film: Film) -> Film:
    """1 where the film shows anything, 0 in what was masked or collimated."""
    return (coarse(film, film.shape[-1] // 4) > 0.03).float()


def _dense(film: Film) -> Number:
    """The grey that dense tissue has in this film: a high quantile of what is not black."""
    greys = film.flatten(1)[:, ::5].sort(1).values
    count = greys.shape[1]
    black = (greys < 0.03).sum(1)
    # A film with everything but the lungs blacked out has no mediastinum to take it from.
    share = torch.where(black > 0.45 * count, 0.98, 0.85)
    index = (black + share * (count - black)).long().clamp(max=count - 1)
    return greys.gather(1, index[:, None])[:, :, None, None] + 0.05


def _blob(
    film: Film, y0: Number, x0: Number, high: Number, wide: Number, rows: Rows, rough: float
) -> Film:
    """A patch with a soft, uneven edge: 1 inside, 0 outside."""
    y, x = _grid(film)
    distance = (((y - y0) / high) ** 2 + ((x - x0) / wide) ** 2).sqrt()
    uneven = rough * field(7, film, rows) + 0.5 * rough * field(16, film, rows)
    return torch.sigmoid((1 - distance + 0.45 * uneven) * 6)


def _in_a_lung(rows: Rows) -> tuple[Number, Number]:
    return span(0.25, 0.72, rows), 0.30 + 0.40 * _side(rows) + span(-0.08, 0.08, rows)


def _towards(film: Film, target: Tensor, weight: Tensor) -> Film:
    """Brighter by a share of what is missing to the target; never darker."""
    return film + weight * F.relu(target - film)


def opacity(film: Film, rows: Rows) -> Film:
    """Consolidation: one or two dense, mottled patches."""
    out, shown, dense = film, _shown(film), _dense(film)
    for chance in (1.0, 0.5):
        y, x = _in_a_lung(rows)
        blob = _blob(film, y, x, span(0.06, 0.22, rows), span(0.06, 0.17, rows), rows, 0.6)
        there = (span(0, 1, rows) < chance).float()
        target = dense * (1 + 0.12 * field(40, film, rows))
        out = _towards(out, target, there * span(0.2, 0.8, rows) * blob * shown)
    return out


def haze(film: Film, rows: Rows) -> Film:
    """Ground glass: a thin veil over much of one lung or both."""
    side, both = _side(rows), span(0, 1, rows) < 0.6
    lungs = torch.where(both, (_lung(film, side) + _lung(film, 1 - side)).clamp(max=1), 0.0)
    where = torch.where(both, lungs, _lung(film, side)) * _shown(film)
    veil = torch.sigmoid(1.5 * field(5, film, rows) + 1)
    return _towards(film, _dense(film), span(0.15, 0.5, rows) * where * veil)


def interstitial(film: Film, rows: Rows) -> Film:
    """A net of fine lines over the lungs."""
    side = _side(rows)
    other = (span(0, 1, rows) < 0.7).float()
    where = (_lung(film, side) + other * _lung(film, 1 - side)).clamp(max=1) * _shown(film)
    net = sum(w * field(n, film, rows) for w, n in ((1.0, 56), (0.7, 28), (0.5, 112)))
    lines = torch.as_tensor(net).abs() - 0.5
    local = torch.sigmoid(2 * field(5, film, rows) + 1)
    return film + span(0.03, 0.12, rows) * where * local * (lines + 0.3)


def effusion(film: Film, rows: Rows) -> Film:
    """Fluid: the lower part of one lung filled, with a line that rises towards the wall."""
    y, x = _grid(film)
    column = torch.exp(-(((x - 0.30 - 0.40 * _side(rows)) / 0.21) ** 4))
    line = span(0.45, 0.75, rows) - 0.35 * ((x - 0.5).abs() - 0.2) + 0.02 * field(6, film, rows)
    filled = torch.sigmoid((y - line) * span(15, 60, rows)) * column * _shown(film)
    target = _dense(film) * (1 + 0.05 * field(30, film, rows))
    return _towards(film, target, span(0.4, 0.95, rows) * filled)


def nodules(film: Film, rows: Rows) -> Film:
    """One to eight round opacities."""
    out, shown, dense = film, _shown(film), _dense(film)
    count = integers(1, 9, rows)[:, None, None, None]
    for number in range(8):
        y, x = _in_a_lung(rows)
        radius = span(0.012, 0.06, rows)
        blob = _blob(film, y, x, radius, radius * span(0.8, 1.25, rows), rows, 0.25)
        there = (number < count).float()
        out = _towards(out, dense, there * span(0.15, 0.7, rows) * blob * shown)
    return out


def patch(film: Film, rows: Rows) -> Film:
    """A piece of the film, from elsewhere in it, blended in."""
    high, wide = film.shape[-2:]
    y, x = _grid(film)
    down, across = span(-0.25, 0.25, rows), span(-0.25, 0.25, rows)
    mirror = torch.where(span(0, 1, rows) < 0.5, -1.0, 1.0)
    shape = (len(film), high, wide)
    grid_x = ((mirror * (2 * x - 1) + 2 * across)[:, 0]).expand(shape)
    grid_y = ((2 * y - 1 + 2 * down)[:, 0]).expand(shape)
    grid = torch.stack([grid_x, grid_y], -1)
    piece = F.grid_sample(film, grid, padding_mode="reflection", align_corners=False)
    y0, x0 = _in_a_lung(rows)
    blob = _blob(film, y0, x0, span(0.06, 0.2, rows), span(0.06, 0.18, rows), rows, 0.4)
    return film + span(0.4, 1, rows) * blob * _shown(film) * (piece - film)


def perihilar(film: Film, rows: Rows) -> Film:
    """Mottled opacities beside the heart, on both sides."""
    out, shown, dense = film, _shown(film), _dense(film)
    y = span(0.4, 0.62, rows)
    for side in (-1, 1):
        x = 0.5 + side * span(0.10, 0.2, rows)
        blob = _blob(film, y, x, span(0.10, 0.3, rows), span(0.06, 0.16, rows), rows, 0.8)
        target = dense * (1 + 0.15 * field(40, film, rows))
        out = _towards(out, target, span(0.1, 0.6, rows) * blob * shown)
    return out


def heart(film: Film, rows: Rows) -> Film:
    """The middle of the chest drawn out: a large heart, a wide mediastinum."""
    y, x = _grid(film)
    much, x0, y0 = span(0.25, 0.5, rows), span(0.5, 0.56, rows), span(0.58, 0.7, rows)
    weight = torch.exp(-1.2 * (((x - x0) / 0.32) ** 2 + ((y - y0) / 0.25) ** 2))
    from_x, from_y = x - (x - x0) * weight * much, y - (y - y0) * weight * much * 0.3
    grid = torch.stack([2 * from_x[:, 0] - 1, 2 * from_y[:, 0] - 1], -1)
    return F.grid_sample(film, grid, padding_mode="border", align_corners=False)


def lucency(film: Film, rows: Rows) -> Film:
    """A dark part without the vessels' pattern: air where lung should be."""
    y, x = _in_a_lung(rows)
    blob = _blob(film, y, x, span(0.1, 0.3, rows), span(0.05, 0.15, rows), rows, 0.3)
    greys = film.flatten(1)[:, ::5].sort(1).values
    dark = greys[:, int(0.15 * greys.shape[1])][:, None, None, None]
    smooth = 0.5 * torch.minimum(coarse(film, 14), film) + 0.5 * dark
    return film + span(0.4, 0.9, rows) * blob * _shown(film) * (smooth - film)


def device(film: Film, rows: Rows) -> Film:
    """One to three bright lines: tubes, wires, drains."""
    y, x = _grid(film)
    shown, out = _shown(film), film
    for chance in (1.0, 0.5, 0.3):
        there = (span(0, 1, rows) < chance).float()
        y0, x0, y1, x1 = (
            span(*s, rows) for s in ((0.02, 0.6), (0.15, 0.85), (0.2, 0.9), (0.25, 0.75))
        )
        bend, wide = span(-0.3, 0.3, rows), span(0.004, 0.012, rows)
        nearest = torch.full_like(film, 9.0)
        for t in torch.linspace(0, 1, 40).tolist():
            at_y, at_x = y0 + (y1 - y0) * t, x0 + (x1 - x0) * t + bend * t * (1 - t)
            nearest = torch.minimum(nearest, (y - at_y) ** 2 + (x - at_x) ** 2)
        out = out + there * span(0.15, 0.5, rows) * torch.exp(-nearest / wide**2) * shown
    return out


ANOMALIES: dict[str, Callable[[Film, Rows], Film]] = {
    "opacity": opacity,
    "haze": haze,
    "interstitial": interstitial,
    "effusion": effusion,
    "nodules": nodules,
    "patch": patch,
    "perihilar": perihilar,
    "heart": heart,
    "lucency": lucency,
    "device": device,
}


def paint(film: Film, rows: Rows, kinds: Sequence[str] = tuple(ANOMALIES)) -> Film:
    """Each film with an anomaly of a random kind, and some with a second one; in [0, 1]."""
    first = integers(0, len(kinds), rows)
    again = integers(0, len(kinds), rows)
    again = torch.where(span(0, 1, rows).flatten() < SECOND, again, -1)
    out = film.clone()
    for drawn_kind in (first, again):
        for number, kind in enumerate(kinds):
            index = (drawn_kind == number).nonzero().flatten().tolist()
            if index:
                own = [rows[i] for i in index]
                out[index] = ANOMALIES[kind](out[index], own).clamp(0, 1)
    return out


def changed(before: Film, after: Film, side: int) -> Bool[Tensor, "b n n"]:
    """Which cells of a `side` x `side` grid the anomaly visibly changed."""
    difference = F.avg_pool2d((after - before).abs(), 4)
    return F.adaptive_max_pool2d(difference, side)[:, 0] > VISIBLE
