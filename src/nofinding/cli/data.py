"""The commands about films before they are scored: cohort, cache, example, deidentify, sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nofinding.cli.command import Command, Positional, options_from

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from nofinding.cli.parser import Parser

__all__ = ["COMMANDS"]


def _cohort(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.build_cohort import CohortOptions, assemble_cohort

    print(assemble_cohort(parsed.films, options_from(CohortOptions, parsed)))


def _cache(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.warm_cache import CacheOptions, cache_films

    cache_films(options_from(CacheOptions, parsed))


def _twins(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.twins import TwinsOptions, list_twins

    list_twins(options_from(TwinsOptions, parsed))


def _example(parser: Parser, parsed: Namespace) -> None:
    from nofinding.workflows.example import ExampleOptions, write_example

    print(write_example(parsed.source, options_from(ExampleOptions, parsed)))


def _examples() -> str:
    from nofinding.datasets.examples import EXAMPLES

    return f"one of {', '.join(EXAMPLES)}"


def _sources(parser: Parser, parsed: Namespace) -> None:
    from nofinding.cli.tables import print_table
    from nofinding.datasets import SOURCES

    rows = [(f"{name}:", source.summary) for name, source in SOURCES.items()]
    print_table(("source", "what it reads"), rows)


COMMANDS = {
    "cohort": Command(
        summary="a dataset as its publisher ships it, made ready to fit and judge",
        run=_cohort,
        options="nofinding.workflows.build_cohort:CohortOptions",
        positionals=(
            Positional(
                dest="films",
                metavar="SOURCE:PATH",
                help="the dataset's folder (see `nofinding sources`)",
            ),
        ),
        first=("out", "recipe", "record", "split", "complete"),
    ),
    "cache": Command(
        summary="decode films ahead, with every core",
        run=_cache,
        options="nofinding.workflows.warm_cache:CacheOptions",
    ),
    "twins": Command(
        summary="films that are one film: inverted, masked, cropped, mirrored",
        run=_twins,
        options="nofinding.workflows.twins:TwinsOptions",
        positionals=(
            Positional(
                dest="films",
                metavar="SOURCE:PATH",
                nargs="+",
                help="films, one or more sources (see `nofinding sources`)",
            ),
        ),
        first=("out", "pairs", "unreadable"),
    ),
    "example": Command(
        summary="a small copy of a dataset, to try",
        run=_example,
        options="nofinding.workflows.example:ExampleOptions",
        positionals=(
            Positional(
                dest="source",
                metavar="SOURCE",
                help=_examples,
            ),
        ),
    ),
    "sources": Command(
        summary="where films can come from",
        about="Lists where films can come from.",
        run=_sources,
    ),
}
