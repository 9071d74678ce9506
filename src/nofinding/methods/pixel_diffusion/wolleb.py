"""A film encoded into noise, and decoded as a classifier says that a healthy one would be.

Wolleb, Bieder, Sandkuehler and Cattin 2022, arXiv:2203.04306 ("Diffusion Models for Medical
Anomaly Detection"). Without noise of its own the way back would end at the film; the gradient of
a classifier of noisy films bends it towards "healthy". It has to know diseased films for that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films, Joined
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddim_step, predict_x0
from nofinding.functional.noise import integers
from nofinding.methods.base.denoising import DenoiserConfig, Denoising, Image, tiny_denoiser
from nofinding.methods.base.protocol import Notes
from nofinding.nets.noisy_classifier import NoisyClassifier
from nofinding.ranges import Checked, Range
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["Wolleb", "WollebConfig"]

HEALTHY, DISEASED = 0, 1  # the classifier's outputs
CLASSIFIER = "classifier."  # before the names of its weights in a model


def _classifier_training() -> TrainConfig:
    return TrainConfig(steps=300, batch_size=16, lr=1e-3, warmup=20, ema=0.99, weight_decay=0.05)


@dataclass(frozen=True, kw_only=True)
class WollebConfig(Checked):
    """The denoiser, the classifier beside it, and how far and how strongly a film is bent."""

    image_size: int = 32
    """Side of the film, in pixels."""
    net: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The denoiser; the classifier is like its way down."""
    denoiser_films: Literal["normal", "both"] = "normal"
    """What the denoiser learns from: normal films alone, so that other methods can share it, or
    the diseased ones as well, as published."""
    classifier: TrainConfig = field(default_factory=_classifier_training)
    """How the classifier is trained."""
    start: Annotated[int, Range(1)] = 500
    """L, the noise level that a film is encoded to."""
    stride: Annotated[int, Range(1)] = 125
    """Steps of the whole schedule between two calls, on the way up and down."""
    exact: bool = True
    """Correct each step down by the error that DDIM's step up is known to have made, so that the
    film itself comes back where the classifier is silent (ours); with few steps the errors are
    else larger than any disease."""
    gradient_scale: Annotated[float, Range(0)] = 100.0
    """s, how strongly the classifier bends the way down; 0: not at all."""


