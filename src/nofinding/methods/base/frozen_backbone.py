"""What the methods share that look at a film through a frozen network and train it no further."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods.base.protocol import WithoutRecord
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import EFFICIENTNET
from nofinding.ranges import Range, require_ranges
from nofinding.training import TrainingRun
from nofinding.training.ticker import Ticker

__all__ = ["WRN50", "Frozen", "FrozenConfig"]

WRN50 = "timm:wide_resnet50_2.tv_in1k"
"""The network of the papers on patches; its layers 1 to 4 are the stages."""


@dataclass(frozen=True, kw_only=True)
class FrozenConfig:
    """Which network, and where in it one looks."""

    image_size: Annotated[int, Range(1)] = 144
    """Side of the film, in pixels."""
    backbone: str = EFFICIENTNET
    """efficientnet-lite0 (comes with the package), timm:NAME or transformers:NAME, or either with
    a FOLDER for the name (extra nofinding[backbones]; nothing is downloaded)."""
    layers: tuple[int, ...] = (4, 10)
    """Where maps are taken, finest first: blocks 0 to 15 of efficientnet-lite0, stages or blocks of
    a timm network, hidden states of a transformers one (0 is before the first block)."""
    batch_size: Annotated[int, Range(1)] = 16
    """Films at a time in `fit`."""

    def __post_init__(self) -> None:
        require_ranges(self)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise UserError(f"layers {self.layers}: give each once, finest first")


class Frozen(WithoutRecord):
    """A detector on the maps of a frozen network. `learnt` is all that its `fit` learns."""

    config: Any

    def __init__(self, config: Any, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.backbone = load_features(config.backbone, config.layers)
        self.net: Any = self.backbone
        """What lies where one computes; a subclass that trains something puts that here, and the
        backbone follows."""
        self.learnt: dict[str, Tensor] = {}

    @property
    def network_calls(self) -> int:
        """One, up to the last layer asked for."""
        return 1

    @torch.no_grad()
    def maps(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """The maps of films in [-1, 1], where the network lies; in 32 bit, for bfloat16's rounding
        would show in a distance."""
        return self.maps_on(next(self.net.parameters()).device, image)

    @torch.no_grad()
    def maps_on(self, device: torch.device, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """The same on a device of one's choice: a training loop may have moved the films."""
        maps: list[Tensor] = self.backbone.to(device)(image.to(device))
        return maps

    def feature_batches(
        self, normal: Films, job: TrainingRun, what: str = "features"
    ) -> Iterator[list[Tensor]]:
        """The maps of all films, a portion at a time: none is kept here."""
        count, size = len(normal), self.config.batch_size
        if not count:
            raise UserError("no film to learn from: 0 films are left after split and findings")
        with Ticker(what, count, show=job.progress) as report_progress:
            for start in range(0, count, size):
                stop = min(start + size, count)
                yield self.maps(normal.batch(range(start, stop)).image)
                report_progress(stop)

    def require_fitted(self) -> None:
        """Raises UserError where nothing was fitted or loaded."""
        if not self.learnt:
            raise UserError(f"{type(self).name}: not fitted yet; fit it, or load a model")  # type: ignore[attr-defined]

    def state(self) -> dict[str, Tensor]:
        """What was learnt, and which network it belongs to; the network's own weights never
        change, and are no part of it."""
        if not self.learnt:
            return {}
        return {**self.learnt, "backbone": torch.tensor(self.backbone.fingerprint)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave. Raises UserError where the backbone is not the same one."""
        learnt = dict(state)
        backbone = learnt.pop("backbone", None)
        if backbone is not None and int(backbone) != self.backbone.fingerprint:
            raise UserError(
                f"backbone {self.config.backbone}: its weights are not those that this model was "
                "fitted with"
            )
        self.learnt = learnt
