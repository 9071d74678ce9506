"""Every choice of Diff3M as one frozen dataclass, and the named sets of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from nofinding.errors import UserError
from nofinding.nets.unet import UNetShape
from nofinding.ranges import Range, require_ranges
from nofinding.training import TrainConfig

__all__ = ["Diff3MConfig", "presets"]


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
        width=24,
        multipliers=(1, 2, 4),
        base_steps=150,
        train=TrainConfig(steps=50, batch_size=16, lr=1.5e-3, warmup=20),
    )
    return {"tiny": tiny, "demo": demo, "small": small, "paper": paper}


def presets() -> Mapping[str, Diff3MConfig]:
    """Named sets of the options: four sizes, each with the ablations of the paper."""
    named: dict[str, Diff3MConfig] = {}
    for size, full in _sizes().items():
        named[size] = full
        named[f"{size}-program"] = replace(full, variant="program")
        named[f"{size}-demographics"] = replace(full, record="demographics")
        named[f"{size}-ddpm-pcm"] = replace(full, record="none")
        named[f"{size}-ddpm"] = replace(full, record="none", regenerate=False)
    # CheXpert: one stage of 60,000 updates from scratch, nothing frozen, scored by max_abs.
    paper = named["paper"]
    named["paper-chexpert"] = replace(
        paper,
        noise_level=600,
        record="demographics",
        score="max_abs",
        base_steps=0,
        train=replace(paper.train, steps=60_000),
    )
    return named
