"""How many centimetres of bone every ray crosses: ribs, collar bones, shoulder blades, spine."""

import numpy as np

from nofinding.datasets.phantom.anatomy import Anatomy
from nofinding.datasets.phantom.tissue import (
    HEIGHTS,
    Grid,
    Map,
    thorax_half_width,
    thorax_profile,
    tube,
)

__all__ = ["RIBS", "bones", "rib_height"]

RIBS = 10  # pairs
_ABOVE, _BELOW = 9.0, 19.0  # cm from the lung apices: where the shoulders' bones may be
_CORTEX = 0.74  # inner over outer radius of a rib's or collar bone's section
_SPONGE = 0.12  # mineral of spongy bone, as a share of cortical bone's


def bones(body: Anatomy, grid: Grid) -> Map:
    """Centimetres of cortical bone on each ray, thinned by age."""
    thickness = np.zeros_like(grid.x)
    for number in range(1, RIBS + 1):
        _add_rib(thickness, body, grid, number)
    upper = grid.rows(-_ABOVE, _BELOW)
    high = grid.crop(upper, slice(None))
    thickness[upper] += _collar_bones(body, high) + _shoulders(body, high)
    middle = grid.columns(5.0)
    thickness[:, middle] += _spine(body, grid.crop(slice(None), middle))
    return thickness * np.float32(body.bone)


def rib_height(body: Anatomy, number: int) -> tuple[float, float]:
    """Where rib `number` crosses the side of the chest, and its fall from back to side, in cm."""
    space = body.lung_length / 9.6
    tilt = body.tilt * (0.62 + 0.055 * number)
    return space * (number - 0.9) + tilt, tilt


def _bump(square: Map) -> Map:
    """exp(-square), cut off where it would be too small for the processor's quick path."""
    bump: Map = np.exp(-np.minimum(square, 30))
    return bump


def _hollow(u: Map) -> Map:
    """Bone across a hollow rod at u radii from its axis, as a share of the diameter."""
    shell: Map = tube(u) - np.float32(_CORTEX * (1 - _SPONGE)) * tube(u / np.float32(_CORTEX))
    return shell


def _add_rib(thickness: Map, body: Anatomy, grid: Grid, number: int) -> None:
    """Adds a pair of ribs: a tilted hoop, its back half high and its front half low."""
    side_y, tilt = rib_height(body, number)
    reach = float(thorax_half_width(body, np.array([side_y]))[0]) + 0.45
    rise = abs(body.turn) * reach + 2.2
    band = grid.rows(side_y - tilt - rise, side_y + tilt * 1.7 + rise)
    part = grid.crop(band, slice(None))
    x, y = part.x, part.y
    # The hoop is as wide as the chest at each height, so that it ends on the pleura.
    wide = part.profile(thorax_profile(body) + 0.45)
    ratio = np.abs(x) / wide
    share = np.minimum(ratio, np.float32(0.9995))
    depth = np.sqrt(1 - share * share)  # 1 at the back, 0 at the side
    steep = np.minimum(share / depth * np.float32(tilt / reach), np.float32(4))
    stretch = np.sqrt(1 + steep * steep)
    inner = np.float32(1 - 0.65 / reach)
    # A ray through a shell of 0.65 cm: long where the hoop runs along it, at the side.
    through = np.float32(body.depth_half) * (depth - np.sqrt(np.maximum(inner**2 - share**2, 0)))
    through = np.clip(through, 0.72, 2.2) * (ratio < 1)
    sunk, gap = _broken(body, number, x, share)
    back = y - (
        np.float32(side_y) - np.float32(tilt) * depth * (1.15 - np.float32(0.15) * depth) + sunk
    )
    front = y - (np.float32(side_y) + np.float32(tilt * 1.7) * depth)
    near_spine = np.clip((np.abs(x) - 1.6) / 0.6, 0, 1)
    cartilage = np.clip((share - 0.40 - 0.02 * number) / 0.1, 0, 1)  # has no mineral
    thick = stretch * np.float32(0.62 + 0.012 * number)
    thickness[band] += through * gap * near_spine * _hollow(back / thick)
    thickness[band] += (
        np.float32(0.7) * through * cartilage * _hollow(front / (thick * np.float32(1.12)))
    )


