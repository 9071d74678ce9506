"""The simplest baseline of every table: how bright a film is. Learns nothing.

Where this tells disease from health, the films differ in exposure or in scanner, and a method
that does no better has shown nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["MeanGrey", "MeanGreyConfig"]


@dataclass(frozen=True, kw_only=True)
class MeanGreyConfig:
    """The size of the film is the only choice."""

    image_size: int = 64
    """Side of the film, in pixels. The mean hardly depends on it."""


class MeanGrey(WithoutRecord):
    """The mean grey of the film itself, not its distance from the normals' mean: an AUROC under
    0.5 says that abnormal films are darker."""

    name: ClassVar[str] = "mean-grey"
    summary: ClassVar[str] = "The film's mean grey: a check of the data, not a detector"
    paper: ClassVar[str] = "none (a baseline)"
    notes: ClassVar[Notes] = Notes(
        paper="A baseline: no paper proposes it.",
        program="There is none.",
        ours=(
            "The mean grey level of the film, which says whether brightness alone tells the "
            "films apart."
        ),
    )
    Config: ClassVar[type] = MeanGreyConfig
    PRESETS: ClassVar[Mapping[str, MeanGreyConfig]] = {
        "tiny": MeanGreyConfig(image_size=32),
        "small": MeanGreyConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.NONE

    def __init__(self, config: MeanGreyConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats

    @property
    def network_calls(self) -> int:
        """None: there is no network."""
        return 0

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Does nothing."""
        return self

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The mean grey, in 0 (black) to 1 (white). No map."""
        # In double precision, so that the order of summation cannot show.
        mean = batch.image.double().flatten(1).mean(1)
        return Scores(score=((mean + 1) / 2).float().cpu())

    def state(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing."""
