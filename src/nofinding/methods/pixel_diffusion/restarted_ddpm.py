"""A film that a diffusion model cannot bring back is abnormal, whatever the noise it starts from.

Graham et al., "Denoising diffusion models for out-of-distribution detection", CVPRW 2023,
arXiv:2211.07740. On pixels; its latent version, for films and volumes, is `ldm_ood.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.plms import plms
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.image.residual import mse
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.denoising import DenoiserConfig, Denoising, Image, tiny_denoiser
from nofinding.methods.base.protocol import Notes
from nofinding.methods.base.restarts import MEASURES, Restarts, held_out, statistics, z_scores
from nofinding.nets.slice_distance import PerceptualGap
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["DDPMOOD", "DDPMOODConfig"]

BATCH = 16  # films at once where statistics are taken
LEAST = 2  # films that have a spread


@dataclass(frozen=True, kw_only=True)
class DDPMOODConfig(Checked):
    """The denoiser, and from where it is started."""

    image_size: int = 32
    """Side of the film, in pixels."""
    grid: int = 10
    """Noise levels that a sampling from pure noise would visit; 100 in the paper."""
    skip: int = 2
    """Every so manyth level of the grid is a start, beginning with the second."""
    deepest: int = 300
    """Highest level to start from, of `net.diffusion_steps`."""
    held_out: Annotated[float, Range(0, below=1)] = 0.0
    """Share of the training films that the denoiser does not see and the statistics come from; 0:
    the denoiser sees all films, and can be shared with other methods that train the same one."""
    statistics_films: Annotated[int, Range(LEAST)] = 100
    """With `held_out` 0, so many of the training films give the statistics."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The denoiser and its training."""


class DDPMOOD(Denoising):
    """z-scores of what is lost on the way from several noise levels back, averaged."""

    name: ClassVar[str] = "ddpm-ood"
    summary: ClassVar[str] = "Denoised from several noise levels: what does not come back"
    paper: ClassVar[str] = "Graham et al., CVPRW 2023"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "The film is noised to many levels, denoised from each by PLMS on a grid of 100 "
            "steps, and compared with the result by mean squared error and LPIPS. Each of them "
            "becomes a z-score under the validation films at that level; the score is the mean "
            "over levels of the sum of both. U-Net of 128, 256 and 256 channels, T = 1000, "
            "scaled-linear beta from 0.0015 to 0.0195, Adam at 2.5e-5."
        ),
        program=(
            "The sampler is not reset between two starts, so that the first steps of a start "
            "use the noise that the start before it saw last. Its last step, from level 0 to "
            "level 0, changes nothing."
        ),
        ours=(
            "Every start begins afresh, takes its first step twice, as PLMS is published, and "
            "ends at a clean film. The default is small: 32 pixels, a linear beta, a grid of 10 "
            "levels up to 300, and statistics from training films, so that the denoiser is the "
            "one that other pixel methods train. `paper` holds out 10 % of the training films "
            "for the statistics (by film: a method is not told who the patient is); its number of "
            "updates is ours. LPIPS has all weights 1 and looks through EfficientNet-Lite0."
        ),
    )
    Config: ClassVar[type] = DDPMOODConfig
    PRESETS: ClassVar[Mapping[str, DDPMOODConfig]] = {
        "tiny": DDPMOODConfig(held_out=0.2, net=tiny_denoiser(schedule="scaled-linear")),
        "small": DDPMOODConfig(),
        "paper": DDPMOODConfig(
            grid=100,
            skip=4,
            deepest=1000,
            held_out=0.1,
            net=DenoiserConfig(
                width=128,
                multipliers=(1, 2, 2),
                norm_groups=32,
                schedule="scaled-linear",
                train=TrainConfig(steps=60_000, batch_size=128, lr=2.5e-5, warmup=0, ema=0.0),
            ),
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: DDPMOODConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.restarts = Restarts.of(
            config.net.diffusion_steps, config.grid, config.skip, config.deepest
        )
        self.gap = PerceptualGap(2)
        self.learnt: dict[str, Tensor] = {}

    @property
    def network_calls(self) -> int:
        """Every level below each start, and one more for its first step."""
        return self.restarts.calls

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the denoiser, then takes the statistics. Raises UserError for too few films."""
        c = self.config
        if len(normal) < LEAST:
            raise UserError(f"ddpm-ood: {len(normal)} normal films; it takes {LEAST} or more")
        if c.held_out:
            learn, judge = held_out(len(normal), c.held_out, seed, self.name)
        else:
            learn, judge = [*range(len(normal))], [*range(len(normal))]
            judge = judge[:: max(1, -(-len(judge) // c.statistics_films))]
        super().fit(normal.part(learn) if c.held_out else normal, seed=seed, job=job)
        films = normal.part(judge)
        measured = []
        for start in range(0, len(films), BATCH):
            batch = films.batch(range(start, min(start + BATCH, len(films))))
            measured.append(self.measured(batch.image, self.come_back(batch, seed)))
        self.learnt = statistics(measured)
        return self

    @torch.no_grad()
    def come_back(self, batch: Batch, seed: int) -> list[Image]:
        """What comes back from every start, in [-1, 1]. Each start has noise of its own."""
        x0, rows = batch.image.to(self.device), generators(seed, batch.ids)
        reconstructions = []
        for path in self.restarts.paths:
            noise = gaussian(x0.shape[1:], rows).to(x0)
            x = add_noise(x0, noise, self.abar[path[0]])
            clean = plms(lambda x, k: self.look(x, k)[0], x, path, self.abar)
            reconstructions.append(clean.clamp(-1, 1))
        return reconstructions

    @torch.no_grad()
    def measured(self, image: Image, reconstructions: list[Image]) -> Tensor:
        """Both measures of every film and start, (b, t, 2); grey levels of [0, 1]."""
        x0 = image.to(self.device)
        squares = torch.stack([mse((x0 + 1) / 2, (x + 1) / 2) for x in reconstructions], dim=1)
        gaps = self.gap.to(self.device)(x0, reconstructions)
        return torch.stack([squares, gaps], dim=2).cpu()

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Score and parts in spreads of the normal films, the map in grey levels of [0, 1].

        The map is the mean |x - x'| over the starts; the film shown came back from the middle one.
        """
        self.require_fitted()
        reconstructions = self.come_back(batch, seed)
        z = z_scores(self.measured(batch.image, reconstructions), self.learnt)
        image = batch.image.to(reconstructions[0])
        gaps = torch.stack([(image - x).abs() for x in reconstructions]).mean(0) / 2
        parts = {name: z[:, :, i].mean(1) for i, name in enumerate(MEASURES)}
        return Scores(
            score=z.sum(2).mean(1),
            anomaly_map=gaps.cpu(),
            reconstruction=reconstructions[len(reconstructions) // 2].cpu(),
            components=parts,
        )

    def state(self) -> dict[str, Tensor]:
        """The trained weights and the statistics."""
        return {**super().state(), **{f"learnt.{k}": v for k, v in self.learnt.items()}}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        own = {k: v for k, v in state.items() if k.startswith("learnt.")}
        self.learnt = {k.removeprefix("learnt."): v for k, v in own.items()}
        super().load_state({k: v for k, v in state.items() if k not in own})
