"""How many centimetres of each tissue every ray crosses: the soft parts. Closed forms, no marching.

Coordinates are body centimetres at mid-chest: x to the right of the film (the patient's left) from
the midline, y downwards from the lung apices.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int32
from scipy.interpolate import PchipInterpolator

from nofinding.datasets.phantom.anatomy import Anatomy

__all__ = [
    "FILM",
    "HEIGHTS",
    "TOP",
    "Grid",
    "Map",
    "Maps",
    "cavity",
    "dome",
    "heart",
    "soft_tissue",
    "thorax_half_width",
    "thorax_profile",
    "tube",
]

Map: TypeAlias = Float[np.ndarray, "n n"]

FILM = 41.0  # cm, the side of the square detector
TOP = 5.0  # cm from the upper edge of the film to the lung apices
_STEP = 50  # samples of a profile for each cm of y
_HEAD = 8.0  # cm above the apices where profiles begin
HEIGHTS = np.arange(-_HEAD, 42.0, 1 / _STEP)  # y (cm) at which profiles are sampled

# Inner half-width of the rib cage, as a share of the widest, by share of the lung's length.
_CAGE = PchipInterpolator(
    [-1, 0.0, 0.03, 0.08, 0.15, 0.25, 0.4, 0.55, 0.75, 0.95, 1.2, 2.0],
    [0.1, 0.40, 0.50, 0.59, 0.69, 0.79, 0.89, 0.95, 0.99, 1.0, 0.985, 0.95],
)
# Borders of the heart, as a share of its right and left part, and how much of its depth is there,
# by share of its height (0: pulmonary trunk, 1: apex, on the diaphragm).
_RIGHT = PchipInterpolator(
    [-0.3, 0.0, 0.2, 0.4, 0.6, 0.75, 0.9, 1.0, 1.1], [0.5, 0.6, 0.7, 0.87, 0.98, 1, 0.97, 0.9, 0.7]
)
_LEFT = PchipInterpolator(
    [-0.3, 0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1],
    [0.33, 0.43, 0.55, 0.73, 0.9, 1, 0.97, 0.85, 0.55],
)
_DEPTH = PchipInterpolator(
    [-0.3, 0.0, 0.2, 0.5, 0.8, 1.0, 1.15, 1.25], [0.0, 0.45, 0.7, 0.95, 1.0, 0.9, 0.5, 0.0]
)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the rays of the detector's cells pass, in body cm."""

    x: Map
    y: Map
    row: Int32[np.ndarray, "n n"]  # of a profile, for each ray
    pitch: float  # body cm between neighbouring rays

    @classmethod
    def of(cls, body: Anatomy, n: int) -> "Grid":
        """n x n rays: the film turned, shifted and magnified as this patient's was."""
        cell = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5) * FILM
        across, down = cell[None, :] - body.shift[0], cell[:, None] - body.shift[1]
        cos, sin = np.cos(body.turn), np.sin(body.turn)
        scale = np.float32(1 / body.magnification)
        x = (across * np.float32(cos) + down * np.float32(sin)) * scale
        y = (down * np.float32(cos) - across * np.float32(sin) + FILM / 2 - TOP) * scale
        row = ((y + np.float32(_HEAD)) * np.float32(_STEP)).astype(np.int32)
        row = np.clip(row, 0, len(HEIGHTS) - 1)
        return cls(x, y, row, FILM / n / body.magnification)

    def profile(self, curve: np.ndarray) -> Map:
        """A function of y, sampled at HEIGHTS, spread over the film."""
        spread: Map = curve.astype(np.float32).take(self.row)
        return spread

    def rows(self, low: float, high: float) -> slice:
        """The rows of the film that hold heights from low to high."""
        ends = self.y[:, [0, -1]]
        at = np.flatnonzero((ends.max(1) > low) & (ends.min(1) < high))
        return slice(at[0], at[-1] + 1) if len(at) else slice(0, 0)

    def columns(self, half: float) -> slice:
        """The columns of the film that come within `half` cm of the midline."""
        ends = self.x[[0, -1]]
        at = np.flatnonzero((ends.max(0) > -half) & (ends.min(0) < half))
        return slice(at[0], at[-1] + 1)

    def crop(self, rows: slice, columns: slice) -> "Grid":
        """Part of the film."""
        part = (rows, columns)
        return Grid(self.x[part], self.y[part], self.row[part], self.pitch)


