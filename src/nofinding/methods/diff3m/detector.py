"""Diff3M: a diffusion model that repairs a film as if it were normal, given the patient's record.

Kim et al., "Harnessing EHRs for Diffusion-based Anomaly Detection on Chest X-rays", MICCAI
2025. Three parts: noise prediction (NP), masked pixel generation behind two checkerboards
(MPG), and image-EHR cross-attention (IECA). A film is encoded into noise and decoded again;
what does not come back is abnormal. `variant` chooses between what the paper writes and what
the authors' program computes; docs/diff3m.md lists every difference. How the networks' answers
become a score is in `detection.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import torch
from jaxtyping import Bool, Float, Float64
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.masking import checkerboards, combine, fade
from nofinding.functional.diffusion.sampler import add_noise, predict_eps, predict_x0
from nofinding.functional.diffusion.schedule import cosine_abar, linear_abar, respace
from nofinding.functional.image import residual
from nofinding.functional.noise import gaussian, generators, integers, uniform
from nofinding.methods.base.protocol import Notes
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
from nofinding.nets.ehr import CrossAttention, FeatureTokenizer, OneHotTokenizer, drop_records
from nofinding.nets.unet import Decoder, Encoder, Head, Middle, TimeEmbedding, UNetShape
from nofinding.ranges import Range, require_ranges
from nofinding.runtime import Network, Runtime, device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = [
    "Diff3M",
    "Diff3MConfig",
    "Diff3MNet",
    "detect_as_paper",
    "detect_as_program",
    "program_step",
    "scores_of",
]

DEMOGRAPHICS = ("age", "sex", "view")


@dataclass(frozen=True, kw_only=True)
class Diff3MConfig:
    """Every choice of Diff3M. The ablations of the paper are values of these fields."""

    variant: Literal["paper", "program"] = "paper"
    """paper: Algorithm 1 and eq. 1 to 4. program: what the authors' released program computes."""
    record: Literal["full", "demographics", "none"] = "full"
    """What of the record conditions the networks: all fields; age, sex and view; or nothing."""
    regenerate: bool = True
    """The masked-pixel-generation branch. Without it (and without a record): a plain DDPM."""
    image_size: int = 64
    """Side of the film the network sees, in pixels."""
    width: Annotated[int, Range(1, 4096)] = 16
    """Channels at full resolution; the time embedding is four times as wide."""
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level, in units of `width`; each level halves the sides."""
    res_blocks: Annotated[int, Range(1, 64)] = 1
    """Residual blocks a level."""
    attention_at: tuple[int, ...] = (8,)
    """Sides of the maps, in pixels, that get self-attention."""
    heads: int = 1
    """Heads of the self-attention."""
    head_channels: int = 0
    """Channels a head; 0: `heads` heads at every level."""
    norm_groups: Annotated[int, Range(1, 4096)] = 4
    """Groups of every GroupNorm (32 in the published network). With one channel a group the norm
    would take the embedding of time and record away again: keep `width` at twice this or more."""
    scale_shift: bool = False
    """Embed time and record as scale and shift after a norm instead of adding them."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How noise grows with t. The paper's is linear, beta 1e-4 to 0.02."""
    diffusion_steps: Annotated[int, Range(25, 100_000)] = 1000
    """T, the number of noise levels in training."""
    respacing: str = "ddim50"
    """Levels kept for detection: "ddimN" for every (T/N)-th, or counts a section ("10,20")."""
    noise_level: int = 10
    """L, how far a film is encoded, counted in kept levels (10 of 50 is t = 200 of 1000)."""
    blind_encoding: bool = True
    """Encode as if nothing were known of the patient, and decode with the record (ours; variant
    paper). With the record both ways the inversion undoes itself, and a film that is abnormal only
    for this patient comes back as it was. False: the record both ways, as the published program
    has it. In Algorithm 1 it comes in line 6, after the encoding loop: both can be read there."""
    decode: Literal["mpg", "np"] = "mpg"
    """Decode through the regenerated film (Algorithm 1), or by noise prediction alone (DDIM)."""
    detect: Literal["repair", "x0-error", "inversion-norm"] = "repair"
    """repair: decode an encoded film. x0-error: noise it to a few levels and take the clean film
    that the network sees in each. inversion-norm: encode alone, and measure the noise (ours)."""
    start: Literal["encode", "noise"] = "encode"
    """What a repair decodes: the film encoded (Algorithm 1), or under seeded noise (ours)."""
    x0_levels: Annotated[int, Range(1, 1000)] = 3
    """Levels that x0-error looks at, evenly spread up to `noise_level`; a network call each."""
    score: Literal["mse", "max_abs", "norm_mse", "norm_max_abs", "ssim"] = "max_abs"
    """Which of the parts is the score. All are reported. inversion-norm has parts of its own."""
    balance: Annotated[float, Range(0, 1)] = 0.5
    """lambda of eq. 4: loss = lambda * noise loss + (1 - lambda) * regeneration loss."""
    drop_record: Annotated[float, Range(0, 1)] = 0.1
    """Share of training films whose whole record is hidden."""
    drop_entry: Annotated[float, Range(0, 1)] = 0.1
    """Share of the other training films' entries that are hidden."""
    base_steps: Annotated[int, Range(0, 10**9)] = 2000
    """Stage 1: steps for the noise predictor and the cross-attention alone; 0 to skip it."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=2000, lr=1e-3, sample_every=500)
    )
    """Stage 2, all branches (stage 1 shares everything but the number of steps)."""

    def __post_init__(self) -> None:
        require_ranges(self)

    @property
    def shape(self) -> UNetShape:
        """The U-Net that these fields describe. Raises UserError for an impossible one."""
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"multipliers {self.multipliers}: give one or more, each 1 or more")
        if self.image_size < 1 or any(side < 1 for side in self.attention_at):
            raise UserError(f"attention_at {self.attention_at}: give sides of 1 pixel or more")
        shape = self._shape()
        for level, multiplier in enumerate(self.multipliers):
            channels, heads = self.width * multiplier, self.head_channels or self.heads
            attends = shape.attends(level) or level + 1 == len(self.multipliers)
            if attends and (heads < 1 or channels % heads):
                raise UserError(
                    f"heads {self.heads}, head_channels {self.head_channels}: must divide the "
                    f"{channels} channels of each level"
                )
        deepest = 2 ** (len(self.multipliers) - 1)
        if self.image_size % deepest or self.image_size < 8:
            raise UserError(
                f"image_size {self.image_size}: give a multiple of {deepest}, 8 or more, for "
                f"{len(self.multipliers)} levels halve it {len(self.multipliers) - 1} times"
            )
        return shape

    def _shape(self) -> UNetShape:
        return UNetShape(
            image_size=self.image_size,
            width=self.width,
            multipliers=tuple(self.multipliers),
            res_blocks=self.res_blocks,
            attention_at=tuple(self.attention_at),
            heads=self.heads,
            head_channels=self.head_channels,
            scale_shift=self.scale_shift,
            groups=self.norm_groups,
        )


class Diff3MNet(nn.Module):
    """NP, MPG and IECA. One call: (x_t, t, what the record says) -> (eps, regenerated x_t)."""

    def __init__(
        self,
        config: Diff3MConfig,
        groups: Sequence[Sequence[int]],
        categories: Sequence[int],
        *,
        channels: int = 1,
    ) -> None:
        """`groups`: the columns of the record under one softmax each; none: unconditioned.
        `channels` of the image: 1, or as many features as `diff3m-f` has."""
        super().__init__()
        shape = replace(config.shape, in_channels=channels)
        self.as_program = config.variant == "program"
        # The program divides by 1000 whatever its number of steps.
        self.fade_steps = 1000 if self.as_program else config.diffusion_steps
        first, second = checkerboards(config.image_size, config.image_size)
        self.register_buffer("boards", torch.stack([first, second]), persistent=False)
        self.time = TimeEmbedding(shape.width, shape.embedding)
        self.encoder, self.middle = Encoder(shape), Middle(shape)
        self.decoder, self.head = Decoder(shape), Head(shape)
        if config.regenerate:
            self.mask_encoders = nn.ModuleList([Encoder(shape), Encoder(shape)])
            self.mask_middle, self.mask_decoder = Middle(shape), Decoder(shape)
            self.mask_head = Head(shape)
        if groups:
            tokenizer = OneHotTokenizer if self.as_program else FeatureTokenizer
            self.ieca = CrossAttention(shape, groups, categories, tokenizer)
            self.norm = nn.LayerNorm(shape.embedding)
        self.conditioned = bool(groups)
        self.regenerates = config.regenerate

    def attend(
        self, x0: Image, values: Float[Tensor, "b f"], known: Bool[Tensor, "b f"]
    ) -> tuple[Float[Tensor, "b d"] | None, Float[Tensor, "b f"]]:
        """What the record says to this film (eq. 2), and the weight of each field.

        Depends on the clean film alone, so it is worked out once a film and not once a step.
        """
        if not self.conditioned:
            return None, values.new_zeros(values.shape)
        context, weights = self.ieca(x0, values, known)
        return context, weights

    def embed(
        self, t: Float[Tensor, " b"], context: Float[Tensor, "b d"] | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """The embedding for the encoders, and the one for everything after them.

        The paper conditions the whole of NP and MPG; the program's encoders see only time.
        """
        time = self.time(t)
        if context is None:
            return time, time
        both = self.norm(time + context)
        return (time if self.as_program else both), both

    def masks(self, t: Float[Tensor, " b"]) -> tuple[Image, Image]:
        """The two checkerboards, faded for the noise level of each row (eq. 3)."""
        first, second = self.get_buffer("boards")
        level = t / self.fade_steps
        return fade(first, level), fade(second, level)

    def predict_noise(self, x: Image, before: Tensor, after: Tensor) -> Image:
        """NP: the noise in x_t."""
        skips = self.encoder(x, before)
        h = self.middle(skips[-1], after)
        eps: Tensor = self.head(self.decoder(h, skips, after))
        return eps

    def regenerate(self, x: Image, t: Tensor, before: Tensor, after: Tensor) -> Image:
        """MPG: x_t with every pixel made from the pixels that its mask left (eq. 3)."""
        masks = self.masks(t)
        images = [
            encoder(x * mask, before)
            for encoder, mask in zip(self.mask_encoders, masks, strict=True)
        ]
        # Middle and decoder are shared, so both masks go through them as one batch.
        skips = [torch.cat(pair) for pair in zip(*images, strict=True)]
        twice = after.repeat(2, 1) if len(after) > 1 else after
        h = self.mask_middle(skips[-1], twice)
        first, second = self.mask_head(self.mask_decoder(h, skips, twice)).chunk(2)
        return combine(first, second, *masks)

    def forward(
        self,
        x: Image,
        t: Float[Tensor, " b"],
        context: Float[Tensor, "b d"] | None,
        *,
        regenerate: bool = True,
    ) -> tuple[Image, Image]:
        """The noise in x_t and the regenerated x_t (x_t itself without that branch).

        One row of `t`, or of `context`, serves all rows of `x`.
        """
        before, after = self.embed(t, context)
        eps = self.predict_noise(x, before, after)
        if not (regenerate and self.regenerates):
            return eps, x
        return eps, self.regenerate(x, t, before, after)

    @property
    def masked_branch(self) -> list[nn.Module]:
        """MPG's modules; none without it."""
        if not self.regenerates:
            return []
        return [self.mask_encoders, self.mask_middle, self.mask_decoder, self.mask_head]

    def start_base(self) -> None:
        """Stage 1 leaves MPG alone."""
        for module in self.masked_branch:
            module.requires_grad_(False)

    def start_fine_tuning(self) -> None:
        """Stage 2: both mask encoders start as the trained encoder, and what stage 1 learnt of
        the film, of time and of the image query is kept as it is."""
        for module in self.masked_branch:
            module.requires_grad_(True)
        for encoder in self.mask_encoders:
            encoder.load_state_dict(self.encoder.state_dict())
        self.encoder.requires_grad_(False)
        self.time.requires_grad_(False)
        if self.conditioned:
            self.ieca.query.requires_grad_(False)


