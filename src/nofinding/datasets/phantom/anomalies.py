"""What can be wrong with a phantom chest: each kind changes the anatomy, the tissue, or both."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from nofinding.datasets.phantom.anatomy import Anatomy, Break, expected_ctr
from nofinding.datasets.phantom.patients import pressure_of_another
from nofinding.datasets.phantom.tissue import (
    Grid,
    Map,
    Maps,
    dome,
    thorax_half_width,
    thorax_profile,
    tube,
)
from nofinding.datasets.phantom.vessels import draw

__all__ = ["KINDS", "changed_anatomy", "changed_tissue"]


def changed_anatomy(
    kind: str, body: Anatomy, ehr: Mapping[str, float], rng: np.random.Generator
) -> Anatomy:
    """The patient's anatomy with the finding: another heart, a raised diaphragm, broken ribs."""
    if kind == "cardiomegaly":
        return replace(body, ctr=max(rng.uniform(0.62, 0.72), body.ctr + 0.10))
    if kind == "conditional":
        # The heart of somebody alike but for the blood pressure, with this patient's own residual:
        # hearts, and hearts given all else that the film shows, are distributed as in normals.
        other = dict(ehr) | {"systolic": pressure_of_another(ehr)}
        return replace(body, ctr=body.ctr - expected_ctr(ehr) + expected_ctr(other))
    if kind == "atelectasis":
        rise = rng.uniform(1.8, 3.2)
        side = _side(rng)
        return replace(body, dome_rise=(rise, 0.0) if side < 0 else (0.0, rise))
    if kind == "fracture":
        side, first, at = _side(rng), int(rng.integers(4, 7)), rng.uniform(0.55, 0.85)
        hurt = range(first, first + int(rng.integers(2, 5)))
        drawn = [(at + rng.normal(0, 0.02), rng.uniform(0.7, 1.2)) for _ in hurt]
        breaks = (Break(side, rib, *how) for rib, how in zip(hurt, drawn, strict=True))
        return replace(body, breaks=tuple(breaks))
    return body


def changed_tissue(
    kind: str, maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator
) -> Maps:
    """The patient's tissue with the finding. `rng` must be where `changed_anatomy` found it."""
    changed = maps.copy()
    change = KINDS[kind]
    if change is not None:
        change(changed, body, grid, rng)
    return changed


def _side(rng: np.random.Generator) -> int:
    """-1 for the patient's right, +1 for the left."""
    return 1 if rng.random() < 0.5 else -1


def _fill(maps: Maps, amount: Map) -> None:
    """Puts soft tissue or fluid in the place of `amount` cm of lung, where there is so much."""
    amount = np.clip(amount, 0, maps.lung)
    maps.lung -= amount
    maps.soft += amount


def _spot(
    maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator, edge: float
) -> tuple[float, float]:
    """A place in the open lung, at least `edge` cm inside the ribs: x and y in body cm."""
    best, depth = (0.0, 0.0), -1.0
    for _ in range(12):
        y = body.lung_length * rng.uniform(0.22, 0.82)
        half = float(thorax_half_width(body, np.array([y]))[0])
        x = _side(rng) * rng.uniform(0.42 * half, half - edge)
        nearest = np.argmin((grid.x - x) ** 2 + (grid.y - y) ** 2)
        here = float(maps.lung.flat[nearest])
        if here > 7:
            return x, y
        if here > depth:
            best, depth = (x, y), here
    return best


def _ripple(grid: Grid, rng: np.random.Generator, wave: float) -> Map:
    """A patchy pattern of mean 0 and SD 1 with structures of about `wave` cm, on any grid."""
    total = np.zeros_like(grid.x)
    for angle, phase in rng.uniform(0, 2 * np.pi, (20, 2)):
        k = 2 * np.pi / (wave * rng.uniform(0.5, 2.0))
        total += np.cos(k * (np.cos(angle) * grid.x + np.sin(angle) * grid.y) + phase)
    return total * np.float32(0.1**0.5)


def _nodule(maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator) -> None:
    """A ball of 1.6 to 2.8 cm."""
    radius = rng.uniform(0.8, 1.4)
    x, y = _spot(maps, body, grid, rng, radius + 1.2)
    distance = np.hypot(grid.x - x, grid.y - y) / radius
    _fill(maps, 2 * radius * tube(distance))


def _mass(maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator) -> None:
    """A lump of 4 to 7 cm with an uneven edge."""
    radius = rng.uniform(2.0, 3.5)
    x, y = _spot(maps, body, grid, rng, radius)
    angle = np.arctan2(grid.y - y, grid.x - x)
    waves = [0.09 * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 5)]
    distance = np.hypot(grid.x - x, grid.y - y) / (radius * (1 + sum(waves)))
    _fill(maps, 2 * radius * tube(distance))


def _consolidation(maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator) -> None:
    """Part of a lobe filled with fluid: 5 to 9 cm, patchy, with a soft edge."""
    wide, tall = rng.uniform(2.6, 4.5), rng.uniform(2.6, 4.5)
    x, y = _spot(maps, body, grid, rng, 2.5)
    distance = np.hypot((grid.x - x) / wide, (grid.y - y) / tall) + 0.13 * _ripple(grid, rng, 4.0)
    share = np.clip((1.15 - distance) / 0.5, 0, 1) * (0.45 + 0.05 * _ripple(grid, rng, 2.2))
    _fill(maps, np.clip(share, 0, 0.65) * maps.lung)


