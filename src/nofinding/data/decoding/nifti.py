"""NIfTI volumes (.nii, .nii.gz), decoded in the child process only: NumPy, Pillow and nibabel.

The header is checked before a voxel is read, and a .gz is inflated to the length that the header
promises and no further.
"""

import gzip
import io
import math
import zlib
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt16

from nofinding.data.decoding.limits import VOLUME_LONGEST, FilmError, check_volume
from nofinding.data.image import SAMPLE, TOP, resample

__all__ = ["mask", "volume"]

HEADER = 540  # bytes of the longer of the two headers, NIfTI-2
LEAST = 348  # bytes of the other one
EXTENSIONS = 2**20  # bytes that may stand between header and voxels
TYPES = frozenset(["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])


def volume(path: Path) -> UInt16[np.ndarray, "d h w"]:
    """The volume in 0 to 65535: from the 0.5th to the 99.5th percentile of its voxels.

    Axes as in `types.Pixels`; voxels are made cubes, and the longest side has at most 256.
    Voxels that are not finite are black.
    """
    values, spacing = _upright(path)
    finite = np.isfinite(values)
    inside = values[finite]
    sample = inside[:: max(1, inside.size // SAMPLE)]
    low, high = np.percentile(sample, [0.5, 99.5]) if sample.size else (0.0, 0.0)
    if not high > low and inside.size:  # nearly all of one value
        low, high = inside.min(), inside.max()
    if not high > low:
        bright = np.zeros_like(values)
    else:
        bright = np.clip((values - low) / (high - low), 0, 1)
        bright[~finite] = 0
    cubes = resample(bright.astype(np.float32), _even(bright.shape, spacing))
    return np.asarray(np.clip(cubes, 0, 1) * TOP + 0.5).astype(np.uint16)


def mask(path: Path) -> UInt16[np.ndarray, "d h w"]:
    """65535 where at least half of the voxel was not 0; on the grid of `volume`."""
    values, spacing = _upright(path)
    drawn: Bool[np.ndarray, "d h w"] = np.isfinite(values) & (values != 0)
    share = resample(drawn.astype(np.float32), _even(drawn.shape, spacing))
    least = min(0.5, float(share.max())) if drawn.any() else np.inf
    return np.where(share >= least, TOP, 0).astype(np.uint16)


def _upright(path: Path) -> tuple[Float[np.ndarray, "d h w"], tuple[float, float, float]]:
    """Values as float32 with slices from the feet up, and the millimetres between them."""
    nibabel = _nibabel()
    stored, affine = _read(path)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise FilmError("has no usable orientation")
    canonical = nibabel.as_closest_canonical(
        nibabel.Nifti1Image(stored, affine)
    )  # right, front, up
    across, forth, up = (float(z) for z in canonical.header.get_zooms()[:3])
    values = np.asanyarray(canonical.dataobj).astype(np.float32)
    return values[::-1, ::-1].transpose(2, 1, 0), (up, forth, across)


def _nibabel() -> Any:
    """Imported when the first volume comes: films need none of it, and it takes a moment."""
    try:
        return import_module("nibabel")
    except ImportError:
        raise FilmError("is a volume: pip install 'nofinding[volumes]'") from None


def _even(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    """How many voxels each axis has once all are cubes, as fine as the finest axis was."""
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    edge = max(min(spacing), max(extent) / VOLUME_LONGEST)
    if max(extent) / min(extent) > VOLUME_LONGEST:
        raise FilmError("is a line or a plane, not a volume")
    deep, high, wide = (min(VOLUME_LONGEST, max(1, round(side / edge))) for side in extent)
    return deep, high, wide


def _read(path: Path) -> tuple[Shaped[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """The voxels, rescaled as the header says, and where they lie in the patient."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with path.open("rb") as stored:
            unpacked: Any = gzip.GzipFile(fileobj=stored) if packed else stored
            return _voxels(unpacked)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise FilmError("is damaged or cut short") from None


def _voxels(file: IO[bytes]) -> tuple[Shaped[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    nibabel = _nibabel()
    start = file.read(HEADER)
    if len(start) < LEAST:
        raise EOFError
    second = start[4:8] == b"n+2\0"
    if not second and start[344:348] != b"n+1\0":
        raise FilmError("is not a NIfTI file with its voxels inside")
    kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    header = kind.from_fileobj(io.BytesIO(start), check=False)
    dims = [int(n) for n in header["dim"][1 : 1 + max(0, min(7, int(header["dim"][0])))]]
    if len(dims) < 3 or any(n != 1 for n in dims[3:]):
        raise FilmError(f"has {len(dims)} dimensions; only volumes of 3 are read")
    shape = (dims[0], dims[1], dims[2])
    dtype = header.get_data_dtype()
    if dtype.name not in TYPES:
        raise FilmError("has voxels that are no plain numbers")
    count = math.prod(shape)
    check_volume(shape, dtype.itemsize)
    offset = float(header["vox_offset"])
    if not LEAST <= offset <= EXTENSIONS:
        raise FilmError("has its voxels at an impossible place")
    end = int(offset) + count * dtype.itemsize
    whole = start + _exactly(file, max(0, end - len(start)))
    values = np.frombuffer(whole, dtype, count, int(offset)).reshape(shape, order="F")
    slope, intercept = header.get_slope_inter()
    if slope is not None and (slope, intercept or 0.0) != (1.0, 0.0):
        values = values.astype(np.float32) * np.float32(slope) + np.float32(intercept or 0.0)
    return values.astype(np.float32), np.asarray(header.get_best_affine(), dtype=np.float64)


def _exactly(file: IO[bytes], count: int) -> bytes:
    """So many bytes. Raises EOFError where there are fewer; never reads more."""
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data
