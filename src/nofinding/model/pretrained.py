"""The models inside the package: which there are, and which one these films are for."""

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from nofinding.errors import UserError
from nofinding.model.calibration import Calibration
from nofinding.types import Exam

__all__ = ["AUTO", "SHIPPED", "about_age", "calibration_of", "model_folder", "shipped_for"]

AUTO = "auto"
SHIPPED = {"adult": (16.0, 120.0), "paediatric": (1.0, 5.0)}
"""Models in the package, and the ages in years of the patients that they were fitted on."""
CHILD = 10.0  # below: nearer to the children of the one model than to the adults of the other


def model_folder(model: str) -> Path:
    """The folder of a model: of a shipped one by its name, else the folder itself."""
    if model not in SHIPPED:
        return Path(model)
    folder = Path(str(resources.files("nofinding") / "weights" / model))
    if not (folder / "model.json").is_file():
        raise UserError(f"--model {model}: this copy of the package has no weights inside")
    return folder


def shipped_for(exams: Iterable[Exam]) -> str:
    """The shipped model for these films, by age; adults' where no age is known.

    Raises UserError where some are children's and others adults'.
    """
    names = {"paediatric" if exam.ehr.get("age", 100.0) < CHILD else "adult" for exam in exams}
    if len(names) > 1:
        raise UserError(
            f"films of patients under {CHILD:g} years and of others: score them apart, with "
            "--model paediatric and --model adult"
        )
    return names.pop() if names else "adult"


def calibration_of(model: str) -> Calibration:
    """How p-values are taken where the user does not say.

    The adult model is calibrated on films with a known view (NIH), which score higher, and on
    films without (RSNA). Against all together the former would be called too often and the latter
    too seldom; within a cell of the partition neither is.
    """
    return "mondrian" if model == "adult" else "plain"


def about_age(model: str, exam: Exam) -> tuple[str, ...]:
    """What a row must say where a shipped model was fitted on other ages, or age is unknown."""
    if model not in SHIPPED:
        return ()
    low, high = SHIPPED[model]
    age = exam.ehr.get("age")
    if age is None:
        return (f"age: unknown; the {model} model is for {low:g} to {high:g} years",)
    if low <= age < high + 1:
        return ()
    return (f"age: {age:g} years; the {model} model was fitted on {low:g} to {high:g}",)
