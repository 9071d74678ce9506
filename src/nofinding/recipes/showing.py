"""A recipe as text."""

import textwrap

from nofinding.recipes.schema import Published, Recipe

__all__ = ["TITLES", "facts", "row", "shown"]

WIDTH = 96
# Of the columns of the figures.
TITLES = ("method", "variant", "figure", "told about disease", "here", "source")


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def facts(recipe: Recipe) -> list[tuple[str, str]]:
    """What the protocol says, by heading, with a mark on what is not confirmed."""
    size = "differs, or not known" if recipe.image_size is None else f"{recipe.image_size} pixels"
    said = {
        "dataset": ("films", recipe.dataset),
        "split_rule": ("split", recipe.split_rule),
        "evaluated_split": ("judged", recipe.evaluated_split),
        "expects": (
            "counts",
            f"train normal: {_count(recipe.expects.train_normal)}; "
            f"test normal: {_count(recipe.expects.test_normal)}; "
            f"test abnormal: {_count(recipe.expects.test_abnormal)}",
        ),
        "image_size": ("size", size),
        "aspect": ("aspect", recipe.aspect),
        "preprocessing": ("preparation", recipe.preprocessing),
        "metric": ("metric", recipe.metric),
        "selection_rule": ("selection", recipe.selection_rule),
    }
    return [
        (head, f"(unverified) {text}" if key in recipe.unverified else text)
        for key, (head, text) in said.items()
    ]


def row(figure: Published) -> tuple[str, ...]:
    """The cells of a figure, under TITLES."""
    return (
        figure.method,
        figure.detail,
        f"{figure.metric} {'' if figure.verified else 'about '}{figure.value:.3f}",
        str(figure.supervision),
        figure.ours or "-",
        figure.source,
    )


def shown(recipe: Recipe) -> str:
    """The recipe whole: protocol, remarks and figures, in lines of at most 96 characters where
    the table allows it."""
    lines = [f"{recipe.name}: {recipe.summary}", ""]
    for head, text in [*facts(recipe), *(("remark", remark) for remark in recipe.remarks)]:
        lines += textwrap.wrap(f"{head:<12}{text}", WIDTH, subsequent_indent=" " * 12)
    table = [TITLES, *map(row, recipe.published)]
    wide = [max(len(cells[column]) for cells in table) for column in range(len(TITLES))]
    lines.append("")
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, wide, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
