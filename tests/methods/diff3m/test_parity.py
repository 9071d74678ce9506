"""The fast Diff3M against a plain one, written out here: one film at a time, NCHW, attention by
an explicit softmax, masks and embeddings worked out for every row of every call."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.methods.diff3m.network import Diff3MNet
from nofinding.nets.unet import Downsample, ResBlock, SelfAttention, Stem, Upsample
from nofinding.types import Batch

STATS = EhrStats(
    fields=tuple(FIELDS[n] for n in ("age", "sex", "bmi")),
    mean=(50.0, 0.0, 25.0),
    std=(20.0, 1.0, 5.0),
    known=(9,) * 3,
)
CONFIG = replace(
    Diff3M.PRESETS["tiny"], multipliers=(1, 2, 2), attention_at=(16,), heads=2, noise_level=4
)


def detector(config: Diff3MConfig = CONFIG) -> Diff3M:
    torch.manual_seed(0)
    output = Diff3M(config, STATS)
    for name, weight in output.net.named_parameters():
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(weight, mean=scale, std=0.08)
    return output


def batch(n: int = 3) -> Batch:
    image = gaussian((1, 32, 32), generators(0, range(n))).clamp(-1, 1)
    ehr = gaussian((3,), generators(1, range(n)))
    ehr[:, 1] = 1.0
    known = torch.ones(n, 3, dtype=torch.bool)
    known[0, 2] = False
    return Batch(image, ehr, known, tuple(f"f{i}" for i in range(n)))


def conv(layer: nn.Module, x: Tensor, **how: int) -> Tensor:
    return F.conv2d(x.contiguous(), layer.weight.contiguous(), layer.bias, **how)


def block(part: nn.Module, x: Tensor, e: Tensor | None) -> Tensor:
    if isinstance(part, Stem):
        return conv(part, x, padding=1)
    if isinstance(part, Downsample):
        return conv(part.conv, x, padding=1, stride=2)
    if isinstance(part, Upsample):
        return conv(part.conv, x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)
    if isinstance(part, ResBlock):
        h = part.norm1(x)
        h = conv(part.conv1, h * torch.sigmoid(h), padding=1)
        if e is not None:
            h = h + (part.embed(e * torch.sigmoid(e)))[:, :, None, None]
        h = part.norm2(h)
        h = conv(part.conv2, h * torch.sigmoid(h), padding=1)
        return h + (x if isinstance(part.skip, nn.Identity) else conv(part.skip, x))
    assert isinstance(part, SelfAttention)
    _, c, height, width = x.shape
    qkv = part.qkv(part.norm(x).flatten(2))[0].reshape(part.heads, 3, c // part.heads, -1)
    heads = []
    for q, k, v in qkv:
        weights = torch.softmax(q.T @ k / math.sqrt(len(q)), dim=1)  # (position, attended)
        heads.append(v @ weights.T)
    return x + part.out(torch.cat(heads)[None]).reshape(1, c, height, width)


def stages(part: nn.Module, x: Tensor, e: Tensor | None) -> Tensor:
    for step in part:
        x = block(step, x, e)
    return x


def unet(down: list[Tensor], middle: nn.Module, up: nn.Module, head: nn.Module, e: Tensor):  # type: ignore[no-untyped-def]
    h = stages(middle.blocks, down[-1], e)
    for stage, skip in zip(up.stages, reversed(down), strict=True):
        h = stages(stage, torch.cat([h, skip], 1), e)
    h = head.norm(h)
    return conv(head.conv, h * torch.sigmoid(h), padding=1)


def descend(encoder: nn.Module, x: Tensor, e: Tensor | None) -> list[Tensor]:
    maps = []
    for stage in encoder.stages:
        x = stages(stage, x, e)
        maps.append(x)
    return maps


def plain_call(net: Diff3MNet, x: Tensor, t: float, context: Tensor) -> tuple[Tensor, Tensor]:
    """Both outputs for one film."""
    after = net.norm(net.time(torch.tensor([t])) + context)
    before = net.time(torch.tensor([t])) if net.as_program else after
    eps = unet(descend(net.encoder, x, before), net.middle, net.decoder, net.head, after)
    y, z = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    odd = ((y + z) % 2).float()
    share = t / net.fade_steps
    masks = [odd + (1 - odd) * share, (1 - odd) + odd * share]
    outputs = [
        unet(
            descend(encoder, x * mask, before),
            net.mask_middle, net.mask_decoder, net.mask_head, after,
        )
        for encoder, mask in zip(net.mask_encoders, masks, strict=True)
    ]  # fmt: skip
    return eps, outputs[0] * masks[1] + outputs[1] * masks[0]


def plain_scores(output: Diff3M, films: Batch) -> tuple[Tensor, Tensor]:
    """max_abs and mse by Algorithm 1 with blind encoding, film by film."""
    net, a = output.net, output.abar
    collected = []
    for i in range(len(films.ids)):
        x0 = films.image[i : i + 1]
        context, _ = net.attend(x0, films.ehr[i : i + 1], films.known[i : i + 1])
        x = x0
        for k in range(output.config.noise_level):
            t = float(output.timestep_map[k])
            eps, _ = plain_call(net, x, t, torch.zeros_like(context))
            clean = (x - (1 - a[k]).sqrt().float() * eps) / a[k].sqrt().float()
            x = a[k + 1].sqrt().float() * clean + (1 - a[k + 1]).sqrt().float() * eps
        for k in range(output.config.noise_level, 0, -1):
            eps, films_used = plain_call(net, x, float(output.timestep_map[k]), context)
            clean = (films_used - (1 - a[k]).sqrt().float() * eps) / a[k].sqrt().float()
            x = a[k - 1].sqrt().float() * clean + (1 - a[k - 1]).sqrt().float() * eps
        gap = (x0 - x) / 2
        collected.append((gap.abs().max(), gap.square().mean()))
    largest, mean = zip(*collected, strict=True)
    return torch.stack(largest), torch.stack(mean)


def off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("variant", ["paper", "program"])
def test_a_call_is_that_of_the_plain_network(variant: str) -> None:
    output, films = detector(replace(CONFIG, variant=variant)), batch()
    with torch.no_grad():
        context, _ = output.net.attend(films.image, films.ehr, films.known)
        assert context is not None
        call = output._call(context, regenerate=True)
        for k in (1, 3):
            eps, calls = call(films.image, k)
            for i in range(3):
                t = float(output.timestep_map[k])
                expected = plain_call(output.net, films.image[i : i + 1], t, context[i : i + 1])
                assert off(eps[i : i + 1], expected[0]) < 1e-5
                assert off(calls[i : i + 1], expected[1]) < 1e-5


def test_a_score_is_that_of_the_plain_loop() -> None:
    output, films = detector(), batch()
    with torch.no_grad():
        largest, mean = plain_scores(output, films)
    parts = output.score(films).components
    assert off(parts["max_abs"], largest) < 5e-4
    assert off(parts["mse"], mean) < 5e-4
