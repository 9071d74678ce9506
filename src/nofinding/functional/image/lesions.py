"""Lesions painted into the lungs of normal films as attenuation, one family for each kind.

What a lesion adds is the thickness of tissue that the beam crosses, in units of the contrast
between lung and dense tissue of the film itself; the film's curve has less slope where it is
bright already. Bones and vessels stay visible through it. Shapes and sizes vary widely, and many
are faint: what a radiologist can miss is what a network has to learn. No abnormal film is looked
at. Films in [0, 1], dense tissue bright, with the lung field known.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from nofinding.functional.image.draws import Draws, softened
from nofinding.functional.synthetic.anomalies import device as lines
from nofinding.functional.synthetic.anomalies import heart as enlarged

__all__ = ["LESIONS", "Chest", "Painted", "paint_lesions", "side_of"]

Map = Float[Tensor, "h w"]

COUNTS = (0.2, 0.5, 0.3)  # shares of films with no, one and two families
WEIGHTS = (0.40, 0.20, 0.12, 0.08, 0.07, 0.06, 0.07)  # of the families, in their order
SEEN = 0.008  # the least mean change of grey over a lesion that counts as one


@dataclass(frozen=True)
class Chest:
    """A normal film and what painting has to know of it."""

    film: Map  # [0, 1]
    lung: Map  # [0, 1], the share of a pixel that is lung
    contrast: float  # grey of dense tissue above that of lung
    dense: float  # grey of dense tissue
    toe: float  # how much the film's curve flattens towards white

    def added(self, thickness: Map) -> Map:
        """The film with so much more attenuation, in units of its own contrast."""
        slope = (1 - self.film).clamp(0, 1) ** self.toe
        return (self.film + self.contrast * thickness * slope).clamp(0, 1)


class Painted(NamedTuple):
    """The film with a lesion, and where it is."""

    film: Map
    mask: Map  # 0 or 1


def chest(film: Map, lung: Map, draws: Draws) -> Chest:
    """Measures a film's contrast."""
    some, area = film[::3, ::3], lung[::3, ::3]
    lit = some[some > 0.03]
    dense = float(lit.quantile(0.85)) if len(lit) > 20 else 0.8
    inside = some[area > 0.5]
    low = float(inside.median()) if len(inside) > 20 else dense - 0.3
    return Chest(film, lung, min(max(dense - low, 0.15), 0.6), dense, draws.span(0, 0.8))


def nodule(on: Chest, draws: Draws) -> Painted:
    """Round lesions, one mostly: chords of ellipsoids, lobed or spiculated, some with a cavity."""
    count = (1, 2, 3, 8)[draws.among((0.7, 0.12, 0.1, 0.08))]
    largest = 14 if count < 4 else 5
    thickness, mask = torch.zeros_like(on.film), torch.zeros_like(on.film)
    scale = min(on.film.shape) / 224
    reach = softened(on.lung, 7) if draws.chance(0.3) else on.lung
    share = (reach > 0.5).float()
    for _ in range(count):
        at = draws.place(share)
        if at is None:
            break
        radius = draws.log(1.5, largest) * scale
        much = min(max(0.022 * radius / scale * draws.log(0.9, 6), 0.07), 0.65)
        _round(thickness, mask, at, radius, much, draws)
    return Painted(on.added(thickness), mask)


