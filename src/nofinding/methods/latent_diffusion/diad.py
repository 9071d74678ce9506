"""DiAD: a latent diffusion that is told by a second network what the film is.

He et al., AAAI 2024, arXiv:2312.06607. A film's latent is drowned in noise and drawn anew; the
semantic-guided network (`nets/guidance.py`) sees the film and steers. The score is how far the
features of film and reconstruction are apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddim_step, predict_eps, predict_x0
from nofinding.functional.diffusion.schedule import scaled_linear_abar
from nofinding.functional.image.blur import gaussian_blur
from nofinding.functional.image.residual import mse
from nofinding.functional.noise import gaussian, generators, integers
from nofinding.methods.base.cached_latents import (
    LatentConfig,
    LatentMethod,
    Latents,
    LatentUNet,
    paper_autoencoder,
)
from nofinding.methods.base.protocol import Notes
from nofinding.nets.denoiser import Denoiser
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import EFFICIENTNET
from nofinding.nets.guidance import Guided
from nofinding.nets.kl_autoencoder import AutoencoderKL
from nofinding.runtime import device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["DiAD", "DiADConfig", "cosine_map"]


def cosine_map(
    film: Sequence[Float[Tensor, "b c i j"]],
    other: Sequence[Float[Tensor, "b c i j"]],
    size: int,
) -> Float[Tensor, "b 1 h w"]:
    """1 - cos of two films' features at every position, enlarged and summed over the maps.

    At least 0, at most 2 a map.
    """
    total = film[0].new_zeros(len(film[0]), 1, size, size)
    for a, b in zip(film, other, strict=True):
        apart = (1 - F.cosine_similarity(a, b, dim=1)).clamp_min(0)[:, None]
        total = total + F.interpolate(apart, (size, size), mode="bilinear", align_corners=True)
    return total


def _stage(steps: int) -> TrainConfig:
    return TrainConfig(steps=steps, batch_size=16, lr=2e-3, warmup=20, ema=0.98)


@dataclass(frozen=True, kw_only=True)
class DiADConfig:
    """Three networks, trained one after the other, and how a film is drawn anew."""

    image_size: int = 64
    """Side of the film, in pixels."""
    autoencoder: LatentConfig = field(default_factory=LatentConfig)
    """Trained first, then frozen."""
    net: LatentUNet = field(default_factory=LatentUNet)
    """The denoiser; the guidance copies its encoder and middle."""
    diffusion_steps: int = 1000
    """T, the number of noise levels."""
    predicts: Literal["eps", "x0"] = "x0"
    """What denoiser and guided denoiser give: the noise, or the clean latent. At level 999 an error
    of the noise is one of the latent 15 times as large."""
    beta_first: float = 0.00085
    """beta at the first of 1000 levels; its root rises evenly."""
    beta_last: float = 0.0120
    """beta at the last of 1000 levels."""
    denoiser: TrainConfig = field(default_factory=lambda: _stage(80))
    """How the denoiser is trained, second."""
    guidance: TrainConfig = field(default_factory=lambda: _stage(200))
    """How the guidance and the denoiser's decoder are trained, third."""
    start: int = 999
    """T', the noise level from which the film is drawn anew; 999 leaves next to nothing of it."""
    steps: int = 10
    """DDIM steps from there to the film."""
    layers: tuple[int, ...] = (2, 4, 10)
    """Blocks of EfficientNet-Lite0 whose features are compared: strides 4, 8 and 16."""
    sigma: float = 1.25
    """Blur of the map, in pixels."""


