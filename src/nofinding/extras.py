"""Packages that only some users need, and what to install where one of them is missing."""

from importlib import import_module
from typing import Any

from nofinding.errors import UserError

__all__ = ["need"]


def need(module: str, extra: str, what: str) -> Any:
    """The module of an optional package.

    `what` names what needs it: "mambaad". Raises UserError with the extra to install where the
    package is absent.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        raise UserError(
            f"{what}: needs the package {package}; pip install 'nofinding[{extra}]'"
        ) from None
