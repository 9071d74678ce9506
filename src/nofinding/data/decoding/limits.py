"""How large a film may be, which files are films, and how long decoding may take."""

import math

__all__ = [
    "MEMORY",
    "SIDE",
    "TIMEOUT",
    "VOLUME_LONGEST",
    "FilmError",
    "check_decoded",
    "check_decoded_size",
    "check_size",
    "check_volume",
    "kind_of",
    "require_nifti",
    "unusable",
]

SIDE = 20_000  # pixels
AREA = 100_000_000  # pixels
VOLUME_SIDE = 4096  # voxels
VOLUME_BYTES = 2**30  # of voxels, inflated
VOLUME_VOXELS = 2**28
VOLUME_LONGEST = 256  # voxels a side of what is decoded: methods see cubes of 32 to 128
MEMORY = 3 * 2**30  # bytes of address space
TIMEOUT = 30  # seconds
MADE = 2**29  # bytes of a file that a child has made


class FilmError(Exception):
    """Why a file is not decoded, in words that quote nothing from it."""


def kind_of(start: bytes) -> str:
    """PNG, JPEG or DICOM, by the first 132 bytes. Refuses every other file."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[128:132] == b"DICM":
        return "DICOM"
    raise FilmError("is not a PNG, JPEG or DICOM file")


def check_size(wide: int, high: int) -> None:
    """Refuses a film whose header promises too much, before a byte of it is decoded."""
    if wide < 1 or high < 1:
        raise FilmError("has no pixels")
    if wide > SIDE or high > SIDE or wide * high > AREA:
        raise FilmError(
            f"is {wide} x {high} pixels; at most {SIDE} a side and {AREA // 10**6} million are read"
        )


def require_nifti(start: bytes) -> None:
    """Refuses a file that begins neither like a NIfTI file nor like a .gz, by its first bytes."""
    sizes = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 348, 540
    if not start.startswith((b"\x1f\x8b", *sizes)):
        raise FilmError("is not a NIfTI file (.nii or .nii.gz)")


def check_volume(shape: tuple[int, int, int], bytes_each: int) -> None:
    """Refuses a volume whose header promises too much, before a voxel of it is read."""
    if min(shape) < 1:
        raise FilmError("has no voxels")
    count = math.prod(shape)
    if max(shape) > VOLUME_SIDE or count > VOLUME_VOXELS or count * bytes_each > VOLUME_BYTES:
        raise FilmError(
            f"is {' x '.join(map(str, shape))} voxels; at most {VOLUME_SIDE} a side, "
            f"{VOLUME_VOXELS // 10**6} million and {VOLUME_BYTES // 2**30} GiB are read"
        )


def check_decoded(shape: tuple[int, ...]) -> None:
    """Refuses what no decoder of ours gives: the last word on how much is taken from the child."""
    if len(shape) == 3:
        if min(shape) < 1 or max(shape) > VOLUME_LONGEST:
            raise FilmError("made the decoder fail")
        return
    high, wide = shape
    check_size(wide, high)


def check_decoded_size(count: object) -> int:
    """How many bytes of a made file are taken from a child. Raises FilmError above the limit."""
    if not isinstance(count, int) or not 0 <= count <= MADE:
        raise FilmError("made the decoder fail")
    return count


def unusable(what: str) -> str:
    """The flag of a value that counts as absent. It does not quote the header: nobody knows what
    somebody typed there."""
    return f"{what}: what the file's header says cannot be used"
