"""A device that is none: tensors that say they lie on "cuda", and are computed on the CPU.

Whatever torch would refuse on a GPU because its tensors lie on two devices is refused here too, so
that a machine without a GPU finds a forgotten `.to(device)`. Nothing is said of a GPU's rounding.
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

DEVICE = torch.device("meta")
# Where torch lets a CPU tensor choose elements of one on another device.
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Where torch copies from one device to another.
COPIED = {"aten::copy_", "aten::_to_copy", "aten::to", "aten::set_"}

TENSOR, AS_TENSOR = torch.tensor, torch.as_tensor  # make what they make for real


class Elsewhere(Tensor):
    """A CPU tensor that gives itself out as lying on a GPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            inner.stride(),
            inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
            requires_grad=False,
        )
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

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
        return run(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Sees the calls that no such tensor takes part in: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given, _ = tree_flatten((args, kwargs))
    tensors = [x for x in given if isinstance(x, Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    name = func._schema.name
    asked = kwargs.get("device")
    if asked is not None:
        asked = torch.device(asked)
    if there and name not in COPIED:
        checked = [args[0], *args[2:]] if name in INDEXED else [args, kwargs]
        for x in tree_flatten(checked)[0]:
            if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.ndim:
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but found at least two "
                    f"devices, cuda:0 and cpu! ({name})"
                )
            if isinstance(x, torch.Generator):
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if asked is not None and asked == DEVICE:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    target = there if asked is None else asked == DEVICE
    if name == "aten::copy_" or func._schema.is_mutable:
        target = isinstance(args[0], Elsewhere) if args else there
        if isinstance(args[0] if args else None, (list, tuple)):
            target = there
    if there and name == "aten::_local_scalar_dense":
        target = False
    inner_args, inner_kwargs = tree_map(unwrapped, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable and args and isinstance(args[0], Tensor):
        if isinstance(args[0], Elsewhere) and isinstance(out, Tensor):
            return args[0]
        if not isinstance(args[0], Elsewhere):
            return args[0] if isinstance(out, Tensor) else out
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, out) if target else out


def unwrapped(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


def _places(index: Any) -> Any:
    """Lists of numbers as tensors with content: torch would make them on the device itself."""
    if isinstance(index, tuple):
        return tuple(_places(part) for part in index)
    return TENSOR(index) if isinstance(index, list) else index


def _tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    made = TENSOR(data, **kwargs)
    return made if device is None else made.to(device)


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    if isinstance(data, Tensor):
        return data.to(device or data.device, dtype or data.dtype)
    made = AS_TENSOR(data, dtype=dtype)
    return made if device is None else made.to(device)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within it, "cuda" is there."""
    with patch.multiple(torch, tensor=_tensor, as_tensor=_as_tensor), Mode():
        yield
