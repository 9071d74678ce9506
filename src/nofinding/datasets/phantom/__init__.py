"""A simulated cohort: no licence, no download, exact masks. Not patients; see docs/phantom.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nofinding.data.ehr import EhrField
from nofinding.datasets.phantom.patients import DEMOGRAPHICS, FIELD_NAMES, patient, stream
from nofinding.types import Exam, Split, View

if TYPE_CHECKING:  # drawing needs scipy, for which a command that reads real films need not wait
    from nofinding.datasets.phantom.options import Options, Recorded

__all__ = ["PHANTOM", "Phantom"]


@dataclass(frozen=True, slots=True)
class Phantom:
    """The source behind `--films phantom:train=600,seed=1`."""

    name: str = "phantom"
    summary: str = "simulated chest films with records and exact masks; not patients"

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
        """The records of a simulated cohort; `root` is a list of options, or empty.

        Options: train, val, test (normal films), abnormal (films of each kind, in the test set),
        kinds (joined by +), seed, size (pixels), record (full, demographics, none, mixed). Only
        names in `fields` are recorded. Raises UserError for an unknown option or value.
        """
        from nofinding.datasets.phantom.options import parse_options

        options = parse_options(root)
        return _records(options, fields)

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The fields that this cohort records, in the order of `fields`."""
        from nofinding.datasets.phantom.options import parse_options

        names = _names(parse_options(root).record)
        return tuple(name for name in fields if name in names)


PHANTOM = Phantom()


def _records(options: Options, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
    """The normals of each split, then the abnormal films; each a patient of his own."""
    from nofinding.datasets.phantom.film import PhantomFilm, PhantomLesion

    plan: list[tuple[Split, str | None]] = [("train", None)] * options.train
    plan.extend([("val", None)] * options.val)
    plan.extend([("test", None)] * options.test)
    plan += [("test", kind) for kind in options.kinds for _ in range(options.abnormal)]
    for index, (split, kind) in enumerate(plan):
        film = PhantomFilm(seed=options.seed, index=index, size=options.size, kind=kind)
        ehr = _recorded(options, index, fields)
        view: View | None = ("PA", "AP")[int(ehr["view"])] if "view" in ehr else None
        yield Exam(
            image_id=f"phantom-{index:06d}",
            patient_id=f"phantom-p{index:06d}",
            pixels=film,
            ehr=ehr,
            view=view,
            findings=frozenset({kind} if kind else ()),
            split=split,
            lesion=PhantomLesion(film=film) if kind else None,
        )


def _names(record: Recorded) -> tuple[str, ...]:
    """The fields that a cohort of this sort may record."""
    return {"full": FIELD_NAMES, "mixed": FIELD_NAMES, "demographics": DEMOGRAPHICS, "none": ()}[
        record
    ]


def _recorded(options: Options, index: int, fields: Mapping[str, EhrField]) -> dict[str, float]:
    """What was written down of this patient: all, age, sex and view, nothing, or a random part."""
    names = [name for name in _names(options.record) if name in fields]
    if options.record == "mixed":
        # A share drawn for each film, so that a nearly empty record is as common as a full one.
        rng = stream(options.seed, index, "missing")
        share = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0])
        names = [name for name in names if rng.random() < share]
    full = patient(options.seed, index)
    return {name: full[name] for name in names}