def _sizes() -> dict[str, Diff3MConfig]:
    tiny = Diff3MConfig(
        image_size=32,
        width=8,
        multipliers=(1, 2),
        norm_groups=2,
        respacing="ddim10",
        noise_level=3,
        base_steps=20,
        train=TrainConfig(steps=20, batch_size=8, lr=1e-3, warmup=5, checkpoint_every=10),
    )
    paper = Diff3MConfig(
        image_size=256,
        width=128,
        multipliers=(1, 1, 2, 2, 4, 4),
        res_blocks=2,
        attention_at=(16,),
        norm_groups=32,
        respacing="ddim1000",
        noise_level=400,
        base_steps=60_000,
        blind_encoding=False,
        score="mse",  # on MIMIC-CXR: 0.617, and 0.568 by max_abs (Table 2)
        train=TrainConfig(
            steps=70_000, batch_size=3, lr=1e-4, checkpoint_every=1000, sample_every=1000
        ),
    )
    small = Diff3MConfig()
    demo = replace(
        small,
        image_size=32,
        multipliers=(1, 2, 4),
        base_steps=900,
        train=TrainConfig(steps=250, batch_size=32, lr=1.5e-3, warmup=50),
    )
    return {"tiny": tiny, "demo": demo, "small": small, "paper": paper}


