"""Broken ribs, and what surgeons and anaesthetists leave in a chest."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from nofinding.datasets.insertion.curves import tube
from nofinding.datasets.insertion.scene import Scene, Shadow, borders, pick

__all__ = ["device", "fracture"]

METAL = 0.90  # nepers a mm of steel or titanium wire, hardened beam
PLASTIC = 0.08  # of a tube made opaque with barium
BONE = 0.055  # of cortical bone, over soft tissue
CALLUS = 0.03
DEVICES = {
    "pacemaker": 0.3,
    "central line": 0.25,
    "tracheal tube": 0.15,
    "wires": 0.15,
    "port": 0.15,
}


def fracture(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """A rib in two: a step of 2 to 8 mm and a dark cleft; older ones with a lump of new bone."""
    unit = scene.scale * scene.millimetre  # pixels a mm of an adult
    rib_at = _rib(scene, rng)
    if rib_at is None:
        return None
    (row, column), angle = rib_at
    step = rng.uniform(2, 8)
    y, x = np.mgrid[: scene.shape[0], : scene.shape[1]]
    along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
    across = -(x - column) * np.sin(angle) + (y - row) * np.cos(angle)
    slant = along - rng.uniform(-0.6, 0.6) * across
    near = np.exp(-((across / (9 * unit)) ** 4))
    broken = 1 / (1 + np.exp(-slant / (0.3 * unit + 0.15)))
    moved = rng.choice((-1, 1)) * step * unit * broken * np.exp(-np.maximum(along, 0) / (30 * unit))
    moved = moved * near
    film = ndimage.map_coordinates(
        scene.film,
        np.stack([y - moved * np.cos(angle), x + moved * np.sin(angle)]),
        order=1,
        mode="nearest",
    )
    film = np.where(moved > 1e-3, film, np.where(moved < -1e-3, film, scene.film))
    rib = np.exp(-((across / (5.5 * unit)) ** 6))
    cleft = rng.uniform(0.8, 2.0)  # mm
    gap = np.exp(-((slant / (0.5 * cleft * unit)) ** 2)) * rib
    attenuation = -BONE * 3.5 * gap
    old = rng.random() < 0.4
    if old:
        lump = np.exp(-((along / (7 * unit)) ** 2) - (across / (6.5 * unit)) ** 2)
        attenuation = attenuation * 0.4 + CALLUS * rng.uniform(5, 12) * lump
    mask = (np.abs(along) < 9 * unit) & (np.abs(across) < (5.5 + step / 2) * unit)
    return Shadow(
        attenuation=attenuation,
        mask=mask,
        diameter=step,
        cell="healing" if old else "fresh",
        film=film,
    )


def _rib(scene: Scene, rng: np.random.Generator) -> tuple[tuple[float, float], float] | None:
    """A point on a rib's middle in the outer half of a lung, and the rib's direction there."""
    sigma = 4.0 * scene.scale * scene.millimetre
    orders = {"yy": (2, 0), "xx": (0, 2), "xy": (1, 1)}
    h = {k: ndimage.gaussian_filter(scene.film, sigma, order=o) for k, o in orders.items()}
    half = (h["xx"] + h["yy"]) / 2
    root = np.sqrt(((h["xx"] - h["yy"]) / 2) ** 2 + h["xy"] ** 2)
    ridge = -(half - root)  # minus the lower eigenvalue: large on a bright line
    angle = 0.5 * np.arctan2(2 * h["xy"], h["xx"] - h["yy"])  # of the other eigenvector
    lungs = scene.lungs.both
    edge = 10 * scene.scale * scene.millimetre
    inside = ndimage.distance_transform_edt(lungs)
    x = np.arange(scene.shape[1])[None]
    outer = np.abs(x - scene.lungs.midline) > 0.16 * scene.shape[1]
    where = lungs & (inside > 0.6 * edge) & outer & (ridge == ndimage.maximum_filter(ridge, 3))
    where &= ridge > 0
    if where.sum() < 5:
        return None
    where &= ridge >= np.percentile(ridge[where], 60)
    place = pick(where, rng)
    if place is None:
        return None
    at = (
        int(np.clip(round(place[0]), 0, scene.shape[0] - 1)),
        int(np.clip(round(place[1]), 0, scene.shape[1] - 1)),
    )
    return place, float(angle[at])


def device(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """A pacemaker, a central line, a tracheal tube, wires of a sternotomy, or a port."""
    kind = str(rng.choice(list(DEVICES), p=list(DEVICES.values())))
    makers = {
        "pacemaker": _pacemaker,
        "central line": _line,
        "tracheal tube": _tracheal_tube,
        "wires": _wires,
        "port": _port,
    }
    attenuation = makers[kind](scene, rng)
    mask = attenuation > 0.04
    if not mask.any():
        return None
    size = float(np.sqrt(4 / np.pi * mask.sum()) / scene.millimetre / scene.scale)
    return Shadow(attenuation=attenuation, mask=mask, diameter=size, cell=kind)


def _anchor(scene: Scene, side: int, down: float, out: float) -> Float[np.ndarray, " 2"]:
    """A point by anatomy: `down` the lungs (0 apex, 1 base), `out` from midline to outer wall."""
    rows, first, last = borders(scene.lung(side))
    row = rows[0] + down * len(rows)
    outer = np.interp(row, rows, last if side > 0 else first)
    return np.array([row, scene.lungs.midline + out * (outer - scene.lungs.midline)])


def _plate(
    scene: Scene,
    centre: Float[np.ndarray, " 2"],
    radii: tuple[float, float],
    thick: float,
    angle: float,
) -> Float[np.ndarray, "h w"]:
    """mm of a plate with round corners, `radii` mm across."""
    unit = scene.scale * scene.millimetre
    reach = int(1.2 * max(radii) * unit) + 2
    low = np.maximum(centre.astype(int) - reach, 0)
    top = np.minimum(centre.astype(int) + reach + 1, scene.shape)
    out = np.zeros(scene.shape)
    if (top <= low).any():
        return out
    rows, columns = top - low
    y, x = np.mgrid[: 3 * rows, : 3 * columns] / 3
    dy, dx = y - 1 / 3 + low[0] - centre[0], x - 1 / 3 + low[1] - centre[1]
    a, b = np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy
    level = (np.abs(a) / (radii[0] * unit)) ** 3 + (np.abs(b) / (radii[1] * unit)) ** 3
    plate = thick * scene.scale * np.clip(1 - level, 0, 1) ** 0.25
    out[low[0] : top[0], low[1] : top[1]] = plate.reshape(rows, 3, columns, 3).mean(axis=(1, 3))
    return out


def _pacemaker(scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    side = int(rng.choice((-1, 1), p=(0.2, 0.8)))
    box = _anchor(scene, side, rng.uniform(0.18, 0.34), rng.uniform(0.7, 0.95))
    angle = rng.uniform(-0.4, 0.4)
    out = 0.55 * METAL * _plate(scene, box, (24, 21), 7, angle)
    vein = _anchor(scene, side, 0.06, 0.45)
    entry = np.array([_anchor(scene, -1, 0.25, 0)[0], scene.lungs.midline - 0.03 * scene.shape[1]])
    for end in ((0.86, 0.35), (0.6, -0.12))[: int(rng.integers(1, 3))]:
        tip = _anchor(scene, 1, *end)
        path = np.stack([box, vein, entry, (entry + tip) / 2 + [0, -0.03 * scene.shape[1]], tip])
        path = path + rng.normal(0, 0.006 * scene.shape[1], path.shape)
        out = out + METAL * 0.8 * tube(path, 0.7 * scene.scale, scene)
        short = np.stack([tip, tip + 0.02 * scene.shape[1] * np.array([0.3, 1.0])])
        out = out + METAL * tube(short, 1.2 * scene.scale, scene)
    return out


def _vessel(scene: Scene, start: Float[np.ndarray, " 2"], rng: np.random.Generator) -> np.ndarray:
    """From a point under the collarbone to where the upper hollow vein ends."""
    side = 1 if start[1] > scene.lungs.midline else -1
    vein = _anchor(scene, side, 0.05, 0.35)
    entry = np.array([_anchor(scene, -1, 0.2, 0)[0], scene.lungs.midline - 0.025 * scene.shape[1]])
    tip = np.array([_anchor(scene, -1, 0.45, 0)[0], scene.lungs.midline - 0.04 * scene.shape[1]])
    path = np.stack([start, vein, entry, tip])
    return path + rng.normal(0, 0.005 * scene.shape[1], path.shape)


def _line(scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    side = int(rng.choice((-1, 1)))
    start = _anchor(scene, side, rng.uniform(0.05, 0.15), rng.uniform(0.8, 1.2))
    return 2.2 * PLASTIC * tube(_vessel(scene, start, rng), 1.1 * scene.scale, scene)


def _port(scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    side = int(rng.choice((-1, 1), p=(0.8, 0.2)))
    body = _anchor(scene, side, rng.uniform(0.2, 0.32), rng.uniform(0.55, 0.85))
    line = 2.2 * PLASTIC * tube(_vessel(scene, body, rng), 1.1 * scene.scale, scene)
    plate = _plate(scene, body, (14, 14), 10, 0) - 0.7 * _plate(scene, body, (8, 8), 10, 0)
    return line + 0.12 * plate


def _tracheal_tube(scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    top = np.array([0.0, scene.lungs.midline + rng.normal(0, 0.01) * scene.shape[1]])
    tip = np.array([_anchor(scene, -1, rng.uniform(0.08, 0.25), 0)[0], scene.lungs.midline])
    path = np.stack([top, (top + tip) / 2 + rng.normal(0, 1.5, 2), tip])
    pipe = PLASTIC * 0.7 * tube(path, 5.5 * scene.scale, scene, wall=1.5 * scene.scale)
    stripe = path + np.array([0, 3.0 * scene.scale * scene.millimetre])
    return pipe + 3 * PLASTIC * tube(stripe, 0.9 * scene.scale, scene)


def _wires(scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    out = np.zeros(scene.shape)
    unit = scene.scale * scene.millimetre
    for down in np.linspace(0.2, 0.75, int(rng.integers(4, 7))):
        row = _anchor(scene, -1, down, 0)[0]
        middle = np.array([row, scene.lungs.midline]) + rng.normal(0, 2 * unit, 2)
        turn = np.linspace(0, 2 * np.pi, 9)[:-1] + rng.uniform(0, 1)
        loop = np.stack([6 * unit * np.sin(turn), 11 * unit * np.cos(turn)], axis=1)
        loop = middle + loop + rng.normal(0, 0.6 * unit, loop.shape)
        out = out + METAL * tube(np.concatenate([loop, loop[:1]]), 0.45 * scene.scale, scene)
    return out