@dataclass(slots=True)
class Maps:
    """Centimetres of each tissue along each ray."""

    soft: Map  # muscle, organs
    blood: Map  # in the lung vessels
    fat: Map
    lung: Map  # inflated lung
    bone: Map  # cortical bone; spongy bone counts by its mineral
    metal: Map  # titanium
    cover: Map  # what hides the lung from the front: heart, great vessels, spine (not attenuating)

    def copy(self) -> "Maps":
        """The same, to be changed freely."""
        return Maps(*(getattr(self, name).copy() for name in Maps.__slots__))


def tube(u: Map) -> Map:
    """Thickness of a round rod at u radii from its axis, as a share of its diameter."""
    thickness: Map = np.sqrt(np.maximum(1 - u * u, 0))
    return thickness


def thorax_half_width(body: Anatomy, y: np.ndarray) -> np.ndarray:
    """Inner half-width of the rib cage (cm) at heights y (cm)."""
    width: np.ndarray = body.thorax_half * _CAGE(np.clip(y / body.lung_length, -1, 2))
    return width


@lru_cache(maxsize=4)
def thorax_profile(body: Anatomy) -> np.ndarray:
    """thorax_half_width at HEIGHTS: asked for by every rib."""
    return thorax_half_width(body, HEIGHTS)


def dome(body: Anatomy, grid: Grid) -> Map:
    """Height (cm) of the diaphragm on each ray: two domes that fall off to the sides."""
    half = body.thorax_half
    right, left = body.dome_rise
    side = 1 / (1 + np.exp(-grid.x * np.float32(3)))  # 0 on the patient's right, 1 on the left
    top = body.lung_length - right + side * np.float32(body.dome_gap + right - left)
    off = np.abs(grid.x) / np.float32(half) - np.float32(0.45)
    outer, inner = np.maximum(off, 0) / np.float32(0.55), np.minimum(off, 0) / np.float32(0.45)
    height: Map = top + np.float32(3.8) * outer**2 + np.float32(1.6) * inner**2
    return height


def cavity(body: Anatomy, grid: Grid) -> tuple[Map, Map]:
    """Depth of the chest cavity (cm) on each ray, and how much of it the abdomen fills (0 to 1)."""
    y = HEIGHTS
    half = grid.profile(thorax_profile(body))
    growth = np.interp(y, [-2, 0, 4, 10, 18], [0.3, 0.42, 0.62, 0.88, 1.0])
    depth = grid.profile(2 * body.depth_half * growth)
    across = np.abs(grid.x)
    # Each lung ends in a rounded cap of its own, over 40 % of the half-width.
    cap = (
        (across - np.float32(0.31 * body.thorax_half)) / np.float32(0.24 * body.thorax_half)
    ) ** 2
    above = np.clip((grid.y - np.float32(1.3) * np.minimum(cap, 4)) / np.float32(5), 0, 1)
    chest = depth * tube(across / half) * np.sqrt(above)
    sunk = np.clip((grid.y - dome(body, grid)) / np.float32(7.5), 0, 1)
    return chest, np.sqrt(1 - (1 - sunk) ** 2)


def heart(body: Anatomy, grid: Grid) -> Map:
    """Thickness (cm) of the heart on each ray. Its widest extent is ctr x the rib cage's width."""
    y = HEIGHTS
    width = 2 * body.thorax_half * body.ctr
    left = width * body.heart_lean
    bottom = body.lung_length + body.dome_gap + 1.6
    share = np.clip((y - bottom) / (0.5 * body.lung_length) + 1, -0.3, 1.25)
    to_right = grid.profile((width - left) * _RIGHT(np.minimum(share, 1.1)))
    to_left = grid.profile(left * _LEFT(np.minimum(share, 1.1)))
    depth = grid.profile(np.maximum(_DEPTH(share), 0) * 1.45 * body.depth_half)
    middle, half = (to_left - to_right) / 2, (to_left + to_right) / 2
    thick: Map = depth * np.sqrt(tube((grid.x - middle) / half))
    return thick


