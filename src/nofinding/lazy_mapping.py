"""Names to what modules of their own define, imported when it is asked for.

Listing the names, as a parser and an error message do, imports nothing.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["LazyMapping"]

T = TypeVar("T")


class LazyMapping(MutableMapping[str, T]):
    """A dict of "module:attribute" that gives the attributes. Other values may be put in."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places: dict[str, str | None] = dict(places)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> T:
        place = self._places[name]
        if name not in self._loaded and place is not None:
            module, _, attribute = place.partition(":")
            self._loaded[name] = getattr(import_module(module), attribute)
        value: T = self._loaded[name]
        return value

    def __setitem__(self, name: str, value: T) -> None:
        self._places.setdefault(name, None)
        self._loaded[name] = value

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._loaded.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
