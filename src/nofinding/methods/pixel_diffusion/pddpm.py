"""pDDPM: one patch after the other is noised and restored from what surrounds it.

Behrendt et al., "Patched Diffusion Models for Unsupervised Anomaly Detection in Brain MRI", MIDL
2023. Noise enough to hide a lesion hides the anatomy, too; where only a patch is noised, the rest
of the film says what belongs there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Generator, Tensor, nn

from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.masking import patches
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.noise import generators, integers
from nofinding.methods.base.denoising import Image, compared
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.simplex_noise import SimplexDenoising, SimplexX0Config, published, tiny
from nofinding.ranges import Range
from nofinding.types import Batch, Scores, Supervision

__all__ = ["PDDPM", "PDDPMConfig"]


@dataclass(frozen=True, kw_only=True)
class PDDPMConfig(SimplexX0Config):
    """The denoiser, its patches, and how far they are noised."""

    patches: Annotated[int, Range(1)] = 2
    """Patches along a side of the film; each takes a call."""
    noise_level: int = 500
    """How far a patch is noised, in steps of the whole schedule."""


class PDDPM(SimplexDenoising):
    """Scores a film by its absolute difference from the film put together of restored patches."""

    name: ClassVar[str] = "pddpm"
    summary: ClassVar[str] = "Each patch noised and restored from the rest of the film in one call"
    paper: ClassVar[str] = "Behrendt et al., MIDL 2023 (pDDPM)"
    notes: ClassVar[Notes] = Notes(
        paper="A U-Net for brain slices of 96 pixels learns to give the clean film, by its "
        "absolute error, from one in which a patch is under simplex noise; to detect, the patches "
        "of a grid are restored one by one, in one call each, and put together; the absolute "
        "difference is the map.",
        program="Patches are 48 pixels, taken from a fixed grid, and only the patch counts for "
        "the loss; noise of 6 octaves from 64 pixels, the same for all films of a batch and not "
        "scaled to unit variance; the cosine schedule; t = 500 of 1000. Its map goes through "
        "median filters and an eroded brain mask.",
        ours="Every film has noise of its own, scaled to unit variance; the same noise serves "
        "all its patches, as in the program. A film has no brain mask, and its score is the mean "
        "absolute difference over all pixels, unfiltered. Attention stands at the deepest "
        "published level only; the small preset is 32 pixels.",
    )
    Config: ClassVar[type] = PDDPMConfig
    PRESETS: ClassVar[Mapping[str, SimplexX0Config]] = {
        "tiny": PDDPMConfig(net=tiny()),
        "small": PDDPMConfig(),
        "paper": PDDPMConfig(image_size=96, net=published(60_000)),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY
    TRAINED_BY: ClassVar[tuple[str, ...]] = (*SimplexDenoising.TRAINED_BY, "patches")

    def __init__(self, config: PDDPMConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.check_levels("noise_level", (config.noise_level,))
        try:
            self.patches = patches(config.image_size, config.patches)
        except ValueError:
            raise UserError(
                f"patches {config.patches}: give a number that divides image_size "
                f"{config.image_size}"
            ) from None

    @property
    def network_calls(self) -> int:
        """One a patch."""
        return len(self.patches)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The error at a random t within a random patch, the only part that is noised."""
        return {"loss": self.patch_error(net, batch.image, batch.image, rows)}

    def patch_error(
        self, net: nn.Module, expected: Image, shown: Image, rows: Sequence[Generator]
    ) -> Tensor:
        """The error within a patch of what the network gives of `shown`, of which it is to give
        `wanted`."""
        t = integers(0, self.config.net.diffusion_steps, rows)
        patch = self.patches[integers(0, len(self.patches), rows)].to(shown.device)
        noise = self.noise(shown.shape[1:], rows).to(shown)
        x = torch.where(patch, add_noise(shown, noise, self.abar[t]), shown)
        prediction = net(x, t.float().to(shown.device))
        target = noise if self.config.net.predicts == "eps" else expected
        return self.error(prediction[patch], target[patch])

    def reconstruct(self, image: Image, rows: Sequence[Generator]) -> Image:
        """The film put together of its restored patches."""
        step = self.config.noise_level
        noised = add_noise(image, self.noise(image.shape[1:], rows).to(image), self.abar[step])
        normal = torch.zeros_like(image)
        for patch in self.patches.to(image.device):
            _, x0 = self.look(torch.where(patch, noised, image), step)
            normal = torch.where(patch, x0, normal)
        return normal

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Film against film, in grey levels of [0, 1]."""
        self.require_fitted()
        self.net.eval()
        image = batch.image.to(self.device)
        normal = self.reconstruct(image, generators(seed, batch.ids))
        return compared(image, normal, self.config.score)
