"""The viewer's own files: nothing from elsewhere, no HTML out of text, colours that can be read."""

import re
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import pytest

import nofinding.service

VIEWER = Path(nofinding.service.__file__).parent / "viewer"
FILES = sorted(file for file in VIEWER.rglob("*") if file.is_file())
DOCS = Path(__file__).parents[2] / "docs" / "viewer.md"
FROM_TEXT = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\("


def scripts() -> dict[str, str]:
    return {file.name: file.read_text() for file in FILES if file.suffix == ".js"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_comes_from_elsewhere_or_out_of_text(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|\burl\(", text)
    assert not re.search(FROM_TEXT, text)
    assert len(text.splitlines()) <= 300


def test_the_page_has_nothing_that_the_security_policy_forbids() -> None:
    page = (VIEWER / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son[a-z]+=|<style", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    assert all("style:" not in text and '"style"' not in text for text in scripts().values())


def test_every_module_that_is_imported_is_there_and_used() -> None:
    names = {
        name
        for text in scripts().values()
        for name in re.findall(r'from "[./\w]*/(\w+\.js)"', text)
    }
    assert names | {"app.js"} == set(scripts())
    for text in scripts().values():
        for imported in re.findall(r"import \{([^}]+)\}", text):
            for name in imported.split(","):
                assert len(re.findall(rf"\b{name.strip()}\b", text)) > 1, name


def test_every_key_is_in_the_docs() -> None:
    keys = re.findall(r'\["(\S+)", "\w+", "([^"]+)"\]', scripts()["keys.js"])
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert len(keys) > 35 and rows == keys


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2, 1.4.3."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_a_contrast_of_7_and_edges_one_of_3() -> None:
    root = (VIEWER / "viewer.css").read_text().partition("}")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", root))
    for ground in ("ground", "panel"):
        for text in ("text", "soft", "blue", "amber", "red"):
            assert contrast(colours[text], colours[ground]) >= 7, (text, ground)
        for mark in ("edge", "ring"):
            assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)


def test_the_colours_of_the_map_are_those_of_inferno_and_rise_in_brightness() -> None:
    table = re.search(r"const STOPS = \[(.*?)\];", scripts()["colours.js"], re.DOTALL)
    assert table is not None
    stops = [
        tuple(map(int, stop)) for stop in re.findall(r"\[(\d+), (\d+), (\d+)\]", table.group(1))
    ]
    inferno = mpl.colormaps["inferno"]
    for index, stop in enumerate(stops):
        expected = [255 * part for part in inferno(index / (len(stops) - 1))[:3]]
        assert stop == pytest.approx(expected, abs=1)
    light = [luminance("#{:02x}{:02x}{:02x}".format(*stop)) for stop in stops]
    assert all(low < high for low, high in pairwise(light))
