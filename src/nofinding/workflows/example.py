"""The use case `example`: a small copy of a dataset, to try its source on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from nofinding.datasets.examples import EXAMPLES, Copy
from nofinding.errors import UserError
from nofinding.ranges import Range, require_ranges
from nofinding.storage.atomic import whole_or_not

__all__ = ["ExampleOptions", "write_example"]


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """Writes a small copy of a dataset: its folders and columns, with phantom films in them."""

    out: Path
    """Folder to write into; it must be empty, or not be there."""
    patients: Annotated[int, Range(8, 10_000)] = 24
    """How many patients."""
    seed: int = 0
    """Another seed gives other patients."""
    size: Annotated[int, Range(64, 2048)] = 128
    """Pixels along a side of the films."""

    def __post_init__(self) -> None:
        require_ranges(self, typed=True)


def write_example(source: str, options: ExampleOptions) -> Path:
    """The folder. Raises UserError for an unknown source, or a folder that is not empty."""
    if source not in EXAMPLES:
        raise UserError(f"example {source}: there is none; there are {', '.join(EXAMPLES)}")
    copy = Copy(root=options.out, patients=options.patients, seed=options.seed, size=options.size)
    with whole_or_not(options.out) as folder:
        EXAMPLES[source](replace(copy, root=folder))
    return options.out
