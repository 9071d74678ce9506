"""MAD-AD: a latent diffusion that takes what is abnormal for the noise it has to remove.

Beizaee et al., IPMI 2025, arXiv:2502.16943. In training random patches of a normal latent are
noised and the rest stays; the network says which patches they are and what was there. A film is
not noised at all: the reverse process starts from its latent, and corrects what looks noised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.patches import patch_masks
from nofinding.functional.diffusion.sampler import add_noise, predict_eps
from nofinding.functional.diffusion.schedule import cosine_abar
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
from nofinding.nets.kl_autoencoder import AutoencoderKL
from nofinding.nets.unet import UNetShape, groups_of
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["MADAD", "MADADConfig", "MaskedDenoiser", "stochastic_step"]

Latent = Float[Tensor, "b c i j"]
CLIPPED = 0.25  # a larger change, in greys of [-1, 1], counts no more


def stochastic_step(
    x: Latent, x0: Latent, noise: Latent, abar: Tensor, to: Tensor, eta: float
) -> Latent:
    """x at the lower noise level `to`: Song et al. 2021, eq. 12 and 16.

    `eta` 0 is DDIM, 1 draws as DDPM does. At `to` = 1 the result is x0.
    """
    sigma = eta * ((1 - to) / (1 - abar)).sqrt() * (1 - abar / to).sqrt()
    eps = predict_eps(x, x0, abar)
    direction = (1 - to - sigma**2).clamp_min(0).sqrt()
    return float(to.sqrt()) * x0 + float(direction) * eps + float(sigma) * noise


class MaskedDenoiser(Denoiser):
    """(x_t, t) -> the clean latent, and the chance that a position was left as it is."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__(shape)
        width = shape.width * shape.multipliers[0]
        self.mask_norm = nn.GroupNorm(groups_of(width, shape.groups), width)
        self.mask = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.zeros_(self.mask.weight)
        nn.init.zeros_(self.mask.bias)  # type: ignore[arg-type]

    def both(self, x: Latent, t: Float[Tensor, " b"]) -> tuple[Latent, Float[Tensor, "b 1 i j"]]:
        """Both answers from one pass."""
        embedding = self.time(t)
        skips = self.encoder(x, embedding)
        h = self.decoder(self.middle(skips[-1], embedding), skips, embedding)
        return self.head(h), self.mask(self.mask_norm(h)).sigmoid()