class Wolleb(Denoising):
    """Scores a film by its mean absolute difference from its healthy decoding."""

    name: ClassVar[str] = "wolleb"
    summary: ClassVar[str] = "DDIM there, and back along a classifier's gradient to healthy"
    paper: ClassVar[str] = "Wolleb et al., MICCAI 2022"
    notes: ClassVar[Notes] = Notes(
        paper="A diffusion model and a classifier of noisy films learn from healthy and diseased "
        "films, labelled as such. A film is encoded by L = 500 of 1000 deterministic DDIM steps "
        "and decoded by as many, in which s sqrt(1 - abar) times the gradient of log p(healthy) "
        "is taken from the predicted noise, s = 100. The map is the absolute difference, summed "
        "over the image's channels.",
        program="Not consulted beyond these settings.",
        ours="By default the denoiser learns from normal films alone, so that it can be shared "
        "with other methods (`denoiser_films`), and every 125th step is called, 4 up and 4 down. "
        "So long steps do not lead back to the film; `exact` adds what each step up was wrong by "
        "to the step down, at no call, and leaves the difference to the classifier alone. The "
        "classifier learns the noise levels up to L alone, ends in an average over positions, not "
        "in attention, and its loss weighs both classes alike, however many films there are of "
        "each. The score of a film is the mean of its map.",
    )
    Config: ClassVar[type] = WollebConfig
    PRESETS: ClassVar[Mapping[str, WollebConfig]] = {
        "tiny": WollebConfig(
            net=tiny_denoiser(),
            classifier=TrainConfig(steps=120, batch_size=8, lr=3e-3, warmup=5, ema=0.9),
            stride=250,
        ),
        "small": WollebConfig(),
        "paper": WollebConfig(
            image_size=256,
            net=DenoiserConfig(
                width=128,
                multipliers=(1, 1, 2, 2, 4, 4),
                res_blocks=2,
                attention_at=(16,),
                norm_groups=32,
                train=TrainConfig(steps=60_000, batch_size=10, lr=1e-4),
            ),
            denoiser_films="both",
            classifier=TrainConfig(steps=20_000, batch_size=10, lr=1e-4, ema=0.0),
            stride=1,
            exact=False,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.WEAKLY_SUPERVISED
    OTHERS: ClassVar[Literal["diseased"]] = "diseased"

    def __init__(self, config: WollebConfig, stats: EhrStats) -> None:
        top = config.net.diffusion_steps
        if config.start >= top:
            raise UserError(f"start {config.start}: give 1 to {top - 1}")
        if config.start % config.stride:
            raise UserError(f"stride {config.stride}: give a divisor of start, {config.start}")
        super().__init__(config, stats)
        self.path = list(range(0, config.start + 1, config.stride))  # up
        self.classifier = NoisyClassifier(self.shape).eval()
        self.others: Films | None = None
        self._diseased: frozenset[str] = frozenset()
        self._weights = (1.0, 1.0)

    @property
    def network_calls(self) -> int:
        """Of the denoiser up and down, and of the classifier down; its gradient is another."""
        n = len(self.path) - 1
        return 4 * n if self.config.gradient_scale else 2 * n

    def set_auxiliary(self, others: Films) -> None:
        """Takes films that show disease."""
        self.others = others

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Trains the denoiser, then the classifier. Raises UserError where the loop does, or where
        no diseased films were met."""
        job = job or TrainingRun()
        if self.others is None or not len(self.others):
            raise UserError("wolleb: needs diseased films beside the normal ones; give some")
        twice = sorted(set(normal.ids) & set(self.others.ids))
        if twice:
            raise UserError(f"wolleb: film {twice[0]} is both among the normal and the diseased")
        both = Joined(normal, self.others)
        super().fit(normal if self.config.denoiser_films == "normal" else both, seed=seed, job=job)
        self._diseased = frozenset(self.others.ids)
        counts = (len(normal), len(self.others))
        self._weights = (len(both) / (2 * counts[HEALTHY]), len(both) / (2 * counts[DISEASED]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = NoisyClassifier(self.shape)
        config = self.config.classifier
        own = job.part("classifier")
        train(self.classifier, self.classifier_loss, both, config, seed=seed, job=own)
        return self

    def classifier_loss(
        self, net: nn.Module, batch: Batch, rows: Sequence[Generator]
    ) -> dict[str, Tensor]:
        """Cross-entropy of healthy against diseased, from films at random noise levels."""
        x0 = batch.image
        t = integers(0, self.config.start + 1, rows)  # it is asked at no other level
        x = add_noise(x0, self.noise(x0.shape[1:], rows).to(x0), self.abar[t])
        classes = [DISEASED if i in self._diseased else HEALTHY for i in batch.ids]
        labels = torch.tensor(classes, device=x0.device)
        logits = net(x, t.float().to(x0.device))
        each = F.cross_entropy(logits, labels, reduction="none")
        weights = torch.tensor(self._weights, device=x0.device)[labels]
        right = (logits.argmax(1) == labels).float().mean()
        return {"loss": (each * weights).mean(), "right": right}

    def towards_healthy(self, x: Image, k: int) -> Image:
        """The gradient of log p(healthy | x_t) at step k, by x_t, a film at a time."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            t = torch.full((1,), float(k), device=x.device)
            chance = F.log_softmax(self.classifier(x, t), dim=1)[:, HEALTHY]
            (gradient,) = torch.autograd.grad(chance.sum(), x)
        return gradient

    def encode(self, image: Image) -> tuple[Image, list[Image]]:
        """The film as noise at level `start`, by DDIM's way up, and the noise that the network
        saw at every level of it, both ends included. Draws nothing."""
        x, trace = image, []
        for k, to in pairwise(self.path):
            eps, x0 = self.look(x, k)
            trace.append(eps)
            x = ddim_step(x0, eps, self.abar[to])
        return x, [*trace, self.look(x, self.path[-1])[0]]

    def decode(self, x: Image, trace: Sequence[Image]) -> Image:
        """The way down from what `encode` gave, bent towards healthy at every level."""
        for i in reversed(range(1, len(self.path))):
            k, to = self.path[i], self.path[i - 1]
            eps = trace[i] if i + 1 == len(self.path) else self.look(x, k)[0]
            if self.config.exact:  # on the way up this step was taken with seen[i - 1]
                eps = eps + (trace[i - 1] - trace[i])
            if self.config.gradient_scale:
                pull = self.config.gradient_scale * (1 - self.abar[k]).sqrt().to(x)
                eps = eps - pull * self.towards_healthy(x, k)
            x = ddim_step(predict_x0(x, eps, self.abar[k]), eps, self.abar[to])
        return x

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Score, parts and map |x - x'| are in grey levels of [0, 1]. Nothing is drawn."""
        self.require_fitted()
        self.net.eval()
        self.classifier.to(self.device).eval().requires_grad_(False)
        image = batch.image.to(self.device)
        normal = self.decode(*self.encode(image))
        difference = ((image - normal).abs() / 2).cpu()
        parts = {"mean": difference.mean((1, 2, 3)), "max": difference.amax((1, 2, 3))}
        return Scores(
            score=parts["mean"],
            anomaly_map=difference,
            reconstruction=normal.clamp(-1, 1).cpu(),
            components=parts,
        )

    def state(self) -> dict[str, Tensor]:
        """The weights of both networks."""
        state = super().state()
        if state:
            weights = self.classifier.state_dict()
            state |= {CLASSIFIER + name: value for name, value in weights.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        own = {n.removeprefix(CLASSIFIER): v for n, v in state.items() if n.startswith(CLASSIFIER)}
        if own:
            self.classifier.load_state_dict(own)
        super().load_state({n: v for n, v in state.items() if not n.startswith(CLASSIFIER)})
