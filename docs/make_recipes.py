"""Writes docs/recipes.md from the recipes, so that it says what `nofinding recipes NAME` says.

Run it after any change of a recipe:

    .venv/bin/python docs/make_recipes.py
"""

from pathlib import Path

from nofinding.recipes import Recipe, recipes
from nofinding.recipes.showing import TITLES, facts, row

HEADER = """\
# Recipes

<!-- Generated: do not edit. After a change run: .venv/bin/python docs/make_recipes.py -->

Published protocols as data: which films a paper learns from and judges, how it prepares them, how
it picks what it reports, and what it reports. No film and no list of films is here; get them from
their publishers, and write them into a [table](tutorial.md#the-table).

```
nofinding recipes
nofinding recipes zhanglab
```

**Before comparing:**

- Figures of two recipes are not comparable, not even where the cohort is the same: the splits
  differ.
- A figure whose epoch, score or threshold was picked on the test set is an upper bound;
  `selection` says so where it is known. Nothing here is picked so.
- Published figures mostly have no interval. At an AUROC of 0.8 the 95 % interval reaches 0.02
  either way with 1,000 films of either kind, 0.03 with 234 and 390, and 0.07 with 26 and 176; at
  lower ones it is wider (Hanley and McNeil, Radiology 1982).
- `(unverified)` marks what we could not confirm; a figure with "about" is not known to its last
  digit. Counts that are not known cannot be compared with yours.
- `source` is the paper to cite. The figures were collected from the papers' own repositories;
  check them there before you print them.
- `here` names the method of [ours](methods/index.md) that is of that kind; "no": there is none.

A recipe is a YAML file in `src/nofinding/recipes/`; one more file is one more recipe. Every key is
checked when it is read.
"""


def text() -> str:
    """The whole of docs/recipes.md."""
    names = "\n".join(
        f"- [{name}](#{name}): {recipe.summary}" for name, recipe in recipes().items()
    )
    return "\n".join([HEADER, names + "\n", *map(section, recipes().values())])


def section(recipe: Recipe) -> str:
    """One recipe: what it asks for, what to know, and its figures."""
    lines = [f"## {recipe.name}", "", f"{recipe.summary}.", "", "| | |", "|---|---|"]
    lines += [f"| {head} | {said} |" for head, said in facts(recipe)]
    lines += ["", *(f"- {remark}" for remark in recipe.remarks), ""]
    lines += [f"| {' | '.join(TITLES)} |", "|" + "---|" * len(TITLES)]
    for figure in recipe.published:
        *cells, ours, source = row(figure)
        cells += [f"`{ours}`" if figure.ours else "no", source]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("recipes.md").write_text(text(), encoding="utf-8")
