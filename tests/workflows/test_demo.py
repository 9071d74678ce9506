"""The demo on a cohort small enough for a test."""

import base64
import io
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from nofinding.cli import main
from nofinding.evaluation import assess
from nofinding.evaluation.report.demo_page import demo_html
from nofinding.evaluation.report.page import number
from nofinding.workflows.demo import demo

SECTIONS = ("record", "works", "does-not", "baselines", "real", "films", "cost")


def demo_module() -> ModuleType:
    """The module, which the function of the same name hides in the package."""
    return sys.modules[demo.__module__]


TINY = demo_module().Plan(
    films="train=20,val=5,test=10,abnormal=10",
    size=32,
    kinds=("conditional", "effusion"),
    preset="tiny",
    method_options={"parts": ("texture", "context", "record"), "conditioning": "normative"},
    repairing_preset="tiny",
    draws=100,
)


class Page(HTMLParser):
    """The ids, the addresses and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href"):
                self.sources.append(str(value))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny demo."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module(), "PLAN", TINY)
        patch.setattr(assess, "DETECTORS", ("mean-grey", "ae"))
        assert main(["demo", "--out", str(folder), "--threads", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page((out / "demo.html").read_text(encoding="utf-8"))


def test_the_page_has_its_sections_and_opens_with_the_record(page: Page) -> None:
    assert tuple(page.ids) == SECTIONS
    assert "PHANTOM" in page.text and "Not a medical device" in page.text
    for reader in ("radiologist", "researcher"):
        assert f"If you are a {reader}" in page.text


def test_the_page_needs_nothing_beside_itself(page: Page) -> None:
    assert not page.tags & {"script", "link", "iframe"}
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    pictures = [s for s in page.sources if s.startswith("data:image/png")]
    for source in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert min(picture.size) >= 1
    # Three kinds of film: as it is (at this size the default method has no map), and with map and
    # pseudo-healthy film; a colour scale; the real film and its map.
    real = 2 * (demo_module().real_film() is not None)
    assert len(pictures) == 3 + 3 * 3 + 1 + real


def test_its_figures_are_those_on_disk(out: Path, page: Page) -> None:
    numbers = json.loads((out / "demo.json").read_text())
    metrics = json.loads((out / "report" / "metrics.json").read_text())
    repaired = json.loads((out / "diff3m-report" / "metrics.json").read_text())
    compared = numbers["comparison"]
    for arm in ("record", "withheld", "difference"):
        value, low, high = (number(compared[arm][key]) for key in ("value", "low", "high"))
        assert re.search(rf"{value}\s+{low} to {high}", page.text), arm
    conditional = next(f for f in metrics["findings"] if f["name"] == "conditional")
    assert compared["record"]["value"] == pytest.approx(conditional["auroc"]["value"])
    assert (compared["normal"], compared["abnormal"]) == (10, 10)
    for row in (*metrics["rows"], repaired["rows"][0]):
        assert row["name"] in page.text
        if not row["skipped"]:
            assert number(row["metrics"]["auroc"]["value"]) in page.text
    assert "not run: takes minutes" in page.text  # the autoencoder
    for verdict in metrics["verdicts"]:
        assert verdict["sentence"] in page.text
    called = metrics["calibration"]["normal"]["0.05"]
    assert f"Of the {called['n']} normal test films {called['k']} have p ≤ 0.05" in page.text
    assert numbers["decided"]["said"] in page.text
    for stage, seconds in numbers["cpu_seconds"].items():
        assert f"{stage} {number(seconds, 1)}" in page.text and seconds > 0


def test_what_works_is_decided_by_intervals() -> None:
    finding = {"n_abnormal": 10, "auroc": {"value": 0.7, "low": 0.6, "high": 0.8}}
    chance = {"n_abnormal": 10, "auroc": {"value": 0.55, "low": 0.4, "high": 0.7}}
    row = {
        "name": "ours",
        "supervision": "none",
        "skipped": "",
        "network_calls": 2.0,
        "metrics": dict.fromkeys(("auroc", "ap", "sensitivity_at_90"), finding["auroc"]),
    }
    metrics = {
        "films": {"evaluated": 30, "normal": 10, "abnormal": 20},
        "findings": [{"name": "mass", **finding}, {"name": "nodule", **chance}],
        "verdicts": [
            {"beats": True, "sentence": "ours beats a."},
            {"beats": False, "sentence": "ours does not beat b."},
        ],
        "calibration": {"normal": {"0.05": {"n": 10, "k": 1, "value": 0.1, "low": 0, "high": 0.4}}},
        "rows": [row],
        "bootstrap": {"seed": 0, "draws": 100},
    }
    for low, sentence in ((0.01, "The record helps"), (-0.01, "No help of the record is shown")):
        compared = {
            **dict.fromkeys(("record", "withheld"), finding["auroc"]),
            "difference": {"value": 0.1, "low": low, "high": 0.2},
            "normal": 10,
            "abnormal": 10,
        }
        filled = demo_module().DemoPage(
            source="phantom:",
            method="ours",
            repairing="other",
            record_kind="conditional",
            comparison=compared,
            decided={"said": "So it is."},
            metrics=metrics,
            repaired={"rows": [row]},
            film=None,
            method_pictures=(),
            pictures=(),
            cpu_seconds={"all": 1.0},
        )
        html = demo_html(filled)
        assert sentence in html
        works, _, rest = html.partition('id="does-not"')
        rest = rest.partition('id="baselines"')[0]
        assert "mass" in works and "ours beats a." in works
        assert "nodule" in rest and "ours does not beat b." in rest and "mass" not in rest


def test_its_own_folder_is_replaced_and_no_other(
    out: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    assert "not a demo's" in refused("demo", "--out", tmp_path)
    assert (tmp_path / "model" / "precious").exists()
    own = tmp_path / "own"
    own.mkdir()
    for name in (demo_module().MARK, "old"):
        (own / name).touch()
    demo_module()._make_folder(own)
    assert [path.name for path in own.iterdir()] == [demo_module().MARK]


def test_the_real_film_is_scored_if_it_is_there(out: Path) -> None:
    assert (out / "real-film" / "scores.csv").exists() == (demo_module().real_film() is not None)
