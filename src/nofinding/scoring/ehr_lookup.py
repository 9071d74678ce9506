"""What a hospital's record says of single films, for `score FILE... --record`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nofinding.data.decoding.decode import FilmFile, read_about
from nofinding.data.ehr import EhrField
from nofinding.data.nearest_value import EhrWindow
from nofinding.datasets.local.single_files import Known
from nofinding.errors import UserError
from nofinding.model.bundle import stored_window
from nofinding.model.pretrained import AUTO, SHIPPED, model_folder
from nofinding.progress import say
from nofinding.scoring.options import ScoreOptions

__all__ = ["known_of", "require_fits", "window_of"]


def require_fits(files: Sequence[str], options: ScoreOptions) -> None:
    """Raises UserError where --record stands beside what it does not go with."""
    if options.record is None:
        return
    if not files:
        raise UserError("--record goes with single DICOM FILEs; a source takes its record by "
                        "`nofinding cohort SOURCE:PATH --record`")  # fmt: skip
    if options.engine == "ray":
        raise UserError("--record: is asked once, here; it does not go with --engine ray")


def window_of(model: str) -> EhrWindow:
    """When a value of the EHR counts for the model of that name; auto: for all shipped ones.
    Raises UserError where there is no such model."""
    names = SHIPPED if model == AUTO else (model,)
    (window,) = {stored_window(model_folder(name)) for name in names}
    return window


def known_of(
    files: Sequence[str], options: ScoreOptions, fields: Mapping[str, EhrField]
) -> list[Known]:
    """The record of each file, by the patient and the study in its header; [] without --record.
    What counts is what counted for the films that the model was fitted on.

    A server that fails costs the record, and says so in a flag. Raises UserError for a file that is
    no DICOM film, and for a folder, an address or a time zone that is none.
    """
    if options.record is None:
        return []
    from nofinding.clinical.dicom.source import metadata_of
    from nofinding.clinical.fhir.client import Asking, records_for, zone_of

    asking = Asking(
        source=options.record,
        window=window_of(options.model),
        system=options.patient_system,
        zone=zone_of(options.zone),
    )
    films, headers = [], []
    for file in map(Path, files):
        FilmFile(file).check()
        header, identity = read_about(file)
        headers.append(header)
        films.append(metadata_of(identity, file))
    answers = records_for(asking, films, fields)
    without = sum(not one.ehr for one in answers)
    if without:
        say(f"--record: nothing is known of {without} of {len(answers)} films; see their flags")
    return [Known(o.ehr, o.flags, header) for o, header in zip(answers, headers, strict=True)]
