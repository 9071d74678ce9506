"""The design's rules on folders, names and imports: what readers may rely on."""

import ast
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
WATCHED = ("src", "tests", "benchmarks", "scripts", "docs")
# Words of the private dialect, and what took their place: docs/glossary.md.
RETIRED = {
    *("told", "found", "made", "seen", "wanted", "chosen", "kept"),
    *("Record", "Job", "Eye", "Chosen", "Unfinished", "Ruled", "Assembly"),
    *("ruled", "meet", "trivial"),
}
MOST_FILES = 20
# A method is called as its paper calls it.
PAPERS = "src/nofinding/methods/"


def files(*suffixes: str) -> list[Path]:
    """The files under git, which are what a reader sees."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *WATCHED],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix in (suffixes or path.suffix)]


def identifiers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that a file binds, reads or imports from within, and its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.keyword(arg=str(name)):
                yield name, node.value.lineno
            case ast.alias(name=name, asname=bound):
                yield name.rpartition(".")[2], node.lineno
                yield bound or "", node.lineno
            case _:
                pass


def faults(text: str) -> list[tuple[str, int]]:
    """The retired identifiers of a file."""
    return [(name, line) for name, line in identifiers(ast.parse(text)) if name in RETIRED]


@pytest.mark.parametrize(
    "text",
    [
        "told = 1",
        "def f(found): ...",
        "f(kept=1)",
        "x.made",
        "print(f'{seen}')",
        "from a import Record",
        "import a as chosen",
        "class Job: ...",
    ],
)
def test_a_retired_identifier_is_seen(text: str) -> None:
    assert faults(text)


def test_words_in_prose_and_in_data_are_free() -> None:
    assert not faults('"""What was found."""\nx = row["made"]  # kept for the reader')


def test_no_retired_identifier() -> None:
    retired = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files(".py")
        for name, line in faults(path.read_text(encoding="utf-8"))
    ]
    assert not retired


def test_no_folder_is_crowded() -> None:
    folders = defaultdict(list)
    for path in files():
        if path.suffix in (".py", ".js", ".css", ".j2", ".md"):
            folders[path.parent].append(path.name)
    crowded = {
        str(folder.relative_to(ROOT)): len(names)
        for folder, names in folders.items()
        if len(names) > MOST_FILES and folder.parts[len(ROOT.parts)] in ("src", "tests")
    }
    assert not crowded


def test_no_two_files_differ_by_a_suffix() -> None:
    """Nobody can tell what `fhir_reading` is beside `fhir`. Methods keep their papers' names."""
    modules = [path for path in files(".py") if path.is_relative_to(ROOT / "src")]
    names = defaultdict(set)
    for path in modules:
        if not path.is_relative_to(ROOT / PAPERS):
            names[path.parent].add(path.stem)
    pairs = [
        (str(folder.relative_to(ROOT)), short, long)
        for folder, stems in names.items()
        for short in stems
        for long in stems
        if long.startswith(f"{short}_") or long in (f"{short}s", f"{short}er", f"{short}ing")
    ]
    assert not pairs


def test_no_circular_import() -> None:
    graph = grimp.build_graph("nofinding", exclude_type_checking_imports=True, cache_dir=None)
    above: dict[str, set[str]] = {}
    for module in graph.modules:
        above[module] = graph.find_upstream_modules(module)
    circles = sorted(module for module, others in above.items() if module in others)
    assert not circles


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(name), level=0):
                yield name
                yield from (f"{name}.{alias.name}" for alias in node.names)
            case _:
                pass


@pytest.mark.parametrize(
    ("modules", "home"),
    [
        ({"fcntl"}, "nofinding.storage.lock"),
        ({"requests", "urllib3", "urllib.request", "http.client", "httpx", "aiohttp"},
         "nofinding.net.http"),
    ],
)  # fmt: skip
def test_each_once(modules: set[str], home: str) -> None:
    """Locks are taken in one place, and one module asks over HTTP; annotations need no import."""
    users = set()
    for path in files(".py"):
        if path.is_relative_to(ROOT / "src"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            typed = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
            typed = [node for node in typed if ast.unparse(node.test) == "TYPE_CHECKING"]
            for node in typed:
                node.body.clear()
            if any(name == m or name.startswith(f"{m}.") for name in imported(tree)
                   for m in modules):  # fmt: skip
                users.add(str(path.relative_to(ROOT / "src").with_suffix("")))
    assert users == {home.replace(".", "/")}


def test_one_module_puts_files_in_place() -> None:
    """What replaces a file is written whole first: `storage/atomic.py` does that for everyone."""
    users = {
        str(path.relative_to(ROOT / "src"))
        for path in files(".py")
        if path.is_relative_to(ROOT / "src")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.replace", "os.rename"))
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "replace"
            and len(node.args) == 1  # of a path, not of a text
            and not node.keywords
        )
    }
    assert users == {"nofinding/storage/atomic.py"}
