"""What a film shows to the frozen and the taught network: the features that `diff3m-f` judges."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.functional.image.equalise import equalise
from nofinding.nets.chest import ChestNet
from nofinding.nets.feature_maps import FeatureMaps
from nofinding.nets.focal import PRETRAINED, FocalNet
from nofinding.runtime import Network

__all__ = ["DISTANCES", "POOLED", "Views", "see"]

TEXTURE, MIDDLE, CONTEXT = 8, 10, 15  # blocks with maps of 1/16, 1/16 and 1/32 of the side
POOLED = ("texture", "context", "taught")
DISTANCES = (*POOLED, "pattern")
NAMES = ("maps", "texture", "context", "taught", "where", "film")


class Views(nn.Module):
    """Equalised films in; maps, pooled features and evidence out, mirrored films averaged in."""

    def __init__(
        self,
        net: ChestNet,
        *,
        taught: bool,
        mirror: bool,
        focal: FocalNet | None = None,
        own: FeatureMaps | None = None,
    ) -> None:
        """`own`: a network of the user with three maps (texture, middle, context), in place of
        EfficientNet-Lite0's blocks."""
        super().__init__()
        self.net, self.taught, self.mirror, self.focal = net, taught, mirror, focal
        self.own = own

    @property
    def names(self) -> tuple[str, ...]:
        """Of what `forward` gives, in its order."""
        return (
            ("maps", "texture", "context")
            + self.taught * ("taught", "where", "film")
            + (self.focal is not None) * ("pattern", "lesions", "families")
        )

    def forward(self, film: Float[Tensor, "b 1 h w"]) -> tuple[Tensor, ...]:
        """(maps, texture, context), where taught also (taught, where, film), and with a focal
        network also (pattern, lesions, families)."""
        here = self.once(film)
        if not self.mirror:
            return here
        there = self.once(film.flip(-1))
        return tuple(
            (a + (b.flip(-1) if a.ndim > 2 else b)) / 2 for a, b in zip(here, there, strict=True)
        )

    def once(self, film: Float[Tensor, "b 1 h w"]) -> tuple[Tensor, ...]:
        fine, early = self.net.beginning(film)
        by_block = self.net.imagenet(early, (TEXTURE, MIDDLE, CONTEXT))
        fine_map, middle, last = (by_block[block] for block in (TEXTURE, MIDDLE, CONTEXT))
        if self.own is not None:
            grid = (middle.shape[-2], middle.shape[-1])
            fine_map, middle, last = self.own(film * 2 - 1)
            middle = F.adaptive_avg_pool2d(middle, grid)  # whatever its patches
        texture = torch.cat([_mean_and_spread(x) for x in (fine_map, middle)], dim=1)
        context = last.float().mean(dim=(2, 3))
        maps = middle.float()
        given: tuple[Tensor, ...] = ()
        if self.taught:
            evidence_map = self.net.evidence(early)
            hidden = evidence_map.hidden.float()
            pooled = torch.cat(
                [hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3)), evidence_map.deep], dim=1
            )
            maps = torch.cat([maps, hidden], dim=1)
            given = pooled, evidence_map.where[:, None].float(), evidence_map.film.float()
        if self.focal is not None:
            lesions = self.focal(
                film, dict(zip(PRETRAINED, (fine, early, by_block[MIDDLE]), strict=True))
            )
            coarse = lesions.coarse.flatten(2)
            pattern = torch.cat([coarse.mean(2), coarse.amax(2)], dim=1)
            given += pattern, lesions.where, lesions.film
        return maps, texture, context, *given


def _mean_and_spread(maps: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 2c"]:
    flat = maps.float().flatten(2)
    return torch.cat([flat.mean(2), flat.std(2)], dim=1)


def see(
    network: Network, image: Float[Tensor, "b 1 h w"], names: Sequence[str] = NAMES
) -> dict[str, Tensor]:
    """What `Views`, prepared by a runtime, gives for films in [-1, 1], by name."""
    features = network(equalise((image + 1) / 2))
    return dict(zip(names, features, strict=False))
