"""What `score` says of files that are no chest films: pydicom's own test files, and pydicom-data's.

Each file goes through the command by itself, with the shipped adult model and its gate, once as it
is and, where its pixels can be decoded, once more with a header that lies: modality CR, body part
CHEST. The second shows what is left when nobody can trust the header.

usage: python benchmarks/odd_films.py [--out FILE.md]
"""

import argparse
import contextlib
import csv
import io
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import data_store
import pydicom.data
from pydicom import Dataset, dcmread
from watching import machine

from nofinding.cli import main as nofinding

SECONDS = 90  # that a file may take before it counts as one that hangs
FOLDERS = {
    "pydicom": Path(pydicom.data.__file__).parent,
    "pydicom-data": Path(data_store.__file__).parent / "data",
}
PARTS = ("test_files", "charset_files")  # of pydicom's folder; the others hold its program
COLUMNS = ("file", "what its header says", "as it is", "called a chest film")


@dataclass(frozen=True)
class Outcome:
    """What became of a file."""

    kind: str  # score, refused, crash, hang
    message: str
    seconds: float


def files() -> Iterator[tuple[str, Path]]:
    """Every file of the two packages, not only those that are DICOM."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).parts
            included = package != "pydicom" or inside[0] in PARTS
            if path.is_file() and included and path.suffix not in (".py", ".pyc"):
                yield package, path


def scored(path: Path, folder: Path) -> Outcome:
    """`nofinding score FILE`, and what it said."""
    out, said, begin = folder / "scores", io.StringIO(), time.monotonic()
    command = ["score", str(path), "--model", "adult", "--no-maps", "--overwrite"]
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = nofinding([*command, "--out", str(out)])
    except TimeoutError:
        return Outcome("hang", f"no end after {SECONDS} s", SECONDS)
    except BaseException as error:
        return Outcome("crash", type(error).__name__, time.monotonic() - begin)
    finally:
        signal.alarm(0)
    seconds = time.monotonic() - begin
    lines = [line for line in said.getvalue().splitlines() if line.startswith("nofinding: ")]
    if code == 2 and len(lines) == 1 and "Traceback" not in said.getvalue():
        message = lines[0].removeprefix("nofinding: ").replace(f"{path} ", "")
        message = message.removeprefix(f"film {path.stem!r} ").partition("; not scored")[0]
        return Outcome("refused", message, seconds)
    if code != 0 or "Traceback" in said.getvalue():
        return Outcome("crash", f"exit code {code}, {len(lines)} lines", seconds)
    with (out / "scores.csv").open(newline="") as rows:
        row = next(csv.DictReader(rows))
    return Outcome("score", f"score {float(row['score']):.3f}, p {row['p_value']}", seconds)


def header(path: Path) -> Dataset | None:
    """The elements, or None where pydicom cannot read them."""
    try:
        return dcmread(path, force=path.suffix == ".dcm")
    except Exception:
        return None


def described(dataset: Dataset | None) -> str:
    """Modality, body part, size and transfer syntax, as far as they are told."""
    if dataset is None:
        return "not DICOM"
    words = [
        str(dataset.get("Modality") or "no modality"),
        str(dataset.get("BodyPartExamined") or ""),
    ]
    if "Rows" in dataset:
        words.append(f"{dataset.get('Columns')} x {dataset.get('Rows')}")
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    words.append(syntax.name.partition(" (")[0] if syntax else "no transfer syntax")
    return ", ".join(filter(None, words))


def disguised(dataset: Dataset | None, path: Path) -> bool:
    """Writes the file with a header that calls it a chest film, if it can be written."""
    if dataset is None or "PixelData" not in dataset:
        return False
    dataset.Modality, dataset.BodyPartExamined = "CR", "CHEST"
    try:
        dataset.save_as(path)
    except Exception:
        return False
    return True


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/odd-films.md"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, hang)
    tallies = (Counter(), Counter())
    slowest, lines, where = 0.0, [], ""
    named: set[str] = set()  # files that got a score
    about = machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for package, path in files():
            if package != where:
                lines += [
                    "",
                    f"## {package}",
                    "",
                    f"| {' | '.join(COLUMNS)} |",
                    "|---|---|---|---|",
                ]
                where = package
            dataset = header(path)
            description = described(dataset)
            outcomes = [scored(path, folder)]
            copy = folder / f"{path.stem}.dcm"
            if disguised(dataset, copy):
                outcomes.append(scored(copy, folder))
            for tally, outcome in zip(tallies, outcomes, strict=False):
                tally[outcome.kind] += 1
            slowest = max(slowest, *(outcome.seconds for outcome in outcomes))
            cells = [o.message if o.kind != "score" else f"**{o.message}**" for o in outcomes]
            name = path.relative_to(FOLDERS[package])
            named |= {f"`{name}`" for outcome in outcomes if outcome.kind == "score"}
            lines.append(f"| {' | '.join([f'`{name}`', description, *cells, ''][:4])} |")
            print(lines[-1], flush=True)
    options.out.write_text("\n".join([*summary(tallies, named, slowest, about), *lines]) + "\n")


def hang(*_: object) -> None:
    """Called by the alarm."""
    raise TimeoutError


def summary(
    tallies: tuple[Counter[str], Counter[str]], named: set[str], slowest: float, about: str
) -> list[str]:
    """The head of the page."""
    counted = [", ".join(f"{n} {kind}" for kind, n in tally.most_common()) for tally in tallies]
    return [
        "# Files that are no chest films",
        "",
        f"`python benchmarks/odd_films.py`. {about}.",
        "",
        "Every file of pydicom's test data that lies in its wheel, and of `pydicom-data`, through",
        "`nofinding score FILE --model adult`, one by one; then those that have pixels once more,",
        "with a header that calls them chest films (CR, CHEST).",
        "",
        f"- As they are: {counted[0]}.",
        f"- Called chest films: {counted[1]}.",
        f"- With a score, in either way: {', '.join(sorted(named)) or 'none'}.",
        f"- The slowest took {slowest:.1f} s, the loading of the model included.",
    ]


if __name__ == "__main__":
    main()
