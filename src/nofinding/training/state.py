"""All that a run needs to go on as if it had never stopped, and its checkpoints in a folder."""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nofinding.errors import UserError
from nofinding.storage import checkpoint
from nofinding.training.config import TrainConfig

if TYPE_CHECKING:
    from nofinding.data.batch import Films

__all__ = ["State", "begin", "identity", "restore", "say", "store", "what_differs"]


@dataclass
class State:
    """A run between two steps. Data order and noise are not in it: they follow from the step."""

    net: nn.Module
    ema: AveragedModel
    optimizer: Optimizer
    history: list[float] = field(default_factory=list)
    """The loss of every step so far."""
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Updates done so far."""
        return len(self.history)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the seconds, by name; `load` takes it back bit for bit."""
        named = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        named |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
        named["history"] = torch.tensor(self.history, dtype=torch.float64)
        return named

    def load(self, named: Mapping[str, Tensor]) -> None:
        """Raises RuntimeError where the tensors are of another network."""
        self.net.load_state_dict(_under("net.", named))
        self.ema.load_state_dict(_under("ema.", named))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", named).items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        self.history[:] = named["history"].tolist()


def begin(net: nn.Module, config: TrainConfig) -> State:
    """The state before the first step. Frozen weights are averaged and saved, not optimised."""

    def average(ema: Any, now: Any, n: Tensor | int) -> None:
        decay = min(config.ema, (1 + int(n)) / (10 + int(n)))
        get_ema_multi_avg_fn(decay)(ema, now, n)  # type: ignore[no-untyped-call]

    ema = AveragedModel(net, multi_avg_fn=average).eval().requires_grad_(False)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = AdamW(weights, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return State(net, ema, optimizer)


def identity(
    config: TrainConfig, films: "Films", *, seed: int, world: int, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run must share with the one it resumes, as JSON: config, films, record, seed."""
    shared = {
        "config": asdict(config),
        "films": {"count": len(films), "size": films.size, "sha256": _fingerprint(films)},
        "stats": films.stats.to_json(),
        "seed": seed,
        "world_size": world,
        "about": dict(about),
    }
    plain: dict[str, Any] = json.loads(json.dumps(shared))  # tuples compare as lists from here on
    return plain


def _fingerprint(films: "Films") -> str:
    """Of every id, and of three films as prepared: all of them would take as long as an epoch."""
    digest = hashlib.sha256(json.dumps(films.ids).encode())
    probe = films.batch([0, len(films) // 2, len(films) - 1])
    for tensor in (probe.image, probe.ehr, probe.known):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def store(folder: Path, state: State, shared: Mapping[str, Any], *, keep: int) -> None:
    """Writes folder/step-00000200.{safetensors,json}, then drops all but the newest `keep`.

    A file of a later step is a damaged one that a resume skipped: not counted, and left to be
    overwritten.
    """
    meta = {**shared, "step": state.step, "seconds": state.seconds}
    meta["code"] = checkpoint.code_version()
    checkpoint.save(folder / f"step-{state.step:08d}", state.tensors(), meta)
    done = [stem for stem in _stems(folder) if _step(stem) <= state.step]
    for stem in done[:-keep]:
        # The JSON first: without it the other is an unfinished write, never a damaged pair.
        for suffix in (".json", ".safetensors"):
            stem.with_name(stem.name + suffix).unlink(missing_ok=True)
    for left in folder.glob(".*.tmp"):  # of a write that was killed
        left.unlink(missing_ok=True)


def restore(folder: Path, state: State, shared: Mapping[str, Any], *, resume: bool) -> list[str]:
    """Puts the newest whole checkpoint of `folder` into `state`; says which were damaged.

    Leaves the state where the folder has none. Raises UserError where there are checkpoints
    and `resume` was not asked for, where all are damaged, or where they are of another run.
    """
    stems = [s for s in _stems(folder) if s.with_name(s.name + ".json").is_file()]
    if stems and not resume:
        raise UserError(
            f"{folder}: holds the checkpoints of a run; continue it with --resume, or give "
            f"another folder"
        )
    notes: list[str] = []
    for stem in reversed(stems):
        try:
            named, meta = checkpoint.load(stem)
        except UserError as error:
            notes.append(f"{error}. Falling back to the checkpoint before.")
            continue
        _refuse_other_run(stem, meta, shared)
        try:
            state.load(named)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"{stem}.safetensors: the network differs from the one to be trained; resume with "
                f"the same method and configuration, or give another folder"
            ) from error
        state.seconds = float(meta["seconds"])
        return notes
    if stems:
        raise UserError(
            f"{folder}: none of its {len(stems)} checkpoints is whole; remove them to begin anew, "
            f"or give another folder"
        )
    return notes


def say(notes: list[str]) -> None:
    """One line each on stderr."""
    for note in notes:
        print(note, file=sys.stderr, flush=True)


def _under(prefix: str, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}


def _step(stem: Path) -> int:
    return int(stem.name.removeprefix("step-"))


def _stems(folder: Path) -> list[Path]:
    """Of every checkpoint, whole or not, by step."""
    stems = {
        path.with_suffix("")
        for path in folder.glob("step-*")
        if re.fullmatch(r"step-\d{8,}\.(safetensors|json)", path.name)
    }
    return sorted(stems, key=_step)


def _refuse_other_run(stem: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    if others := what_differs(there, here):
        raise UserError(
            f"{stem}.json: the run to be resumed differs: {others}; give what it had, or another "
            f"folder"
        )


def what_differs(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What a run had otherwise than one has now, by name and value: "seed was 0, now 1"; the first
    three, of the names in `here`. Empty: nothing."""
    entries = {key: there.get(key) for key in here}
    others = [
        f"{name} was {_short(old)}, now {_short(new)}"
        for name, old, new in _differences("", entries, dict(here))
    ]
    more = f" (and {len(others) - 3} more)" if len(others) > 3 else ""
    return "; ".join(others[:3]) + more


def _differences(name: str, there: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    """The entries that differ, by dotted name."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(inner, there.get(key), here.get(key))
    elif there != here:
        yield name, there, here


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
