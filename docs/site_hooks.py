"""What mkdocs does beyond its defaults: generated pages in the menu, equations, links out of docs/.

Equations become MathML, which browsers show by themselves. Files of the repository that pages link
to (measured results, model cards, SECURITY.md) become pages of the site below `repository/`, so
that every link leads somewhere, offline too.
"""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
OUTSIDE = ("SECURITY.md", "benchmarks/results/**/*.md", "src/nofinding/weights/**/*.md")
PICTURES = (".png", ".svg")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Puts every page of a folder where the menu has `FOLDER/*`."""
    config.nav = [_expanded(entry) for entry in config.nav]
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(inside) for title, inside in entry.items()}
    if isinstance(entry, list):
        return [_expanded(one) for one in entry]
    if entry.endswith("/*"):
        folder = entry[:-1]
        names = sorted(path.name for path in (ROOT / DOCS / folder).glob("*.md"))
        return [f"{folder}index.md", *(f"{folder}{n}" for n in names if n != "index.md")]
    return entry


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the repository's other Markdown files, and the pictures that they show."""
    for path in _outside():
        text = (ROOT / path).read_text(encoding="utf-8")
        page = _page_of(path)
        files.append(File.generated(config, page, content=_relinked(text, path, page)))
        for _, _, target in LINK.findall(text):
            picture = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            source = ROOT / picture
            if picture.endswith(PICTURES) and not picture.startswith(DOCS) and source.is_file():
                uri = f"repository/{picture}"
                if files.get_file_from_path(uri) is None:
                    files.append(File.generated(config, uri, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Turns links out of docs/ into links to the pages that stand for those files."""
    uri = page.file.src_uri
    if uri.startswith("repository/"):
        return markdown
    if uri == "changelog.md":
        changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        return _relinked(changes, "CHANGELOG.md", uri)
    return _relinked(markdown, DOCS + uri, uri)


def on_page_content(content: str, *, page: Any, config: Any, files: Any) -> str:
    """Puts MathML where the Markdown has LaTeX."""

    def mathml(match: re.Match[str]) -> str:
        latex = html.unescape(match[2])
        return str(convert(latex, display="inline" if match[1] == "span" else "block"))

    return EQUATION.sub(mathml, content)


def _outside() -> list[str]:
    paths = {path for pattern in OUTSIDE for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def _page_of(path: str) -> str:
    return f"repository/{path}"


def _relinked(text: str, path: str, page: str) -> str:
    """The text of a file of the repository, with its links as the page of the site needs them."""
    outside = set(_outside())
    here = posixpath.dirname(page)

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        name, hash_, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        if place == "README.md":
            place, hash_, anchor = f"{DOCS}index.md", "", ""
        if place == "CHANGELOG.md":
            place = f"{DOCS}changelog.md"
        if place.startswith(DOCS):
            uri = place.removeprefix(DOCS)
        elif place in outside or (place.endswith(PICTURES) and (ROOT / place).is_file()):
            uri = _page_of(place)
        else:  # a file that is no page: named, not linked
            return f"{label} (`{place}`)" if label != place else f"`{place}`"
        return f"{picture}[{label}]({posixpath.relpath(uri, here or '.')}{hash_}{anchor})"

    parts = FENCE.split(text)
    fences = FENCE.findall(text)
    linked = [LINK.sub(link, part) for part in parts]
    return "".join(a + b for a, b in zip(linked, [*fences, ""], strict=True))
