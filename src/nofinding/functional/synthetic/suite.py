"""The synthetic anomaly suite: seven kinds of fault put into normal films, each with its mask.

For tuning without a diseased film, and for pixel metrics whose truth is exact. The kinds are
those that the field trains and tests with: foreign patches blended in (Tan et al. 2020, FPI,
arXiv:2011.04197; Schlueter et al. 2022, NSA, arXiv:2109.15222), CutPaste (Li et al. 2021,
arXiv:2104.04015), Perlin masks (Zavrtanik et al. 2021, DRAEM, arXiv:2108.07610), shifts of grey,
deformations of shape, nodules and opacities. Nothing here is drawn by `anomalies.py`, from which
methods learn, though the ideas overlap.

Films in [0, 1], dense tissue bright, a frontal chest. Every number comes from the row's own
generator. Lengths are shares of the shorter side. Outside its mask a film keeps every bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from nofinding.functional.noise import integers
from nofinding.functional.synthetic.acquisition import coarse, span
from nofinding.functional.synthetic.perlin import perlin

__all__ = ["LEAST", "SUITE", "VERSION", "VISIBLE", "Kind", "body", "marked"]

Film = Float[Tensor, "b 1 h w"]
Mask = Bool[Tensor, "b 1 h w"]
Number = Float[Tensor, "b 1 1 1"]
Rows = Sequence[Generator]

VERSION = 1  # to be raised whenever the same draws give other pixels than before
VISIBLE = 0.015  # change of grey, of the range 0 to 1, that counts as one
LEAST = 0.001  # share of the film that an anomaly must change, or it is drawn again
TRIES = 12
TISSUE, BLACK = 0.25, 0.015  # of the dense grey; and what was blacked out
PLACES = 32  # cells along a side, among which a place is drawn


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of anomaly: changes a film, and says where."""

    name: str
    draw: Callable[[Film, Rows, Film], Film]
    """(film, generators, partner) to the changed film, on the same grid."""
    foreign: bool = False
    """Whether it takes pieces from the partner."""

    def __call__(self, film: Film, rows: Rows, other: Film | None = None) -> tuple[Film, Mask]:
        """The changed film in [0, 1], and where it was changed.

        `other` are the films that foreign pieces are taken from, of the same shape; None: each
        film's own mirror image. A row that shows too little is drawn again, up to 12 times; one
        on which nothing can show (a black film) comes back as it was, with an empty mask.
        """
        other = film.flip(-1) if other is None else other
        out, mask = film.clone(), torch.zeros_like(film, dtype=torch.bool)
        left = list(range(len(film)))
        for _ in range(TRIES):
            if not left:
                break
            drawn = self.draw(film[left], [rows[i] for i in left], other[left])
            out[left], mask[left] = marked(film[left], drawn.clamp(0, 1))
            shown = mask[left].float().mean(dim=(1, 2, 3)) >= LEAST
            left = [i for i, enough in zip(left, shown.tolist(), strict=True) if not enough]
        out[left], mask[left] = film[left], False
        return out, mask


