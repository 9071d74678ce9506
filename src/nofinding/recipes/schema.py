"""What a recipe is."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from nofinding.data.image import Aspect
from nofinding.datasets.build.choices import Uncertain
from nofinding.types import Split, Supervision

__all__ = ["CohortRule", "Expects", "Metric", "Published", "Recipe"]

Metric: TypeAlias = Literal["auroc", "ap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expects:
    """How many films the protocol has; None where that is not known to us."""

    train_normal: int | None
    """Normal films that are learnt from."""
    test_normal: int | None
    test_abnormal: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortRule:
    """How `nofinding cohort` puts the films together as the paper does."""

    source: str
    """Of which source the recipe is: "mimic-cxr"."""
    split: Literal["official", "seeded"] | None
    """None: the user's choice."""
    uncertain: Uncertain | None
    """None: the user's choice."""
    complete: tuple[str, ...]
    """Fields that must be recorded."""
    window: int | None
    """Days around the film; None: the user's choice."""
    lists: str | None
    """Which published lists the user must supply, and from where; None: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One figure, as somebody else reports it."""

    method: str
    """As its paper calls it."""
    ours: str | None
    """The method of METHODS that it is compared with; None: there is none here."""
    detail: str
    """Which variant, size or score; empty where there is but one."""
    metric: Metric
    """Of whole films: area under the ROC curve, or average precision."""
    value: float
    """From 0 to 1."""
    supervision: Supervision
    """What the method is told about disease."""
    source: str
    """The paper to cite."""
    verified: bool
    """Whether it was read off the paper's own repository, to the digits given; false: about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A published protocol: the films, their preparation, the rule that picks, and the figures."""

    name: str
    """As in `nofinding recipes NAME`: the name of its file."""
    summary: str
    """One line."""
    dataset: str
    """Which films, and whose terms hold."""
    split_rule: str
    """Which films are learnt from and which are judged."""
    evaluated_split: Split
    """The part that the figures are of."""
    expects: Expects
    cohort: CohortRule | None
    """None: no source of ours reads these films, or the paper does not say enough."""
    image_size: int | None
    """Side of the films, in pixels; None: differs between the methods, or is not known to us."""
    aspect: Aspect
    """Kept and padded, or squashed to a square."""
    preprocessing: str
    metric: Metric
    """The one that the figures are ranked by."""
    selection_rule: str
    """How the reported epoch, score or threshold was picked; on the test set, as often as not."""
    remarks: tuple[str, ...]
    """What to know before comparing."""
    unverified: tuple[str, ...]
    """Which of the above are not confirmed, by name."""
    published: tuple[Published, ...]

    def figures_of(self, ours: str) -> tuple[Published, ...]:
        """The figures that one of our methods is compared with."""
        return tuple(figure for figure in self.published if figure.ours == ours)