def _broken(body: Anatomy, number: int, x: Map, share: Map) -> tuple[Map, Map]:
    """How far each part of the rib has sunk (cm), and 0 in the gap of a fracture, else 1."""
    sunk, gap = np.zeros_like(x), np.ones_like(x)
    for side, rib, at, step in body.breaks:
        if rib == number:
            here = np.sign(x) == side
            sunk += np.float32(step) * (here & (share > at))
            gap *= 1 - (here & (np.abs(share - at) < 0.018))
    return sunk, gap


def _collar_bones(body: Anatomy, grid: Grid) -> Map:
    """S-shaped rods from the breast bone up to the shoulders."""
    across = np.abs(grid.x)
    out = (across - 1.9) / 14.0  # 0 at the breast bone, 1 at the shoulder
    line = np.float32(3.9 - body.shoulder_rise) - 4.6 * out + 0.55 * np.sin(2 * np.pi * out)
    thick = 0.62 + 0.28 * np.clip(1 - out * 5, 0, 1) + 0.12 * np.clip(out * 4 - 3, 0, 1)
    inside = np.clip(out * 20 + 0.5, 0, 1) * np.clip((1.02 - out) * 20, 0, 1)
    rods: Map = (2.1 * inside * _hollow((grid.y - line) / thick)).astype(np.float32)
    return rods


def _shoulders(body: Anatomy, grid: Grid) -> Map:
    """Shoulder blades (thin plates with a thick outer edge) and the heads of the arm bones."""
    across = np.abs(grid.x) - np.float32(body.thorax_half + 1.0 - body.scapula_overlap)
    y = grid.y + np.float32(body.shoulder_rise * 0.6)
    inner = across + 0.10 * (y - 8)  # > 0 beyond the edge that faces the spine
    outer = (9.0 - 0.60 * (y - 2.2)) - across  # > 0 on this side of the outer edge
    upper = y - 0.6 + 0.10 * across
    blade = np.clip(inner / 0.25, 0, 1) * np.clip(outer / 0.25, 0, 1) * np.clip(upper / 0.3, 0, 1)
    rim = _bump((np.maximum(outer - 0.5, 0) / 0.45) ** 2)
    ridge = _bump(((y - 2.6 + 0.22 * across) / 0.5) ** 2)
    edge = _bump((inner / 0.3) ** 2)
    plate = blade * (0.10 + 0.25 * rim + 0.35 * ridge + 0.15 * edge)
    head = ((np.abs(grid.x) - 18.2) / 2.4) ** 2 + ((y - 2.6) / 2.5) ** 2
    arm = tube((np.abs(grid.x) - 19.2) / 1.3) * np.clip((y - 4) / 2, 0, 1)
    ball = 1.1 * np.sqrt(np.maximum(1 - head, 0)) + 0.25 * (head < 1)
    both: Map = (plate + np.maximum(ball, arm)).astype(np.float32)
    return both


def _spine(body: Anatomy, grid: Grid) -> Map:
    """Vertebral bodies with end plates, pedicles and spinous processes, on a bent line."""
    y = HEIGHTS
    line = body.spine_bend * np.sin(np.pi * (y + 3) / 17)
    half = np.interp(y, [-8, 0, 25, 45], [1.25, 1.45, 1.95, 2.4])
    u = (grid.x - grid.profile(line)) / grid.profile(half)
    tall = np.interp(y, [-8, 0, 25, 45], [1.6, 2.0, 2.7, 3.4])
    phase = grid.profile(
        np.cumsum(1 / tall) * (HEIGHTS[1] - HEIGHTS[0]) % 1.0
    )  # 0 to 1 in each vertebra
    off = np.abs(phase - np.float32(0.5))
    vertebra = np.clip((np.float32(0.44) - off) / np.float32(0.05), 0, 1)
    waist = 1 - 0.10 * np.cos(2 * np.pi * off)
    section = tube(u / waist)
    plates = _bump(((off - 0.40) / 0.035) ** 2)
    eyes = ((np.abs(u) - 0.62) / 0.2) ** 2 + ((phase - 0.36) / 0.15) ** 2
    rings = _bump(((np.sqrt(eyes) - 0.9) / 0.35) ** 2)
    process = _bump((u / 0.16) ** 2 + ((phase - 0.72) / 0.16) ** 2)
    bone = (
        section * (0.45 + 0.50 * vertebra + 0.25 * plates * vertebra) + 0.35 * rings + 0.4 * process
    )
    wings = _bump(((phase - 0.36) / 0.13) ** 2) * np.clip((1.75 - np.abs(u)) * 4, 0, 1)
    column: Map = (0.6 * bone + 0.2 * wings * (np.abs(u) > 0.9)).astype(np.float32)
    return column
