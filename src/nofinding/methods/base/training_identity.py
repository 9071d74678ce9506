"""Networks that methods share: one that several train alike is trained once, and serves them all.

Names of trainings: where two are equal, the trained weights are.

Everything that decides the weights is in the name: the configuration, the films, the seed, and the
text of the program that trains. A network that an earlier version of the program trained is never
taken for one of this version.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nofinding import functional, nets, training
from nofinding.data.batch import Films
from nofinding.storage import checkpoint

__all__ = ["describe", "trained_once", "training_identity", "trainings_of"]

SHARED_CODE = (functional, nets, training)
"""Packages that every training depends on: what is in them counts as one."""


def describe(settings: Mapping[str, Any], code: Iterable[Callable[..., Any]]) -> str:
    """Gives what decides a training beside films and seed, as text: equal texts, equal trainings.

    `code` are the functions and classes of the method that build the network and say what it
    learns; their whole files count.
    """
    used = list(code)
    parts = {
        "settings": dict(settings),
        "code": [f"{each.__module__}.{each.__qualname__}" for each in used],
        "version": [_module_digest(each.__module__) for each in used],
        "shared": [_package_digest(package.__name__) for package in SHARED_CODE],
        "torch": torch.__version__,
    }
    return json.dumps(parts, sort_keys=True)


def training_identity(description: str, films: Films, seed: int) -> str:
    """Gives the name of a training, of 24 characters that may stand in a path."""
    hashes = [films.pixel_hash(i) for i in range(len(films))]
    text = json.dumps([description, hashes, seed])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def trained_once(
    net: nn.Module,
    description: str,
    films: Films,
    seed: int,
    shared: Path | None,
    learn: Callable[[], float],
) -> float:
    """Trains `net` by `learn`, or takes over the weights that such a training left in `shared`.

    `learn` gives the seconds that it took; what it trained is put into `shared`, if that is given.
    Gives the seconds of training that were spared: 0 where `learn` ran. Raises UserError where
    what lies there is damaged.
    """
    stem = None if shared is None else shared / training_identity(description, films, seed)
    if stem is not None and stem.with_suffix(".json").is_file():
        tensors, meta = checkpoint.load(stem)
        net.load_state_dict(tensors)
        net.eval()
        return float(meta["seconds"])
    seconds = learn()
    if stem is not None:
        checkpoint.save(stem, dict(net.state_dict()), {"seconds": seconds})
    return 0.0


def trainings_of(kind: type, config: Any) -> tuple[str, ...]:
    """Gives the descriptions of all networks that a method trains and others may take over.

    Empty for a method whose networks are its own. Where those of two methods have one in common,
    films and seed being the same, the second to come need not train it.
    """
    describes = getattr(kind, "trainings", None)
    return () if describes is None else tuple(describes(config))


@cache
def _module_digest(name: str) -> str:
    file = getattr(sys.modules[name], "__file__", None)
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


@cache
def _package_digest(name: str) -> str:
    """Of the text of all files in a package."""
    digest = hashlib.sha256()
    for folder in sys.modules[name].__path__:
        for file in sorted(Path(folder).rglob("*.py")):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
