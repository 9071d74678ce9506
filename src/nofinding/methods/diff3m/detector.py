"""Diff3M: a diffusion model that repairs a film as if it were normal, given the patient's record.

Kim et al., "Harnessing EHRs for Diffusion-based Anomaly Detection on Chest X-rays", MICCAI
2025. Three parts: noise prediction (NP), masked pixel generation behind two checkerboards
(MPG), and image-EHR cross-attention (IECA). A film is encoded into noise and decoded again;
what does not come back is abnormal. `variant` chooses between what the paper writes and what
the authors' program computes; docs/diff3m.md lists every difference. The options are in
`config.py`, the network in `network.py`, eq. 4 in `losses.py`, and how the network's answers
become a score in `detection.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, predict_eps, predict_x0
from nofinding.functional.diffusion.schedule import cosine_abar, linear_abar, respace
from nofinding.functional.image import residual
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.base.protocol import Notes
from nofinding.methods.diff3m.config import Diff3MConfig, presets
from nofinding.methods.diff3m.detection import (
    RULES,
    Call,
    Image,
    by_level,
    decode_as_paper,
    detect_as_paper,
    detect_as_program,
    encode_as_paper,
    encoder_conditioning,
    program_step,
    scores_of,
    with_steps,
)
from nofinding.methods.diff3m.losses import losses
from nofinding.methods.diff3m.network import Answer, Diff3MNet
from nofinding.runtime import Network, Runtime, device_of
from nofinding.training import TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = [
    "Diff3M",
    "detect_as_paper",
    "detect_as_program",
    "program_step",
    "scores_of",
]

DEMOGRAPHICS = ("age", "sex", "view")


def _rms(x: Image) -> Float[Tensor, " b"]:
    return x.square().flatten(1).mean(1).sqrt()


class Diff3M:
    """Harnessing EHRs for diffusion-based anomaly detection on chest X-rays."""

    name: ClassVar[str] = "diff3m"
    summary: ClassVar[str] = "Diffusion with masked pixel generation, conditioned on the record"
    paper: ClassVar[str] = "Kim et al., MICCAI 2025"
    notes: ClassVar[Notes] = Notes(
        paper=(
            "Noise prediction, masked pixel generation behind two checkerboards and image-EHR "
            "cross-attention; a film is encoded by DDIM to L = 400 of 1000 steps and decoded "
            "through the regenerated image."
        ),
        program=(
            "Encodes through the regenerated image too, starts from a slightly noised film, "
            "recomputes the noise from a clamped film, and standardises the record by the test "
            "set."
        ),
        ours=(
            "Both, by `variant`, the program to 1e-5 a call; by default the film is encoded "
            "blind and decoded with the record, for else the inversion undoes itself. "
            "docs/diff3m.md lists every difference."
        ),
    )
    Config: ClassVar[type[Diff3MConfig]] = Diff3MConfig
    PRESETS: ClassVar[Mapping[str, Diff3MConfig]] = presets()
    RULES: ClassVar[Mapping[str, Mapping[str, Any]]] = RULES
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: Diff3MConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        self._runtime = Runtime()
        self._prepared: dict[bool, Network] = {}
        names = [f.name for f in stats.fields]
        demographics = [i for i, name in enumerate(names) if name in DEMOGRAPHICS]
        others = [i for i in range(len(names)) if i not in demographics]
        if config.record == "none":
            groups = []
        elif config.record == "demographics":
            groups = [demographics]
        elif config.variant == "program":
            groups = [demographics, others]
        else:
            groups = [sorted(demographics + others)]
        self.groups = [group for group in groups if group]
        self.net = self._network()
        steps = config.diffusion_steps
        table = linear_abar(steps) if config.schedule == "linear" else cosine_abar(steps)
        self.train_abar = table
        try:
            self.timestep_map = respace(steps, config.respacing)
        except ValueError as error:
            raise UserError(f"respacing {config.respacing!r}: {error}") from error
        self.abar = table[self.timestep_map]
        if not 2 <= config.noise_level < len(self.abar):
            raise UserError(
                f"noise_level {config.noise_level}: give 2 to {len(self.abar) - 1}, for that is "
                f"how many levels respacing {config.respacing!r} keeps"
            )

    def _network(self) -> Diff3MNet:
        """A network with first weights from torch's global generator."""
        categories = [len(f.categories) for f in self.stats.fields]
        return Diff3MNet(self.config, self.groups, categories)

    @property
    def uses_ehr(self) -> bool:
        """Whether the record changes the score."""
        return bool(self.groups)

    @property
    def fields_used(self) -> tuple[str, ...]:
        """Record fields under a softmax; not those that were known for no training film."""
        columns = sorted(column for group in self.groups for column in group)
        return tuple(self.stats.fields[c].name for c in columns if self.stats.known[c])

    @property
    def image_size(self) -> int:
        """Side of the films it takes, in pixels."""
        return self.config.image_size

    @property
    def network_calls(self) -> int:
        """Calls of the network a film."""
        c = self.config
        if c.detect == "x0-error":
            return len(self.x0_levels)
        if c.detect == "inversion-norm":
            return c.noise_level
        one_way = c.noise_level - (c.variant == "program")
        return one_way if c.start == "noise" else 2 * one_way

    @property
    def x0_levels(self) -> list[int]:
        """The kept levels that x0-error looks at, rising, none twice."""
        n, top = self.config.x0_levels, self.config.noise_level
        return sorted({max(1, round(top * (i + 1) / n)) for i in range(n)})

    @property
    def runtime(self) -> Runtime:
        """How the network is run when films are scored."""
        return self._runtime

    @runtime.setter
    def runtime(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._prepared.clear()

    @classmethod
    def with_rule(cls, config: Diff3MConfig, rule: str | None, steps: int) -> Diff3MConfig:
        """The config with another rule of RULES, and `steps` kept levels (0: as they are).

        The noise level keeps its share of the schedule. Raises UserError where the rule is not
        one of this variant, or no whole stride keeps that many levels.
        """
        if rule is not None:
            if config.variant == "program" and rule in ("paper", "blind"):
                raise UserError(f"rule {rule}: the model is of variant program, which has its own")
            config = replace(config, **RULES[rule])
        return with_steps(config, steps, config.diffusion_steps, least=2)

    def greys(self, image: Image) -> Image:
        """Films on the network's scale: the program's is [0, 1], ours [-1, 1]."""
        return (image + 1) / 2 if self.config.variant == "program" else image

    def values(self, ehr: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        """The record on the network's scale: the program takes (age - 1) / 99, not a z-score."""
        names = [f.name for f in self.stats.fields]
        if self.config.variant == "paper" or "age" not in names:
            return ehr
        column = names.index("age")
        years = ehr[:, column] * self.stats.std[column] + self.stats.mean[column]
        out = ehr.clone()
        out[:, column] = (years - 1) / 99
        return out

    def loss(
        self, net: nn.Module, batch: Batch, rows: Sequence[Generator], *, regenerate: bool
    ) -> dict[str, Tensor]:
        """Noise loss and regeneration loss of each film at a random t (eq. 4), averaged."""
        assert isinstance(net, Diff3MNet)
        augmented = replace(batch, image=self.greys(batch.image), ehr=self.values(batch.ehr))
        return losses(net, augmented, rows, self.train_abar, self.config, regenerate=regenerate)

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Learns from normal films in two stages: NP and IECA, then all with MPG.

        Without MPG there is nothing to fine-tune, and both stages' steps go into NP.
        """
        job = job or TrainingRun()
        c = self.config

        def base(net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
            return self.loss(net, batch, rows, regenerate=False)

        def whole(net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
            return self.loss(net, batch, rows, regenerate=True)

        def sample(net: nn.Module) -> dict[str, Tensor]:
            return self.pictures(net, normal.batch(range(min(4, len(normal)))))

        self._prepared.clear()
        base_steps = c.base_steps if c.regenerate else c.base_steps + c.train.steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = self._network().to(device_of(self.net))
        if base_steps:
            self.net.start_base()
            stage = replace(c.train, steps=base_steps)
            train(self.net, base, normal, stage, seed=seed, job=job.part("base"), sample=sample)
        if c.regenerate:
            if base_steps:
                self.net.start_fine_tuning()
            fine = job.part("fine")
            train(self.net, whole, normal, c.train, seed=seed + 1, job=fine, sample=sample)
        return self

    @torch.no_grad()
    def pictures(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """For TensorBoard: films, the same under noise at t = T / 4, and as NP restores them."""
        assert isinstance(net, Diff3MNet)
        device = next(net.parameters()).device
        image = batch.image.to(device)
        x0, t = self.greys(image), self.config.diffusion_steps // 4
        context, _ = net.attend(x0, self.values(batch.ehr.to(device)), batch.known.to(device))
        noise = gaussian(x0.shape[1:], generators(0, batch.ids)).to(device)
        x = add_noise(x0, noise, self.train_abar[t])
        levels = torch.full((len(x),), float(t), device=device)
        eps, _ = net(x, levels, context, regenerate=False)
        restored = predict_x0(x, eps, self.train_abar[t])
        if self.config.variant == "program":
            x, restored = x * 2 - 1, restored * 2 - 1
        return {"film": image, "noised": x.clamp(-1, 1), "restored": restored.clamp(-1, 1)}

    def _call(self, context: Tensor | None, *, regenerate: bool) -> Call:
        """The network for these films, by kept level; `context` None where it has no record."""
        whole = regenerate and self.config.regenerate
        if whole not in self._prepared:
            self._prepared[whole] = self._runtime.prepare(Answer(self.net, whole))
        network = self._prepared[whole]
        steps = self.timestep_map.to(next(self.net.parameters()).device, torch.float32)
        return by_level(network, steps, context, regenerates=whole)

    def _encoder(self, context: Tensor | None) -> Call:
        """NP alone, told of the record what encoding is to know."""
        conditioning = encoder_conditioning(context, blind=self.config.blind_encoding)
        return self._call(conditioning, regenerate=False)

    @torch.no_grad()
    def reconstruct(self, x0: Image, context: Tensor | None, rows: Sequence[Generator]) -> Image:
        """The pseudo-healthy film of x0, both on the network's scale.

        `context` is what the record says to the film.
        """
        c = self.config
        call = self._call(context, regenerate=c.decode == "mpg")
        noise_start = c.start == "noise"
        if c.variant == "paper" and not noise_start:
            encode = self._encoder(context)
            return detect_as_paper(call, encode, x0, self.abar, c.noise_level)
        noise = gaussian(x0.shape[1:], rows).to(x0.device)
        if c.variant == "paper":
            x = add_noise(x0, noise, self.abar[c.noise_level])
            return decode_as_paper(call, x, self.abar, c.noise_level)
        return detect_as_program(call, x0, noise, self.abar, c.noise_level, encode=not noise_start)

    def _repaired(self, x0: Image, context: Tensor | None, rows: Sequence[Generator]) -> Scores:
        """The film against its pseudo-healthy version."""
        x, normal = self._shown(x0), self._shown(self.reconstruct(x0, context, rows))
        return self._compared(x, [normal])

    def _guessed(self, x0: Image, context: Tensor | None, rows: Sequence[Generator]) -> Scores:
        """The film against what the network takes for clean in it, averaged over noise levels."""
        call = self._call(context, regenerate=self.config.decode == "mpg")
        guesses = []
        for k in self.x0_levels:
            x = add_noise(x0, gaussian(x0.shape[1:], rows).to(x0.device), self.abar[k])
            eps, regenerated = call(x, k)
            guesses.append(self._shown(predict_x0(regenerated, eps, self.abar[k])))
        return self._compared(self._shown(x0), guesses)

    def _inverted(self, x0: Image, context: Tensor | None) -> Scores:
        """How much noise it takes to encode the film; the map is that noise, pixel by pixel."""
        level, encode = self.config.noise_level, self._encoder(context)
        latent, noises = encode_as_paper(encode, x0, self.abar, level)
        # The noise that, added at once, would have led from the film to the latent.
        whole = predict_eps(latent, x0, self.abar[level])
        parts = {
            "eps_rms": torch.stack([_rms(eps) for eps in noises]).mean(0),
            "noise_rms": _rms(whole),
            "latent_rms": _rms(latent),
        }
        return Scores(score=parts["eps_rms"], anomaly_map=whole.abs(), components=parts)

    def _shown(self, x: Image) -> Image:
        """A film on the network's scale, as greys of 0 to 1 (a repaired one may leave them)."""
        return x if self.config.variant == "program" else (x + 1) / 2

    def _compared(self, x: Image, normals: Sequence[Image]) -> Scores:
        """Parts and map, averaged over the films that x is compared with. Greys of 0 to 1."""
        each = [scores_of(x, normal) for normal in normals]
        parts = {name: torch.stack([e[name] for e in each]).mean(0) for name in each[0]}
        map_ = torch.stack([residual.residual_map(x, normal) for normal in normals]).mean(0)
        normal = torch.stack(list(normals)).mean(0).clamp(0, 1) * 2 - 1
        return Scores(
            score=parts[self.config.score],
            anomaly_map=map_,
            reconstruction=normal,
            components=parts,
        )

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Scores, map, pseudo-healthy film and the attention on each field, in one pass."""
        # As the runtime lays the weights: else the first film's attention would be computed in
        # another order than the next one's, and differ in the last digit.
        self.net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        device = next(self.net.parameters()).device
        x0 = self.greys(batch.image.to(device))
        context, weights = self.net.attend(
            x0, self.values(batch.ehr.to(device)), batch.known.to(device)
        )
        rows = generators(seed, batch.ids)
        if self.config.detect == "repair":
            repaired = self._repaired(x0, context, rows)
        elif self.config.detect == "x0-error":
            repaired = self._guessed(x0, context, rows)
        else:
            repaired = self._inverted(x0, context)
        parts = dict(repaired.components)
        for i, f in enumerate(self.stats.fields):
            if f.name in self.fields_used:
                parts[f"attention.{f.name}"] = weights[:, i]
        return Scores(
            score=repaired.score.cpu(),
            anomaly_map=None if repaired.anomaly_map is None else repaired.anomaly_map.cpu(),
            reconstruction=None
            if repaired.reconstruction is None
            else repaired.reconstruction.cpu(),
            components={name: part.cpu() for name, part in parts.items()},
        )

    def state(self) -> dict[str, Tensor]:
        """The trained weights."""
        return dict(self.net.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes weights that `state` gave."""
        self.net.load_state_dict(dict(state))
        self._prepared.clear()
