"""The help of the whole program: its commands in groups."""

from nofinding.cli.command import GROUPS
from nofinding.cli.registry import BY_GROUP, COMMANDS

__all__ = ["usage"]

HEAD = "nofinding: how far a chest radiograph is from the normal ones, where, with what confidence"
EXAMPLES = """\
Examples:
  nofinding demo
  nofinding score film.dcm --ehr age=63 sex=M --out scores
  nofinding fit --films nih:ROOT --out model
  nofinding score --model model --films nih:ROOT --split test --out scores
  nofinding evaluate --scores scores/scores.csv --films nih:ROOT --out report"""
TAIL = """\
Each command has --help, --config FILE.yaml and --print-config.
Research use only: not a medical device."""


def usage() -> str:
    """The text of `nofinding --help`."""
    width = max(len(name) for name in COMMANDS)
    parts = [HEAD, EXAMPLES]
    for group, about in GROUPS.items():
        commands = BY_GROUP.get(group)
        if commands:
            lines = [f"  nofinding {n:<{width}}  {c.summary}" for n, c in commands.items()]
            parts.append("\n".join([f"{group}: {about}", *lines]))
    return "\n\n".join([*parts, TAIL])
