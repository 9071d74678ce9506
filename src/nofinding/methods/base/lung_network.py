"""The taught networks inside the package."""

from importlib import resources

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from nofinding.errors import UserError
from nofinding.nets.focal import LungNet

__all__ = ["load_lungs"]


def load_lungs() -> LungNet:
    """The network that finds the lung field, frozen. Raises UserError where it is missing."""
    file = resources.files("nofinding") / "weights" / "lungs.safetensors"
    try:
        tensors = load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError("the package lacks weights/lungs.safetensors") from error
    with torch.random.fork_rng(devices=[]):  # its first weights are of no matter
        net = LungNet()
    net.load_state_dict({name: x.float() for name, x in tensors.items()})
    return net.requires_grad_(False).eval()
