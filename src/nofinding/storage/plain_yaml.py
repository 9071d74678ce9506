"""YAML files as plain values: texts, numbers, lists and mappings, never an object of a class."""

from pathlib import Path
from typing import Any

import yaml

from nofinding.errors import UserError

__all__ = ["read_yaml"]

# What PyYAML raises for a tag that its value does not fit ("!!bool x", "!!timestamp x"), too.
NO_YAML = (
    *(yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError),
    ValueError,
)


def read_yaml(file: Path) -> Any:
    """What the file holds. Raises UserError, naming it, where it cannot be read or is no YAML."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except NO_YAML:
        raise UserError(f"{file}: is not a YAML file") from None