def _great_vessels(body: Anatomy, grid: Grid) -> Map:
    """Thickness (cm) of the upper mediastinum, the aortic arch and the descending aorta."""
    y = HEIGHTS
    long = body.lung_length
    right = np.interp(y / long, [-0.4, -0.1, 0.1, 0.3, 0.5, 0.9], [1.5, 1.1, 1.0, 1.05, 1.15, 1.1])
    left = np.interp(y / long, [-0.4, -0.1, 0.1, 0.3, 0.5, 0.9], [1.4, 0.95, 0.8, 0.8, 0.8, 0.8])
    to_right, to_left = (grid.profile(body.mediastinum * side) for side in (right, left))
    u = (grid.x - (to_left - to_right) / 2) / ((to_left + to_right) / 2)
    upper = (
        1.5
        * body.depth_half
        * np.sqrt(tube(u))
        * grid.profile(np.interp(y / long, [0, 0.12, 0.4, 0.6, 1.1], [0.7, 1.0, 0.95, 0.5, 0.35]))
    )
    radius = np.float32(body.aorta / 2)
    arch_x = np.float32(1.35 + 0.5 * body.unfolding)
    arch_y = np.float32(0.27 * long - 0.5 * body.unfolding)
    round_arch = ((grid.x - arch_x) / (radius + 0.3)) ** 2 + (
        (grid.y - arch_y) / (radius + 0.9)
    ) ** 2
    arch = 5.5 * np.sqrt(np.maximum(1 - round_arch, 0))
    bow = np.clip((y - arch_y) / (long + 2 - arch_y), 0, 1)
    line = 1.5 + 0.25 * body.unfolding * (1 + np.sin(np.pi * bow)) - 0.9 * bow**2
    shaft = (y > arch_y) * np.clip((y - arch_y) / 1.5, 0, 1)
    falling = body.aorta * grid.profile(shaft) * tube((grid.x - grid.profile(line)) / radius)
    roots = np.zeros_like(grid.x)  # the lung roots, the left one higher
    for x, height in ((-3.4, 0.43), (3.3, 0.395)):
        u, v = (
            (grid.x - x) / np.float32(1.5),
            (grid.y - np.float32(height * long)) / np.float32(2.1),
        )
        roots += np.float32(2.6) * np.maximum(1 - u**2 - v**2, 0)
    all_of_it: Map = np.maximum(upper, np.maximum(arch, falling) + 0.35 * upper) + roots
    return all_of_it


def _air(body: Anatomy, grid: Grid) -> Map:
    """Thickness (cm) of the air in the windpipe and the two main bronchi."""
    y = HEIGHTS
    fork = 0.36 * body.lung_length
    bend = 0.25 * np.exp(-(((y - 0.27 * body.lung_length) / 2) ** 2))  # pushed over by the arch
    width = np.where(y < fork, 0.85, 0.0) * np.clip((y + 8) / 2, 0, 1)
    open_ = grid.profile(width)
    pipe = 1.7 * tube((grid.x + grid.profile(bend + 0.1)) / np.maximum(open_, 0.01)) * (open_ > 0)
    for slope, reach in ((-0.62, 2.4), (0.95, 2.8)):  # the right one is the steeper
        along = (grid.y - fork + 0.5) * 1.0
        axis = np.float32(slope) * along
        inside = (along > 0) & (np.abs(axis) < reach)
        pipe = np.maximum(
            pipe, 0.9 * tube((grid.x - axis) / 0.8) * inside * (1 - np.abs(axis) / reach)
        )
    return pipe.astype(np.float32)


