"""Libraries that only some machines have, for tests that compare with them."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch

KEPT: list[Any] = []  # a library's definitions last as long as the object does


def vision_library(name: str) -> ModuleType:
    """timm, transformers or anomalib, or a skipped test.

    torchvision's wheel is built for CUDA: beside a torch for the CPU its operators do not load,
    and `import torchvision` fails for want of the two that it describes. They are described here;
    nobody calls them.
    """
    if "torchvision" not in sys.modules and not KEPT:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            try:
                getattr(torch.ops.torchvision, operator)
            except AttributeError:
                library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        KEPT.append(library)
    return pytest.importorskip(name)
