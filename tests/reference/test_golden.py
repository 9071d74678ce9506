"""Our Diff3M against the numbers of the published program.

Runs over every `NAME.weights.safetensors` / `NAME.vectors.safetensors` pair in the folder that
NOFINDING_GOLDEN names (default ../shared/golden beside the repository). All flags come from the
files' metadata.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.features.attention import pool_tokens
from nofinding.methods.diff3m import official_checkpoint
from nofinding.methods.diff3m.detector import Diff3M, detect_as_program, program_step, scores_of

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("NOFINDING_GOLDEN", ROOT.parent / "shared" / "golden"))
PAIRS = sorted(p.name.removesuffix(".weights.safetensors") for p in GOLDEN.glob("*.weights.*"))

pytestmark = pytest.mark.skipif(not PAIRS, reason=f"no golden numbers in {GOLDEN}")


@dataclass
class Golden:
    detector: Diff3M
    vectors: dict[str, Tensor]
    noise_level: int
    values: Tensor
    known: Tensor

    def context(self) -> Tensor | None:
        return self.detector.net.attend(self.vectors["x0"], self.values, self.known)[0]

    def call(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        t = self.detector.timestep_map[k].float().expand(len(x))
        out: tuple[Tensor, Tensor] = self.detector.net(x, t, self.context())
        return out

    def t(self) -> Tensor:
        return self.detector.timestep_map[self.vectors["t"]].float()


@pytest.fixture(scope="module", params=PAIRS)
def golden(request: pytest.FixtureRequest) -> Golden:
    name = request.param
    tensors, flags = official_checkpoint.read_checkpoint(GOLDEN / f"{name}.weights.safetensors")
    with safe_open(GOLDEN / f"{name}.vectors.safetensors", framework="pt") as file:
        vectors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = file.metadata()
    flags = {**json.loads(meta.get("config", "{}")), **flags}
    detector = official_checkpoint.detector_of(
        tensors, official_checkpoint.config_of(tensors, flags)
    )
    detector.net.eval()
    sex, age, view = vectors["demo"].T
    columns = [age, sex, view]
    if detector.config.record == "full":
        columns += list(vectors["ehr"].T if "ehr" in vectors else torch.zeros(5, len(sex)))
    values = torch.stack(columns, dim=1)
    known = torch.ones_like(values, dtype=torch.bool)
    known[:, 3:] = "ehr" in vectors
    torch.set_grad_enabled(False)
    request.addfinalizer(lambda: torch.set_grad_enabled(True))
    return Golden(detector, vectors, int(meta["noise_level"]), values, known)


def agrees(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Within the tolerance, relative to the largest value of the published tensor."""
    assert ours.shape == theirs.shape
    worst = (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()
    assert worst <= tolerance, f"off by {worst:.2e} of the largest value"


def test_schedule(golden: Golden) -> None:
    agrees(golden.detector.abar, golden.vectors["alphas_cumprod"], 1e-12)
    assert torch.equal(golden.detector.timestep_map, golden.vectors["timestep_map"])


def test_noised_film(golden: Golden) -> None:
    v = golden.vectors
    agrees(add_noise(v["x0"], v["noise"], golden.detector.abar[v["t"]]), v["x_t"])


def test_masks(golden: Golden) -> None:
    v = golden.vectors
    for index, mask in enumerate(golden.detector.net.masks(golden.t()), start=1):
        agrees(mask.expand_as(v[f"mask_{index}"]), v[f"mask_{index}"])
        agrees(mask * v["x_t"], v[f"masked_{index}"])


def test_cross_attention(golden: Golden) -> None:
    v, net = golden.vectors, golden.detector.net
    query = net.ieca.query(v["x0"])
    agrees(query, v["image_embedding"])
    names = [name for name in ("demo", "ehr") if name in v]
    for name, group, tokenizer in zip(names, net.ieca.groups, net.ieca.tokenizers, strict=False):
        tokens, known = tokenizer(golden.values[:, group], golden.known[:, group])
        agrees(tokens, v[f"{name}_tokens"])
        agrees(pool_tokens(query, tokens, known)[1], v[f"{name}_weights"])
    _, after = net.embed(golden.t(), golden.context())
    agrees(after, v["conditioned_embedding"])


def test_call(golden: Golden) -> None:
    v = golden.vectors
    eps, regenerated = golden.detector.net(v["x_t"], golden.t(), golden.context())
    agrees(eps, v["eps"])
    agrees(regenerated, v["regenerated"])


def test_losses(golden: Golden) -> None:
    v = golden.vectors
    eps, regenerated = golden.detector.net(v["x_t"], golden.t(), golden.context())
    noise_loss = (v["noise"] - eps).square().flatten(1).mean(1)
    pixel_loss = (v["x_t"] - regenerated).square().flatten(1).mean(1)
    agrees(noise_loss, v["loss_eps"])
    agrees(pixel_loss, v["loss_rec"])
    agrees(0.5 * noise_loss + 0.5 * pixel_loss, v["loss"])


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_step(golden: Golden, direction: str) -> None:
    v, abar = golden.vectors, golden.detector.abar
    start = v["x0"] if direction == "encode" else v["step_encode"]
    for k in v["step_t"].unique().tolist():
        rows = v["step_t"] == k
        above = abar[k + 1] if k + 1 < len(abar) else 0.0
        below = abar[k - 1] if k else 1.0
        abar_to = above if direction == "encode" else below
        x, x0 = program_step(golden.call, start, k, abar, abar_to)
        agrees(x[rows], v[f"step_{direction}"][rows])
        agrees(x0[rows], v[f"step_{direction}_x0"][rows])


def test_detection(golden: Golden) -> None:
    v, abar = golden.vectors, golden.detector.abar
    agrees(add_noise(v["x0"], v["first_noise"], abar[0]), v["start"])
    result = detect_as_program(golden.call, v["x0"], v["first_noise"], abar, golden.noise_level)
    agrees(result, v["reconstruction"], 1e-3)
    for name, ours in scores_of(v["x0"], result).items():
        if f"score_{name}" in v:
            agrees(ours, v[f"score_{name}"], 5e-4)
