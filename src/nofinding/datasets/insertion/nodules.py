"""Nodules and masses: bodies of voxels, put where lung is."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from nofinding.datasets.insertion.exposure import LUNG, WATER
from nofinding.datasets.insertion.scene import Scene, Shadow, borders, pick
from nofinding.datasets.insertion.volumes import nodule, rasterised

__all__ = ["mass", "small_nodule"]

NODULES = {
    "smooth": 0.3,
    "lobulated": 0.3,
    "spiculated": 0.2,
    "part-solid": 0.12,
    "calcified": 0.08,
}
MASSES = {"lobulated": 0.45, "spiculated": 0.35, "cavitating": 0.2}
CELLS = {"open": 0.55, "apex": 0.15, "behind the heart": 0.15, "by the hilum": 0.15}


def small_nodule(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """A nodule of 4 to 30 mm, as many in each octave."""
    return _body(scene, rng, float(np.exp(rng.uniform(np.log(4), np.log(30)))), NODULES)


def mass(scene: Scene, rng: np.random.Generator) -> Shadow | None:
    """A mass of 30 to 60 mm; of a child in proportion."""
    return _body(scene, rng, rng.uniform(30, 60), MASSES)


def _body(
    scene: Scene, rng: np.random.Generator, diameter: float, kinds: dict[str, float]
) -> Shadow | None:
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    cell = str(rng.choice(list(CELLS), p=list(CELLS.values())))
    size = diameter * scene.scale
    density, body = nodule(rng, kind=kind)
    cells = float(np.sqrt(4 / np.pi * body.any(axis=0).sum()))  # its diameter, in voxels
    voxel = size / cells  # mm
    place = pick(_room(scene, cell, size), rng)
    if place is None:
        cell, place = "open", pick(_room(scene, "open", size), rng)
    if place is None:
        return None
    lung = LUNG * body  # that gives way to it
    depth = rng.uniform(0.8, 1.3)  # along the beam, against across it
    shadow = WATER * voxel * depth * (density - lung).sum(axis=0)
    pitch = voxel * scene.millimetre
    attenuation = rasterised(np.asarray(shadow), pitch, place, scene.shape)
    across = np.asarray(body.any(axis=0), dtype=np.float64)
    cover = rasterised(across, pitch, place, scene.shape)
    mask = cover >= 0.5
    if not mask.any():
        mask = cover >= cover.max()
    return Shadow(attenuation=attenuation, mask=mask, diameter=diameter, cell=cell)


def _room(scene: Scene, cell: str, size: float) -> Bool[np.ndarray, "h w"]:
    """Where the middle of a lesion of that cell may lie."""
    both = scene.lungs.both
    rows = np.flatnonzero(both.any(axis=1))
    y, x = np.mgrid[: scene.shape[0], : scene.shape[1]]
    share = (y - rows[0]) / max(1, len(rows))  # 0 at the apex, 1 at the diaphragm
    inside = ndimage.distance_transform_edt(both) > 0.35 * size * scene.millimetre
    if cell == "apex":
        return np.asarray(inside & (share < 0.25))
    if cell == "behind the heart":
        return _behind_heart(scene, share)
    if cell == "by the hilum":
        middle = np.abs(x - scene.lungs.midline) < 0.17 * scene.shape[1]
        return np.asarray(both & middle & (share > 0.3) & (share < 0.65))
    return np.asarray(inside & (share > 0.2))


def _behind_heart(scene: Scene, share: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Between spine and left lung, in the lower half: lung lies there, behind the heart."""
    left = scene.lungs.left
    rows, first, _ = borders(left)
    behind = np.zeros(scene.shape, dtype=bool)
    spine = scene.lungs.midline + 12 * scene.scale * scene.millimetre
    for row, column in zip(rows, first, strict=True):
        behind[row, int(spine) : max(int(spine), int(column))] = True
    return np.asarray(behind & (share > 0.5) & (share < 0.88))
