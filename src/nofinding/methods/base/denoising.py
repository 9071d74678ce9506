"""What the pixel diffusion methods share: a denoiser, how it is trained, and how it is called.

They differ in what they noise, where they start, what they put back and what they compare; each
says so in its own file. A denoiser that several of them train alike is trained once where the
run names a folder for such networks (`TrainingRun.shared`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddim_step, predict_eps, predict_x0
from nofinding.functional.diffusion.schedule import (
    cosine_abar,
    linear_abar,
    respace,
    scaled_linear_abar,
)
from nofinding.functional.image.residual import residual_map
from nofinding.functional.noise import gaussian, generators, integers
from nofinding.methods.base.protocol import WithoutRecord
from nofinding.methods.base.training_identity import describe, trained_once
from nofinding.methods.diff3m.detection import scores_of
from nofinding.nets.denoiser import Denoiser
from nofinding.nets.unet import UNetShape
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores

__all__ = [
    "DenoiserConfig",
    "Denoising",
    "Image",
    "Residual",
    "compared",
    "step_indices",
    "tiny_denoiser",
    "training_of",
]

Image = Float[Tensor, "b 1 h w"]  # [-1, 1]
STATISTICS = "statistics."
"""Before their names in a state; no network has a part of that name."""

PORTION = 32  # films at a time, when measuring

Residual = Literal["mae", "mse", "max_abs", "norm_mse", "norm_max_abs", "ssim"]
"""How a film is compared with its pseudo-healthy version; `compared` reports all of them."""


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """The network, the diffusion and the training of a pixel denoiser."""

    width: int = 16
    """Channels at full resolution; the time embedding is four times as wide."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `width`; each level halves the sides."""
    res_blocks: int = 1
    """Residual blocks a level."""
    attention_at: tuple[int, ...] = (8,)
    """Sides of the maps, in pixels, that get self-attention."""
    heads: int = 1
    """Heads of the self-attention."""
    norm_groups: int = 4
    """Groups of every GroupNorm; keep `width` at twice this or more."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    schedule: Literal["linear", "cosine", "scaled-linear"] = "linear"
    """How noise grows with t: beta or its root rising evenly, or abar along a squared cosine."""
    predicts: Literal["eps", "x0"] = "eps"
    """What the network gives: the noise in x_t, or the clean film."""
    loss: Literal["mse", "l1"] = "mse"
    """How its error is measured."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=800, batch_size=16, lr=1e-3, warmup=50, ema=0.99)
    )
    """How it is trained."""

    def shape(self, image_size: int) -> UNetShape:
        """The U-Net for films of this side. Raises UserError for an impossible one."""
        deepest = 2 ** (len(self.multipliers) - 1)
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"multipliers {self.multipliers}: give one or more, each 1 or more")
        if image_size % deepest or image_size < 8:
            raise UserError(
                f"image_size {image_size}: give a multiple of {deepest}, 8 or more, for "
                f"{len(self.multipliers)} levels"
            )
        if self.width < 1 or any((self.width * m) % self.heads for m in self.multipliers):
            raise UserError(f"heads {self.heads}: must divide the channels of each level")
        return UNetShape(
            image_size=image_size,
            width=self.width,
            multipliers=tuple(self.multipliers),
            res_blocks=self.res_blocks,
            attention_at=tuple(self.attention_at),
            heads=self.heads,
            groups=self.norm_groups,
        )

    @property
    def abar(self) -> Float64[Tensor, " T"]:
        """How much of the film is left at each step."""
        tables = {
            "linear": linear_abar,
            "cosine": cosine_abar,
            "scaled-linear": scaled_linear_abar,
        }
        return tables[self.schedule](self.diffusion_steps)


def training_of(kind: type, config: Any) -> str | None:
    """Says what network a method trains, and how; None for one that trains no shared denoiser.

    Methods of which this is equal can share one network.
    """
    if not issubclass(kind, Denoising):
        return None
    settings = {
        "net": asdict(config.net),
        "image_size": config.image_size,
        "options": {name: getattr(config, name) for name in kind.TRAINED_BY},
    }
    return describe(settings, [getattr(kind, n) for n in ("new_net", "noise", "loss", "error")])


def tiny_denoiser(**changes: Any) -> DenoiserConfig:
    """For tests, at 32 pixels."""
    settings: dict[str, Any] = {
        "width": 8,
        "multipliers": (1, 2),
        "attention_at": (),
        "norm_groups": 2,
        "train": TrainConfig(steps=40, batch_size=8, lr=2e-3, warmup=5, ema=0.9),
    }
    return DenoiserConfig(**{**settings, **changes})


def step_indices(total: int, respacing: str, noise_level: int | None = None) -> list[int]:
    """The kept steps from the first up to `noise_level`, both counted: noise_level + 1 of them,
    or all that are kept.

    Raises UserError where `total` steps cannot be respaced so, or fewer levels are kept.
    """
    try:
        steps: list[int] = respace(total, respacing).tolist()
    except ValueError as error:
        raise UserError(f"respacing {respacing!r}: {error}") from error
    if noise_level is None:
        return steps
    if not 1 <= noise_level < len(steps):
        raise UserError(
            f"noise_level {noise_level}: give 1 to {len(steps) - 1}, for that is how many levels "
            f"respacing {respacing!r} keeps"
        )
    return steps[: noise_level + 1]