def marked(before: Film, after: Film) -> tuple[Film, Mask]:
    """The film changed within its mask alone, and the mask.

    True where most pixels of a small window (3 x 3; wider from 192 pixels on) changed by more
    than VISIBLE: a speck does not count, and a pixel within that happens to be the same does.
    """
    reach = max(1, min(before.shape[-2:]) // 96)
    hard = ((after - before).abs() > VISIBLE).float()
    near = F.avg_pool2d(hard, 2 * reach + 1, 1, reach, count_include_pad=False)
    mask = near > 0.5
    return torch.where(mask, after, before), mask


def body(film: Film) -> Mask:
    """Where the patient is: tissue, and what tissue surrounds, as it does the lungs.

    Surrounded is what has tissue to its left and right, or above and below. Air around the
    patient is not, nor is what was blacked out.
    """
    smooth = coarse(film, 48)
    tissue = (smooth > TISSUE * _dense(film)).float()
    before = [tissue.cummax(d).values for d in (-1, -2)]
    after = [tissue.flip(d).cummax(d).values.flip(d) for d in (-1, -2)]
    across, down = (one * two > 0 for one, two in zip(before, after, strict=True))
    return (across | down) & (smooth > BLACK)


def _dense(film: Film) -> Number:
    """The grey of dense tissue: the 85th percentile of what is not black."""
    greys = film.flatten(1)[:, ::5].sort(1).values
    count = greys.shape[1]
    black = (greys < 0.03).sum(1)
    index = (black + 0.85 * (count - black)).long().clamp(max=count - 1)
    return greys.gather(1, index[:, None])[:, :, None, None]


def _grid(film: Film) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel's middle."""
    high, wide = film.shape[-2:]
    side = min(high, wide)
    return ((torch.arange(high) + 0.5) / side)[:, None], ((torch.arange(wide) + 0.5) / side)[None]


def _sampled(film: Film, y: Tensor, x: Tensor) -> Film:
    """The film as it is at other places; beyond the edge, mirrored."""
    high, wide = film.shape[-2:]
    side = min(high, wide)
    to = (2 * x * side / wide - 1).expand(film.shape), (2 * y * side / high - 1).expand(film.shape)
    grid = torch.stack([part[:, 0] for part in to], -1)
    return F.grid_sample(film, grid, padding_mode="reflection", align_corners=False)


def _lungs(y: Tensor, x: Tensor) -> Tensor:
    """Where lungs usually are, of rows and columns in shares of height and width."""
    one, two = (((x - c) / 0.17) ** 2 + ((y - 0.46) / 0.32) ** 2 for c in (0.30, 0.70))
    return torch.exp(-2 * one**2) + torch.exp(-2 * two**2)


def _chest(y: Tensor, x: Tensor) -> Tensor:
    """Where the chest usually is, lungs and what is between and around them."""
    return torch.exp(-((((x - 0.5) / 0.37) ** 2 + ((y - 0.5) / 0.37) ** 2) ** 3))


def _place(film: Film, rows: Rows, *, lung: bool = False) -> tuple[Number, Number]:
    """Row and column of a place within the body: in the chest, or in a lung, which is dark."""
    cell = (torch.arange(PLACES) + 0.5) / PLACES
    usual = (_lungs if lung else _chest)(cell[:, None], cell[None])
    dark = F.relu(_dense(film) - coarse(film, PLACES)) if lung else torch.ones_like(film)
    inside = F.adaptive_avg_pool2d(body(film) * dark, PLACES)[:, 0]
    weight = usual * (inside + 1e-6)  # a film without a body still has a place
    places = [
        torch.multinomial(w.flatten(), 1, generator=g) for w, g in zip(weight, rows, strict=True)
    ]
    cells = torch.cat(places)[:, None, None, None]
    high, wide = film.shape[-2:]
    y = (cells // PLACES + span(0, 1, rows)) / PLACES * (high / min(high, wide))
    x = (cells % PLACES + span(0, 1, rows)) / PLACES * (wide / min(high, wide))
    return y, x


def _noise(film: Film, least: int, most: int, rows: Rows) -> Film:
    """Perlin noise of 2^least to 2^most cells, down and across drawn apart."""
    high, wide = film.shape[-2:]
    down, across = (
        integers(least, most + 1, rows).tolist(),
        integers(least, most + 1, rows).tolist(),
    )
    parts = [
        perlin((high, wide), (2**a, 2**b), [row])
        for a, b, row in zip(down, across, rows, strict=True)
    ]
    return torch.cat(parts)


def _sign(rows: Rows) -> Number:
    return 2.0 * integers(0, 2, rows)[:, None, None, None] - 1


def _foreign(other: Film, rows: Rows) -> Film:
    """The other film, moved, at another scale, half the time mirrored."""
    y, x = _grid(other)
    middle_y, middle_x = y.mean(), x.mean()
    scale, mirror = span(0.8, 1.25, rows), _sign(rows)
    from_y = middle_y + scale * (y - middle_y) + span(-0.15, 0.15, rows)
    from_x = middle_x + mirror * scale * (x - middle_x) + span(-0.15, 0.15, rows)
    return _sampled(other, from_y, from_x)


def _blend(film: Film, rows: Rows, other: Film) -> Film:
    """A patch of another film, blended in: plainly (FPI), or keeping this film's broad greys."""
    (y0, x0), (y, x) = _place(film, rows), _grid(film)
    across = [
        ((p - p0).abs() / span(0.06, 0.18, rows)) for p, p0 in ((y, y0), (x, x0))
    ]  # as DDAD-ASR, half-widths of 5 to 20 %
    power = torch.where(span(0, 1, rows) < 0.5, 2.0, 8.0)  # an ellipse, or nearly a rectangle
    distance = (across[0] ** power + across[1] ** power) ** (1 / power)
    window = torch.sigmoid((1 - distance) * 25)
    piece = _foreign(other, rows)
    # As NSA's seamless blending: what is foreign is the structure, not the brightness.
    seamless = piece + coarse(film, 8) - coarse(piece, 8)
    piece = torch.where(span(0, 1, rows) < 0.5, seamless, piece)
    return film + span(0.35, 1, rows) * window * body(film) * (piece - film)


def _cutpaste(film: Film, rows: Rows, other: Film) -> Film:
    """A rectangle of the same film, pasted elsewhere with a hard edge; or a thin, turned one."""
    (y0, x0), (from_y, from_x) = _place(film, rows), _place(film, rows)
    scar = span(0, 1, rows) < 0.4
    area, ratio = span(0.015, 0.1, rows), span(math.log(0.3), math.log(3.3), rows).exp()
    high = torch.where(scar, span(0.10, 0.25, rows), (area * ratio).sqrt())
    wide = torch.where(scar, span(0.015, 0.05, rows), (area / ratio).sqrt())
    angle = torch.where(scar, span(-math.pi / 4, math.pi / 4, rows), 0.0)
    y, x = _grid(film)
    along = (y - y0) * angle.cos() + (x - x0) * angle.sin()
    aside = (x - x0) * angle.cos() - (y - y0) * angle.sin()
    inside = (along.abs() < high / 2) & (aside.abs() < wide / 2)
    piece = _sampled(film, from_y + along, from_x + aside)
    jittered = (piece - 0.5) * span(0.9, 1.1, rows) + 0.5 + span(-0.1, 0.1, rows)
    return torch.where(inside & body(film), jittered, film)


def _perlin(film: Film, rows: Rows, other: Film) -> Film:
    """The texture of another film, where Perlin noise is high, within a part of the chest."""
    (y0, x0), (y, x) = _place(film, rows), _grid(film)
    near = (y - y0) ** 2 + (x - x0) ** 2 < span(0.12, 0.32, rows) ** 2
    inside = (_noise(film, 1, 4, rows) > 0.2) & near & body(film)
    # DRAEM takes pictures of textures; here a shrunken film is one.
    zoom = span(1.5, 3, rows)
    texture = _sampled(other, zoom * y + span(0, 1, rows), zoom * x + span(0, 1, rows))
    return film + span(0.3, 1, rows) * inside * (texture - film)


def _intensity(film: Film, rows: Rows, other: Film) -> Film:
    """A part that is brighter, darker, flatter or more contrasted, with a soft edge."""
    window = _uneven(film, *_place(film, rows), 0.07, 0.2, rows) * body(film)
    shifted = film + _sign(rows) * span(0.06, 0.2, rows)
    gain = torch.where(_sign(rows) > 0, span(1.8, 3, rows), span(0, 0.4, rows))
    broad = coarse(film, 6)
    contrasted = broad + gain * (film - broad)
    changed = torch.where(span(0, 1, rows) < 0.6, shifted, contrasted)
    return film + window * (changed - film)


def _uneven(film: Film, y0: Number, x0: Number, least: float, most: float, rows: Rows) -> Film:
    """A patch of half-widths `least` to `most` with a soft, uneven edge: 1 inside, 0 outside."""
    y, x = _grid(film)
    high, wide = span(least, most, rows), span(least, most, rows)
    distance = (((y - y0) / high) ** 2 + ((x - x0) / wide) ** 2).sqrt()
    return torch.sigmoid((1 - distance + 0.5 * _noise(film, 2, 3, rows)) * span(5, 14, rows))


def _deform(film: Film, rows: Rows, other: Film) -> Film:
    """A part drawn together, blown up, twisted or pushed aside; no grey is new."""
    (y0, x0), (y, x) = _place(film, rows), _grid(film)
    radius = span(0.1, 0.24, rows)
    weight = (1 - ((y - y0) ** 2 + (x - x0) ** 2) / radius**2).clamp(min=0) ** 2
    how = integers(0, 3, rows)[:, None, None, None]
    # Each amount is below the one at which the film would fold over itself.
    scale = torch.where(how == 0, _sign(rows) * span(0.5, 0.85, rows), 0.0) * weight
    turn = torch.where(how == 1, _sign(rows) * span(0.7, 1.5, rows), 0.0) * weight
    push = torch.where(how == 2, span(0.35, 0.55, rows), 0.0) * radius * weight
    to = span(0, 2 * math.pi, rows)
    dy, dx = (1 + scale) * (y - y0), (1 + scale) * (x - x0)
    from_y = y0 + turn.cos() * dy - turn.sin() * dx + push * to.sin()
    from_x = x0 + turn.sin() * dy + turn.cos() * dx + push * to.cos()
    return torch.where(weight > 0, _sampled(film, from_y, from_x), film)


def _nodule(film: Film, rows: Rows, other: Film) -> Film:
    """One to three balls in the lungs: each adds the grey of its thickness along the ray."""
    y, x = _grid(film)
    pixel = 1 / min(film.shape[-2:])
    count, out, inside = integers(1, 4, rows)[:, None, None, None], film, body(film)
    for number in range(3):
        y0, x0 = _place(film, rows, lung=True)
        radius = span(0.02, 0.055, rows).clamp(min=1.6 * pixel)
        distance = ((y - y0) ** 2 + (x - x0) ** 2).sqrt() / radius
        thickness = (1 - distance**2).clamp(min=0).sqrt()
        there = (number < count).float()
        out = out + there * span(0.1, 0.3, rows) * thickness * inside
    return out


def _opacity(film: Film, rows: Rows, other: Film) -> Film:
    """One or two parts of the lungs filled, unevenly, up to the grey of dense tissue."""
    out, inside, dense = film, body(film), _dense(film)
    for chance in (1.0, 0.4):
        window = _uneven(film, *_place(film, rows, lung=True), 0.06, 0.18, rows) * inside
        there = (span(0, 1, rows) < chance).float()
        target = dense * (1.02 + 0.1 * _noise(film, 5, 6, rows))
        out = out + there * span(0.25, 0.85, rows) * window * F.relu(target - out)
    return out


SUITE: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("blend", _blend, foreign=True),
        Kind("cutpaste", _cutpaste),
        Kind("perlin", _perlin, foreign=True),
        Kind("intensity", _intensity),
        Kind("deform", _deform),
        Kind("nodule", _nodule),
        Kind("opacity", _opacity),
    )
}
