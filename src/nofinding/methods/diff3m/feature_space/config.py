"""What `diff3m-f` looks at, how it is repaired, and what makes the score."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from nofinding.functional.image.combining import Combination
from nofinding.ranges import Range, require_ranges
from nofinding.training import TrainConfig

__all__ = [
    "NO_FOCAL",
    "OF_FOCAL",
    "OF_TAUGHT",
    "PARTS",
    "SCORED",
    "SHIPPED",
    "STEPS",
    "Diff3MFConfig",
    "Part",
]

Part = Literal[
    "repair", "texture", "context", "taught", "evidence", "pattern", "focal", "nodule", "record"
]
PARTS: tuple[Part, ...] = (
    "repair",
    "texture",
    "context",
    "taught",
    "evidence",
    "pattern",
    "focal",
    "nodule",
    "record",
)
OF_TAUGHT, OF_FOCAL = ("taught", "evidence"), ("pattern", "focal", "nodule")
SCORED: tuple[Part, ...] = ("taught", "evidence", "focal", "nodule", "record")
NO_FOCAL, SHIPPED = "none", "shipped"
STEPS = 1000  # T, the number of noise levels in training


@dataclass(frozen=True, kw_only=True)
class Diff3MFConfig:
    """What is looked at, how it is repaired, and what makes the score."""

    image_size: int = 224
    """Side of the film, in pixels: a multiple of 32."""
    backbone: str = "chest"
    """chest: features of the shipped network, taught on painted anomalies. imagenet: of
    EfficientNet-Lite0 as it is. timm:NAME-or-FOLDER, transformers:NAME-or-FOLDER: of a network
    whose weights you have (DINOv2, RAD-DINO), untaught. Else the folder of your own fitted
    `synthetic` model."""
    layers: tuple[int, int, int] = (5, 8, 11)
    """Of a timm or transformers backbone: the layers whose maps give the texture, both texture
    and the repair, and the context. Their numbers are as in `mahalanobis`."""
    mirror: bool = True
    """Average the features with those of the mirrored film."""
    parts: tuple[Part, ...] = SCORED
    """What makes the score, of repair, texture, context, taught, evidence, pattern, focal, nodule,
    record. taught and evidence need a taught backbone, and are left out with imagenet; pattern,
    focal and nodule need the focal network: focal is the family of lesions that stands out most,
    nodule the nodules alone, which that choice drowns; record is how little the record fits the
    film, and is left out where `conditioning` is. repair is fitted only if it is here."""
    focal: str = "shipped"
    """The network that finds lesions: shipped, in the package; none; else the folder of your own
    fitted `focal` model."""
    combine: Combination = "fisher"
    """How the mean of the parts that judge the whole film, what the focal network finds and the
    part record are put together: fisher, tippett or harmonic, of their surprise among normal
    films; mean: the mean of all parts."""
    most: Annotated[int, Range(20, 10**9)] = 1500
    """Films at most that features are kept of; of more, a random choice."""
    copied: Annotated[int, Range(0, 10**9)] = 400
    """Films at most that are seen again under another exposure and position, to learn what these
    do to the features."""
    nuisance: Annotated[float, Range(0, 100)] = 2.0
    """How strongly directions are held back in which acquisition moves the features: its changes
    count as if they were this many times as large. 0: not at all."""
    channels: int = 48
    """Whitened features of a cell that are repaired."""
    record: Literal["full", "demographics", "none"] = "full"
    """What of the record is used: all fields; age, sex and view; or nothing."""
    conditioning: Literal["auto", "normative", "none"] = "auto"
    """Whether what is normal follows the record. normative: features are judged against those
    expected of a normal film with that record, and the part record says how little the two fit.
    auto: where that makes held-out normal training films likelier. none: the record conditions the
    repair alone."""
    width: int = 48
    """Channels of the repairing network at the full grid."""
    multipliers: tuple[int, ...] = (1, 1)
    """Channels of each level, in units of `width`."""
    respacing: str = "ddim10"
    """Levels kept for detection, as in diff3m."""
    noise_level: int = 3
    """L, how far features are encoded, in kept levels (3 of 10 is t = 300 of 1000)."""
    blind_encoding: bool = True
    """Encode as if nothing were known of the patient, and decode with the record."""
    detect: Literal["repair", "inversion"] = "repair"
    """repair: what does not come back. inversion: the noise that encoding takes; half the calls."""
    drop_record: float = 0.1
    """Share of training films whose whole record is hidden."""
    drop_entry: float = 0.1
    """Share of the other training films' entries that are hidden."""
    balance: float = 0.67
    """lambda of eq. 4: loss = lambda * noise loss + (1 - lambda) * regeneration loss."""
    compact: bool = True
    """Keep the repairing network's weights in bfloat16: half the file. They are rounded before
    anything is calibrated."""
    batch_size: Annotated[int, Range(1, 10**6)] = 16
    """Films at a time when features are taken."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=800, batch_size=32, lr=1e-3, warmup=50, ema=0.995, checkpoint_every=100
        )
    )
    """Training of the repairing network."""

    def __post_init__(self) -> None:
        require_ranges(self)