def _round(
    thickness: Map, mask: Map, at: tuple[int, int], radius: float, much: float, draws: Draws
) -> None:
    """Adds one round lesion in place."""
    reach = int(radius * 2) + 4
    top, left = max(at[0] - reach, 0), max(at[1] - reach, 0)
    bottom, right = min(at[0] + reach, len(mask)), min(at[1] + reach, mask.shape[1])
    y = (torch.arange(top, bottom) - at[0] - draws.span(-0.5, 0.5))[:, None]
    x = (torch.arange(left, right) - at[1] - draws.span(-0.5, 0.5))[None]
    turn, aspect = draws.span(0, math.pi), draws.log(0.75, 1.33)
    across = (math.cos(turn) * x + math.sin(turn) * y) * aspect
    down = (-math.sin(turn) * x + math.cos(turn) * y) / aspect
    angle = torch.atan2(down, across)
    rough = draws.span(0, 0.12)
    edge = 1 + sum(
        rough * draws.normal() / k**0.5 * torch.cos(k * angle + draws.span(0, 6.3))
        for k in (2, 3, 4, 6)
    )
    if radius > 3 and draws.chance(0.25):
        spikes = torch.cos(int(draws.span(6, 13)) * angle + draws.span(0, 6.3)).clamp_min(0) ** 4
        edge = edge + draws.span(0.1, 0.45) * spikes
    away = (across.square() + down.square()).sqrt() / (radius * torch.as_tensor(edge).clamp(0.4, 2))
    chord = (1 - away.square()).clamp_min(0).sqrt() ** draws.span(0.6, 1.6)
    if radius > 4 and draws.chance(0.1):
        hollow = draws.span(0.4, 0.8)
        chord = chord - draws.span(0.5, 0.9) * (1 - (away / hollow).square()).clamp_min(0).sqrt()
    if draws.chance(0.4):
        high, wide = chord.shape
        chord = chord * (1 + 0.2 * draws.field(5, high, wide))
    blur = draws.span(0, 1)
    chord = (1 - blur) * chord + blur * softened(chord, 3)
    if draws.chance(0.3):
        chord = softened(chord, 3)
    thickness[top:bottom, left:right] += much * chord
    mask[top:bottom, left:right] = torch.maximum(
        mask[top:bottom, left:right], (away < 0.95).float()
    )


def _veiled(on: Chest, weight: Map, much: float, blunt: float, mottle: float, d: Draws) -> Map:
    """More attenuation by `weight`; vessels lose their outline as far as `blunt` says."""
    high, wide = on.film.shape
    texture = 1 + mottle * d.field(int(d.span(25, 60)), high, wide)
    if blunt:
        smooth = softened(on.film, 9)
        film = on.film + blunt * weight * (smooth - on.film)
        on = Chest(film, on.lung, on.contrast, on.dense, on.toe)
    return on.added(much * weight * texture.clamp_min(0))


def opacity(on: Chest, draws: Draws) -> Painted:
    """Consolidation and ground glass: a patch, a lobe, a whole lung, or both beside the heart."""
    high, wide = on.film.shape
    y, x = torch.linspace(0, 1, high)[:, None], torch.linspace(0, 1, wide)[None]
    kind = draws.among((0.5, 0.2, 0.15, 0.15))
    at = draws.place((on.lung > 0.5).float())
    if at is None:
        return Painted(on.film, torch.zeros_like(on.film))
    y0, x0 = at[0] / high, at[1] / wide
    uneven = 0.5 * draws.field(6, high, wide) + 0.3 * draws.field(14, high, wide)
    if kind == 0:
        tall, broad = draws.log(0.04, 0.22), draws.log(0.04, 0.18)
        away = (((y - y0) / tall) ** 2 + ((x - x0) / broad) ** 2).sqrt()
        shape = torch.sigmoid((1 - away + 0.6 * uneven) * draws.span(3, 9))
    elif kind == 1:
        tilt, sign = draws.span(-0.6, 0.6), 1 if draws.chance(0.5) else -1
        line = sign * (y - y0 + tilt * (x - x0)) * draws.span(20, 80)
        shape = torch.sigmoid(line + 0.8 * uneven) * side_of(on.lung, x0 < 0.5)
    elif kind == 2:
        both = draws.chance(0.4)
        one = torch.ones_like(on.film) if both else side_of(on.lung, x0 < 0.5)
        shape = torch.sigmoid(draws.span(0, 2) + draws.span(0.3, 2) * uneven) * one
    else:
        out = draws.span(0.1, 0.2)
        left, right = ((x - 0.5 - sign * out) / draws.span(0.07, 0.15) for sign in (-1, 1))
        rows = (y - draws.span(0.4, 0.6)) / draws.span(0.1, 0.25)
        wing = torch.exp(-(left**2) - rows**2) + torch.exp(-(right**2) - rows**2)
        shape = wing.clamp(max=1) * torch.sigmoid(2 * uneven + 1)
    weight = shape * softened(on.lung, 5)
    much = draws.log(0.08, 0.8)
    film = _veiled(on, weight, much, draws.span(0, 0.6), draws.span(0, 0.3), draws)
    return Painted(film, (weight > 0.4).float())


