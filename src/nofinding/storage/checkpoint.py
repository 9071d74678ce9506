"""Tensors and what they mean, on disk: safetensors beside JSON, whole or not at all.

Never pickle. The JSON carries the SHA-256 of the safetensors file and one of itself, so that a
flipped bit in either is found before a number of it is used.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from nofinding import __version__
from nofinding.errors import UserError
from nofinding.storage.atomic import write_together

__all__ = ["code_version", "load", "load_meta", "save"]

# Reserved names in the JSON; whatever `meta` holds under them is replaced.
TENSORS_HASH = "sha256"
META_HASH = "meta_sha256"


def save(stem: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes `stem`.safetensors and then `stem`.json, which holds the SHA-256 of the former.

    Both are on the disk under temporary names before either is renamed, so that a full disk
    leaves an older pair whole. Tensors may share memory, lie on any device and be of any type
    that safetensors knows; `meta` is anything that JSON can hold. Raises UserError where the
    disk refuses.
    """
    # A clone each: safetensors refuses tensors that share memory (tied weights).
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = safetensors.torch.save(whole)
    metadata = {key: value for key, value in meta.items() if key != META_HASH}
    metadata[TENSORS_HASH] = hashlib.sha256(data).hexdigest()
    metadata[META_HASH] = _meta_hash(metadata)
    text = json.dumps(metadata, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    files = _files(stem)
    write_together({files[0]: data, files[1]: text.encode()})


def load(stem: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gives the tensors (on the CPU) and the meta that `save` wrote at `stem`, once both check.

    The meta holds the tensors' hash under "sha256". Raises UserError, one line that names the
    file, where one is absent, truncated, changed, or not of the other's writing.
    """
    tensors_file, meta_file = _files(stem)
    meta = _read_meta(meta_file)
    data = _read(tensors_file)
    if hashlib.sha256(data).hexdigest() != meta.get(TENSORS_HASH):
        raise UserError(
            f"{tensors_file}: damaged, or not the file that {meta_file.name} belongs to (SHA-256 "
            f"differs); restore both from a copy, or make them again"
        )
    try:
        return safetensors.torch.load(data), meta
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{tensors_file}: not a safetensors file; make it again") from error


def load_meta(stem: Path) -> dict[str, Any]:
    """The meta alone, once it checks; the tensors are not looked at. Raises UserError."""
    return _read_meta(_files(stem)[1])


@cache
def code_version() -> str:
    """The version of this package, and the git commit where it runs from a checkout."""
    commit = _commit(Path(__file__).resolve().parents[3])
    return f"{__version__}+g{commit[:12]}" if commit else __version__


def _files(stem: Path) -> tuple[Path, Path]:
    # Not with_suffix(): "diff3m-v1.2" would lose its ".2".
    return stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")


def _meta_hash(meta: Mapping[str, Any]) -> str:
    # Through JSON and back, so that a tuple and the list it comes back as hash the same.
    plain = json.loads(json.dumps({k: v for k, v in meta.items() if k != META_HASH}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; a model is a .safetensors and a .json file side by side"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _read_meta(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        meta = json.loads(data)
        whole = isinstance(meta, dict) and meta.pop(META_HASH, None) == _meta_hash(meta)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise UserError(
            f"{path}: damaged, or changed by hand; restore it from a copy, or make it again"
        )
    return dict(meta)


def _commit(root: Path) -> str | None:
    """The commit of the checkout at `root`, read from git's own files; None if there is none."""
    git = root / ".git"
    if not (root / "pyproject.toml").is_file() or not git.is_dir():
        return None
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except OSError:
        return None
