"""Consolidation, fluid, free air and a large heart: lung that gives way to something else."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from nofinding.datasets.insertion.curves import tube
from nofinding.datasets.insertion.exposure import LUNG, WATER
from nofinding.datasets.insertion.scene import Scene, Shadow, borders, pick
from nofinding.datasets.insertion.volumes import random_field

__all__ = ["cardiomegaly", "consolidation", "effusion", "pneumothorax"]

DEPTH = 150.0  # mm from the front to the back of an adult's lung, where it is deepest
VOXEL = 4.0  # mm
HEART = 95.0  # mm, the depth of an adult's heart
PLEURA = 0.16  # nepers of the line that the visceral pleura is, edge on


def _depth(scene: Scene, side: int) -> Float[np.ndarray, "h w"]:
    """mm of lung along the beam."""
    inside = ndimage.distance_transform_edt(scene.lung(side))
    share = np.clip(inside / max(inside.max(), 1), 0, 1)
    return np.asarray(DEPTH * scene.scale * np.sqrt(share * (2 - share)))


def consolidation(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """Airspace filled with fluid, from ground glass to dense, with bronchi that hold air."""
    side = int(rng.choice((-1, 1)))
    inside = ndimage.distance_transform_edt(scene.lung(side))
    place = pick(inside > 8 * scene.scale * scene.millimetre, rng)
    if place is None:
        return None
    size = rng.uniform(35, 110) * scene.scale  # mm
    whole = _filled(scene, side, place, size, rng)
    if whole.max() < 5:
        return None
    mask = whole > max(0.15 * whole.max(), 3 * scene.scale)
    share = rng.uniform(0.6, 1.0) if rng.random() < 0.7 else rng.uniform(0.25, 0.6)
    dense = share * (1 - LUNG)
    attenuation = WATER * dense * whole
    attenuation = attenuation - np.minimum(_bronchi(scene, place, size, rng), 0.5 * attenuation)
    return Shadow(
        attenuation=attenuation,
        mask=mask,
        diameter=_diameter(mask, scene),
        cell="dense" if share >= 0.6 else "ground glass",
    )


def _filled(
    scene: Scene, side: int, place: tuple[float, float], size: float, rng: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """mm along the beam of airspace that holds fluid: a random field about a place, cut at a level.

    `size`: mm across, about.
    """
    lung, depth = scene.lung(side), _depth(scene, side)
    rows, columns = (np.flatnonzero(lung.any(axis=a)) for a in (1, 0))
    voxel = VOXEL * scene.scale
    shape = tuple(
        int(np.ceil(mm / voxel))
        for mm in (
            DEPTH * scene.scale,
            len(rows) / scene.millimetre,
            len(columns) / scene.millimetre,
        )
    )
    z, y, x = np.meshgrid(*(np.arange(n) * voxel for n in shape), indexing="ij")
    y0 = (place[0] - rows[0]) / scene.millimetre
    x0 = (place[1] - columns[0]) / scene.millimetre
    z0 = DEPTH * scene.scale * rng.uniform(0.25, 0.75)
    stretch = rng.uniform(0.7, 1.4, 3)
    far = ((z - z0) / stretch[0]) ** 2 + ((y - y0) / stretch[1]) ** 2 + ((x - x0) / stretch[2]) ** 2
    level = np.exp(-far / (0.55 * size) ** 2)
    level = level + 0.30 * random_field(shape, size / 7 / voxel, rng)
    level = level + 0.10 * random_field(shape, 1.3, rng)
    filled = np.clip((level - 0.42) / 0.22, 0, 1)  # share of the airspace
    local = ndimage.zoom(
        depth[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1],
        (shape[1] / len(rows), shape[2] / len(columns)),
        order=1,
        grid_mode=True,
        mode="nearest",
    )
    filled = filled * (np.abs(z - DEPTH * scene.scale / 2) < local[None] / 2)
    thick = voxel * filled.sum(axis=0)
    thick = ndimage.zoom(
        thick,
        (len(rows) / shape[1], len(columns) / shape[2]),
        order=1,
        grid_mode=True,
        mode="nearest",
    )
    whole = np.zeros(scene.shape)
    whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = thick
    blurred = ndimage.gaussian_filter(whole, 0.5 * voxel * scene.millimetre)
    return np.asarray(blurred * _soft(scene, side))


def _soft(scene: Scene, side: int) -> Float[np.ndarray, "h w"]:
    lung = ndimage.binary_dilation(scene.lung(side), iterations=2)
    sigma = 2 * scene.scale * scene.millimetre
    return np.asarray(ndimage.gaussian_filter(lung.astype(np.float64), sigma))


def _diameter(mask: np.ndarray, scene: Scene) -> float:
    """Of the circle of equal area, in mm of an adult."""
    return float(np.sqrt(4 / np.pi * mask.sum()) / scene.millimetre / scene.scale)


def _bronchi(
    scene: Scene, place: tuple[float, float], size: float, rng: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """Nepers that air in some bronchi takes away, from the hilum outwards."""
    out = np.zeros(scene.shape)
    for _ in range(int(rng.integers(2, 5))):
        spread = 0.35 * size * scene.millimetre
        end = np.array(place) + rng.normal(0, spread, 2)
        towards = np.array([place[0], scene.lungs.midline]) - end
        start = end + 0.45 * towards
        middle = (start + end) / 2 + rng.normal(0, 0.1 * spread, 2)
        radius = rng.uniform(1.0, 2.0) * scene.scale
        out = out + WATER * tube(np.stack([start, middle, end]), radius, scene)
    return out


def _shell(
    scene: Scene, side: int, rim: Float[np.ndarray, " h"], *, to_spine: bool
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """mm along the beam in a shell `rim` mm thick (by row) within the chest wall, and within it.

    A cross section of half a chest is taken for a superellipse. Beam that grazes the wall runs in
    the shell all the way: so fluid rises along it, and so the pleura stands out as a line. The
    third is 1 where the inner body is grazed.
    Fluid also lies behind the heart and the root of the lung (`to_spine`).
    """
    rows, first, last = borders(scene.lung(side))
    high, wide = scene.shape
    below = int(60 * scene.scale * scene.millimetre)
    bottom = min(high, rows[-1] + below)
    every = np.arange(rows[0], bottom)
    # The chest wall does not come back in where the heart or the diaphragm takes the lung away.
    first, last = np.minimum.accumulate(first), np.maximum.accumulate(last)
    first, last = (np.interp(every, rows, edge) for edge in (first, last))
    if to_spine and side > 0:
        first = np.full(len(every), scene.lungs.midline)
    elif to_spine:
        last = np.full(len(every), scene.lungs.midline)
    outwards = side * (0.06 if not to_spine else 0.1) * (last - first)
    first, last = np.minimum(first, first + outwards), np.maximum(last, last + outwards)
    middle, half = (first + last) / 2, (last - first) / 2 + 1
    u = (np.arange(wide)[None] - middle[:, None]) / half[:, None]
    thin = np.clip(rim[every] * scene.millimetre / half, 0, 1)[:, None]
    outer = np.clip(1 - np.abs(u) ** 2.4, 0, 1) ** (1 / 2.4)
    # The lung falls away from the outer wall; its root holds it at the spine.
    shift = -side * thin * 0.6
    inner = np.clip(1 - np.abs((u - shift) / np.maximum(1 - thin, 1e-3)) ** 2.4, 0, 1) ** (1 / 2.4)
    inner = np.minimum((1 - thin) * inner, outer)
    taper = np.ones(len(every))
    taper[rows[-1] + 1 - rows[0] :] = np.linspace(1, 0, len(every) - len(rows)) ** 2
    roof = np.clip((every - rows[0] + 1) / (0.12 * len(rows)), 0, 1) ** 0.5
    deep = DEPTH * scene.scale * (taper * roof)[:, None]
    shell, body, edge = (np.zeros(scene.shape) for _ in range(3))
    shell[every], body[every] = deep * (outer - inner), deep * inner
    rest = np.abs((u - shift) / np.maximum(1 - thin, 1e-3))
    width = 0.7 * scene.scale * scene.millimetre / half[:, None]
    outside = side * u > 0.1
    edge[every] = np.exp(-(((1 - rest) / width) ** 2)) * outside * (roof * taper)[:, None]
    return shell, body, edge


def effusion(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """Free fluid of an upright patient: from a blunted angle to half a white chest."""
    side = int(rng.choice((-1, 1)))
    rows = np.flatnonzero(scene.lung(side).any(axis=1))
    height = rng.uniform(15, 0.55 * len(rows) / scene.millimetre / scene.scale)  # mm
    level = rows[-1] - height * scene.scale * scene.millimetre
    y = np.arange(scene.shape[0])
    creep = rng.uniform(10, 25) * scene.scale * scene.millimetre  # up the wall
    full = 70 * scene.scale
    rim = full * np.where(y < level, np.exp(np.minimum((y - level) / creep, 0)) * 0.3, 1.0)
    rim = ndimage.gaussian_filter1d(rim, 0.35 * creep)
    rim = np.where(y < level - 4 * creep, 0, rim)
    shell, _, _ = _shell(scene, side, rim, to_spine=True)
    y, x = np.mgrid[: scene.shape[0], : scene.shape[1]]
    from_spine = side * (x - scene.lungs.midline) / (30 * scene.scale * scene.millimetre)
    shell = shell * np.clip(from_spine, 0, 1) ** 1.5
    # The angle between ribs and diaphragm narrows to nothing; it has no edge.
    shell = ndimage.gaussian_filter(shell, 3.5 * scene.scale * scene.millimetre)
    mask = shell > 6 * scene.scale
    mask[rows[-1] + 1 :] = False
    if not mask.any():
        return None
    attenuation = WATER * (1 - LUNG) * shell
    return Shadow(
        attenuation=attenuation,
        mask=mask,
        diameter=height,
        cell="small" if height < 50 else "large",
    )


def pneumothorax(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """Air about a lung that has come off the wall: no vessels, a fine line, a denser lung."""
    side = int(rng.choice((-1, 1)))
    rows = np.flatnonzero(scene.lung(side).any(axis=1))
    widest = rng.uniform(8, 45)  # mm, at the apex
    share = np.clip((np.arange(scene.shape[0]) - rows[0]) / len(rows), 0, 1.2)
    rim = widest * scene.scale * np.clip(1 - rng.uniform(0.4, 0.8) * share, 0.1, 1)
    shell, body, edge = _shell(scene, side, rim, to_spine=False)
    lung = ndimage.binary_dilation(scene.lung(side), iterations=2)
    soft = ndimage.gaussian_filter(lung.astype(np.float64), 1.5)
    volume = shell.sum() / max(body.sum(), 1.0)
    attenuation = WATER * LUNG * (0.6 * min(volume, 1.0) * body - shell) + PLEURA * edge
    attenuation = attenuation * soft
    mask = (shell > 2 * body) & (shell > 5 * scene.scale) & lung
    mask |= (edge > 0.3) & lung
    if not mask.any():
        return None
    fine = max(3, round(5 * scene.scale * scene.millimetre) | 1)
    vessels = scene.film - ndimage.grey_opening(scene.film, fine)
    gone = ndimage.gaussian_filter((shell > 2 * body).astype(np.float64) * lung, 1.0)
    return Shadow(
        attenuation=attenuation,
        mask=mask,
        diameter=widest,
        cell="small" if widest < 20 else "large",
        film=scene.film - 0.7 * gone * vessels,
    )


def cardiomegaly(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """A heart wider by 10 to 50 mm: more of it in the beam, less lung beside it."""
    wider = rng.uniform(10, 50)
    share_left = rng.uniform(0.6, 0.9)
    middle = scene.lungs.midline
    attenuation = np.zeros(scene.shape)
    mask = np.zeros(scene.shape, dtype=bool)
    for side, share in ((1, share_left), (-1, 1 - share_left)):
        rows, first, last = borders(scene.lung(side))
        edge = first if side > 0 else last
        add = wider * share * scene.scale * scene.millimetre
        _grow(scene, side, rows, np.abs(edge - middle), add, attenuation, mask)
    return (
        Shadow(
            attenuation=attenuation,
            mask=mask,
            diameter=wider,
            cell="slight" if wider < 25 else "marked",
        )
        if mask.any()
        else None
    )


def _grow(
    scene: Scene,
    side: int,
    rows: np.ndarray,
    reach: Float[np.ndarray, " r"],
    add: float,
    attenuation: Float[np.ndarray, "h w"],
    mask: np.ndarray,
) -> None:
    """Adds one side of the heart's growth to both maps. `reach`: its border from the midline."""
    below = int(20 * scene.scale * scene.millimetre)
    every = np.arange(rows[0], min(scene.shape[0], rows[-1] + below))
    reach = np.interp(every, rows, reach)
    along = np.clip(((every - rows[0]) / len(rows) - 0.40) / 0.55, 0, 1.15)
    profile = np.sin(np.pi * np.clip(along, 0, 1) ** 1.2 * 0.62) ** 1.5
    profile[along > 1] = profile[along <= 1][-1] * np.clip(1 - (along[along > 1] - 1) / 0.15, 0, 1)
    old = np.maximum(reach, 3)[:, None]
    new = old + (add * profile)[:, None]
    across = side * (np.arange(scene.shape[1])[None] - scene.lungs.midline)
    depth = HEART * scene.scale
    before = depth * np.sqrt(np.clip(1 - (across / old) ** 2, 0, 1))
    after = depth * np.sqrt(np.clip(1 - (across / new) ** 2, 0, 1)) * (new / old) ** 0.3
    extra = np.where(across > 0, np.maximum(after - before, 0), 0) * (profile > 0)[:, None]
    attenuation[every] += WATER * (1 - LUNG) * extra
    mask[every] |= (across > old) & (across < new) & (profile > 0.02)[:, None]
