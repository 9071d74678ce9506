"""Reads a checkpoint of the authors' Diff3M program into ours, by renaming.

The program's parameter names follow guided diffusion. Nothing of a checkpoint is run: a
`.safetensors` file holds numbers only, and a `.pt` file goes through an unpickler that admits
tensors and plain containers only.
"""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nofinding.data.ehr import FIELDS, EhrField, EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.schedule import respace
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detector import DEMOGRAPHICS, Diff3M

__all__ = ["OFFICIAL_FIELDS", "config_of", "detector_of", "read_checkpoint", "renamed"]

OFFICIAL_FIELDS = ("age", "sex", "view", "bmi", "systolic", "diastolic", "height", "weight")
"""The program's record: demographics, then its five measurements in its order."""

# Parts of the network, by the prefix of their names. Order matters: longest first.
_PARTS = {
    "apm_mask1_input_blocks": "mask_encoders.0.stages",
    "apm_mask2_input_blocks": "mask_encoders.1.stages",
    "apm_mask_middle_blocks": "mask_middle.blocks",
    "apm_mask_output_blocks": "mask_decoder.stages",
    "apm_mask_out": "mask_head",
    "x_start_blocks": "ieca.query.encoder.stages",
    "x_start_output_linear": "ieca.query",
    "input_blocks": "encoder.stages",
    "middle_block": "middle.blocks",
    "output_blocks": "decoder.stages",
    "out": "head",
    "time_embed": "time",
    "demo_tokenizer": "ieca.tokenizers.0",
    "ehr_tokenizer": "ieca.tokenizers.1",
    "emb_norm": "norm",
}
# Layers inside a part, by how their names begin after the block's indices.
_BLOCK_LAYERS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "embed",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
    "proj_out": "out",
    "op": "conv",
}
_PART_LAYERS = {
    "head": {"0": "norm", "2": "conv"},
    "mask_head": {"0": "norm", "2": "conv"},
    "time": {"0": "first", "2": "second"},
    "ieca.query": {"0": "project", "1": "norm"},
    "ieca.tokenizers.0": {"w_embedding_layer.weight": "weight", "b_embedding_layer.weight": "bias"},
    "ieca.tokenizers.1": {"w_embedding_layer.weight": "weight", "b_embedding_layer.weight": "bias"},
}


def _our_name(name: str) -> str | None:
    """Our name of one of the program's parameters; None for one that it never uses."""
    prefix = next((p for p in _PARTS if name == p or name.startswith(p + ".")), None)
    if prefix is None:
        raise UserError(f"parameter {name!r} is not one of the published Diff3M network")
    part, rest = _PARTS[prefix], name.removeprefix(prefix).lstrip(".")
    for theirs, ours in _PART_LAYERS.get(part, {}).items():
        if rest == theirs or rest.startswith(theirs + "."):
            return f"{part}.{ours}{rest.removeprefix(theirs)}"
    if part == "ieca.query.encoder.stages" and "emb_layers" in rest:
        return None  # the clean film's encoder runs without a time step
    indices = re.match(r"(\d+\.)*", rest)
    head, tail = (rest[: indices.end()], rest[indices.end() :]) if indices else ("", rest)
    for theirs, ours in _BLOCK_LAYERS.items():
        if tail.startswith(theirs + "."):
            return f"{part}.{head}{ours}{tail.removeprefix(theirs)}"
    return f"{part}.{head}{tail}"


