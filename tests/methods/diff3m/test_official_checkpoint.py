"""Importing checkpoints of the published program."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nofinding.errors import UserError
from nofinding.methods.diff3m import official_checkpoint

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(os.environ.get("NOFINDING_GOLDEN", ROOT.parent / "shared" / "golden"))
WEIGHTS = sorted(GOLDEN.glob("*.weights.safetensors"))
needs_golden = pytest.mark.skipif(not WEIGHTS, reason=f"no golden numbers in {GOLDEN}")


@needs_golden
@pytest.mark.parametrize("path", WEIGHTS, ids=lambda p: p.name.split(".")[0])
def test_shapes_tell_what_flags_do(path: Path) -> None:
    tensors, flags = official_checkpoint.read_checkpoint(path)
    message = official_checkpoint.config_of(tensors, flags)
    size = {"image_size": flags["image_size"], "num_heads": flags.get("num_heads", 1)}
    guessed = official_checkpoint.config_of(tensors, size)
    for name in ("width", "multipliers", "res_blocks", "scale_shift", "record", "regenerate"):
        assert getattr(guessed, name) == getattr(message, name), name
    assert {message.shape.attends(level) for level in range(9)} == {
        guessed.shape.attends(level) for level in range(9)
    }


@needs_golden
def test_pt_file_with_tensors_is_read(tmp_path: Path) -> None:
    tensors, _ = official_checkpoint.read_checkpoint(WEIGHTS[0])
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "a.pt")
    again, none = official_checkpoint.read_checkpoint(tmp_path / "a.pt")
    assert none == {}
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[k], tensors[k]) for k in tensors)


class Bomb:
    """Runs a command when unpickled by a reader that allows it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pt_file_with_anything_else_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    mark = tmp_path / "ran"
    content = {"time_embed.0.weight": torch.zeros(2), "x": Bomb(mark)}
    if how == "torch":
        torch.save(content, tmp_path / "a.pt")
    else:
        (tmp_path / "a.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="refused"):
        official_checkpoint.read_checkpoint(tmp_path / "a.pt")
    assert not mark.exists()


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 3}, tmp_path / "number.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("list.pt", "number.pt", "cut.safetensors", "absent.pt"):
        with pytest.raises(UserError, match=name):
            official_checkpoint.read_checkpoint(tmp_path / name)
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    tensors, flags = official_checkpoint.read_checkpoint(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of the published"):
        official_checkpoint.config_of(tensors, flags)


@needs_golden
def test_a_missing_or_misshapen_parameter_is_named() -> None:
    tensors, flags = official_checkpoint.read_checkpoint(WEIGHTS[0])
    config = official_checkpoint.config_of(tensors, flags)
    less = {k: v for k, v in tensors.items() if k != "out.2.weight"}
    with pytest.raises(UserError, match=r"head\.conv\.weight"):
        official_checkpoint.detector_of(less, config)
    bent = {**tensors, "emb_norm.bias": tensors["emb_norm.bias"][:-1]}
    with pytest.raises(UserError, match=r"norm\.bias"):
        official_checkpoint.detector_of(bent, config)
    with pytest.raises(UserError, match="stranger"):
        official_checkpoint.detector_of({**tensors, "stranger.weight": torch.zeros(1)}, config)
