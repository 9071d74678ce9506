"""Writes docs/methods/, a page a method, from what the methods say of themselves.

Run it after any change of a method's summary, notes, options or presets:

    .venv/bin/python docs/make_methods.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from make_commands import GENERATED, documented, is_of_method, options_table, presets_table, table
from make_commands import write as write_pages

from nofinding.cli import parser_of
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.evaluation.baselines import BASELINES
from nofinding.methods import METHODS
from nofinding.methods.base.protocol import HasRules
from nofinding.types import Exam

__all__ = ["FOLDER", "pages"]

FOLDER = Path(__file__).with_name("methods")
INDEX = """\
# Methods

{generated}
Each method has a page: what its paper says, what the authors' program does, where ours differs, its
options and its presets. `nofinding fit METHOD` fits one; [`nofinding bench`](../bench.md) fits and
judges many on the same films. Not sure which? [Choose a method](../choose-a-method.md). Missing
yours? [Add a method](../add-a-method.md).

*Supervision* is what a method knows of disease. Every table prints it: methods of different
supervision do not compete. *EHR* says whether the score depends on the patient's EHR.

{tables}
One more baseline, `metadata-only`, is a classifier on the EHR alone. It is not a method, since it
needs labels; the reports add it where films have an EHR.
"""
LEARNS_FROM = {
    "unlabelled": "films that nobody has labelled",
    "diseased": "films known to show disease",
}
WITH_EVERY_FIELD = Exam(
    image_id="a", patient_id="a", pixels=lambda: np.zeros((1, 1)), ehr=dict.fromkeys(FIELDS, 1.0)
)  # so that a method that can use the EHR does


def pages() -> dict[str, str]:
    """File name -> text of every page of docs/methods/."""
    stats = EhrStats.of([WITH_EVERY_FIELD], list(FIELDS.values()))
    small = {name: cls(cls.PRESETS["small"], stats) for name, cls in METHODS.items()}
    index = INDEX.format(
        generated=GENERATED.format(name="methods"), tables="\n".join(_tables(small))
    )
    return {"index.md": index} | {f"{name}.md": _page(name, small[name]) for name in METHODS}


def _tables(small: dict[str, Any]) -> Iterator[str]:
    """A table for each family: the baselines, and the folders that the other methods lie in."""
    titles = ("method", "what it is", "supervision", "EHR", "paper")
    for family in dict.fromkeys(map(_family, METHODS)):
        rows = [
            (
                f"[{name}]({name}.md)",
                METHODS[name].summary,
                str(METHODS[name].supervision),
                "yes" if small[name].uses_ehr else "no",
                METHODS[name].paper,
            )
            for name in METHODS
            if _family(name) == family
        ]
        yield f"## {family}\n\n{table(titles, rows)}"


def _family(name: str) -> str:
    if name in BASELINES:
        return "Baselines"
    _, _, *inner = METHODS[name].__module__.split(".")
    folder = inner[0].replace("_", " ") if len(inner) > 1 else "methods"
    return "Diff3M" if folder == "diff3m" else folder.capitalize()


def _page(name: str, small: Any) -> str:
    cls: Any = METHODS[name]
    calls = f"{small.network_calls} network call{'' if small.network_calls == 1 else 's'} a film"
    facts = [
        ("paper", cls.paper),
        ("supervision", str(cls.supervision)),
        ("also learns from", LEARNS_FROM[cls.OTHERS] if hasattr(cls, "OTHERS") else ""),
        ("uses the EHR", "yes" if small.uses_ehr else "no"),
        ("film, preset `small`", f"{small.image_size} pixels a side; {calls}"),
        ("scoring rules", _names(small.RULES) if isinstance(small, HasRules) else ""),
    ]
    actions = [a for a in documented(parser_of("fit", name, "small")) if is_of_method(a)]
    return (
        f"# {name}\n\n{GENERATED.format(name='methods')}\n{cls.summary}.\n\n"
        f"{table(('', ''), [fact for fact in facts if fact[1]])}\n"
        f"```\nnofinding fit {name} --films table:films.csv --out model\n```\n\n"
        f"## The paper\n\n{cls.notes.paper}\n\n## The authors' program\n\n{cls.notes.program}\n\n"
        f"## Ours\n\n{cls.notes.ours}\n\n## Options\n\n{options_table(actions)}\n"
        f"## Presets\n\nWhat each preset changes:\n\n{presets_table(cls.PRESETS)}"
    )


def _names(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    write_pages(FOLDER, pages())
