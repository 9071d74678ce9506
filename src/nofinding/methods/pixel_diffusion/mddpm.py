"""mDDPM: patched diffusion that has learnt to mend a film with holes in places and frequencies.

Iqbal et al., "Unsupervised Anomaly Detection in Medical Images Using Masked Diffusion Model", MLMI
2023. While it is trained, rectangles of the film lose their coarse structure or their detail, or
all that they show, and the network is to give the whole film all the same. To detect, nothing is
hidden: a film is restored patch by patch, as by `pddpm`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.masking import low_band, rectangles, without_band
from nofinding.functional.noise import integers, uniform
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.simplex_noise import SimplexX0Config, published, tiny
from nofinding.methods.pixel_diffusion.pddpm import PDDPM, PDDPMConfig
from nofinding.ranges import Range
from nofinding.types import Batch

__all__ = ["MDDPM", "MDDPMConfig"]

BLACK = -1.0  # of a film in [-1, 1]


@dataclass(frozen=True, kw_only=True)
class MDDPMConfig(PDDPMConfig):
    """pDDPM's settings, and what is hidden of a film while the network is trained."""

    mask: Literal["frequency", "image"] = "frequency"
    """What a rectangle loses: its coarse structure or its detail, by a coin; or all it shows."""
    rectangles: Annotated[int, Range(1)] = 5
    """The most that a film has; it has 0 to that many."""
    sizes: tuple[float, float] = (0.09, 0.18)
    """Sides of the rectangles, in shares of the film's, from and to."""
    band: tuple[float, float] = (0.02, 0.10)
    """Reach of the low frequencies, in cycles a pixel, from and to."""


class MDDPM(PDDPM):
    """Scores a film as `pddpm` does, by a network that was trained on films with holes."""

    name: ClassVar[str] = "mddpm"
    summary: ClassVar[str] = "Patched diffusion, trained on films with masked places or frequencies"
    paper: ClassVar[str] = "Iqbal et al., MLMI 2023 (mDDPM)"
    notes: ClassVar[Notes] = Notes(
        paper="Masked image modelling and masked frequency modelling are added to patched "
        "diffusion as a regularisation of its training.",
        program="pDDPM's program, in which 0 to 5 rectangles, of 9 to 18 % of the brain's "
        "height each, show the slice either without a square of 4 to 20 low frequencies a side, "
        "of 96, or with those alone; the network is to give the slice as it was, within the "
        "noised patch. Nothing is masked at detection.",
        ours="As the program with `mask: frequency`, the default; with `mask: image` the "
        "rectangles are black. A film has no brain mask: rectangles are sized by the film and may "
        "lie anywhere. The band is the same to both sides of 0, so that a film without it is "
        "real. Noise, patches and score are those of `pddpm`.",
    )
    Config: ClassVar[type] = MDDPMConfig
    PRESETS: ClassVar[Mapping[str, SimplexX0Config]] = {
        "tiny": MDDPMConfig(net=tiny()),
        "small": MDDPMConfig(),
        "paper": MDDPMConfig(image_size=96, net=published(60_000)),
    }
    TRAINED_BY: ClassVar[tuple[str, ...]] = (
        *PDDPM.TRAINED_BY,
        "mask",
        "rectangles",
        "sizes",
        "band",
    )

    def __init__(self, config: MDDPMConfig, stats: EhrStats) -> None:
        for name, top in (("sizes", 1.0), ("band", 0.5)):
            low, high = getattr(config, name)
            if not 0 < low <= high <= top:
                raise UserError(f"{name} {low}, {high}: give two numbers, rising, up to {top}")
        super().__init__(config, stats)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """pDDPM's error, of a film with holes against the whole one."""
        shown = self.with_holes(batch.image, rows)
        return {"loss": self.patch_error(net, batch.image, shown, rows)}

    def with_holes(self, film: Tensor, rows: Sequence[Generator]) -> Tensor:
        """The film with something missing in its rectangles."""
        c = self.config
        hidden = rectangles(c.image_size, rows, most=c.rectangles, sizes=c.sizes).to(film.device)
        if c.mask == "image":
            return torch.where(hidden, torch.full_like(film, BLACK), film)
        low, high = (max(1, round(share * c.image_size)) for share in c.band)
        band = low_band(c.image_size, integers(low, high + 1, rows))
        detail = uniform((1, 1, 1), rows) < 0.5  # by a coin, the rest of the spectrum goes
        band = torch.where(detail, ~band, band).to(film.device)
        return torch.where(hidden, without_band(film, band), film)
