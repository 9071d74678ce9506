"""The documentation against the program: nothing undocumented, nothing stale, nothing broken.

Command lines are parsed by the real parsers, not run. All Python that the pages show is run.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nofinding.api import Model
from nofinding.cli import COMMANDS, completed, parser_of
from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats, read_fields
from nofinding.datasets import SOURCES
from nofinding.methods import METHODS, Detector
from nofinding.types import Batch, Exam, Pixels

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDS_PAGE = ROOT / "docs" / "commands" / "index.md"
METHODS_PAGE = ROOT / "docs" / "methods" / "index.md"
EXAMPLES_PAGE = ROOT / "docs" / "add-a-method.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def load(path: Path, name: str) -> ModuleType:
    """The file as a module of that name; dataclasses want to find it in sys.modules."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, language: str) -> list[str]:
    """What stands in the fenced blocks of one language."""
    result = FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for said, body in result if said == language]


def command_lines() -> Iterator[tuple[str, str]]:
    """(page, line) of every command of ours in a block without a language."""
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(nofinding|torchrun) ", line):
                    yield page.relative_to(ROOT).as_posix(), line


LINES = list(command_lines())
parser = cache(parser_of)  # each is asked about several times


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return load(ROOT / "docs" / "make_commands.py", "make_commands")


@pytest.fixture(scope="module")
def method_maker(maker: ModuleType) -> ModuleType:  # which imports make_commands
    return load(ROOT / "docs" / "make_methods.py", "make_methods")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[ModuleType]:
    """The method and the source of docs/add-a-method.md."""
    folder = tmp_path_factory.mktemp("adding")
    modules = []
    for index, text in enumerate(blocks(EXAMPLES_PAGE, "python")):
        path = folder / f"adding_{index}.py"
        path.write_text(text, encoding="utf-8")
        modules.append(load(path, path.stem))
    return modules


@pytest.mark.parametrize("kind", ["commands", "methods"])
def test_generated_pages_are_what_the_program_says(
    kind: str, maker: ModuleType, method_maker: ModuleType
) -> None:
    expected = (maker if kind == "commands" else method_maker).pages()
    there = {
        path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / kind).glob("*.md")
    }
    assert there.keys() == expected.keys(), f"run .venv/bin/python docs/make_{kind}.py"
    stale = [name for name, text in expected.items() if there[name] != text]
    assert not stale, f"stale: {stale}; run .venv/bin/python docs/make_{kind}.py"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_where_it_comes_from(name: str) -> None:
    notes = METHODS[name].notes
    for words in (notes.paper, notes.program, notes.ours):
        assert words.strip().endswith("."), f"{name}: {words!r} is no whole sentence"


@pytest.mark.parametrize("name", [*COMMANDS, *METHODS])
def test_every_option_is_on_the_page_and_says_what_it_is(name: str, maker: ModuleType) -> None:
    method = name if name in METHODS else None
    page = ROOT / "docs" / ("methods" if method else "commands") / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    own = parser("fit", method) if method else parser(name)
    assert own.description
    for action in maker.documented(own):
        if method and not maker.is_of_method(action):
            continue
        assert (action.help or "").strip(), f"{name}: no docstring under {action.dest}"
        for option in action.option_strings or [str(action.metavar)]:
            assert re.search(rf"^\| `[^|]*{re.escape(option)}[`, ]", text, re.MULTILINE), (
                f"{name}: {option} is not documented"
            )


def test_every_command_and_method_is_on_the_index() -> None:
    commands, methods = (p.read_text(encoding="utf-8") for p in (COMMANDS_PAGE, METHODS_PAGE))
    for name in COMMANDS:
        assert f"\n| [nofinding {name}]({name}.md) | " in commands
    for name, cls in METHODS.items():
        assert f"\n| [{name}]({name}.md) | {cls.summary} | " in methods