def renamed(tensors: Mapping[str, Tensor], tokens: tuple[int, ...]) -> dict[str, Tensor]:
    """The program's parameters under our names.

    `tokens`: how many tokens each tokenizer uses; the program's tables may have rows to spare.
    Raises UserError for a parameter that does not belong to the network.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _our_name(name)
        if ours is None:
            continue
        table = re.fullmatch(r"ieca\.tokenizers\.(\d)\.(weight|bias)", ours)
        if table:
            tensor = tensor[: tokens[int(table[1])]]
        if ours.startswith(("head.conv.", "mask_head.conv.")):
            tensor = tensor[:1]  # the published head has a second channel that nothing reads
        state[ours] = tensor.float()
    return state


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the flags that the file carries ({} where it carries none).

    Raises UserError for a file that is absent, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            flags = json.loads(meta.get("config", "{}"))
        except (SafetensorError, ValueError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file") from error
        return tensors, flags
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd protocols, on the way to a refusal
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise UserError(f"{path}: refused: damaged, or holds objects other than tensors") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: refused: expected parameter names with tensors, nothing else")
    return {str(name).removeprefix("module."): t for name, t in content.items()}, {}


def _flags_from_shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The flags that the shapes of the parameters determine, for a file that carries none."""
    try:
        width = tensors["time_embed.0.weight"].shape[1]
        stages: dict[int, list[str]] = {}
        for name in tensors:
            match = re.match(r"input_blocks\.(\d+)\.(.+)", name)
            if match:
                stages.setdefault(int(match[1]), []).append(match[2])
        multipliers: list[int] = []
        strides: list[int] = []
        count, channels = 0, 0
        for index in sorted(stages):
            names = stages[index]
            if any(n.startswith("0.op.") for n in names):
                multipliers.append(channels // width)
                count = 0
            elif index:
                channels = tensors[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0]
                count += 1
                if any(n.startswith("1.qkv.") for n in names):
                    strides.append(2 ** len(multipliers))
        multipliers.append(channels // width)
        embedding = tensors["input_blocks.1.0.emb_layers.1.weight"].shape[0]
        first = tensors["input_blocks.1.0.out_layers.3.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise UserError("this is not a checkpoint of the published Diff3M network") from error
    return {
        "num_channels": width,
        "channel_mult": ",".join(map(str, multipliers)),
        "num_res_blocks": count,
        "attention_strides": sorted(set(strides)),
        "use_scale_shift_norm": embedding == 2 * first,
    }


def config_of(tensors: Mapping[str, Tensor], flags: Mapping[str, Any]) -> Diff3MConfig:
    """Our configuration of the program's network, from its flags and, failing those, shapes.

    Flags that no shape tells (image size, heads, schedule, respacing) fall back to the
    published ones: 256, 1, linear, every step. Raises UserError for a flag we cannot honour.
    """
    try:
        return _config_of(tensors, {**_flags_from_shapes(tensors), **flags})
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise UserError(f"the checkpoint's flags cannot be used: {error}") from error


def _numbers(flag: Any) -> tuple[int, ...]:
    """The whole numbers of a flag, "1,2,4" or a list of them."""
    return tuple(int(n) for n in (flag if isinstance(flag, list) else str(flag).split(",")) if n)


def _is_on(flag: Any) -> bool:
    return str(flag).lower() in ("true", "1", "yes")


def _config_of(tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> Diff3MConfig:
    for name in ("use_new_attention_order", "resblock_updown", "predict_xstart"):
        if _is_on(known.get(name, False)):
            raise UserError(f"flag {name} is on in the checkpoint, and not supported")
    steps = int(known.get("diffusion_steps", 1000))
    if _is_on(known.get("rescale_timesteps", False)) and steps != 1000:
        raise UserError("flag rescale_timesteps is supported with 1000 diffusion_steps only")
    heads = int(known.get("num_heads", 1))
    if int(known.get("num_heads_upsample", -1)) not in (-1, heads):
        raise UserError("flag num_heads_upsample is supported where it equals num_heads")
    size = int(known.get("image_size", 256))
    if "attention_resolutions" in known:
        attention = _numbers(known["attention_resolutions"])
    else:
        attention = tuple(size // s for s in known["attention_strides"])
    schedule = known.get("noise_schedule", "linear")
    if schedule not in ("linear", "cosine"):
        raise UserError(f"noise_schedule {schedule!r} is not one of linear, cosine")
    multipliers = known["channel_mult"] or _flags_from_shapes(tensors)["channel_mult"]
    head_channels = int(known.get("num_head_channels", -1))
    full = any(n.startswith("ehr_tokenizer") for n in tensors)
    levels = 400 if known.get("dataset", "mimic" if full else "chexpert") == "mimic" else 600
    spacing = str(known.get("timestep_respacing") or "")
    config = Diff3MConfig(
        variant="program",
        record="full" if full else "demographics",
        regenerate=any(n.startswith("apm_mask") for n in tensors),
        image_size=size,
        width=int(known["num_channels"]),
        multipliers=_numbers(multipliers),
        res_blocks=int(known["num_res_blocks"]),
        attention_at=attention,
        heads=heads,
        head_channels=max(head_channels, 0),
        norm_groups=32,
        scale_shift=_is_on(known["use_scale_shift_norm"]),
        schedule=schedule,
        diffusion_steps=steps,
        respacing=spacing,
        noise_level=2,
    )
    spaced = len(respace(steps, spacing))
    return replace(config, noise_level=max(2, min(levels * spaced // 1000, spaced - 1)))


def unstandardised() -> EhrStats:
    """Statistics under which our record values are those that the program's network takes.

    Age is (age - 1) / 99. The program standardised the measurements by statistics that no
    checkpoint of it contains: they are unknown here, which masks these fields.
    """
    fields: tuple[EhrField, ...] = tuple(FIELDS[name] for name in OFFICIAL_FIELDS)
    return EhrStats(
        fields=fields,
        mean=tuple(1.0 if f.name == "age" else 0.0 for f in fields),
        std=tuple(99.0 if f.name == "age" else 1.0 for f in fields),
        known=tuple(int(f.name in DEMOGRAPHICS) for f in fields),
    )


def detector_of(
    tensors: Mapping[str, Tensor], config: Diff3MConfig, stats: EhrStats | None = None
) -> Diff3M:
    """Our Diff3M with the program's weights.

    `stats` standardise the measurements; without them those are masked.
    Raises UserError where a parameter is missing, unknown or of another shape.
    """
    stats = stats or unstandardised()
    if config.record == "demographics":
        keep = [i for i, f in enumerate(stats.fields) if f.name in DEMOGRAPHICS]
        stats = EhrStats(
            fields=tuple(stats.fields[i] for i in keep),
            mean=tuple(stats.mean[i] for i in keep),
            std=tuple(stats.std[i] for i in keep),
            known=tuple(stats.known[i] for i in keep),
        )
    detector = Diff3M(config, stats)
    state = renamed(tensors, (5, 5))
    expected = detector.net.state_dict()
    if set(state) != set(expected):
        odd = sorted(set(state) ^ set(expected))
        raise UserError(f"checkpoint and flags disagree on {len(odd)} parameters, first {odd[0]!r}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"parameter {name!r} has shape {tuple(tensor.shape)}, "
                f"the flags ask for {tuple(expected[name].shape)}"
            )
    detector.load_state(state)
    return detector
