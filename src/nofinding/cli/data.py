"""Commands around films: cohort, example, cache, sources."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nofinding.cli.parsing import first_line, listing_parser, new_parser, options_of, with_options

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from nofinding.cli.parsing import Command

__all__ = ["COMMANDS"]


def _cohort_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.build_cohort import CohortOptions

    parser = new_parser("cohort", first_line(CohortOptions))
    where = "the dataset's folder (see `nofinding sources`)"
    parser.add_argument("films", type=str, metavar="SOURCE:PATH", help=where)
    needed = "fields that must be recorded; films without are left out"
    parser.add_argument("--complete", nargs="+", type=str, default=[], help=needed)
    with_options(parser, CohortOptions, ("complete",))
    return parser


def _cohort(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.build_cohort import CohortOptions, assemble_cohort

    options = options_of(CohortOptions, parsed, ("films",))
    print(assemble_cohort(parsed.films, replace(options, complete=tuple(options.complete))))


def _example_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.datasets.examples import EXAMPLES
    from nofinding.workflows.example import ExampleOptions

    parser = new_parser("example", first_line(ExampleOptions))
    one_of = f"one of {', '.join(EXAMPLES)}"
    parser.add_argument("source", type=str, metavar="SOURCE", help=one_of)
    with_options(parser, ExampleOptions)
    return parser


def _example(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.example import ExampleOptions, write_example

    print(write_example(parsed.source, options_of(ExampleOptions, parsed, ("source",))))


def _cache_parser(method: str | None, preset: str | None) -> ArgumentParser:
    from nofinding.workflows.warm_cache import CacheOptions

    parser = new_parser("cache", first_line(CacheOptions))
    several = "SOURCE:PATH, one or more"
    parser.add_argument("--films", nargs="+", type=str, required=True, help=several)
    sides = "pixels a side, one or more: those of the model, and 112 for its input gate"
    parser.add_argument("--size", nargs="+", type=int, default=[224], help=sides)
    with_options(parser, CacheOptions, ("films", "size"))
    return parser


def _cache(parser: ArgumentParser, parsed: Namespace) -> None:
    from nofinding.workflows.warm_cache import CacheOptions, cache_films

    cache_films(options_of(CacheOptions, parsed, ()))


def _sources(parser: ArgumentParser, parsed: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from nofinding.datasets import SOURCES

    table = Table("source", "what it reads", box=None)
    for name, source in SOURCES.items():
        table.add_row(f"{name}:", source.summary)
    Console().print(table)


COMMANDS: dict[str, Command] = {
    "cohort": (_cohort, _cohort_parser),
    "example": (_example, _example_parser),
    "cache": (_cache, _cache_parser),
    "sources": (_sources, listing_parser("sources", "Lists where films can come from.")),
}