def rows_of(page: Path) -> dict[str, str]:
    """The rows of all tables of a page, by the name in the first cell."""
    rows = re.findall(r"^\| `([^`]+?):?` (\|.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


def test_methods_page_says_what_each_is_told() -> None:
    text = METHODS_PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[([\w-]+)\]\([\w-]+\.md\) (\|.*)$", text, re.MULTILINE))
    everything = Exam(image_id="a", patient_id="a", pixels=Noise(0), ehr=dict.fromkeys(FIELDS, 1.0))
    stats = EhrStats.of([everything], list(FIELDS.values()))
    for name, cls in METHODS.items():
        uses_ehr = cls(cls.PRESETS["small"], stats).uses_ehr  # the preset that is fitted by default
        assert f"| {cls.supervision} | {'yes' if uses_ehr else 'no'} |" in rows[name]


def test_every_field_of_the_ehr_is_explained() -> None:
    rows = rows_of(ROOT / "docs" / "ehr.md")
    for name, field in FIELDS.items():
        assert name in rows, f"docs/ehr.md has no row for {name}"
        assert (field.unit or ", ".join(field.categories)) in rows[name]
        assert (field.loinc or "") in rows[name]
        limits = "" if field.low is None else f"{field.low:g} to {field.high:g}"
        assert f"| {limits} |" in rows[name].replace("| |", "|  |")


@pytest.mark.parametrize("name", [*SOURCES])
def test_every_source_is_explained(name: str) -> None:
    assert name in rows_of(COMMANDS_PAGE)
    pages = [page for page in PAGES if page != COMMANDS_PAGE]
    assert any(f"{name}:" in page.read_text(encoding="utf-8") for page in pages)


def test_every_preset_is_on_the_page_of_its_method() -> None:
    for name, cls in METHODS.items():
        text = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
        presets = text.split("\n## Presets\n")[1]
        for preset in cls.PRESETS:
            assert f"\n| `{preset}` |" in presets, f"{name}: preset {preset} is not documented"


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), f"{page.name}: {target} leads out of the repository"
        assert file.exists(), f"{page.name}: {target} does not exist"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}: no such heading"


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f": {page.name}\n" in menu, f"mkdocs.yml: nav lacks {page.name}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as a site, with warnings as errors."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = subprocess.run([*words, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_shows_the_docstrings(site: Path) -> None:
    page = re.sub("<[^>]+>", "", (site / "api" / "index.html").read_text(encoding="utf-8"))
    assert Model.__doc__ is not None and Model.__doc__.split(".")[0] in page


def test_the_site_asks_nothing_of_other_sites(site: Path) -> None:
    """A link may lead elsewhere; what a browser loads by itself may not. The theme's own program
    would load Mermaid for an element of that class."""
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    styles = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert len(pages) > 100 and styles
    loads = re.compile(
        r"<(?:script|link|img|iframe|source|object|embed|video|audio)\b[^>]*"
        r"(?:src|href|data)=[\"']?(?:https?:)?//[^>]*>"
    )
    loaded = [tag for text in pages.values() for tag in loads.findall(text)]
    assert [tag for tag in loaded if 'rel="canonical"' not in tag] == []
    assert not any(
        re.search(r"(?:url\(|@import)[\s\"']*(?:https?:)?//", t) for t in styles.values()
    )
    assert not any(re.search(r'class="[^"]*\bmermaid\b', text) for text in pages.values())


def test_equations_of_the_site_are_mathml(site: Path) -> None:
    text = (site / "diff3m" / "index.html").read_text(encoding="utf-8")
    assert text.count("<math ") > 50
    assert "arithmatex" not in text and "\\bar" not in text


def test_the_diagrams_are_what_the_program_draws() -> None:
    diagrams = load(ROOT / "docs" / "make_diagrams.py", "make_diagrams").files()
    shown = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name, text in diagrams.items():
        assert (ROOT / "docs" / "images" / name).read_text(encoding="utf-8") == text, name
        assert f"(images/{name})" in shown


PYTHON_PAGES = [page for page in PAGES if page != EXAMPLES_PAGE and blocks(page, "python")]


def test_the_pages_hold_python() -> None:
    assert {page.name for page in PYTHON_PAGES} >= {"README.md", "index.md", "python.md"}


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_of_the_pages_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pytest.importorskip("data_store")
    film = next(Path(store.__file__).parent.rglob("RG1_J2KI.dcm"))  # a real one
    shutil.copyfile(film, tmp_path / "film.dcm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOFINDING_CACHE", str(tmp_path / "cache"))
    namespace: dict[str, Any] = {}
    for number, text in enumerate(blocks(page, "python")):
        exec(compile(text, f"{page.name}, block {number}", "exec"), namespace)


def test_every_file_and_test_of_the_threat_model_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.count("|") == 5 and "---" not in line]
    measures = [row for row in rows if "proven by" not in row]
    assert len(measures) > 20
    for row in measures:
        _, _, _, files, tests, _ = row.split("|")
        assert re.findall(r"`([^`]+\.py)`", files) and re.findall(r"`[^`]+::[^`]+`", tests), row
    for file in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / "src" / "nofinding" / file).is_file(), file
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    for file, test in named:
        content = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in content, f"{file}::{test}"


