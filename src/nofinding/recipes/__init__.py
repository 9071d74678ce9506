"""Published protocols and their figures, as data: what a comparison with a paper must repeat.

A recipe is one YAML file in this folder. It says which films of a public cohort a paper trains
and tests on, how it prepares them, how it picks what it reports, and what it reports. No film
and no list of films is here.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from nofinding.errors import UserError
from nofinding.recipes.reading import read_recipe
from nofinding.recipes.schema import CohortRule, Expects, Metric, Published, Recipe
from nofinding.recipes.showing import shown

__all__ = [
    "CohortRule",
    "Expects",
    "Metric",
    "Published",
    "Recipe",
    "read_recipe",
    "recipe_of",
    "recipes",
    "shown",
]


@cache
def recipes() -> Mapping[str, Recipe]:
    """All recipes by name, in the order of their names."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return {file.stem: read_recipe(file) for file in files}


def recipe_of(name: str) -> Recipe:
    """The recipe of that name. Raises UserError for another."""
    if name not in recipes():
        raise UserError(f"recipe {name}: there is none; there are {', '.join(recipes())}")
    return recipes()[name]
