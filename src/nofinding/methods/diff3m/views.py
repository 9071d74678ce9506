"""What a film shows to the frozen and the taught network: the features that `diff3m-f` judges."""

import hashlib
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.functional.image.equalise import equalise
from nofinding.nets.chest import ChestNet
from nofinding.runtime import Network

__all__ = ["IMAGENET", "POOLED", "Views", "chest_weights", "see"]

IMAGENET = "imagenet"
SHIPPED = "chest"
TEXTURE, MIDDLE, CONTEXT = 8, 10, 15  # blocks with maps of 1/16, 1/16 and 1/32 of the side
POOLED = ("texture", "context", "taught")


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


class Views(nn.Module):
    """Equalised films in; maps, pooled features and evidence out, mirrored films averaged in."""

    def __init__(self, net: ChestNet, *, taught: bool, mirror: bool) -> None:
        super().__init__()
        self.net, self.taught, self.mirror = net, taught, mirror

    def forward(self, film: Float[Tensor, "b 1 h w"]) -> tuple[Tensor, ...]:
        """(maps, texture, context), and where taught also (taught, where, film)."""
        here = self.once(film)
        if not self.mirror:
            return here
        there = self.once(film.flip(-1))
        return tuple(
            (a + (b.flip(-1) if a.ndim > 2 else b)) / 2 for a, b in zip(here, there, strict=True)
        )

    def once(self, film: Float[Tensor, "b 1 h w"]) -> tuple[Tensor, ...]:
        early = self.net.early(film)
        by_block = self.net.imagenet(early, (TEXTURE, MIDDLE, CONTEXT))
        texture = torch.cat([_mean_and_spread(by_block[b]) for b in (TEXTURE, MIDDLE)], dim=1)
        context = by_block[CONTEXT].float().mean(dim=(2, 3))
        maps = by_block[MIDDLE].float()
        if not self.taught:
            return maps, texture, context
        evidence_map = self.net.evidence(early)
        hidden = evidence_map.hidden.float()
        pooled = torch.cat(
            [hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3)), evidence_map.deep], dim=1
        )
        maps = torch.cat([maps, hidden], dim=1)
        return (
            maps,
            texture,
            context,
            pooled,
            evidence_map.where[:, None].float(),
            evidence_map.film.float(),
        )


def _mean_and_spread(maps: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 2c"]:
    flat = maps.float().flatten(2)
    return torch.cat([flat.mean(2), flat.std(2)], dim=1)


def see(network: Network, image: Float[Tensor, "b 1 h w"]) -> dict[str, Tensor]:
    """What `Views`, prepared by a runtime, gives for films in [-1, 1], by name."""
    names = ("maps", "texture", "context", "taught", "where", "film")
    features = network(equalise((image + 1) / 2))
    return dict(zip(names, features, strict=False))
