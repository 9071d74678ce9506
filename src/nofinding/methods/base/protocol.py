"""What every method is to the rest of the program; tests/methods/test_contract.py checks it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = [
    "Adaptable",
    "Detector",
    "HasRules",
    "LearnsFromOthers",
    "Notes",
    "WithoutRecord",
    "dimensions_of",
]


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Where a method comes from, for docs/methods/; Markdown, whole sentences."""

    paper: str
    """What the paper says that the method does."""
    program: str
    """What the authors' program does, where it is known and differs; or that there is none."""
    ours: str
    """Where this implementation differs from both, and why."""


@runtime_checkable
class Detector(Protocol):
    """Learns from normal films and says how far another is from them.

    Same seed, same films: same scores, whatever was drawn before. A film's score depends on no
    other film of its batch. Missing entries of the record are masked, never guessed.
    """

    name: ClassVar[str]
    """As on the command line, in METHODS and in every table."""
    summary: ClassVar[str]
    """One line, for `nofinding methods`."""
    paper: ClassVar[str]
    """Whom to cite."""
    notes: ClassVar[Notes]
    """What the paper says, what its program does, and where ours differs."""
    Config: ClassVar[type]
    """A frozen dataclass; every field has a default and a docstring."""
    PRESETS: ClassVar[Mapping[str, Any]]
    """Configs by name. "tiny" (tests) and "small" (the default Config) are always there; "paper"
    has the published settings."""
    supervision: ClassVar[Supervision]
    """What it is told about disease. Printed beside every number."""

    config: Any
    """Its settings, of type Config."""
    stats: EhrStats
    """The columns of the record and their scale."""

    def __init__(self, config: Any, stats: EhrStats) -> None:
        """`config` is of type Config. `stats` says which columns the record has, and how they
        were scaled. Raises UserError or ValueError for settings that do not go together."""

    @property
    def uses_ehr(self) -> bool:
        """Whether the record changes the score."""

    @property
    def fields_used(self) -> tuple[str, ...]:
        """Names of the record fields that it reads; empty for a method without a record."""

    @property
    def image_size(self) -> int:
        """Side of the films that it takes, in pixels: Films must be built at this size."""

    @property
    def network_calls(self) -> int:
        """Calls of a network a film when scoring; 0 for a method without one."""

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Learns from normal films; gives itself. Writes into `job.folder` alone, if anywhere.

        Raises UserError where there are too few films, or the job cannot be resumed.
        """

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Higher is more anomalous. Noise, if any, follows from (seed, image id) alone.

        Results lie on the CPU. Raises UserError where nothing was fitted or loaded before.
        """

    def state(self) -> dict[str, Tensor]:
        """All that `fit` learnt, by name: what a checkpoint holds beside the config."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave, from a detector of the same config and record."""


@runtime_checkable
class HasRules(Protocol):
    """A detector that can tell films apart in several ways with the same weights; most cannot."""

    RULES: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Detection rules by name, each as the options of Config that it sets."""

    @classmethod
    def with_rule(cls, config: Any, rule: str | None, steps: int) -> Any:
        """The config with a rule of RULES and `steps` kept levels; None and 0 leave it as it is.

        Raises UserError where they do not go with the config.
        """


@runtime_checkable
class LearnsFromOthers(Protocol):
    """A detector that learns from films beside the normal ones; most do not.

    Its supervision is NORMAL_AND_UNLABELLED or WEAKLY_SUPERVISED, and printed beside its numbers.
    """

    OTHERS: ClassVar[Literal["unlabelled", "diseased"]]
    """Films of which nobody says what they show, or films that are known to show disease."""

    def set_auxiliary(self, others: Films) -> None:
        """Takes those films, before `fit`, which raises UserError where that was not done.

        They are of no patient on whom the method is calibrated or judged.
        """


@runtime_checkable
class Adaptable(Protocol):
    """A detector whose statistics can be moved to another hospital's films, its networks as they
    are. Of any other method the p-value alone is calibrated anew."""

    def features_of(self, batch: Batch, *, seed: int = 0) -> dict[str, Tensor]:
        """All that judging takes of films, a row each: their pixels are not needed again."""

    def components_of(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The components of the score by name, before they are made comparable; (n,) each."""

    def recentred(self, features: Mapping[str, Tensor], *, all_normal: bool) -> Self:
        """Another detector, whose centres of features follow those films, and where all of them
        are normal the spreads, too."""

    def scales(self) -> dict[str, tuple[float, float]]:
        """Of each component: mean and spread over normal films."""

    def rescaled(self, scales: Mapping[str, tuple[float, float]]) -> Self:
        """Another detector with other scales of its components."""

    def score_of(self, components: Mapping[str, Tensor]) -> Tensor:
        """The score that those components make together; (n,)."""


@runtime_checkable
class Decides(Protocol):
    """A detector that settles something by its normal training films; most do not."""

    @property
    def decided(self) -> Mapping[str, Any]:
        """What was decided, the figures that decided it, and as `said` the same in a sentence: for
        model.json and the card."""


def dimensions_of(detector: Detector) -> int:
    """2 for a detector of films, 3 for one of volumes: option `dimensions`, where there is one."""
    return int(getattr(detector.config, "dimensions", 2))


class WithoutRecord:
    """What the many methods that look at the film alone say of themselves."""

    config: Any

    @property
    def uses_ehr(self) -> bool:
        """False: the record changes nothing."""
        return False

    @property
    def fields_used(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def image_size(self) -> int:
        """Side of the films it takes, in pixels."""
        return int(self.config.image_size)
