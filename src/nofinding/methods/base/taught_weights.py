"""The taught networks of the package, and those that a user fitted, by name."""

import hashlib
from importlib import resources
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from nofinding.errors import UserError

__all__ = ["IMAGENET", "chest_weights", "focal_weights"]

IMAGENET = "imagenet"
SHIPPED = "chest"


def chest_weights(backbone: str) -> tuple[dict[str, Tensor], str]:
    """The taught weights that a backbone names, in 32 bit, and the SHA-256 of their file.

    "chest": those in the package; else the folder of a fitted `synthetic` model. Raises UserError
    where there are none.
    """
    shipped = resources.files("nofinding") / "weights" / "chest.safetensors"
    file = shipped if backbone == SHIPPED else Path(backbone) / "model.safetensors"
    try:
        data = file.read_bytes()
        tensors = load(data)
    except (OSError, SafetensorError) as error:
        if backbone == SHIPPED:
            raise UserError(
                "backbone chest: the package lacks weights/chest.safetensors"
            ) from error
        raise UserError(
            f"backbone {backbone}: give {SHIPPED}, {IMAGENET} or the folder of a fitted "
            "synthetic model"
        ) from error
    return {name: x.float() for name, x in tensors.items()}, hashlib.sha256(data).hexdigest()


def focal_weights(focal: str) -> tuple[dict[str, Tensor], str]:
    """The weights of the focal network that is named, in 32 bit, and the SHA-256 of their file.

    "shipped": those in the package; else the folder of a fitted `focal` model. Raises UserError
    where there are none.
    """
    shipped = resources.files("nofinding") / "weights" / "focal.safetensors"
    file = shipped if focal == "shipped" else Path(focal) / "model.safetensors"
    try:
        data = file.read_bytes()
        tensors = load(data)
    except (OSError, SafetensorError) as error:
        if focal == "shipped":
            raise UserError("focal shipped: the package lacks weights/focal.safetensors") from error
        raise UserError(
            f"focal {focal}: give shipped, none or the folder of a fitted focal model"
        ) from error
    return {name: x.float() for name, x in tensors.items()}, hashlib.sha256(data).hexdigest()
