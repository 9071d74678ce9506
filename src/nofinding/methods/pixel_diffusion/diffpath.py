"""DiffPath: whether the path of a film into noise is as those of normal films.

Heng, Thiery and Soh, "Out-of-Distribution Detection with a Single Unconditional Diffusion Model",
NeurIPS 2024. A film is encoded by DDIM; how much noise is seen on the way, and how fast that
changes with t (the path's curvature), is put in six numbers, or one, whose density is the score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.density import Kernels, fit_kernels, log_density
from nofinding.methods.base.denoising import (
    DenoiserConfig,
    Denoising,
    Image,
    step_indices,
    tiny_denoiser,
)
from nofinding.methods.base.protocol import Notes
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["DiffPath", "DiffPathConfig", "path_statistics"]

SIX = ("eps", "eps_2", "eps_3", "change", "change_2", "change_3")


@dataclass(frozen=True, kw_only=True)
class DiffPathConfig(Checked):
    """The denoiser, the path, and the numbers that are taken of it."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The network and its training."""
    respacing: str = "ddim10"
    """Levels of the path: "ddimN" for every (T/N)-th, or counts a section ("10,20"). A call each,
    at least two."""
    statistic: Literal["6d", "1d"] = "6d"
    """6d: first three moments of the noise, and of its change; 1d: the size of the change alone."""
    most: Annotated[int, Range(2)] = 256
    """Normal films, drawn from those of the training, whose paths are compared with."""


def path_statistics(noises: Sequence[Image]) -> Float[Tensor, "b 6"]:
    """Moments 1, 2 and 3 of the noise over path and pixels, and of its change from level to level,
    taken for the derivative by t with the path's length as unit (SIX, in this order)."""
    eps = torch.stack(list(noises), 1).double()  # (b, n, 1, h, w)
    change = eps.diff(dim=1) * len(noises)
    moments = [x.pow(p).flatten(1).mean(1) for x in (eps, change) for p in (1, 2, 3)]
    return torch.stack(moments, 1).float()


class DiffPath(Denoising):
    """Scores a film by the negative log density of its path's statistics."""

    name: ClassVar[str] = "diffpath"
    summary: ClassVar[str] = "Moments of the noise along the path into noise, and of its change"
    paper: ClassVar[str] = "Heng et al., NeurIPS 2024 (DiffPath)"
    notes: ClassVar[Notes] = Notes(
        paper="One diffusion model, trained on whatever natural images, encodes an image by DDIM "
        "in 10 steps. Rate of change and curvature of the path are measured by the predicted "
        "noise and its derivative; DiffPath-1D is the latter's size, with a kernel density, "
        "DiffPath-6D the sums of their first three powers, with a Gaussian mixture, fitted on "
        "in-distribution training images.",
        program="As written, with signed powers (so that the odd ones may cancel); the mixture's "
        "50 or 100 components are chosen by cross-validation over thousands of images.",
        ours="The model is trained on the normal films, as its siblings are; the few hundred "
        "films whose paths are kept get a Gaussian kernel each instead of a mixture. Powers are "
        "averaged over pixels and steps, where the program adds them up: the same but for the "
        "unit. The films are of the training, as in the program.",
    )
    Config: ClassVar[type] = DiffPathConfig
    PRESETS: ClassVar[Mapping[str, DiffPathConfig]] = {
        "tiny": DiffPathConfig(net=tiny_denoiser()),
        "small": DiffPathConfig(),
        "paper": DiffPathConfig(
            image_size=64,
            net=DenoiserConfig(
                width=128,
                multipliers=(1, 2, 3, 4),
                res_blocks=3,
                attention_at=(16, 8),
                heads=4,
                norm_groups=32,
                schedule="cosine",
                train=TrainConfig(steps=500_000, batch_size=128, lr=1e-4, checkpoint_every=1000),
            ),
            most=10_000,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: DiffPathConfig, stats: EhrStats) -> None:
        super().__init__(config, stats)
        self.steps = step_indices(config.net.diffusion_steps, config.respacing)
        if len(self.steps) < 2:
            raise UserError(f"respacing {config.respacing!r}: keep 2 levels or more")
        self.kernels: Kernels | None = None

    @property
    def network_calls(self) -> int:
        """One a level."""
        return len(self.steps)

    def path(self, image: Image) -> Float[Tensor, "b 6"]:
        """The statistics of the film's way into noise."""
        top, noises = self.denoise(image, self.steps)
        return path_statistics([*noises, self.look(top, self.steps[-1])[0]])

    def selected(self, statistics: Float[Tensor, "b 6"]) -> Float[Tensor, "b d"]:
        """Those whose density counts."""
        if self.config.statistic == "6d":
            return statistics
        return statistics[:, SIX.index("change_2"), None].sqrt()

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the denoiser, and measures the paths of normal films.

        Raises UserError for fewer than two films, and where the training loop does.
        """
        if len(normal) < 2:
            raise UserError(f"diffpath: {len(normal)} normal films; give 2 or more")
        super().fit(normal, seed=seed, job=job)
        paths = self.over_normals(normal, self.path, most=self.config.most, seed=seed)
        self.statistics = {"paths": paths}
        self.kernels = fit_kernels(self.selected(paths))
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Parts are the six statistics. There is no map. Draws nothing."""
        self.require_fitted()
        assert self.kernels is not None
        self.net.eval()
        paths = self.path(batch.image.to(self.device)).cpu()
        score = -log_density(self.selected(paths), self.kernels).float()
        return Scores(score=score, components=dict(zip(SIX, paths.T.contiguous(), strict=True)))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        super().load_state(state)
        self.kernels = None
        if state:
            self.kernels = fit_kernels(self.selected(self.statistics["paths"]))
