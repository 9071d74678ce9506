"""EfficientNet-Lite0 with a second set of later blocks, taught what does not belong in a chest.

The early blocks, which find edges and texture, serve both sets and are never trained. The ImageNet
blocks stay as they were; their copies learn on normal films with painted anomalies
(`methods/self_supervised/synthetic.py`), and a small head says where it sees something.
"""

import copy
from collections.abc import Collection
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.backbone import film_to_rgb, load_efficientnet_lite0, width

__all__ = ["FIRST", "STRIDE", "ChestNet", "Evidence"]

FINE = 2  # the last block with maps of 1/4 of the side
FIRST = 5  # the first block that there are two of
MIDDLE, LAST = 10, 15  # blocks with maps of 1/16 and 1/32 of the film's side
STRIDE = 16


class Evidence(NamedTuple):
    """What the taught blocks see in films, on a grid of 1/16 of their side."""

    where: Float[Tensor, "b n n"]  # logit of an anomaly in each cell
    film: Float[Tensor, " b"]  # logit of one anywhere
    hidden: Float[Tensor, "b d n n"]  # features before the answer
    deep: Float[Tensor, "b 320"]  # mean of the last block


class ChestNet(nn.Module):
    """Both sets of blocks, and the head. Films in [0, 1], equalised; side a multiple of 32."""

    def __init__(self, image_size: int, hidden: int = 64) -> None:
        """First weights of the head from torch's global generator. Raises UserError where the
        ImageNet weights are not installed."""
        super().__init__()
        self.lite = load_efficientnet_lite0()
        self.taught = copy.deepcopy(self.lite._blocks[FIRST:]).requires_grad_(True)
        side = image_size // STRIDE
        self.from_middle = nn.Conv2d(width(MIDDLE), hidden, 1)
        self.from_last = nn.Conv2d(width(LAST), hidden, 1)
        # An apex is not a base: the head knows where it looks.
        self.position = nn.Parameter(torch.zeros(1, hidden, side, side))
        self.norm = nn.GroupNorm(1, hidden)
        self.around = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.where = nn.Conv2d(hidden, 1, 1)
        self.whole = nn.Linear(2 * hidden + width(LAST), 1)

    def train(self, mode: bool = True) -> Self:
        """Batch normalisation keeps ImageNet's statistics: a film's result must not depend on
        the films beside it, in training either."""
        super().train(mode)
        self.lite.eval()
        self.taught.eval()
        return self

    @torch.no_grad()
    def early(self, film: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 40 i j"]:
        """What both sets of blocks begin with."""
        return self.beginning(film)[1]

    @torch.no_grad()
    def beginning(
        self, film: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b 24 k l"], Float[Tensor, "b 40 i j"]]:
        """What the blocks FINE and FIRST - 1, which serve both sets, give."""
        rgb = film_to_rgb(film * 2 - 1).contiguous(memory_format=torch.channels_last)
        features = self.lite.features(rgb, (FINE, FIRST - 1))
        return features[FINE], features[FIRST - 1]

    def imagenet(
        self, early: Float[Tensor, "b 40 i j"], blocks: Collection[int]
    ) -> dict[int, Float[Tensor, "b c k l"]]:
        """The named blocks (5 to 15) as ImageNet left them."""
        return self.lite.features_from(early, FIRST, blocks)

    def evidence(self, early: Float[Tensor, "b 40 i j"]) -> Evidence:
        """What the taught blocks see."""
        x = early
        for number, block in enumerate(self.taught, start=FIRST):
            x = block(x)
            if number == MIDDLE:
                middle = x.float()
        last = x.float()
        across = F.interpolate(
            self.from_last(last), size=middle.shape[-2:], mode="bilinear", align_corners=False
        )
        hidden = F.gelu(self.norm(self.from_middle(middle) + across + self.position))
        hidden = hidden + F.gelu(self.around(hidden))
        deep = last.mean(dim=(2, 3))
        pooled = torch.cat([hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3)), deep], dim=1)
        return Evidence(self.where(hidden)[:, 0], self.whole(pooled)[:, 0], hidden, deep)

    def forward(self, film: Float[Tensor, "b 1 h w"]) -> Evidence:
        """`early`, then `evidence`."""
        return self.evidence(self.early(film))

    def learnt(self) -> dict[str, Tensor]:
        """All weights but ImageNet's, by name: what a checkpoint needs to hold."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("lite.")}

    def load_learnt(self, state: dict[str, Tensor]) -> None:
        """Takes what `learnt` gave, in any floating precision. Raises RuntimeError for a misfit."""
        lite = {f"lite.{k}": v for k, v in self.lite.state_dict().items()}
        self.load_state_dict(lite | state)