def _presets() -> dict[str, Diff3MConfig]:
    presets = {}
    for size, full in _sizes().items():
        presets[size] = full
        presets[f"{size}-program"] = replace(full, variant="program")
        presets[f"{size}-demographics"] = replace(full, record="demographics")
        presets[f"{size}-ddpm-pcm"] = replace(full, record="none")
        presets[f"{size}-ddpm"] = replace(full, record="none", regenerate=False)
    # CheXpert: one stage of 60,000 updates from scratch, nothing frozen, scored by max_abs.
    paper = presets["paper"]
    presets["paper-chexpert"] = replace(
        paper,
        noise_level=600,
        record="demographics",
        score="max_abs",
        base_steps=0,
        train=replace(paper.train, steps=60_000),
    )
    return presets


def _rms(x: Image) -> Float[Tensor, " b"]:
    return x.square().flatten(1).mean(1).sqrt()


class LossOptions(Protocol):
    """What `losses` reads of a method's config."""

    @property
    def drop_record(self) -> float: ...
    @property
    def drop_entry(self) -> float: ...
    @property
    def balance(self) -> float: ...


def losses(
    net: Diff3MNet,
    batch: Batch,
    rows: Sequence[Generator],
    abar: Float64[Tensor, " t"],
    options: LossOptions,
    *,
    regenerate: bool = True,
) -> dict[str, Tensor]:
    """Noise loss and regeneration loss of each image at a random t (eq. 4), averaged.

    Image and record are on the network's scale; `abar` is that of all steps.
    """
    x0, device = batch.image, batch.image.device
    t = integers(0, len(abar), rows)
    noise = gaussian(x0.shape[1:], rows).to(device)
    draws = uniform((batch.known.shape[1] + 1,), rows).to(device)
    x = add_noise(x0, noise, abar[t])
    known = drop_records(batch.known, draws, options.drop_record, options.drop_entry)
    context, _ = net.attend(x0, batch.ehr, known)
    eps, again = net(x, t.float().to(device), context, regenerate=regenerate)
    noise_loss = (noise - eps).square().mean()
    if not regenerate:
        return {"loss": noise_loss, "noise": noise_loss}
    again_loss = (x - again).square().mean()
    total = options.balance * noise_loss + (1 - options.balance) * again_loss
    return {"loss": total, "noise": noise_loss, "regeneration": again_loss}


class Answer(nn.Module):
    """Diff3MNet as detection calls it: with MPG, or by NP alone. Tensors only, so that it can be
    run by something other than torch."""

    def __init__(self, net: Diff3MNet, regenerate: bool) -> None:
        super().__init__()
        self.net, self.whole = net, regenerate and net.regenerates

    def forward(
        self, x: Image, t: Float[Tensor, " b"], context: Float[Tensor, "b d"] | None = None
    ) -> tuple[Tensor, ...]:
        """eps, and with MPG the regenerated x_t."""
        eps, regenerated = self.net(x, t, context, regenerate=self.whole)
        return (eps, regenerated) if self.whole else (eps,)


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
    PRESETS: ClassVar[Mapping[str, Diff3MConfig]] = _presets()
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