@pytest.fixture
def beside_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages show, each under the name in its first line."""
    for page in PAGES:
        for text in blocks(page, "yaml"):
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_hold_command_lines() -> None:
    shown = {line.split()[1] for _, line in LINES if line.startswith("nofinding ")}
    assert {"fit", "score", "evaluate", "import-official"} <= shown


@pytest.mark.parametrize(
    ("page", "line"), LINES, ids=[f"{p}-{i}" for i, (p, _) in enumerate(LINES)]
)
@pytest.mark.usefixtures("beside_the_examples")
def test_command_lines_parse(page: str, line: str) -> None:
    words = shlex.split(line.split(" > ")[0], comments=True)
    words = words[words.index("nofinding") + 1 :]
    command, given = words[0], [word for word in words[1:] if word != "--print_config"]
    assert command in COMMANDS
    given = completed(command, given)
    method = preset = None
    if command == "fit":
        method = given[0]
        assert method in METHODS, f"{page}: {line}"
        preset = given[given.index("--preset") + 1] if "--preset" in given else "small"
        assert preset in METHODS[method].PRESETS, f"{page}: {line}"
    own = parser(command, method, preset)
    parsed = own.parse_args(given)  # ArgumentError where it does not parse
    if method is not None:
        config = own.instantiate(parsed).method
        if not preset.startswith("paper"):  # that network is large
            METHODS[method](config, EhrStats.of([], list(FIELDS.values())))
    films = getattr(parsed, "films", None) or []
    for spec in [films] if isinstance(films, str) else films:
        assert spec.split(":")[0] in SOURCES, f"{page}: {line}"


def test_field_files_are_read(beside_the_examples: Path) -> None:
    for name in ("fields.yaml", "my-fields.yaml"):
        fields = read_fields(beside_the_examples / name)
        assert {"creatinine", "smoker"} <= fields.keys() - FIELDS.keys()
        assert fields["age"].high == 110


def test_the_table_of_the_tutorial_is_read(tmp_path: Path) -> None:
    (text,) = blocks(ROOT / "docs" / "tutorial.md", "csv")
    file = tmp_path / "films.csv"
    file.write_text(text, encoding="utf-8")
    exams = {r.image_id: r for r in SOURCES["table"].read(str(file), FIELDS)}
    assert exams["a-01"].ehr["height"] == pytest.approx(177.8)
    assert exams["a-03"].ehr["age"] == pytest.approx(8 / 12)
    assert exams["a-02"].findings == exams["a-05"].findings == frozenset()
    assert exams["a-04"].findings == {"Effusion", "Cardiomegaly"}
    assert exams["a-04"].lesion is not None
    assert not any(r.flags for r in exams.values())


class Noise:
    """A film of noise around a grey gradient; the last one has a bright square."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        film = np.linspace(0.2, 0.6, 40)[:, None] + 0.03 * rng.standard_normal((40, 40))
        if self.seed == 99:
            film[10:20, 10:20] = 1.0
        return np.clip(film, 0, 1).astype(np.float32)


def noise_films(seeds: range) -> list[Exam]:
    return [
        Exam(
            image_id=f"film-{seed}",
            patient_id=f"p-{seed}",
            pixels=Noise(seed),
            ehr={"age": 30.0 + seed} if seed % 2 else {},
            findings=frozenset(),
        )
        for seed in seeds
    ]


def test_the_example_of_a_method_is_one(examples: list[ModuleType]) -> None:
    kind = examples[0].MedianFilm
    train = noise_films(range(12))
    stats = EhrStats.of(train, [FIELDS["age"], FIELDS["sex"]])
    config = kind.PRESETS["tiny"]
    assert kind.PRESETS["small"] == kind.Config()
    detector = kind(config, stats)
    assert isinstance(detector, Detector)
    detector.fit(Films(train, stats, config.image_size))
    batch = Films(noise_films(range(95, 100)), stats, config.image_size).batch(range(5))
    scores = detector.score(batch, seed=1)
    assert scores.score.argmax() == 4  # the one with a square
    assert scores.anomaly_map is not None and scores.anomaly_map.shape == batch.image.shape
    assert scores.anomaly_map.min() >= 0
    assert scores.reconstruction is not None and scores.reconstruction.abs().max() <= 1
    for row in range(5):
        alone = Batch(*(x[row : row + 1] for x in (batch.image, batch.ehr, batch.known, batch.ids)))
        torch.testing.assert_close(detector.score(alone).score[0], scores.score[row])
    again = kind(config, stats)
    again.load_state(detector.state())
    assert torch.equal(again.score(batch).score, scores.score)


def test_the_example_of_a_source_is_one(examples: list[ModuleType], tmp_path: Path) -> None:
    source = examples[1].FOLDERS
    for name in ("train/normal/p1-1", "test/normal/p2-1", "test/Pneumonia/p3-1"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 99, np.uint8)).save(path)
    exams = list(source.read(str(tmp_path), FIELDS))
    assert [(r.patient_id, r.split, r.findings) for r in exams] == [
        ("p1", "train", frozenset()),
        ("p3", "test", frozenset({"Pneumonia"})),
        ("p2", "test", frozenset()),
    ]
    assert exams[0].pixels().shape == (8, 8)
    assert source.offers(str(tmp_path), FIELDS) == ()
