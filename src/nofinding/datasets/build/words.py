"""Words that tables have for the same thing: one rule for every column of every table.

What stands for a missing value (`data.ehr.MISSING`), for a normal film, and for a sex; in Python,
and as macros for the tables that DuckDB reads.
"""

import re
from collections.abc import Iterable

from nofinding.data.ehr import MISSING, SEXES

__all__ = ["MACROS", "findings_in", "is_list", "is_no_finding"]

# Folded to letters and digits: "No Finding", "NoFinding" and "no_finding" are one.
NO_FINDING = ("nofinding", "nofindings", "normal", "good", "healthy", "unremarkable", "0", "00",
              "false")  # fmt: skip
QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")


def is_no_finding(word: str) -> bool:
    """Whether the word says that the film is normal: "No Finding", "normal", "0", ..."""
    return re.sub(r"[\W_]+", "", word.casefold()) in NO_FINDING


def is_list(cell: str) -> bool:
    """Whether the cell is a list as Python or DuckDB writes it: "[]", "['Mass' 'Nodule']"."""
    cell = cell.strip()
    return cell.startswith("[") and cell.endswith("]")


def findings_in(cell: str) -> list[str]:
    """The words of a cell, joined by "|" or a list, without those for a missing value."""
    if not is_list(cell):
        words = cell.split("|")
    else:
        inner = cell.strip()[1:-1]
        words = [one or other for one, other in QUOTED.findall(inner)] or inner.split(",")
    return [word for word in map(str.strip, words) if word.casefold() not in MISSING]


def _texts(words: Iterable[str]) -> str:
    return ", ".join("'" + word.replace("'", "''") + "'" for word in words)


BLANK = "' ' || chr(9) || chr(10) || chr(13) || chr(160)"
LONGEST = max(map(len, MISSING)) + 8  # with blanks around it
MACROS = f"""
CREATE MACRO missing(t) AS lower(trim(t, {BLANK})) IN ({_texts(sorted(MISSING))});
CREATE MACRO stated(t) AS CASE WHEN length(t) <= {LONGEST} AND missing(t) THEN NULL ELSE t END;
CREATE MACRO no_finding(t) AS
  regexp_replace(lower(t), '[^\\pL\\pN]', '', 'g') IN ({_texts(NO_FINDING)});
CREATE MACRO unlisted(t) AS CASE WHEN regexp_full_match(trim(t), '(?s)\\[.*\\]') THEN
  regexp_replace(regexp_replace(trim(t), '^\\[\\s*[''"]?|[''"]?\\s*\\]$', '', 'g'),
    '[''"]\\s*,?\\s*[''"]', '|', 'g') ELSE t END;
CREATE MACRO findings_in(t) AS list_filter(list_transform(
  string_split(coalesce(unlisted(t), ''), '|'), lambda w: trim(w, {BLANK})),
  lambda w: NOT missing(w));
CREATE MACRO sex_of(t) AS CASE lower(trim(t, {BLANK}))
  {" ".join(f"WHEN '{word}' THEN '{sex}'" for word, sex in SEXES.items())} END;
"""
