"""Writes docs/methods.md from what the methods say of themselves.

Run it after any change of a method's summary, notes or presets:

    .venv/bin/python docs/make_methods.py
"""

from pathlib import Path
from typing import Any

from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.methods import METHODS
from nofinding.methods.base.protocol import HasRules

HEADER = """\
# Methods

<!-- Generated: do not edit. After a change run: .venv/bin/python docs/make_methods.py -->

What each method is, what its paper says, what the authors' program does, and where ours differs.
`nofinding fit METHOD` fits one; [`nofinding bench`](bench.md) fits and judges many on the same
films. Options: [commands](commands.md#methods). Adding one: [adding](adding.md#a-method).

"Told about disease" is the tier that every table prints: rows of different tiers do not compete.
"""


def text() -> str:
    """The whole of docs/methods.md."""
    parts = [HEADER, _contents()]
    parts += [_method(name, cls) for name, cls in METHODS.items()]
    return "\n".join(parts)


def _contents() -> str:
    rows = [
        f"| [{name}](#{name}) | {cls.summary} | {cls.supervision} | {cls.paper} |"
        for name, cls in METHODS.items()
    ]
    head = "| method | what it is | told about disease | paper |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _method(name: str, cls: Any) -> str:
    stats = EhrStats.of([], list(FIELDS.values()))
    small = cls(cls.PRESETS["small"], stats)
    lines_of = {
        "unlabelled": "films that nobody has labelled",
        "diseased": "films known to show disease",
    }
    facts = [
        f"Films of {small.image_size} pixels in preset `small`; {small.network_calls} network "
        f"call{'' if small.network_calls == 1 else 's'} a film",
        f"learns from {lines_of[cls.OTHERS]}, too" if hasattr(cls, "OTHERS") else "",
        f"rules {', '.join(f'`{rule}`' for rule in cls.RULES)}"
        if isinstance(small, HasRules)
        else "",
        "presets " + ", ".join(f"`{preset}`" for preset in cls.PRESETS),
    ]
    notes = cls.notes
    return (
        f"## {name}\n\n{cls.summary}. {cls.paper}.\n\n"
        f"**The paper.** {notes.paper}\n\n**The authors' program.** {notes.program}\n\n"
        f"**Ours.** {notes.ours}\n\n{'; '.join(fact for fact in facts if fact)}.\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(text(), encoding="utf-8")
