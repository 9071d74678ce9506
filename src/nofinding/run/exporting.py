"""The use case `export`: scores of DICOM films as DICOM objects, for an archive and a viewer."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nofinding.data.decode import FilmFile
from nofinding.errors import UserError
from nofinding.run.progress import say, tracked
from nofinding.run.sending import Way, need_network, way_to
from nofinding.sources.files import file_name

if TYPE_CHECKING:
    from nofinding.clinical.result import Result

__all__ = ["ExportOptions", "export", "need_clinical", "read_results"]

ATTENTION = "attention."


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Writes the scores of DICOM films as DICOM: a report (SR), a picture, the map."""

    scores: Path
    """Folder that `score` wrote."""
    out: Path
    """Folder for the objects, STEM.report.dcm and so on; it must be empty, or not be there."""
    segmentation: bool = False
    """Write a segmentation of the map above its threshold, too."""
    stow: str | None = None
    """Store the objects in this archive, too: base address of its DICOMweb services."""
    login: Path | None = None
    """For --stow, file with "bearer TOKEN" or "basic USER:PASSWORD" in it, readable by its owner
    alone; default: what NOFINDING_DICOMWEB_TOKEN or NOFINDING_DICOMWEB_BASIC says, if it is set."""
    ca: Path | None = None
    """For --stow, file of certificates (PEM) to trust in place of the machine's own."""
    peer: str | None = None
    """Send the objects by C-STORE to this application entity, too: TITLE@host:port."""
    title: str = "NOFINDING"
    """Our application entity title, for --peer."""

    def __post_init__(self) -> None:
        if self.stow is not None and self.peer is not None:
            raise UserError("--stow and --peer: give one of the two")


def need_clinical() -> None:
    """Raises UserError where the extra is not installed."""
    if find_spec("highdicom") is None:
        raise UserError("DICOM out needs the extra: pip install 'nofinding[clinical]'")


def export(files: Sequence[str], options: ExportOptions) -> list[Path]:
    """Writes the objects of every file, and gives their paths. Raises UserError, naming the file,
    before anything is written where one of them is no DICOM film or has no score."""
    need_clinical()
    from nofinding.clinical.objects import objects_of
    from nofinding.clinical.source import read_source

    way = _way(options)
    if not files:
        raise UserError("export: name the DICOM files that were scored")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UserError(f"--out {options.out}: is not an empty folder")
    results = read_results(options.scores)
    sources = []
    for file in map(Path, files):
        film = FilmFile(file)
        film.check()
        name = file_name(file, film)
        if name not in results:
            raise UserError(f"{file}: {options.scores / 'scores.csv'} has no image_id {name!r}")
        sources.append((name, film, read_source(file)))
    options.out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, film, source in tracked(sources, "writing DICOM"):
        for made in objects_of(source, film(), results[name], segmentation=options.segmentation):
            path = options.out / f"{name}.{made.kind}.dcm"
            made.dataset.save_as(path, enforce_file_format=True)
            written.append(path)
    say(f"{options.out}: {len(written)} objects of {len(sources)} films; research use only")
    if way is not None:
        way(written)
        say(f"{way.to}: {len(written)} objects stored")
    return written


def _way(options: ExportOptions) -> Way | None:
    """Where the objects go beside the folder. Raises UserError for what is no address or peer."""
    if options.stow is None and options.peer is None:
        return None
    need_network()
    from nofinding.clinical.dicomweb import Archive

    archive = None
    if options.stow is not None:
        archive = Archive(options.stow, login=options.login, ca=options.ca, option="--stow")
    return way_to(archive, options.peer, options.title)


def read_results(folder: Path) -> Mapping[str, "Result"]:
    """What `score` wrote, by image_id; films that were refused are left out, maps are read when
    they are there. Raises UserError where the folder is not one of `score`."""
    from nofinding.clinical.result import Result

    try:
        run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        with (folder / "scores.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        calibration = f"{run['calibration_n']} normal films of {run['calibration_from']}"
        told = {
            "calibration": calibration if run["calibration_n"] else "none",
            "method": str(run["method"]),
            "model": str(run.get("model") or run["method"]),
            "sha256": str(run["model_sha256"]),
            "version": str(run["versions"]["nofinding"]),
            "aspect": run["aspect"],
            "threshold": run["map_threshold"],
        }
        fields = tuple(run["fields"])
    except OSError as error:
        raise UserError(f"--scores {folder}: {Path(error.filename).name} cannot be read") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--scores {folder}: is not a folder that `score` wrote") from None
    results = {}
    for row in rows:
        score = float(row["score"]) if row.get("score") else math.nan
        if not math.isfinite(score):
            continue
        shares = {
            key.removeprefix(ATTENTION): float(value)
            for key, value in row.items()
            if key.startswith(ATTENTION) and value
        }
        file = folder / "maps" / f"{row['image_id']}.npy"
        results[row["image_id"]] = Result(
            score=score,
            p_value=float(row["p_value"]) if row.get("p_value") else None,
            fields=tuple(name for name in fields if not shares or shares.get(name)),
            attention={name: share for name, share in shares.items() if share},
            flags=tuple(part.strip() for part in (row.get("flags") or "").split(";") if part),
            map=np.load(file, allow_pickle=False) if file.is_file() else None,
            **told,
        )
    return results