@dataclass(frozen=True, kw_only=True)
class MADADConfig(Checked):
    """The autoencoder, the denoiser, and how films are noised and corrected."""

    image_size: int = 64
    """Side of the film, in pixels."""
    autoencoder: LatentConfig = field(default_factory=LatentConfig)
    """Trained first, then frozen."""
    net: LatentUNet = field(default_factory=LatentUNet)
    """The denoiser."""
    diffusion_steps: Annotated[int, Range(1)] = 10
    """T, the number of noise levels, along a squared cosine; as many steps correct a film."""
    patches: tuple[int, ...] = (1, 2, 4, 8)
    """Heights and widths of the patches, in positions of the latent map."""
    patch_chances: tuple[float, ...] = (0.2, 0.3, 0.3, 0.2)
    """How often each of `patches` is drawn, for height and width alike."""
    most_noised: Annotated[float, Range(0, 1)] = 0.4
    """The share of noised patches is drawn between 0 and this."""
    mask_weight: float = 0.01
    """Weight of the squared error of the predicted mask beside that of the latent."""
    eta: Annotated[float, Range(0, 1)] = 0.5
    """Fresh noise of each step: 0 none (DDIM), 1 as much as DDPM."""
    sigma: float = 1.25
    """Blur of the map, in pixels."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=250, batch_size=16, lr=2e-3, warmup=20, ema=0.98)
    )
    """How the denoiser is trained."""


class MADAD(LatentMethod):
    """Scores a film by how much of it the reverse process changes."""

    name: ClassVar[str] = "mad-ad"
    summary: ClassVar[str] = "Masked latent diffusion: what it corrects unasked (MAD-AD)"
    paper: ClassVar[str] = "Beizaee et al., IPMI 2025 (MAD-AD)"
    notes: ClassVar[Notes] = Notes(
        paper="Random patches of a normal film's latent are noised; a U-Net learns to give back "
        "the clean latent and to tell the noised patches. At inference the reverse process starts "
        "from the latent as it is, since an anomaly looks noised by itself, and the difference "
        "between the film and its correction is the map. Brain MRI, and pixel-wise measures alone.",
        program="Ten noise levels along a squared cosine, eta 0.5, a mask loss of weight 0.01 "
        "beside the squared error over the whole latent. Patch sizes are drawn once a batch, and "
        "patches outside the brain are never noised. At inference the predicted mask is not used: "
        "every position takes the step. The map compares the decoded correction with the decoded "
        "latent, not with the film: the absolute difference, clipped at 0.25 of greys in [-1, 1], "
        "times 4, blurred with sigma 5. The U-Net has dropout of 0.4 and a cosine learning rate.",
        ours="The mask is not used at inference either; the share of positions that it calls "
        "noised is given as the part `noised`. Patch sizes are drawn for each film, because a "
        "row's chance must not depend on its neighbours, and all patches may be noised, for there "
        "is no mask of the body. There is neither dropout nor decay of the learning rate. The "
        "autoencoder learns from the normal films alone. The published work has no score of a "
        "whole film: ours is the mean of the map. In `small` films have 64 pixels and the blur is "
        "scaled.",
    )
    Config: ClassVar[type] = MADADConfig
    PRESETS: ClassVar[Mapping[str, MADADConfig]] = {
        "tiny": MADADConfig(
            image_size=32,
            autoencoder=LatentConfig(
                width=8,
                norm_groups=2,
                train=TrainConfig(steps=40, batch_size=8, lr=5e-3, warmup=5, ema=0.9),
            ),
            net=LatentUNet(width=8, multipliers=(1, 2), attention_at=(), heads=1, norm_groups=2),
            train=TrainConfig(steps=40, batch_size=8, lr=3e-3, warmup=5, ema=0.9),
        ),
        "small": MADADConfig(),
        "paper": MADADConfig(
            image_size=256,
            autoencoder=paper_autoencoder(100_000),
            net=LatentUNet(
                width=256, res_blocks=2, attention_at=(32, 16, 8), heads=8, norm_groups=32
            ),
            sigma=5.0,
            train=TrainConfig(
                steps=100_000, batch_size=96, lr=4e-5, weight_decay=1e-4, warmup=1000
            ),
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: MADADConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self.shape = config.net.shape(self.side, config.autoencoder.channels)
        _refuse_impossible(config, self.side)
        self.abar = cosine_abar(config.diffusion_steps)
        self._assemble(self.new_autoencoder(), MaskedDenoiser(self.shape))
        self.fitted = False

    def _assemble(self, autoencoder: AutoencoderKL, denoiser: MaskedDenoiser) -> None:
        self.autoencoder, self.denoiser = autoencoder, denoiser
        self.net = nn.ModuleDict({"autoencoder": autoencoder, "denoiser": denoiser})

    @property
    def network_calls(self) -> int:
        """The denoiser at each step; the autoencoder's way in once, its way back twice."""
        return int(self.config.diffusion_steps) + 3

    def masks(self, rows: Sequence[Generator]) -> Float[Tensor, "b 1 i j"]:
        """1 where a latent stays as it is."""
        c = self.config
        return patch_masks(
            self.side, rows, sizes=c.patches, chances=c.patch_chances, most=c.most_noised
        )

    def loss(
        self, latents: Latents, net: nn.Module, batch: Batch, rows: Sequence[Generator]
    ) -> dict[str, Tensor]:
        """The squared error of the latent, and a little of that of the mask."""
        z0 = latents.draw(batch.ids, rows)
        t = integers(0, self.config.diffusion_steps, rows)
        visible = self.masks(rows)
        noised = add_noise(z0, gaussian(z0.shape[1:], rows), self.abar[t])
        z = (visible * z0 + (1 - visible) * noised).to(batch.image)
        assert isinstance(net, MaskedDenoiser)
        prediction, mask_prediction = net.both(z, t.float().to(z.device))
        error = (prediction - z0.to(z)).square().mean()
        mask = (mask_prediction - visible.to(z)).square().mean()
        return {"loss": error + self.config.mask_weight * mask, "error": error, "mask": mask}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains autoencoder and denoiser in turn. Raises UserError where `train` does."""
        job = job or TrainingRun()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._assemble(self.new_autoencoder(), MaskedDenoiser(self.shape))
        self.fit_autoencoder(normal, seed=seed, job=job.part("autoencoder"))
        loss = partial(self.loss, self.latents(normal, job))
        stage = job.part("denoiser")
        train(self.denoiser, loss, normal, self.config.train, seed=seed, job=stage)
        self.net.eval()
        self.fitted = True
        return self

    def correct(self, z: Latent, rows: Sequence[Generator]) -> tuple[Latent, Float[Tensor, " b"]]:
        """The latent after the reverse process, which takes it for one at the last level; and the
        share of its positions that the first call calls noised."""
        mask: Tensor | None = None
        for level in reversed(range(self.config.diffusion_steps)):
            z0, mask_prediction = self.denoiser.both(
                z, torch.full((1,), float(level), device=z.device)
            )
            mask = mask_prediction if mask is None else mask
            noise = gaussian(z.shape[1:], rows).to(z)
            to = self.abar[level - 1] if level else torch.ones((), dtype=torch.float64)
            z = stochastic_step(z, z0, noise, self.abar[level], to, self.config.eta)
        assert mask is not None
        return z, 1 - mask.flatten(1).mean(1)

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The mean of the map: the change of each pixel, 1 where it is a quarter of a grey of
        [-1, 1] or more, blurred."""
        if not self.fitted:
            raise UserError("mad-ad: not fitted yet; fit it, or load a model")
        self.net.eval()
        z = self.autoencoder.encode(batch.image.to(self.autoencoder.scale.device))
        corrected, noised = self.correct(z, generators(seed, batch.ids))
        before, after = self.autoencoder.decode(z).cpu(), self.autoencoder.decode(corrected).cpu()
        change = (before - after).abs().clamp(max=CLIPPED) / CLIPPED
        heat = gaussian_blur(change, self.config.sigma)
        return Scores(
            score=heat.flatten(1).mean(1),
            anomaly_map=heat,
            reconstruction=after.clamp(-1, 1),
            components={
                "max": heat.flatten(1).amax(1),
                "mse": mse((before + 1) / 2, (after + 1) / 2),
                "noised": noised.cpu(),
            },
        )

    def state(self) -> dict[str, Tensor]:
        """The trained weights."""
        return dict(self.net.state_dict()) if self.fitted else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` gave."""
        self.fitted = bool(state)
        if state:
            self.net.load_state_dict(dict(state))
            self.net.eval()


def _refuse_impossible(config: MADADConfig, side: int) -> None:
    """Raises UserError for settings that do not go together."""
    if not config.patches or any(p < 1 or side % p for p in config.patches):
        raise UserError(f"patches {config.patches}: give divisors of {side}")
    chances = config.patch_chances
    if len(chances) != len(config.patches) or min(chances) < 0 or sum(chances) <= 0:
        raise UserError(
            f"patch_chances {chances}: give one of 0 or more for each of the "
            f"{len(config.patches)} patches"
        )
