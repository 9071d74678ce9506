"""What is written comes back bit for bit; what was damaged is refused in one line."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nofinding import __version__
from nofinding.errors import UserError
from nofinding.storage import checkpoint
from nofinding.storage.atomic import write_atomic

TENSORS = {
    "weight": torch.linspace(-1, 1, 6).reshape(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16) / 3,
    "count": torch.tensor(7),
    "known": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
}
META = {"config": {"steps": 3, "levels": (1, 2)}, "name": "größe", "low": None, "mean": 0.1}


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    stem = tmp_path / "deep" / "model-v1.2"
    checkpoint.save(stem, TENSORS, META)
    return stem


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(stem: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        checkpoint.load(stem)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_comes_back_bit_for_bit(stem: Path) -> None:
    assert files(stem.parent) == ["model-v1.2.json", "model-v1.2.safetensors"]
    tensors, meta = checkpoint.load(stem)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    digest = meta.pop("sha256")
    assert meta == json.loads(json.dumps(META))
    checkpoint.save(stem, tensors, {**meta, "sha256": "an old one"})
    assert checkpoint.load(stem)[1]["sha256"] == digest


def test_tied_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3).requires_grad_()
    checkpoint.save(tmp_path / "m", {"a": base, "b": base, "c": base.T}, {})
    tensors, _ = checkpoint.load(tmp_path / "m")
    assert torch.equal(tensors["a"], tensors["b"])
    assert torch.equal(tensors["c"], base.T)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_absent(stem: Path, suffix: str) -> None:
    stem.with_name(stem.name + suffix).unlink()
    refused(stem, stem.name + suffix)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_truncated(stem: Path, suffix: str) -> None:
    path = stem.with_name(stem.name + suffix)
    data = path.read_bytes()
    for length in (0, 1, 9, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:length])
        refused(stem, path.name)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_every_flipped_bit_is_found(stem: Path, suffix: str) -> None:
    path = stem.with_name(stem.name + suffix)
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        if data[place : place + 1].isspace():
            continue  # between two entries of the JSON, white space says nothing
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        refused(stem, "model-v1.2.")


def test_pair_that_does_not_belong_together(stem: Path) -> None:
    other = stem.with_name("other")
    checkpoint.save(other, {"weight": torch.zeros(1)}, META)
    Path(f"{other}.json").replace(f"{stem}.json")
    refused(stem, "model-v1.2.safetensors")


@pytest.mark.parametrize("text", ["[]", "null", "{}", "7", "[" * 100_000])
def test_json_of_another_kind(stem: Path, text: str) -> None:
    Path(f"{stem}.json").write_text(text)
    refused(stem, "model-v1.2.json")


@pytest.mark.parametrize(("name", "calls"), [("fsync", 0), ("fsync", 1), ("replace", 0)])
def test_full_disk_leaves_the_old_pair_whole(
    stem: Path, monkeypatch: pytest.MonkeyPatch, name: str, calls: int
) -> None:
    before = {path.name: path.read_bytes() for path in stem.parent.iterdir()}
    _fail(monkeypatch, name, after=calls)
    with pytest.raises(UserError, match="No space left on device") as caught:
        checkpoint.save(stem, {"weight": torch.zeros(9)}, {})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in stem.parent.iterdir()} == before
    checkpoint.load(stem)


def test_death_between_the_two_renames_is_found(
    stem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(monkeypatch, "replace", after=1)
    with pytest.raises(UserError):
        checkpoint.save(stem, {"weight": torch.zeros(9)}, {})
    refused(stem, "model-v1.2.safetensors")
    assert len(files(stem.parent)) == 2


def test_write_atomic_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b.bin"
    write_atomic(path, b"old")
    _fail(monkeypatch, "replace", after=0)
    with pytest.raises(UserError, match=r"b\.bin"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert files(path.parent) == ["b.bin"]


def test_write_atomic_where_a_file_stands_for_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "b.bin", b"new")


def test_data_is_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        _log(monkeypatch, name, calls)
    checkpoint.save(tmp_path / "m", TENSORS, META)
    assert calls == ["fsync", "fsync", "replace m.safetensors", "fsync", "replace m.json", "fsync"]


def test_code_version(tmp_path: Path) -> None:
    assert checkpoint.code_version().startswith(__version__)
    (tmp_path / "pyproject.toml").touch()
    assert checkpoint._commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert checkpoint._commit(tmp_path) is None
    (tmp_path / ".git" / "packed-refs").write_text("# pack\nabc123 refs/heads/main\n")
    assert checkpoint._commit(tmp_path) == "abc123"
    (tmp_path / ".git" / "HEAD").write_text("def456\n")
    assert checkpoint._commit(tmp_path) == "def456"


def _fail(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """os.`name` works `after` times and then finds the disk full."""
    real, done = getattr(os, name), []

    def call(*args: Any) -> Any:
        if len(done) == after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(name)
        return real(*args)

    monkeypatch.setattr(os, name, call)


def _log(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[str]) -> None:
    real = getattr(os, name)

    def call(*args: Any) -> Any:
        calls.append(f"{name} {Path(args[1]).name}" if name == "replace" else name)
        return real(*args)

    monkeypatch.setattr(os, name, call)
