"""`nifti:FOLDER`: volumes (.nii, .nii.gz) listed in FOLDER/volumes.csv, one row a volume.

The columns are those of a table of films (`table.py`); `path` is relative to the folder, and `mask`
is the path of a NIfTI volume that is not 0 on the finding. There are no boxes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nofinding.data.ehr import EhrField
from nofinding.datasets.build.flow import Remark
from nofinding.datasets.local.table import Table
from nofinding.errors import UserError
from nofinding.types import Exam

__all__ = ["NIFTI", "Nifti"]

LISTED = "volumes.csv"


@dataclass(frozen=True, slots=True)
class Nifti:
    """The source: reads a folder of volumes."""

    name: str = "nifti"
    summary: str = (
        "NIfTI volumes of a folder, listed in its volumes.csv, for methods of 3 dimensions"
    )

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
        """The rows as records, in order. Raises UserError as a table of films does."""
        yield from Table(volumes=True).read(_listed(root), fields)

    def remarks(self, root: str, fields: Mapping[str, EhrField]) -> tuple[Remark, ...]:
        """What is noticed of volumes.csv, as of a table of films."""
        return Table(volumes=True).remarks(_listed(root), fields)

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The fields that have a column, whether or not anything stands in it."""
        return Table(volumes=True).offers(_listed(root), fields)


NIFTI = Nifti()


def _listed(root: str) -> str:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"nifti:{root}: is not a folder; give the one that holds {LISTED}")
    return str(folder / LISTED)
