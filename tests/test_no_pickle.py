"""No pickle is read, anywhere in the package: by what its files import and call."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nofinding

SOURCE = Path(nofinding.__file__).parent
UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
NAMES = {"read_pickle", "load_pickle", "Unpickler", "unsafe_load", "full_load", "UnsafeLoader"}


def faults(text: str) -> Iterator[str]:
    """Where a file could read a pickle, or run what a file says: "line 3: import pickle"."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {(node.module or "").split(".")[0]}
            modules |= NAMES & {alias.name for alias in node.names}
        else:
            modules = set()
        for module in modules & (UNPICKLING | NAMES):
            yield f"line {node.lineno}: import {module}"
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            yield f"line {node.lineno}: {node.attr}"
        if isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    metadata = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name == "torch.load" and metadata.get("weights_only") != "True":
        yield f"line {call.lineno}: {name} without weights_only=True"
    if name in ("np.load", "numpy.load") and metadata.get("allow_pickle") != "False":
        yield f"line {call.lineno}: {name} without allow_pickle=False"
    if name == "yaml.load":
        yield f"line {call.lineno}: {name}; use yaml.safe_load"
    if name in ("eval", "exec", "__import__", "compile"):
        yield f"line {call.lineno}: {name}"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "import numpy as np\nnp.load('a')",
        "np.load('a', allow_pickle=True)", "torch.load('a')", "torch.load('a', weights_only=False)",
        "pandas.read_pickle('a')", "from pandas import read_pickle", "yaml.load('a')",
        "def f():\n    import dill.source", "yaml.unsafe_load(x)", "eval('1')",
    ],
)  # fmt: skip
def test_what_reads_a_pickle_is_found(text: str) -> None:
    assert [*faults(text)]


def test_what_reads_none_is_let_through() -> None:
    text = "np.load(a, allow_pickle=False)\ntorch.load(a, weights_only=True)\nnet.eval()\n"
    assert [*faults(text + "yaml.safe_load(a)\nre.compile(a)\njson.load(a)")] == []


def test_no_file_of_the_package_reads_one() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 200
    message = {
        f"{file.relative_to(SOURCE)}: {fault}"
        for file in files
        for fault in faults(file.read_text(encoding="utf-8"))
    }
    assert message == set()