def side_of(lung: Map, left: bool) -> Map:
    """1 on the half of the film where that lung lies: left or right of where least lung is, in the
    middle third between the outer walls."""
    columns = F.avg_pool1d(lung.sum(0)[None], 9, 1, 4)[0]
    lit = (columns > 1).nonzero().flatten()
    middle = lung.shape[1] // 2
    if len(lit) > 20:
        first, last = int(lit[0]), int(lit[-1])
        third = (last - first) // 3
        middle = first + third + int(columns[first + third : last - third].argmin())
    half = torch.zeros_like(lung)
    if left:
        half[:, :middle] = 1
    else:
        half[:, middle:] = 1
    return half


def effusion(on: Chest, draws: Draws) -> Painted:
    """Fluid from a blunt angle to half a lung, its line rising towards the wall."""
    high, wide = on.film.shape
    left = draws.chance(0.5)
    lung = (on.lung > 0.5).float() * side_of(on.lung, left)
    rows = lung.sum(1) > 2
    if int(rows.sum()) < high // 10:
        return Painted(on.film, torch.zeros_like(on.film))
    first, last = int(rows.nonzero()[0]), int(rows.nonzero()[-1])
    columns = (lung.sum(0) > 0).nonzero().flatten()
    wall, inner = (columns[0], columns[-1]) if left else (columns[-1], columns[0])
    y, x = torch.arange(high)[:, None].float(), torch.arange(wide)[None].float()
    lateral = ((x - inner) / (wall - inner + 1e-3)).clamp(0, 1.2)  # 1 at the wall
    level = last - (last - first) * draws.log(0.04, 0.6)
    line = level + (0.5 - lateral) * draws.span(0.1, 0.5) * (last - level + 6)
    line = line + 2 * draws.field(6, high, wide)
    # The sinus lies lower than what a mask of the lung shows.
    grown = F.max_pool2d(lung[None, None], 13, 1, 6)[0, 0]
    weight = torch.sigmoid((y - line) * draws.log(0.15, 1)) * softened(grown, 5)
    smooth = softened(on.film, 9)
    base = on.film + draws.span(0.3, 0.9) * weight * (smooth - on.film)
    target = on.dense * (1 + 0.05 * draws.field(8, high, wide))
    film = base + draws.span(0.35, 0.95) * weight * (target - base).clamp_min(0)
    return Painted(film, (weight > 0.5).float())


def pneumothorax(on: Chest, draws: Draws) -> Painted:
    """Air between wall and lung: darker, without vessels, and the thin line of the pleura."""
    high, wide = on.film.shape
    left = draws.chance(0.5)
    lung = softened((on.lung > 0.5).float() * side_of(on.lung, left), 3)
    total = float(lung.sum())
    if total < 0.01 * high * wide:
        return Painted(on.film, torch.zeros_like(on.film))
    y = torch.linspace(-1, 1, high)
    x = torch.linspace(-1, 1, wide)
    y0, x0 = float((lung.sum(1) * y).sum() / total), float((lung.sum(0) * x).sum() / total)
    # It falls back towards the hilum and the diaphragm.
    x0, y0 = x0 + (0.22 if left else -0.22), y0 + draws.span(0, 0.5)
    small = draws.span(0.68, 0.95)
    theta = torch.tensor([[1 / small, 0, x0 - x0 / small], [0, 1 / small, y0 - y0 / small]])
    grid = F.affine_grid(theta[None], [1, 1, high, wide], align_corners=True)
    grid = grid + 0.02 * torch.stack([draws.field(6, high, wide) for _ in range(2)], -1)[None]
    shrunk = F.grid_sample(lung[None, None], grid, align_corners=True)[0, 0]
    air = (lung - shrunk).clamp(0, 1)
    if draws.chance(0.5):  # at the apex alone
        rows = torch.linspace(0, 1, high)[:, None]
        air = air * torch.sigmoid((0.5 + y0 / 2 - rows) * 30)
    pleura = (4 * shrunk * (1 - shrunk)).clamp(0, 1) * softened(air, 5).clamp(0, 1) * lung
    # The mean of lung alone: near the wall that of all would be brighter, not darker.
    smooth = softened(on.film * lung, 11) / softened(lung, 11).clamp_min(0.05)
    film = on.film + draws.span(0.4, 0.95) * air * (smooth - on.film)
    film = film - on.contrast * draws.log(0.03, 0.25) * air
    film = film + on.contrast * draws.span(0.03, 0.2) * pleura
    return Painted(film.clamp(0, 1), (air > 0.5).float())


