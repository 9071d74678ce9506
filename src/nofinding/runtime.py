"""Where and how a network is run: the device, the threads, the precision, and what computes it.

A method hands the modules that cost the time to `Runtime.prepare` and calls what comes back. All
other arithmetic, the sampler's above all, stays torch in float32.
"""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import is_torchelastic_launched
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from nofinding.errors import UserError

__all__ = [
    "Engine",
    "FlopCounter",
    "Network",
    "Portable",
    "Precision",
    "Runtime",
    "before_fit",
    "device_of",
    "load_openvino",
    "to_device",
    "use_threads",
]

Precision = Literal["float32", "bfloat16"]
Engine = Literal["torch", "openvino"]
Network = Callable[..., tuple[Tensor, ...]]
"""Tensors in, float32 tensors out. An input of one row serves all rows of the others."""


class FlopCounter(FlopCounterMode):
    """Counts floating-point operations over all modules together.

    torch's own tells modules apart by hooks on their gradients, which forbid `autograd.grad`: a
    method that follows a gradient while it scores could not be counted.
    """

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _AllTogether()  # type: ignore[assignment]

    def __enter__(self) -> Self:
        self.flop_counts.clear()
        self.mode = _Counting(self)
        self.mode.__enter__()  # type: ignore[no-untyped-call]
        return self


class _Counting(_FlopCounterMode):  # type: ignore[no-untyped-call]
    """torch's own, as it is written, but that resizing is left whole.

    torch wraps it so that its compiler leaves it alone, and the wrapper's first call imports that
    compiler: more than a second of processor time in every command that scores a film. It also
    writes a resize as elementwise steps, none of which it counts: that imports the compiler's
    algebra, most of a second, and rounds otherwise than where nothing is counted.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and func.name().startswith("aten::upsample"):
            return func(*args, **(kwargs or {}))
        return _PLAIN(self, func, types, args, kwargs)


_WRAPPED = _FlopCounterMode.__torch_dispatch__
_PLAIN: Callable[..., Any] = getattr(_WRAPPED, "__wrapped__", _WRAPPED)


class _AllTogether:
    """In place of the tracker: every operation belongs to the whole."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A way of running networks. The default is the reference for every other."""

    precision: Precision = "float32"
    engine: Engine = "torch"

    @property
    def is_reference(self) -> bool:
        """Whether scores made so are the ones that a model was calibrated with."""
        return self == Runtime()

    def prepare(self, module: nn.Module) -> Network:
        """The module, ready to score. It takes tensors with a row a film, and gives such.

        Weights are read at the first call of each batch size: prepare anew after a change.
        Raises UserError where the engine is not installed.
        """
        module.eval()
        if self.engine == "openvino":
            return _OpenVINO(module, self.precision)
        # Channels last: a third faster in float32 on the processors it was measured on.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return _Torch(module, self.precision)


def device_of(module: nn.Module) -> torch.device:
    """Where its weights lie: one that takes its place belongs there."""
    return next(module.parameters()).device


@runtime_checkable
class Portable(Protocol):
    """A detector whose networks can be run in more than one way."""

    runtime: Runtime


def _rows_as(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


class _Torch:
    """The module itself, under autocast where bfloat16 is asked for."""

    def __init__(self, module: nn.Module, precision: Precision) -> None:
        self.module, self.low = module, precision == "bfloat16"

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), torch.autocast(inputs[0].device.type, torch.bfloat16, self.low):
            return tuple(out.float() for out in _rows_as(self.module(*inputs)))


def load_openvino() -> ModuleType:
    """The library. Raises UserError where it is not installed."""
    # On import it reports its use over the network, unless its reporter cannot be imported. A
    # program that reads patients' films calls nobody.
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            "--runtime openvino: OpenVINO is not installed; pip install 'nofinding[openvino]'"
        ) from error
    return openvino  # type: ignore[no-any-return]


class _OpenVINO:
    """The module as OpenVINO runs it on a CPU: converted and compiled for each batch size.

    Seconds each, so a batch smaller than one that was compiled for is filled up; rows do not mix.
    """

    def __init__(self, module: nn.Module, precision: Precision) -> None:
        self.library = load_openvino()
        self.module = module.to("cpu")
        self.settings = {
            # Without it a processor that can do bfloat16 silently does.
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        self.compiled: dict[int, Any] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        rows = max(len(x) for x in inputs)
        size = min((n for n in self.compiled if n >= rows), default=rows)
        filled = [_filled(x.detach().float().cpu(), size) for x in inputs]
        if size not in self.compiled:
            self.compiled[size] = self._compile(filled)
        outputs = self.compiled[size].infer([x.numpy() for x in filled], share_inputs=True)
        # A copy: the next call writes into the same memory.
        outs = (np.array(outputs[i], dtype=np.float32) for i in range(len(outputs)))
        return tuple(torch.from_numpy(out)[:rows].to(inputs[0].device) for out in outs)

    def _compile(self, example: list[Tensor]) -> Any:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = self.library.convert_model(torch.export.export(self.module, tuple(example)))
        return self.library.Core().compile_model(graph, "CPU", self.settings).create_infer_request()


def _filled(x: Tensor, rows: int) -> Tensor:
    """The rows, and the last one again until there are enough."""
    more = x[-1:].expand(rows - len(x), *x.shape[1:])
    return torch.cat([x, more]).contiguous()


def to_device(detector: object, accelerator: str) -> None:
    """Puts the detector's network, if it has one, where the option says.

    Under torchrun each process has a GPU of its own. Raises UserError where there is no such
    accelerator.
    """
    net = getattr(detector, "net", None)
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("--accelerator cuda: there is no usable GPU; give cpu or auto")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError("--accelerator mps: there is none here; give cpu or auto")
    if accelerator == "cuda" and is_torchelastic_launched():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if isinstance(net, torch.nn.Module):
        torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa are not float32
        net.to(accelerator)


def before_fit(detector: object, accelerator: str) -> None:
    """Puts it where it will be trained: what a frozen network sees of thousands of films is found
    there, too. Not on mps, which knows no double precision; there the loop alone is."""
    if accelerator != "mps":
        to_device(detector, accelerator)


def use_threads(threads: int) -> None:
    """Sets the number of CPU threads; 0 leaves all of them."""
    if threads < 0:
        raise UserError(f"--threads {threads}: give 1 or more, or 0 for all")
    if threads:
        torch.set_num_threads(threads)
