"""Reads a recipe from its YAML file; every fault names the file and the key."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from nofinding.data.image import Aspect
from nofinding.datasets.build.choices import Uncertain
from nofinding.errors import UserError
from nofinding.recipes.schema import CohortRule, Expects, Metric, Published, Recipe
from nofinding.storage.plain_yaml import read_yaml
from nofinding.types import Split, Supervision

__all__ = ["read_recipe"]


def read_recipe(file: Path) -> Recipe:
    """The recipe in a YAML file. Raises UserError, naming file and key, for any fault."""
    part = _Part(str(file), read_yaml(file), {f.name for f in fields(Recipe)} - {"name"})
    counts = part.inner("expects", {f.name for f in fields(Expects)})
    figures = part.several("published")
    known = {f.name for f in fields(Recipe)} - {"name", "remarks", "unverified", "published"}
    unverified = part.texts("unverified")
    if strange := [key for key in unverified if key not in known]:
        raise part.fault("unverified", f"{strange[0]!r} is not one of {', '.join(sorted(known))}")
    return Recipe(
        name=file.stem,
        summary=part.text("summary"),
        dataset=part.text("dataset"),
        split_rule=part.text("split_rule"),
        evaluated_split=part.one_of("evaluated_split", get_args(Split)),
        expects=Expects(**{key: counts.count(key) for key in counts.allowed}),
        cohort=_cohort(part),
        image_size=part.count("image_size"),
        aspect=part.one_of("aspect", get_args(Aspect)),
        preprocessing=part.text("preprocessing"),
        metric=part.one_of("metric", get_args(Metric)),
        selection_rule=part.text("selection_rule"),
        remarks=part.texts("remarks"),
        unverified=unverified,
        published=tuple(_published(figure) for figure in figures),
    )


def _cohort(part: "_Part") -> CohortRule | None:
    if part.content["cohort"] is None:
        return None
    rule = part.inner("cohort", {f.name for f in fields(CohortRule)})
    given = rule.content
    return CohortRule(
        source=rule.text("source"),
        split=None if given["split"] is None else rule.one_of("split", ("official", "seeded")),
        uncertain=None
        if given["uncertain"] is None
        else rule.one_of("uncertain", get_args(Uncertain)),
        complete=rule.texts("complete"),
        window=rule.count("window"),
        lists=None if given["lists"] is None else rule.text("lists"),
    )


def _published(part: "_Part") -> Published:
    return Published(
        method=part.text("method"),
        ours=part.text("ours") if part.content["ours"] is not None else None,
        detail=part.text("detail", least=0),
        metric=part.one_of("metric", get_args(Metric)),
        value=part.share("value"),
        supervision=Supervision(part.one_of("supervision", [str(s) for s in Supervision])),
        source=part.text("source"),
        verified=part.truth("verified"),
    )


class _Part:
    """A mapping of a YAML file, read key by key; every fault names the file and the key."""

    def __init__(self, where: str, content: object, allowed: set[str]) -> None:
        if not isinstance(content, dict):
            raise UserError(f"{where}: must map {', '.join(sorted(allowed))} to values")
        self.where, self.allowed = where, allowed
        self.content: dict[str, Any] = content
        if missing := sorted(allowed - content.keys()):
            raise UserError(f"{where}: has no key {missing[0]!r}")
        if strange := sorted(str(key) for key in content.keys() - allowed):
            raise UserError(f"{where}: {strange[0]!r} is not one of {', '.join(sorted(allowed))}")

    def fault(self, key: str, what: str) -> UserError:
        return UserError(f"{self.where}: {key}: {what}")

    def text(self, key: str, least: int = 1) -> str:
        value = self.content[key]
        if not isinstance(value, str) or len(value.strip()) < least:
            raise self.fault(key, "must be text")
        return " ".join(value.split())

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.content[key]
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.fault(key, "must be a list of texts")
        return tuple(" ".join(v.split()) for v in value)

    def one_of(self, key: str, allowed: Any) -> Any:
        if self.content[key] not in tuple(allowed):
            raise self.fault(key, f"{self.content[key]!r} is not one of {', '.join(allowed)}")
        return self.content[key]

    def truth(self, key: str) -> bool:
        if not isinstance(self.content[key], bool):
            raise self.fault(key, "must be true or false")
        return bool(self.content[key])

    def count(self, key: str) -> int | None:
        value = self.content[key]
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.fault(key, f"{value!r} is not a whole number above 0, nor null")
        return value

    def share(self, key: str) -> float:
        value = self.content[key]
        if not isinstance(value, float | int) or isinstance(value, bool) or not 0 <= value <= 1:
            raise self.fault(key, f"{value!r} is not a number from 0 to 1")
        return float(value)

    def inner(self, key: str, allowed: set[str]) -> "_Part":
        return _Part(f"{self.where}: {key}", self.content[key], allowed)

    def several(self, key: str) -> list["_Part"]:
        """The list under a key: figures, each with the metric that the recipe has unless named."""
        value = self.content[key]
        if not isinstance(value, list) or not value:
            raise self.fault(key, "must be a list of figures")
        allowed = {f.name for f in fields(Published)}
        usual = {"detail": "", "metric": self.content["metric"], "verified": True}
        return [
            _Part(
                f"{self.where}: {key} {number}",
                usual | entry if isinstance(entry, dict) else entry,
                allowed,
            )
            for number, entry in enumerate(value, start=1)
        ]