class DiAD(LatentMethod):
    """Scores a film by the largest feature distance from its guided reconstruction."""

    name: ClassVar[str] = "diad"
    summary: ClassVar[str] = "Latent diffusion guided by the film: feature distance (DiAD)"
    paper: ClassVar[str] = "He et al., AAAI 2024 (DiAD)"
    notes: ClassVar[Notes] = Notes(
        paper="Stable Diffusion's latent U-Net, a semantic-guided copy of its encoder and middle "
        "that sees the film, spatial-aware feature fusion between the copy's two deepest levels, "
        "and a finetuned autoencoder of stride 8, at 256 pixels. A noised latent is denoised in 10 "
        "DDIM steps; the map is 1 - cos of ResNet50 features at three scales, blurred with sigma "
        "5, and the score its maximum.",
        program="The denoiser's encoder and middle are locked, its decoder is trained on with the "
        "guidance. Guidance enters at the middle and at the deepest level only. The start is "
        "noised to level 999, but the first DDIM step takes it for 901. A text prompt goes with "
        "every picture, and classifier-free guidance of 9 against the empty prompt. Fusion is "
        "added behind the convolutions that start at zero and starts at zero itself; since the "
        "finer maps go nowhere else, neither factor of their product then has a gradient.",
        ours="The mechanism at a size that trains on normal films alone: autoencoder and denoiser "
        "begin untrained, not from Stable Diffusion, and there is no text, hence no "
        "classifier-free guidance. The locks are the program's. Films have 64 pixels in `small`, "
        "with the blur scaled, and the networks predict the clean latent there: the noise, which "
        "the paper and `paper` predict, takes far longer to learn well enough at level 999. Fusion "
        "stands in front of the zero convolutions, so that it learns. The first DDIM step is taken "
        "from the level that was noised to. The features are EfficientNet-Lite0's at the same "
        "strides, since its weights come with the package. The autoencoder has no patch "
        "discriminator, whose training alternates between two objectives. `paper` has the "
        "published sizes and rates, and our numbers of steps: the published ones continue from "
        "Stable Diffusion's.",
    )
    Config: ClassVar[type] = DiADConfig
    PRESETS: ClassVar[Mapping[str, DiADConfig]] = {
        "tiny": DiADConfig(
            image_size=32,
            autoencoder=LatentConfig(
                width=8,
                norm_groups=2,
                train=TrainConfig(steps=40, batch_size=8, lr=5e-3, warmup=5, ema=0.9),
            ),
            net=LatentUNet(width=8, multipliers=(1, 2), attention_at=(), heads=1, norm_groups=2),
            denoiser=TrainConfig(steps=10, batch_size=8, lr=3e-3, warmup=5, ema=0.9),
            guidance=TrainConfig(steps=25, batch_size=8, lr=3e-3, warmup=5, ema=0.9),
            steps=4,
            layers=(1, 2),
        ),
        "small": DiADConfig(),
        "paper": DiADConfig(
            image_size=256,
            autoencoder=paper_autoencoder(100_000),
            net=LatentUNet(
                width=320,
                multipliers=(1, 2, 4, 4),
                res_blocks=2,
                attention_at=(32, 16, 8),
                heads=8,
                norm_groups=32,
            ),
            denoiser=TrainConfig(steps=100_000, batch_size=12, accumulate=4, lr=1e-4),
            guidance=TrainConfig(
                steps=100_000, batch_size=12, accumulate=4, lr=1e-5, warmup=0, weight_decay=0.01
            ),
            predicts="eps",
            sigma=5.0,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: DiADConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        if not 0 <= config.start < config.diffusion_steps:
            raise UserError(f"start {config.start}: give 0 to {config.diffusion_steps - 1}")
        if not 1 <= config.steps <= config.start + 1:
            raise UserError(f"steps {config.steps}: give 1 to start + 1 = {config.start + 1}")
        if not 0 < config.beta_first <= config.beta_last < 1:
            raise UserError(
                f"beta_first {config.beta_first}, beta_last {config.beta_last}: give 0 < first <= "
                "last < 1"
            )
        self.shape = config.net.shape(self.side, config.autoencoder.channels)
        if len(config.net.multipliers) < 2 or self.side < 2 ** len(config.net.multipliers):
            raise UserError(
                f"image_size {config.image_size}: the guidance wants two levels of the U-Net or "
                f"more, and 2 x 2 positions at the deepest; the latent map has {self.side}"
            )
        self.abar = scaled_linear_abar(config.diffusion_steps, config.beta_first, config.beta_last)
        self.features = load_features(EFFICIENTNET, config.layers)
        self._assemble(self.new_autoencoder(), Denoiser(self.shape))
        self.fitted = False

    def _assemble(self, autoencoder: AutoencoderKL, denoiser: Denoiser) -> None:
        """All networks as one module; the guidance copies the denoiser as it is now."""
        halvings = self.config.autoencoder.stride.bit_length() - 1
        self.autoencoder = autoencoder
        self.guided = Guided(denoiser, self.shape, halvings)
        self.net = nn.ModuleDict(
            {"autoencoder": autoencoder, "guided": self.guided, "features": self.features}
        )

    @property
    def network_calls(self) -> int:
        """Denoiser and guidance at each step, the autoencoder there and back, and the features of
        film and reconstruction."""
        return 2 * int(self.config.steps) + 4

    def levels(self) -> list[int]:
        """The noise levels of the calls, from `start` down in equal strides."""
        start, steps = self.config.start, self.config.steps
        return [start - i * (start + 1) // steps for i in range(steps)]

    def loss(
        self, latents: Latents, net: nn.Module, batch: Batch, rows: Sequence[Generator]
    ) -> dict[str, Tensor]:
        """The mean squared error of what is seen in a latent at a random level; of denoiser and
        guided denoiser alike."""
        z0 = latents.draw(batch.ids, rows)
        t = integers(0, self.config.diffusion_steps, rows)
        noise = gaussian(z0.shape[1:], rows)
        z = add_noise(z0, noise, self.abar[t]).to(batch.image)
        film = (batch.image,) if isinstance(net, Guided) else ()
        prediction = net(z, t.float().to(z.device), *film)
        target = noise if self.config.predicts == "eps" else z0
        return {"loss": (prediction - target.to(z)).square().mean()}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains autoencoder, denoiser and guidance in turn. Raises UserError where the training
        loop does."""
        job, home = job or TrainingRun(), device_of(self.net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.autoencoder, denoiser = self.new_autoencoder(), Denoiser(self.shape)
        self.fit_autoencoder(normal, seed=seed, job=job.part("autoencoder"))
        loss = partial(self.loss, self.latents(normal, job))
        stage = job.part("denoiser")
        train(denoiser, loss, normal, self.config.denoiser, seed=seed, job=stage)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._assemble(self.autoencoder, denoiser)
        stage = job.part("guidance")
        train(self.guided, loss, normal, self.config.guidance, seed=seed, job=stage)
        self.net.to(home).eval()
        self.fitted = True
        return self

    def redraw(
        self, film: Float[Tensor, "b 1 h w"], noise: Float[Tensor, "b c i j"]
    ) -> Float[Tensor, "b 1 h w"]:
        """The film drawn anew from its latent under this noise; greys may leave [-1, 1]."""
        levels = self.levels()
        z = add_noise(self.autoencoder.encode(film), noise, self.abar[levels[0]])
        for level, to in zip(levels, [*levels[1:], None], strict=True):
            t = torch.full((1,), float(level), device=z.device)
            prediction = self.guided(z, t, film)
            if self.config.predicts == "eps":
                eps, z0 = prediction, predict_x0(z, prediction, self.abar[level])
            else:
                eps, z0 = predict_eps(z, prediction, self.abar[level]), prediction
            z = z0 if to is None else ddim_step(z0, eps, self.abar[to])
        return self.autoencoder.decode(z)

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The largest value of the blurred map, which sums 1 - cos over the layers."""
        if not self.fitted:
            raise UserError("diad: not fitted yet; fit it, or load a model")
        self.net.eval()
        film = batch.image.to(self.autoencoder.scale.device)
        noise = gaussian(
            (self.config.autoencoder.channels, self.side, self.side), generators(seed, batch.ids)
        ).to(film)
        redrawn = self.redraw(film, noise).clamp(-1, 1)
        apart = cosine_map(self.features(film), self.features(redrawn), film.shape[-1])
        heat = gaussian_blur(apart, self.config.sigma).cpu()
        x, normal = (film.cpu() + 1) / 2, redrawn.cpu()
        return Scores(
            score=heat.flatten(1).amax(1),
            anomaly_map=heat,
            reconstruction=normal,
            components={"mean": heat.flatten(1).mean(1), "mse": mse(x, (normal + 1) / 2)},
        )

    def state(self) -> dict[str, Tensor]:
        """The trained weights; not the backbone's, which never change."""
        if not self.fitted:
            return {}
        return {k: v for k, v in self.net.state_dict().items() if not k.startswith("features.")}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` gave."""
        self.fitted = bool(state)
        if state:
            frozen = {f"features.{k}": v for k, v in self.features.state_dict().items()}
            self.net.load_state_dict(frozen | dict(state))
            self.net.eval()
