"""Files are listed and printed whatever they are called."""

from pathlib import Path

import pytest

from nofinding.storage.file_names import as_path, as_text, printed, safe_id
from nofinding.storage.folder_walk import walk_files

ODD = ["no\u00a0break", "wide\u3000", "thin\u202f", "zero\u200b", "soft\u00ad", "R\udcf6ntgen",
       "turned\u202e", "\ufeff", "private\uef80", "line\nbreak", "\x1b[31m"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_name_comes_back_from_text_byte_for_byte(name: str) -> None:
    text = as_text(name)
    assert text.encode("utf-8") and as_path(text) == name
    assert safe_id(name).isascii() and safe_id(name).isprintable()


def test_what_is_printed_moves_no_cursor() -> None:
    assert printed("R\udcf6ntgen\u3000\x1b[31m\u202e\n.png") == (
        "R\\xf6ntgen\u3000\\x1b[31m\\u202e\\x0a.png"
    )
    assert safe_id("a\u00a0b") == "a%C2%A0b" and safe_id("R\udcf6") == "R%F6"
    assert safe_id("schön 1") == printed("schön 1") == "schön 1"


@pytest.mark.parametrize("name", ODD)
def test_every_file_is_walked_and_everything_below_a_folder_so_named(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / f"{name}.png").write_bytes(b"x")
    (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / name / "below" / "a.png").write_bytes(b"x")
    assert {w.path for w in walk_files(tmp_path)} == {f"{name}.png", f"{name}/below/a.png"}


def test_links_and_hidden_names_are_listed_with_their_kind(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "a").mkdir(parents=True)
    outside.mkdir()
    for file in (inside / "a" / "1", outside / "2", inside / ".h"):
        file.write_bytes(b"x")
    (inside / "file").symlink_to(outside / "2")
    (inside / "folder").symlink_to(outside)
    (inside / "again").symlink_to(inside / "a")
    (inside / "up").symlink_to(inside)  # without end, if it were entered
    kinds = {w.path: w.kind for w in walk_files(inside)}
    assert kinds.pop(".h") == "hidden"
    assert kinds.pop("file") == "link out" and kinds.pop("folder") == "folder link"
    assert [*kinds.values()] == ["file"] and next(iter(kinds)).endswith("1")
    everything = {w.path for w in walk_files(inside, links="always", hidden=True)}
    assert {".h", "file", "folder/2"} <= everything
    never = {w.path: w.kind for w in walk_files(inside, links="never")}
    assert never["again"] == never["up"] == never["folder"] == "folder link"
