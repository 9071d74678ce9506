"""Every published protocol is read and documented; a faulty one is named by file and key."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

import nofinding.recipes
from nofinding.cli import main
from nofinding.errors import UserError
from nofinding.methods import METHODS
from nofinding.recipes import Recipe, read_recipe, recipe_of, recipes, shown
from nofinding.types import Supervision

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(Path(nofinding.recipes.__file__).parent.glob("*.yaml"))


def test_the_recipes_are_those_of_the_folder() -> None:
    assert list(recipes()) == [file.stem for file in FILES]
    assert {
        "chexpert-diff3m",
        "chexpert-squid",
        "mimic-diff3m",
        "rsna-bmad",
        "rsna-medad",
        "vindr-medad",
        "zhanglab",
    } <= set(recipes())


@pytest.mark.parametrize("recipe", recipes().values(), ids=list(recipes()))
def test_a_recipe_is_whole(recipe: Recipe) -> None:
    counts = (
        recipe.expects.train_normal,
        recipe.expects.test_normal,
        recipe.expects.test_abnormal,
    )
    assert all(count is None or count > 0 for count in counts)
    assert recipe.evaluated_split == "test"
    assert recipe.image_size is None or 32 <= recipe.image_size <= 1024
    assert recipe.published
    for figure in recipe.published:
        assert 0 < figure.value < 1
        assert figure.source and figure.method
        assert figure.metric == recipe.metric
    values = [(f.method, f.detail, f.metric) for f in recipe.published]
    assert len(set(values)) == len(values)


def test_a_method_of_ours_exists_and_is_told_what_the_published_one_was() -> None:
    for recipe in recipes().values():
        for figure in recipe.published:
            if figure.ours is None:
                continue
            assert figure.ours in METHODS, f"{recipe.name}: {figure.method}: {figure.ours}"
            assert METHODS[figure.ours].supervision == figure.supervision


def test_counts_and_figures_of_the_papers() -> None:
    expects = {n: r.expects for n, r in recipes().items()}
    metadata = {n: (e.train_normal, e.test_normal, e.test_abnormal) for n, e in expects.items()}
    assert metadata["zhanglab"] == (1349, 234, 390)
    assert metadata["rsna-medad"] == (3851, 1000, 1000)
    assert metadata["vindr-medad"] == (4000, 1000, 1000)
    assert metadata["mimic-diff3m"] == (29310, 487, 1646)
    assert metadata["chexpert-diff3m"] == (16969, 26, 176)
    (squid,) = (f for f in recipe_of("zhanglab").published if f.method == "SQUID")
    assert squid.value == 0.876 and squid.verified
    assert [f.value for f in recipe_of("mimic-diff3m").figures_of("diff3m")] == [0.61, 0.617]
    assert recipe_of("zhanglab").figures_of("thumbnail") == ()
    pretrained = [f for f in recipe_of("zhanglab").published if "CheXzero" in f.method]
    assert [f.supervision for f in pretrained] == [Supervision.REPORT_PRETRAINED]


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load(FILES[-1].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"summary": None}, "summary: must be text"),
        ({"summary": " "}, "summary: must be text"),
        ({"aspect": "crop"}, "aspect: 'crop' is not one of pad, squash"),
        ({"evaluated_split": "all"}, "evaluated_split: 'all' is not one of train, val, test"),
        ({"image_size": 0}, "image_size: 0 is not a whole number above 0, nor null"),
        ({"image_size": True}, "image_size: True is not a whole number"),
        ({"image_size": [64]}, "image_size: [64] is not a whole number"),
        ({"metric": "dice"}, "metric: 'dice' is not one of auroc, ap"),
        ({"metric": ["auroc"]}, "metric: ['auroc'] is not one of auroc, ap"),
        ({"remarks": "one"}, "remarks: must be a list of texts"),
        ({"unverified": ["sizes"]}, "unverified: 'sizes' is not one of aspect, cohort, dataset"),
        ({"expects": 5}, "expects: must map"),
        ({"expects": {"train_normal": 1}}, "expects: has no key 'test_abnormal'"),
        (
            {"expects": {"train_normal": -1, "test_normal": 1, "test_abnormal": 1}},
            "expects: train_normal: -1 is not a whole number above 0",
        ),
        ({"published": []}, "published: must be a list of figures"),
        ({"published": ["AE"]}, "published 1: must map"),
        ({"colour": "grey"}, "'colour' is not one of aspect"),
    ],
)
def test_a_faulty_recipe_is_named(
    tmp_path: Path, content: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content | change), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_recipe(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 77.8}, "published 2: value: 77.8 is not a number from 0 to 1"),
        ({"value": "0.8"}, "value: '0.8' is not a number"),
        ({"value": float("nan")}, "value: nan is not a number"),
        ({"verified": 1}, "verified: must be true or false"),
        ({"ours": 5}, "ours: must be text"),
        ({"supervision": "weak"}, "supervision: 'weak' is not one of none, normal-only"),
        ({"source": ""}, "source: must be text"),
        ({"metric": "dice"}, "metric: 'dice' is not one of auroc, ap"),
        ({"year": 2023}, "published 2: 'year' is not one of detail"),
    ],
)
def test_a_faulty_figure_is_named(
    tmp_path: Path, content: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    file = tmp_path / "mine.yaml"
    content["published"][1] |= change
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_recipe(file)
    assert said in str(caught.value)


def test_what_is_no_recipe_at_all(tmp_path: Path, content: dict[str, Any]) -> None:
    for text in ("[", "- a", "", "\x00"):
        file = tmp_path / "bad.yaml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"bad\.yaml"):
            read_recipe(file)
    with pytest.raises(UserError, match=r"absent\.yaml: cannot be read"):
        read_recipe(tmp_path / "absent.yaml")
    del content["published"][0]["ours"]  # whether there is one must be said
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match="published 1: has no key 'ours'"):
        read_recipe(file)
    with pytest.raises(UserError, match="recipe brains: there is none; there are chexpert"):
        recipe_of("brains")


def test_the_command_lists_all_and_shows_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in recipes())
    for name, recipe in recipes().items():
        assert main(["recipes", name]) == 0
        text = capsys.readouterr().out
        assert text.strip() == shown(recipe)
        for figure in recipe.published:
            assert figure.method in text and f"{figure.value:.3f}" in text and figure.source in text
        for key in ("split", "selection", "preparation", "counts"):
            assert f"\n{key}" in text
        assert text.count("(unverified)") == len(recipe.unverified)
    assert main(["recipes", "brains"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_page_is_what_the_recipes_say() -> None:
    path = ROOT / "docs" / "make_recipes.py"
    spec = importlib.util.spec_from_file_location("make_recipes", path)
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    page = path.with_name("recipes.md").read_text(encoding="utf-8")
    assert page == maker.text(), "stale: run .venv/bin/python docs/make_recipes.py"
    assert all(f"\n## {name}\n" in page for name in recipes())