def _trunk(body: Anatomy, grid: Grid, chest: Map) -> tuple[Map, Map]:
    """Depth (cm) of the whole body on each ray, and of the fat in it."""
    y = HEIGHTS
    long, wall = body.lung_length, body.wall
    muscle = np.interp(y / long, [-0.3, 0.1, 0.45, 0.8, 1.2], [5.0, 4.5, 2.2, 1.3, 1.6])
    half = thorax_profile(body) + muscle + wall
    half = np.where(y < 0, np.interp(y, [-7, -4, 0], [5.6, 6.6, half[y >= 0][0]]), half)
    deep = np.interp(y, [-8, -2, 4, 12, 22], [6.0, 6.5, 8.5, 9.6, 10.2]) * body.depth_half / 8.4
    inner = 2 * deep
    fold = grid.profile(half)
    lean = grid.profile(inner) * (edge := np.sqrt(tube(grid.x / fold))) * np.sqrt(edge)
    fat = grid.profile(2 * wall * np.interp(y, [-6, 2, 14, 30], [0.3, 0.6, 0.75, 1.1]))
    across = np.abs(grid.x)
    top = -4.6 + 0.13 * (across - 6) + 0.03 * np.maximum(across - 14, 0) ** 2
    pit = 0.46 * long + 1.3 * (across - np.float32(body.thorax_half))
    arm = np.sqrt(np.sqrt(np.clip((grid.y - top) / 6, 0, 1))) * np.sqrt(
        np.clip((pit - grid.y) / 4, 0, 1)
    )
    arm = arm * np.clip((across - 3) / 3, 0, 1) * np.float32(13.5 + 0.5 * wall)
    lean = np.maximum(lean, arm)
    inside = np.clip(lean / 3, 0, 1)
    return np.maximum(lean, chest + 1.6 * inside * (chest > 0)), fat * inside


def _breast(body: Anatomy, grid: Grid) -> Map:
    """Thickness (cm) of the breasts: round below, running out above."""
    if body.breast <= 0.05:
        return np.zeros_like(grid.x)
    size = np.float32(body.breast_size)
    across = (np.abs(grid.x) - np.float32(0.56 * body.thorax_half)) / size
    down = (grid.y - np.float32(body.breast_drop)) / size
    down = np.where(down > 0, down / np.float32(0.85), down / np.float32(1.5))
    thick: Map = np.float32(body.breast) * np.sqrt(np.maximum(1 - across**2 - down**2, 0))
    return thick


def soft_tissue(body: Anatomy, grid: Grid) -> Maps:
    """The thickness maps of everything but bone and lung vessels."""
    chest, abdomen = cavity(body, grid)
    middle = grid.columns(8.0)
    inner = grid.crop(slice(None), middle)
    centre = heart(body, grid)
    centre[:, middle] = np.maximum(centre[:, middle], _great_vessels(body, inner))
    spine = np.float32(4.5) * tube(grid.x / np.float32(2.6))
    cover = np.minimum(centre + spine * (chest > 0), chest)
    lung = np.maximum(chest - cover, 0) * (1 - abdomen)
    trunk, fat = _trunk(body, grid, chest)
    air = np.zeros_like(lung)
    air[:, middle] = np.minimum(_air(body, inner), np.maximum(trunk - lung, 0)[:, middle])
    if body.bubble > 1.0:  # cm; the stomach's air, under the left dome
        u = (grid.x - np.float32(0.46 * body.thorax_half)) / np.float32(body.bubble)
        v = (grid.y - np.float32(body.lung_length + body.dome_gap - body.dome_rise[1] + 2.6)) / 1.4
        air = air + 3.5 * np.sqrt(np.maximum(1 - u**2 - v**2, 0))
    breast = _breast(body, grid)
    soft = np.maximum(trunk - lung - air, 0) + 0.4 * breast
    zero = np.zeros_like(grid.x)
    fat = (fat + 0.6 * breast).astype(np.float32)
    return Maps(
        soft.astype(np.float32),
        zero,
        fat,
        lung.astype(np.float32),
        zero.copy(),
        zero.copy(),
        cover.astype(np.float32),
    )
