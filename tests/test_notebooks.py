"""Every notebook of docs/notebooks runs from top to bottom, and is shipped without outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    notebook: list[dict[str, Any]] = content["cells"]
    return notebook


def show(value: Any) -> None:
    """What Jupyter does with the last expression of a cell."""
    for name in ("_repr_html_", "__repr__"):
        if hasattr(value, name):
            assert isinstance(getattr(value, name)(), str | None)  # None: shown otherwise


def run(source: str, namespace: dict[str, Any], name: str) -> None:
    """Runs a cell, and shows its last expression if it ends with one."""
    tree = ast.parse(source, name)
    last = tree.body[-1]
    ends = isinstance(last, ast.Expr)
    body = ast.Module(tree.body[:-1] if ends else tree.body, type_ignores=[])
    exec(compile(body, name, "exec"), namespace)
    if isinstance(last, ast.Expr):
        expression = compile(ast.Expression(last.value), name, "eval")
        show(eval(expression, namespace))  # noqa: S307  # of our own notebooks


def test_the_four_notebooks_are_there() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_shipped_without_outputs(path: Path) -> None:
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.name.startswith("1"):
        pytest.importorskip("data_store")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path / "cache"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path)):
        if cell["cell_type"] == "code":
            run("".join(cell["source"]), namespace, f"{path.name}, cell {number}")
