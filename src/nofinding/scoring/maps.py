"""Maps and pseudo-healthy films of scored films, as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from nofinding.evaluation.report.colours import tinted
from nofinding.extras import need
from nofinding.types import Scores

__all__ = ["overlay", "write_maps", "write_nifti"]


def write_maps(
    folder: Path,
    ids: Sequence[str],
    film: Float[np.ndarray, "b *d h w"],
    scores: Scores,
    top: float | None,
    label: str,
) -> None:
    """maps/ID.npy and maps/ID.png (the film under the map), normal/ID.npy in [0, 1].

    Of a volume there are .nii.gz files, too, and the picture shows the slice with the largest
    value of the map. The colours span 0 to twice `top`, the value that 99 % of normal pixels stay
    below, so that one colour means one thing in all pictures of a model.
    """
    for name, tensor in (("maps", scores.anomaly_map), ("normal", scores.reconstruction)):
        if tensor is None:
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, image_id in enumerate(ids):
            array = tensor[i, 0].float().numpy()
            if name == "normal":
                array = (array + 1) / 2
            if array.ndim == 3:
                write_nifti(folder / name / f"{image_id}.nii.gz", array)
            if name == "normal":
                np.save(folder / name / f"{image_id}.npy", array.astype(np.float16))
                continue
            np.save(folder / name / f"{image_id}.npy", array)
            span = 2 * top if top else float(array.max()) or 1.0
            under, heat = film[i], array / span
            if array.ndim == 3:
                at = int(array.reshape(len(array), -1).max(1).argmax())
                under, heat = under[at], heat[at]
            picture = overlay(under, heat, label)
            # zlib takes three times as long for a tenth less.
            picture.save(folder / name / f"{image_id}.png", compress_level=3)


def write_nifti(path: Path, volume: Float[np.ndarray, "d h w"]) -> None:
    """The volume on its own grid, a unit a voxel, turned so that right, front and up are told.

    Where the volume lay in the scanner is not kept: what is scored is a cube of other voxels.
    """
    nibabel = need("nibabel", "volumes", "maps of volumes")  # here: films need none of it

    upright = np.ascontiguousarray(volume.transpose(2, 1, 0)[::-1, ::-1], dtype=np.float32)
    image = nibabel.Nifti1Image(upright, np.eye(4))
    image.header.set_xyzt_units("unknown")
    nibabel.save(image, path)


def overlay(
    film: Float[np.ndarray, "h w"], heat: Float[np.ndarray, "h w"], label: str
) -> Image.Image:
    """The film in grey with the map over it: stronger is brighter and more opaque.

    Enlarged by a whole factor to 256 pixels or more, with `label` in its corner.
    """
    picture = Image.fromarray((tinted(film, heat) * 255).clip(0, 255).astype(np.uint8))
    factor = -(-256 // picture.width)
    picture = picture.resize((picture.width * factor, picture.height * factor))
    ImageDraw.Draw(picture).text((4, 4), label, fill=(255, 255, 255))
    return picture