def interstitial(on: Chest, draws: Draws) -> Painted:
    """A net of fine lines, or very many small dots, over one lung or both."""
    high, wide = on.film.shape
    one = torch.ones_like(on.lung) if draws.chance(0.7) else side_of(on.lung, draws.chance(0.5))
    local = torch.sigmoid(2 * draws.field(5, high, wide) + draws.span(-1, 2))
    weight = softened(on.lung, 5) * local * one
    fine = draws.field(int(draws.span(45, 75)), high, wide)
    finer = draws.field(int(draws.span(80, 112)), high, wide)
    if draws.chance(0.5):
        pattern = 0.9 - (fine + 0.6 * finer).abs()
    else:
        pattern = (fine + 0.5 * finer - draws.span(0.3, 1)).clamp_min(0)
    film = on.added(draws.log(0.05, 0.35) * weight * pattern)
    return Painted(film, (weight > 0.5).float())


def heart(on: Chest, draws: Draws) -> Painted:
    """A large heart, a wide mediastinum."""
    film = enlarged(on.film[None, None], [draws.generator])[0, 0].clamp(0, 1)
    difference = softened((film - on.film).abs(), 5)
    return Painted(film, (difference > 0.05).float() * (softened(on.lung, 15) > 0.15))


def device(on: Chest, draws: Draws) -> Painted:
    """Tubes and wires; buttons, clips and electrodes, whose edge is sharp."""
    if draws.chance(0.6):
        film = lines(on.film[None, None], [draws.generator])[0, 0].clamp(0, 1)
        return Painted(film, ((film - on.film) > 0.03).float())
    high, wide = on.film.shape
    film, mask = on.film.clone(), torch.zeros_like(on.film)
    y, x = torch.arange(high)[:, None].float(), torch.arange(wide)[None].float()
    radius, hollow = draws.log(0.8, 7) * high / 224, draws.chance(0.4)
    bright = draws.span(0.12, 0.5)
    for _ in range(int(draws.span(1, 6))):
        y0, x0 = draws.span(0.05, 0.95) * high, draws.span(0.1, 0.9) * wide
        away = ((y - y0).square() + (x - x0).square()).sqrt()
        disc = (radius - away + 0.5).clamp(0, 1)
        if hollow:
            disc = disc - 0.7 * (radius * 0.6 - away + 0.5).clamp(0, 1)
        film = film + bright * disc
        mask = torch.maximum(mask, (away < radius + 0.7).float())
    return Painted(film.clamp(0, 1), mask)


LESIONS: dict[str, Callable[[Chest, Draws], Painted]] = {
    "nodule": nodule,
    "opacity": opacity,
    "effusion": effusion,
    "pneumothorax": pneumothorax,
    "interstitial": interstitial,
    "heart": heart,
    "device": device,
}


def paint_lesions(
    film: Float[Tensor, "b 1 h w"],
    lung: Float[Tensor, "b 1 h w"],
    rows: Sequence[Generator],
    families: Sequence[str] = tuple(LESIONS),
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b f h w"]]:
    """Films with lesions of no, one or two of the families, and a mask for each of LESIONS."""
    names = list(LESIONS)
    weights = [w if name in families else 0.0 for w, name in zip(WEIGHTS, names, strict=True)]
    films, masks = [], []
    for one, field, row in zip(film[:, 0], lung[:, 0], rows, strict=True):
        draws = Draws(row)
        mask = torch.zeros(len(names), *one.shape)
        for _ in range(draws.among(COUNTS)):
            family = draws.among(weights)
            shown = one * (one > 0.012)
            before = chest(shown, field, draws)
            after = LESIONS[names[family]](before, draws)
            painted = torch.where(one > 0.012, after.film, one)  # air and collimation stay black
            size = float(after.mask.sum())
            if size and float(((painted - one).abs() * after.mask).sum()) / size >= SEEN:
                mask[family] = torch.maximum(mask[family], after.mask * (one > 0.012))
                one = painted
        films.append(one)
        masks.append(mask)
    return torch.stack(films)[:, None], torch.stack(masks)
