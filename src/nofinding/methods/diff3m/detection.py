"""The ways in which Diff3M's networks say how far a film is from normal.

One set of weights serves all of them; `RULES` names those that are worth a name. What the
networks are is in `diff3m.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, ddim_step, predict_eps, predict_x0
from nofinding.functional.diffusion.schedule import respace
from nofinding.functional.image import residual
from nofinding.runtime import Network

__all__ = [
    "RULES",
    "Call",
    "Image",
    "by_level",
    "decode_as_paper",
    "detect_as_paper",
    "detect_as_program",
    "encode_as_paper",
    "encoder_conditioning",
    "program_step",
    "scores_of",
    "with_steps",
]

Image = Float[Tensor, "b 1 h w"]
Call = Callable[[Image, int], tuple[Image, Image]]
"""The network at level k of the kept schedule: (x_k, k) -> (eps, regenerated x_k)."""

_REPAIR = {"detect": "repair", "start": "encode", "decode": "mpg"}
RULES: Mapping[str, Mapping[str, Any]] = {
    "paper": {**_REPAIR, "blind_encoding": False},
    "blind": {**_REPAIR, "blind_encoding": True},
    "np": {**_REPAIR, "blind_encoding": True, "decode": "np"},
    "noise-start": {**_REPAIR, "start": "noise"},
    "x0-error": {"detect": "x0-error", "decode": "np"},
    "inversion-norm": {"detect": "inversion-norm", "blind_encoding": False},
}
"""Detection rules by name, as the options that each sets (docs/diff3m.md, Detection rules)."""


Config = TypeVar("Config")


def with_steps(config: Config, steps: int, total: int, *, least: int) -> Config:
    """The config with `steps` kept levels of `total` (0: as they are), the noise level keeping its
    share of the schedule but at `least` that. Raises UserError where no whole stride keeps so many.
    """
    given: Any = config
    if not steps:
        return config
    try:
        levels = len(respace(total, given.respacing))
        respace(total, f"ddim{steps}")
    except ValueError as error:
        raise UserError(f"steps {steps}: {error}") from error
    if steps == levels:
        return config
    level = max(least, round(given.noise_level * steps / levels))
    changed: Config = replace(given, respacing=f"ddim{steps}", noise_level=level)
    return changed


def by_level(
    network: Network, t: Float[Tensor, " n"], context: Tensor | None, *, regenerates: bool
) -> Call:
    """A prepared network for these films, by kept level; `context` None where it has no record.

    `t` are the steps of the kept levels; `regenerates`: whether the network gives MPG's image.
    """

    def call(x: Image, k: int) -> tuple[Image, Image]:
        # All rows are at one level: its embedding and its masks are worked out once.
        out = network(x, t[k : k + 1], *(() if context is None else (context,)))
        return out[0], out[1] if regenerates else x

    return call


def encoder_conditioning(context: Tensor | None, *, blind: bool) -> Tensor | None:
    """What encoding is told of the record: one row of nothing where it is blind."""
    return context if context is None or not blind else torch.zeros_like(context[:1])


def encode_as_paper(
    encode: Call, x0: Image, abar: Float64[Tensor, " n"], noise_level: int
) -> tuple[Image, list[Image]]:
    """The film encoded into noise, and every eps on the way. L network calls (lines 3 to 5)."""
    x, noises = x0, []
    for k in range(noise_level):
        eps, _ = encode(x, k)
        noises.append(eps)
        x = ddim_step(predict_x0(x, eps, abar[k]), eps, abar[k + 1])
    return x, noises


def decode_as_paper(call: Call, x: Image, abar: Float64[Tensor, " n"], noise_level: int) -> Image:
    """The film of which x is the noised one, made through MPG. L network calls (lines 6 to 11)."""
    for k in range(noise_level, 0, -1):
        eps, regenerated = call(x, k)
        x = ddim_step(predict_x0(regenerated, eps, abar[k]), eps, abar[k - 1])
    return x


def detect_as_paper(
    call: Call, encode: Call, x0: Image, abar: Float64[Tensor, " n"], noise_level: int
) -> Image:
    """The pseudo-healthy film by Algorithm 1: encode with NP alone, decode through MPG.

    `abar` is that of the kept levels; x0 counts as level 0. 2 L network calls.
    """
    x, _ = encode_as_paper(encode, x0, abar, noise_level)
    return decode_as_paper(call, x, abar, noise_level)


def program_step(
    call: Call, x: Image, k: int, abar: Float64[Tensor, " n"], abar_to: Tensor | float
) -> tuple[Image, Image]:
    """One step of the published program, up or down, and the clean film it went through.

    The film is clamped to [-1, 1] although its greys are in [0, 1], and the noise is worked
    out anew from the clamped film: eps itself never reaches the next x directly.
    """
    eps, regenerated = call(x, k)
    x0 = predict_x0(regenerated, eps, abar[k]).clamp(-1, 1)
    # The program rounds this one abar to single precision before it takes 1 - abar, which
    # near abar = 1 moves the noise by 1e-4 of itself: follow it, or drift from its results.
    rounded = torch.as_tensor(abar_to).float()
    return ddim_step(x0, predict_eps(x, x0, abar[k]), rounded), x0


def detect_as_program(
    call: Call,
    x0: Image,
    noise: Image,
    abar: Float64[Tensor, " n"],
    noise_level: int,
    *,
    encode: bool = True,
) -> Image:
    """The pseudo-healthy film as the published program finds it. 2 (L - 1) network calls.

    Without `encode` it starts from the film under `noise` at the level that decoding begins with,
    in half the calls (ours).
    """
    x = add_noise(x0, noise, abar[0] if encode else abar[noise_level - 2])
    for k in range(1, noise_level) if encode else ():
        x, _ = program_step(call, x, k, abar, abar[k + 1] if k + 1 < len(abar) else 0.0)
    for k in range(noise_level - 2, -1, -1):
        x, _ = program_step(call, x, k, abar, abar[k - 1] if k else 1.0)
    return x


def scores_of(x: Image, normal: Image) -> dict[str, Float[Tensor, " b"]]:
    """The five scores of a film against its pseudo-healthy version, greys in [0, 1]."""
    flat, flat_normal = residual.min_max(x), residual.min_max(normal)
    return {
        "mse": residual.mse(x, normal),
        "max_abs": residual.max_abs(x, normal),
        "norm_mse": residual.mse(flat, flat_normal),
        "norm_max_abs": residual.max_abs(flat, flat_normal),
        "ssim": 1 - residual.ssim_map(x, normal).flatten(1).mean(1),
    }