def _effusion(maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator) -> None:
    """Fluid round the base of one lung, with a level that climbs at the side."""
    side, deep = _side(rng), rng.uniform(1.5, 6.0)  # cm above the dome
    base = body.lung_length + (body.dome_gap if side > 0 else 0.0)
    share = np.clip(np.abs(grid.x) / body.thorax_half, 0, 1)
    level = base - deep + 2.4 - 4.6 * share**3
    wet = np.clip((grid.y - level) / 2.6, 0, 1) * np.clip(side * grid.x - 1.0, 0, 1)
    _fill(maps, np.sqrt(wet) * maps.lung)


def _pneumothorax(maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator) -> None:
    """Air round a shrunken lung: no lung or vessel markings beyond a thin line."""
    side, top, low = _side(rng), rng.uniform(0.25, 0.5), rng.uniform(0.06, 0.18)
    half = np.maximum(grid.profile(thorax_profile(body)), 1.0)
    fall = np.clip(grid.y / body.lung_length, 0, 1)
    edge = half * (1 - low - (top - low) * (1 - fall) ** 1.5)
    apex = 8.0 * (top - 0.15)  # cm by which the top has sunk
    centre = np.float32(0.3 * body.thorax_half)
    reach = np.maximum(edge - centre, 0.5)
    out = np.maximum(np.abs(grid.x) - centre, 0) / reach
    down = np.clip((apex + 4 - grid.y) / 4, 0, None)
    far = np.hypot(out, down)  # 1 on the lung's surface
    here = (np.sign(grid.x) == side) & (maps.lung > 0)
    share = np.where(here, tube(far) ** np.float32(0.5), 1)
    density = np.where(here, share * np.float32(1.04), 1)
    maps.lung *= density
    maps.blood *= np.where(here, far < 1, 1)
    line = np.exp(-(((far - 1) * reach / 0.16) ** 2))
    maps.soft += np.where(here, np.float32(0.75) * line, 0)


def _atelectasis(maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator) -> None:
    """A collapsed lower lobe: a wedge from the lung root down beside the spine."""
    rng.uniform()  # the rise, which changed_anatomy has used
    side = _side(rng)
    root = 0.45 * body.lung_length
    fall = np.clip((grid.y - root) / (dome(body, grid) - root), 0, 1)
    edge = 2.4 + fall * body.thorax_half * rng.uniform(0.38, 0.55)
    across = side * grid.x
    wedge = (
        np.clip((edge - across) / 0.7, 0, 1)
        * np.clip(across - 0.8, 0, 1)
        * np.clip((grid.y - root) / 2, 0, 1)
    )
    _fill(maps, 0.75 * wedge * maps.lung)


def _device(maps: Maps, body: Anatomy, grid: Grid, rng: np.random.Generator) -> None:
    """A pacemaker with one or two leads, or a port with a line to the great vein."""
    side = _side(rng)
    x, y = side * body.thorax_half * rng.uniform(0.62, 0.74), rng.uniform(4.0, 6.0)
    apex = 0.55 * 2 * body.thorax_half * body.ctr * body.heart_lean
    bottom = body.lung_length + body.dome_gap
    turns = [(x, y), (side * 4.5, 2.6), (side * 1.8, 3.6), (-1.9, 0.26 * body.lung_length)]
    pacemaker = rng.random() < 0.65
    if pacemaker:
        can = ((grid.x - x) / 2.4) ** 4 + ((grid.y - y) / 2.1) ** 4
        maps.metal += np.float32(0.6) * np.clip((1 - can) * 6, 0, 1)
        ends = [[(-2.4, 0.6 * body.lung_length), (apex, bottom - 1.5)]]
        if rng.random() < 0.6:
            ends.append([(-2.6, 0.55 * body.lung_length), (-1.6, 0.62 * body.lung_length)])
    else:
        ring = np.hypot(grid.x - x, grid.y - y)
        maps.metal += np.float32(0.45) * np.clip((1.35 - ring) * 5, 0, 1)
        maps.metal -= np.float32(0.25) * np.clip((0.75 - ring) * 5, 0, 1)
        ends = [[(-2.2, 0.42 * body.lung_length)]]
    for end in ends:
        path = _smooth(np.array(turns + end))
        step = np.hypot(*np.diff(path, axis=0, prepend=path[:1]).T)
        radius = np.full((1, 1), 0.11 if pacemaker else 0.08)
        maps.metal += draw(body, grid, path[None, :, 0], path[None, :, 1], radius, step[None])


def _smooth(corners: np.ndarray) -> np.ndarray:
    """A rounded line of 400 points near these corners: a corner-cutting (Chaikin) curve."""
    path = corners.astype(float)
    for _ in range(4):
        first, second = path[:-1], path[1:]
        cut = np.stack([0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second], 1)
        path = np.concatenate([path[:1], cut.reshape(-1, 2), path[-1:]])
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.linspace(0, along[-1], 400)
    return np.stack([np.interp(at, along, path[:, axis]) for axis in (0, 1)], 1)


# What each kind does to the tissue; None where it changes the anatomy alone.
KINDS: dict[str, Callable[[Maps, Anatomy, Grid, np.random.Generator], None] | None] = {
    "nodule": _nodule,
    "mass": _mass,
    "consolidation": _consolidation,
    "effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "cardiomegaly": None,
    "atelectasis": _atelectasis,
    "fracture": None,
    "device": _device,
    "conditional": None,
}
