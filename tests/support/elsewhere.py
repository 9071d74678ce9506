"""A device that is none: tensors that say they lie on it, and are computed on the CPU.

Whatever torch refuses on a GPU because its tensors lie on two devices is refused here too, so that
a machine without a GPU finds a forgotten `.to(device)`. Of a GPU's rounding it says nothing.

The device is called "meta", the one beside the CPU that every build of torch knows; but here its
tensors have content.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["Elsewhere", "elsewhere"]

DEVICE, CPU = torch.device("meta"), torch.device("cpu")
# Where torch lets a CPU tensor choose elements of one on another device: arguments after the first.
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Where torch copies from one device to the other.
COPIED = {"aten::copy_", "aten::_to_copy", "aten::to", "aten::set_"}
# As they are: torch would ask them to make tensors on its own "meta".
TENSOR, AS_TENSOR, AUTOCAST = torch.tensor, torch.as_tensor, torch.autocast


class Elsewhere(Tensor):
    """A CPU tensor that gives itself out as lying on the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        output: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        output.inner = inner
        return output

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor of another device cannot become an array; take .cpu() first")

    __array__ = numpy

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_places(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_places(index), value)

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        return TENSOR(data, **{"dtype": self.dtype, **kwargs}).to(DEVICE)

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Making(TorchDispatchMode):
    """Sees the calls that no such tensor takes part in: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the CPU, if a GPU would run it; its results lie where they would."""
    name, asked = func._schema.name, kwargs.get("device")
    there = any(isinstance(x, Elsewhere) for x in tree_flatten((args, kwargs))[0])
    if there and name not in COPIED:
        _refuse_two_devices(name, [args[0], *args[2:]] if name in INDEXED else [args, kwargs])
    if asked is not None:
        there = torch.device(asked) == DEVICE
        if there and name not in COPIED:
            _refuse_two_devices(name, kwargs.get("generator"))
        kwargs = {**kwargs, "device": CPU if there else asked}
    there = there and name != "aten::_local_scalar_dense"  # of .item(): a number lies nowhere
    inner_args, inner_kwargs = tree_map(_inside, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable and args and isinstance(args[0], Tensor):
        if isinstance(out, Tensor):  # the tensor that was changed, wherever it lies
            return args[0]
        there = isinstance(args[0], Elsewhere)
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, out) if there else out


def _refuse_two_devices(name: str, given: Any) -> None:
    for x in tree_flatten(given)[0]:
        # A number may come from the CPU: a tensor without dimensions.
        if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.ndim:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        if isinstance(x, torch.Generator):
            raise RuntimeError(f"{name}: expected a generator of the device, but found one of cpu")


def _inside(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


def _places(index: Any) -> Any:
    """Lists of numbers as tensors with content: torch would make them on its own "meta"."""
    if isinstance(index, tuple):
        return tuple(_places(part) for part in index)
    return TENSOR(index) if isinstance(index, list) else index


def _tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    output: Tensor = TENSOR(data, **kwargs)
    return output if device is None else output.to(device)


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    if isinstance(data, Tensor):
        return data.to(device or data.device, dtype or data.dtype)
    return _tensor(data, dtype=dtype, device=device)


class _Autocast(AUTOCAST):  # type: ignore[misc, valid-type]
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Gives the device; within it, tensors can be put there, made there and taken back."""
    changed = {"tensor": _tensor, "as_tensor": _as_tensor, "autocast": _Autocast}
    with patch.multiple(torch, **changed), _Making():
        yield DEVICE
