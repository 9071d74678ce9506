"""What a user decides when a cohort is put together from a publisher's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from nofinding.data.nearest_value import Days, Direction, EhrWindow
from nofinding.data.twin_choice import TwinCheck
from nofinding.errors import UserError
from nofinding.ranges import Range, require_ranges

__all__ = ["Choices", "Uncertain", "Verify"]

Uncertain: TypeAlias = Literal["drop", "positive", "negative", "unlabelled"]
Verify: TypeAlias = Literal["none", "present", "bytes", "pixels"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The decisions that change who is in a cohort, and what is known of them."""

    record: Path | None = None
    """Where the record is, if not in the source's own folder: MIMIC-IV's folder, or a table by
    patient pseudonym, as the source says."""
    window: Days = EhrWindow().days
    """A value of the EHR counts if it was measured at most this many days from the film. Stored
    with the cohort and with each model fitted on it, which then looks values up alike."""
    direction: Direction = EhrWindow().direction
    """around: values from before and after the film count; before: none from after it, as for a
    film that is scored on the day it is taken."""
    uncertain: Uncertain = "drop"
    """A film whose labels are uncertain where they matter: drop leaves it out; positive and
    negative take every uncertain label as that; unlabelled keeps the film without a label."""
    complete: tuple[str, ...] = ()
    """Fields that must be recorded; films without are left out."""
    split: Literal["official", "seeded"] = "official"
    """official: the publisher's, and where it has no part to tune on, a share of the training
    patients; seeded: all patients drawn anew."""
    lists: Path | None = None
    """Published lists of films, as their authors ship them; they decide on the split."""
    seed: int = 0
    """Which patients are drawn; the same for everybody who gives the same seed."""
    val_share: Annotated[float, Range(above=0, below=1)] = 0.1
    """Of the patients, drawn for split val where the publisher has none."""
    test_share: Annotated[float, Range(above=0, below=1)] = 0.2
    """Of the patients, drawn for split test where the publisher has none."""
    overlap: Literal["refuse", "drop"] = "refuse"
    """A patient or a film in two splits: refuse stops; drop leaves out what is not in the part
    that is judged later (test before val before train)."""
    verify: Verify = "bytes"
    """What is looked at of every film: nothing, whether it is there, whether two files are equal,
    or whether two films have equal pixels (decodes all)."""
    twins: TwinCheck = "refuse"
    """Altered copies of one film in two splits (docs/twins.md), where films are
    compared (--verify bytes or pixels): refuse stops, or with --overlap drop leaves them out;
    report goes on, and lists the pairs in the folder; skip does not look. Decodes all films."""
    key: Path | None = None
    """File with the secret that patients' ids are turned into pseudonyms by, where a source does
    that; default: ~/.config/nofinding/pseudonym.key, made on first use."""
    follow_links: bool = False
    """Take films behind symbolic links that lead out of the folder."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)
        if self.val_share + self.test_share >= 1:
            raise UserError("--val-share and --test-share leave no patient to learn from")
        if len(set(self.complete)) < len(self.complete):
            raise UserError("--complete: a field is named twice")

    @property
    def ehr_window(self) -> EhrWindow:
        """When a value of the EHR counts for a film."""
        return EhrWindow(days=self.window, direction=self.direction)
