"""A plain diffusion model with Diff3M's checkerboard branch, blind to the record.

The second ablation of Diff3M (Kim et al., MICCAI 2025): decoding goes through the image that is
regenerated behind two pixel-level checkerboard masks (PCM). Networks, training and detection are
those of `diff3m.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from nofinding.methods.base.protocol import Notes
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.training import TrainConfig

__all__ = ["DDPMPCM", "DDPMPCMConfig"]


@dataclass(frozen=True, kw_only=True)
class DDPMPCMConfig(Diff3MConfig):
    """Diff3M's settings without a record; the defaults are a smaller network on smaller films."""

    record: Literal["none"] = "none"
    """Nothing of the record conditions the networks."""
    regenerate: Literal[True] = True
    """The masked-pixel-generation branch. Without it, this is `ddpm`."""
    image_size: int = 32
    """Side of the film the network sees, in pixels."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level, in units of `width`; each level halves the sides."""
    respacing: str = "ddim25"
    """Levels kept for detection: "ddimN" for every (T/N)-th, or counts a section ("10,20")."""
    noise_level: int = 4
    """L, how far a film is encoded, counted in kept levels (4 of 25 is t = 160 of 1000)."""
    base_steps: int = 160
    """Stage 1: steps for the noise predictor alone; 0 to skip it."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=80, batch_size=16, lr=1.5e-3, warmup=30, ema=0.99)
    )
    """Stage 2, both branches (stage 1 shares everything but the number of steps)."""


def _published(name: str) -> DDPMPCMConfig:
    """Diff3M's preset of that name, as one of this method."""
    values = vars(Diff3M.PRESETS[name])
    return DDPMPCMConfig(**{**values, "record": "none", "regenerate": True})


class DDPMPCM(Diff3M):
    """Scores a film by what does not come back through the pixels that its mask hid."""

    name: ClassVar[str] = "ddpm-pcm"
    summary: ClassVar[str] = "Diffusion model that decodes through a checkerboard-masked branch"
    paper: ClassVar[str] = "Kim et al., MICCAI 2025 (ablation)"
    notes: ClassVar[Notes] = Notes(
        paper="Diff3M's second ablation: noise prediction and masked pixel generation behind two "
        "complementary checkerboards that fade as noise grows (eq. 3), without the record; "
        "Algorithm 1 with 400 of 1000 steps at 256 pixels.",
        program="The program computes other steps than Algorithm 1; they are `variant: program`, "
        "as in `diff3m`, whose page docs/diff3m.md lists every difference.",
        ours="The classes of `diff3m`, told of no record: `diff3m --preset small-ddpm-pcm` is the "
        "same at 64 pixels. The small network is trained for 160 steps alone and for 80 with the "
        "masked branch, and four levels are kept of the way up.",
    )
    Config: ClassVar[type[Diff3MConfig]] = DDPMPCMConfig
    PRESETS: ClassVar[Mapping[str, Diff3MConfig]] = {
        "tiny": replace(_published("tiny-ddpm-pcm"), base_steps=30),
        "small": DDPMPCMConfig(),
        "paper": _published("paper-ddpm-pcm"),
    }
