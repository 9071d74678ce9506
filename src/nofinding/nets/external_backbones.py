"""Frozen backbones by name: EfficientNet-Lite0, any of timm, any image encoder of transformers.

The weights of the first come with the package, those of the others are the user's: safetensors in a
folder, or in the local Hugging Face cache. Nothing is fetched, and no code or pickle from a model's
folder is run. The libraries come with `nofinding[backbones]`.
"""

import hashlib
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.nets.feature_maps import EFFICIENTNET, EfficientNetMaps, FeatureMaps

__all__ = ["TimmMaps", "TransformersMaps", "load_features", "load_timm", "load_transformers"]

SIDE = 224  # of the film on which a network is tried, if it does not say what it takes
SETTINGS, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"


class NormalisedMaps(FeatureMaps):
    """Gives films the mean and spread that a network was trained with, alike in all colours."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net.float().requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)
        self.fingerprint = _fingerprint(net)

    def colours(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Films in [-1, 1] as the network wants them."""
        return ((image + 1) / 2 - self.mean) / self.std


class TimmMaps(NormalisedMaps):
    """Stages of a convolutional network (0 is the stem), or blocks of a transformer (from 0)."""

    def __init__(
        self, net: Any, layers: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        _require_layers(layers, len(net.feature_info))
        super().__init__(net, mean, std)
        self.layers = tuple(layers)
        self.widths = tuple(int(net.feature_info[layer]["num_chs"]) for layer in layers)

    def forward(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        order = sorted(set(self.layers))
        net: Any = self.net
        maps = net.forward_intermediates(
            self.colours(image),
            indices=order,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return [maps[order.index(layer)] for layer in self.layers]


class TransformersMaps(NormalisedMaps):
    """Hidden states: 0 is what the first block gets, n what block n gives. Tokens become a grid."""

    def __init__(
        self, net: Any, layers: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(net, mean, std)
        taken = inspect.signature(net.forward).parameters
        self.options = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in taken:  # films of another size than it was trained on
            self.options["interpolate_pos_encoding"] = True
        patch = _side(getattr(net.config, "patch_size", None))
        side = _side(getattr(net.config, "image_size", None)) or SIDE
        self.patch = patch if patch else 1
        self.layers: tuple[int, ...] = ()
        with torch.no_grad():
            states = self._states(torch.zeros(1, 1, side, side))
        _require_layers(layers, len(states))
        self.layers = tuple(layers)
        self.widths = tuple(states[layer].shape[1] for layer in layers)

    def _states(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        out = self.net(self.colours(image), **self.options)
        states = getattr(out, "reshaped_hidden_states", None) or out.hidden_states
        grid = [side // self.patch for side in image.shape[-2:]]
        return [as_grid(x, grid) for x in states]

    def forward(self, image: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        if any(side % self.patch for side in image.shape[-2:]):
            raise UserError(
                f"image_size {image.shape[-1]}: this backbone cuts films into patches of "
                f"{self.patch} pixels; give a multiple of {self.patch}"
            )
        states = self._states(image)
        return [states[layer] for layer in self.layers]


def as_grid(x: Tensor, grid: Sequence[int]) -> Float[Tensor, "b c i j"]:
    """Tokens (b, n, c) as a map; those in front of the patches (class, registers) are dropped.

    A map (b, c, i, j) stays as it is. Raises UserError for fewer tokens than patches.
    """
    if x.ndim == 4:
        return x
    high, wide = grid
    if x.shape[1] < high * wide:
        raise UserError(f"backbone: {x.shape[1]} tokens for {high} x {wide} patches of a film")
    return x[:, -high * wide :].transpose(1, 2).reshape(len(x), -1, high, wide)


def load_timm(name: str, layers: Sequence[int]) -> TimmMaps:
    """A network of timm with weights from a folder (config.json and model.safetensors, as timm's
    save_for_hf writes them), or by its name on the hub from the local cache."""
    timm = _extra("timm")
    from safetensors.torch import load_file

    folder = Path(name).expanduser()
    if folder.is_dir():
        config, weights = folder / SETTINGS, folder / WEIGHTS
        for path in (config, weights):
            if not path.is_file():
                raise UserError(f"backbone timm:{name}: has no {path.name}")
    else:
        config, weights = (_cached(f"timm/{name}", file) for file in (SETTINGS, WEIGHTS))
    metadata = _json(config)
    about = {**metadata, **metadata.get("pretrained_cfg", {})}
    try:
        net = _timm_network(timm, metadata["architecture"], metadata.get("model_args") or {})
        mean, std = about["mean"], about["std"]
    except KeyError as error:
        raise UserError(f"{config}: says nothing of {error}") from None
    except RuntimeError as error:  # timm's answer to an architecture that it does not know
        raise UserError(f"{config}: timm does not know it ({str(error).splitlines()[0]})") from None
    heads = about.get("classifier") or ()
    _fill(net, load_file(weights), (heads,) if isinstance(heads, str) else tuple(heads), weights)
    return TimmMaps(net, layers, mean, std)


def _timm_network(timm: Any, architecture: str, options: Mapping[str, Any]) -> Any:
    """First weights do not matter, but they must not move torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        try:  # transformers of timm, for films of another size than they were trained on
            return timm.create_model(
                architecture, pretrained=False, num_classes=0, dynamic_img_size=True, **options
            )
        except TypeError:
            return timm.create_model(architecture, pretrained=False, num_classes=0, **options)


def _fill(net: nn.Module, tensors: Mapping[str, Tensor], heads: Sequence[str], path: Path) -> None:
    """Loads all weights but the classifier's; raises UserError where one is over or missing."""
    weights = {k: v for k, v in tensors.items() if not any(k.startswith(f"{h}.") for h in heads)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: does not fit the network ({message})") from None


def load_transformers(name: str, layers: Sequence[int]) -> TransformersMaps:
    """An image encoder of transformers, from a folder or by its name from the local cache; of a
    model with a text encoder, the image half."""
    transformers = _extra("transformers")
    folder = Path(name).expanduser()
    where = str(folder) if folder.is_dir() else name
    try:
        with torch.random.fork_rng(devices=[]):
            net = transformers.AutoModel.from_pretrained(
                where, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"backbone transformers:{name}: not to be had here ({why})") from None
    path = folder / PREPROCESSOR if folder.is_dir() else _cached(name, PREPROCESSOR)
    if not path.is_file():
        raise UserError(f"backbone transformers:{name}: has no {PREPROCESSOR}")
    metadata = _json(path)
    mean, std = metadata.get("image_mean"), metadata.get("image_std")
    if metadata.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    if not mean or not std:
        raise UserError(f"{path}: says nothing of image_mean or image_std")
    return TransformersMaps(getattr(net, "vision_model", net), layers, mean, std)


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module}: not installed ({error}); install nofinding[backbones]"
        ) from None


def _cached(repository: str, file: str) -> Path:
    """A file that was fetched before. Raises UserError where it was not."""
    hub = _extra("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(repository, file, local_files_only=True))
    except (OSError, ValueError):
        raise UserError(
            f"backbone {repository}: {file} is neither in the local Hugging Face cache nor in a "
            "folder of that name; fetch it first, or give a folder"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: is no JSON object")
    return metadata


def _side(value: Any) -> int:
    """One number of a size that may be a pair; 0 where there is none."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else 0
    return int(value) if isinstance(value, int) else 0


def _require_layers(layers: Sequence[int], count: int) -> None:
    if not layers or not set(layers) <= set(range(count)):
        raise UserError(f"layers {tuple(layers)}: this backbone has 0 to {count - 1}")


def _fingerprint(net: nn.Module) -> int:
    """A number that other weights do not have, short of a collision in 63 bits."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def load_features(backbone: str, layers: Sequence[int]) -> FeatureMaps:
    """The frozen backbone, in evaluation mode, on the CPU. Its weights are no part of a model.

    `backbone` is efficientnet-lite0, timm:NAME or transformers:NAME, with a folder for the name
    if its weights lie in one. Nothing is downloaded, no pickle is read. Raises UserError for an
    unknown backbone or layer, or where its extra is not installed or its weights are not there.
    """
    if backbone == EFFICIENTNET:
        return EfficientNetMaps(layers)
    kind, colon, name = backbone.partition(":")
    if kind not in ("timm", "transformers") or not colon or not name:
        raise UserError(
            f"backbone {backbone!r}: not known; give {EFFICIENTNET}, timm:NAME-or-FOLDER or "
            "transformers:NAME-or-FOLDER"
        )
    return load_timm(name, layers) if kind == "timm" else load_transformers(name, layers)