def compared(image: Image, normal: Image, score: Residual) -> Scores:
    """What a film and its pseudo-healthy version say, both in [-1, 1]. Greys of [0, 1] are
    compared, the latter's as the network gave them; what is shown of it is clamped."""
    x, reconstruction = (image + 1) / 2, (normal + 1) / 2
    parts = scores_of(x, reconstruction) | {"mae": (x - reconstruction).abs().flatten(1).mean(1)}
    parts = {name: part.cpu() for name, part in parts.items()}
    return Scores(
        score=parts[score],
        anomaly_map=residual_map(x, reconstruction).cpu(),
        reconstruction=normal.clamp(-1, 1).cpu(),
        components=parts,
    )


class Denoising(WithoutRecord):
    """A detector around one denoiser. Its config has `image_size` and `net`, a DenoiserConfig.

    A subclass says how it scores and, where that is its own, what network it has (`new_net`), what
    `noise` it adds, and what `loss` or `error` is made small.
    """

    TRAINED_BY: ClassVar[tuple[str, ...]] = ()
    """Other fields of its config that change what is learnt: those that its own `noise` or `loss`
    read."""

    config: Any

    def __init__(self, config: Any, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.shape = config.net.shape(config.image_size)
        self.abar = config.net.abar
        self.net: nn.Module = self.new_net()
        self.fitted = False
        self.statistics: dict[str, Tensor] = {}
        """What a method measured on normal films once the network was trained, by name."""
        self.borrowed_seconds = 0.0
        """Training time of a network that was taken over from `TrainingRun.shared`."""

    def new_net(self) -> nn.Module:
        """A network with first weights from torch's global generator."""
        return Denoiser(self.shape)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.net.parameters()).device

    def noise(self, shape: Sequence[int], rows: Sequence[Generator]) -> Tensor:
        """The noise of this method, a row a film: Gaussian unless overridden."""
        return gaussian(shape, rows)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """The error of the prediction at a random t, averaged over pixels and films."""
        x0, c = batch.image, self.config.net
        t = integers(0, c.diffusion_steps, rows)
        noise = self.noise(x0.shape[1:], rows).to(x0)
        x = add_noise(x0, noise, self.abar[t])
        prediction = net(x, t.float().to(x0.device))
        return {"loss": self.error(prediction, noise if c.predicts == "eps" else x0)}

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared or absolute, as `net.loss` says."""
        gap = prediction - target
        return gap.abs().mean() if self.config.net.loss == "l1" else gap.square().mean()

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains a new denoiser on normal films. Raises UserError where the loop does."""
        job = job or TrainingRun()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = net = self.new_net().to(self.device)

        def learn() -> float:
            return train(net, self.loss, normal, self.config.net.train, seed=seed, job=job).seconds

        (description,) = self.trainings(self.config)
        self.borrowed_seconds = trained_once(net, description, normal, seed, job.shared, learn)
        self.fitted = True
        return self

    @classmethod
    def trainings(cls, config: Any) -> tuple[str, ...]:
        """The description of its one network, for whoever may share it."""
        description = training_of(cls, config)
        assert description is not None
        return (description,)

    def require_fitted(self) -> None:
        """Raises UserError where nothing was fitted or loaded."""
        if not self.fitted:
            raise UserError(f"{type(self).name}: not fitted yet; fit it, or load a model")  # type: ignore[attr-defined]

    def look(self, x: Image, k: int, *conditioning: Tensor) -> tuple[Image, Image]:
        """(eps, x0) that the network sees in x at step k of the whole schedule; `told` is what
        else the network of a method is given."""
        t = torch.full((1,), float(k), device=x.device)
        prediction = self.net(x, t, *conditioning)
        if self.config.net.predicts == "eps":
            return prediction, predict_x0(x, prediction, self.abar[k])
        return predict_eps(x, prediction, self.abar[k]), prediction

    def denoise(self, x: Image, steps: Sequence[int]) -> tuple[Image, list[Image]]:
        """x carried by DDIM from the first of these steps of the whole schedule to the last, up or
        down; and the noise that the network saw at each but the last. A call a step."""
        noises = []
        for here, there in pairwise(steps):
            eps, x0 = self.look(x, here)
            noises.append(eps)
            x = ddim_step(x0, eps, self.abar[there])
        return x, noises

    @torch.no_grad()
    def over_normals(
        self, films: Films, what: Callable[[Image], Tensor], *, most: int, seed: int
    ) -> Tensor:
        """`what` of up to `most` films, drawn by the seed: a row a film, on the CPU."""
        self.net.eval()
        chance = generators(seed, ["measured"])[0]
        indices = torch.randperm(len(films), generator=chance)[:most].tolist()
        rows = [
            what(films.batch(indices[i : i + PORTION]).image.to(self.device)).cpu()
            for i in range(0, len(indices), PORTION)
        ]
        return torch.cat(rows)

    def state(self) -> dict[str, Tensor]:
        """The trained weights, and the statistics."""
        if not self.fitted:
            return {}
        named = {f"{STATISTICS}{name}": value for name, value in self.statistics.items()}
        return dict(self.net.state_dict()) | named

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.fitted = bool(state)
        statistics = {name: value for name, value in state.items() if name.startswith(STATISTICS)}
        self.statistics = {
            name.removeprefix(STATISTICS): value for name, value in statistics.items()
        }
        if state:
            self.net.load_state_dict({n: v for n, v in state.items() if n not in statistics})
            self.net.eval()
