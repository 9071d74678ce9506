"""Other ways of running a network: the same answer, or a known distance from it."""

import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import gaussian, generators
from nofinding.methods import METHODS
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.model.runtime_parity import Parity, rank_correlation, use_runtime
from nofinding.runtime import FlopCounter, Network, Portable, Runtime
from nofinding.types import Batch

STATS = EhrStats(fields=(FIELDS["age"],), mean=(50.0,), std=(20.0,), known=(9,))
TINY = replace(Diff3M.PRESETS["tiny"], noise_level=2)


def detector(**change: object) -> Diff3M:
    torch.manual_seed(0)
    output = Diff3M(replace(TINY, **change), STATS)
    for name, weight in output.net.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(weight, mean=mean, std=0.08)
    return output


def batch(n: int = 3) -> Batch:
    image = gaussian((1, 32, 32), generators(0, range(n))).clamp(-1, 1)
    known = torch.ones(n, 1, dtype=torch.bool)
    return Batch(image, torch.linspace(-1, 1, n)[:, None], known, tuple(map(str, range(n))))


def off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


class Pair(nn.Module):
    """Two outputs of an image and a number a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x) * t[:, None, None, None]
        return y, y.mean((1, 2, 3))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_float32_is_float32_whatever_runs_it(engine: str) -> None:
    x, t = batch(5).image, torch.tensor([3.0])
    target = [out.detach() for out in Pair()(x, t)]
    network: Network = Runtime(engine=engine).prepare(Pair())  # type: ignore[arg-type]
    prediction = network(x, t)
    assert all(off(a, b) < 1e-5 for a, b in zip(prediction, target, strict=True))
    fewer = network(x[:2], t)  # a batch smaller than one that went before
    assert [len(part) for part in fewer] == [2, 2]
    assert all(off(a, b[:2]) < 1e-5 for a, b in zip(fewer, target, strict=True))
    torch.testing.assert_close(network(x, t)[0], prediction[0])  # nothing was overwritten


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bfloat16_is_bfloat16_and_comes_back_as_float32(engine: str) -> None:
    if engine == "openvino" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor does not multiply bfloat16")
    x, t = batch(4).image, torch.tensor([3.0])
    target = Pair()(x, t)[0].detach()
    (result, _) = Runtime(engine=engine, precision="bfloat16").prepare(Pair())(x, t)  # type: ignore[arg-type]
    assert result.dtype == torch.float32
    assert 1e-4 < off(result, target) < 0.03


@pytest.mark.parametrize("change", [{}, {"record": "none", "regenerate": False}])
def test_openvino_scores_as_torch_does(change: dict[str, object]) -> None:
    output, films = detector(**change), batch()
    expected = output.score(films)
    output.runtime = Runtime(engine="openvino")
    scores = output.score(films)
    for name, part in expected.components.items():
        assert off(scores.components[name], part) < 5e-4, name
    assert not torch.equal(
        scores.components["mse"], expected.components["mse"]
    )  # it was OpenVINO, then


def test_the_sampler_stays_float32_under_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    output = detector()
    output.runtime = Runtime(precision="bfloat16")
    inside: list[bool] = []
    real = output.net.predict_noise

    def watched(x: Tensor, *rest: Tensor) -> Tensor:
        inside.append(torch.is_autocast_enabled("cpu"))
        assert x.dtype == torch.float32
        return real(x, *rest)

    monkeypatch.setattr(output.net, "predict_noise", watched)
    scores = output.score(batch())
    assert inside == [True] * 4
    assert scores.anomaly_map is not None and scores.anomaly_map.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_new_weights_are_what_is_run() -> None:
    output, films = detector(), batch()
    output.runtime = Runtime(engine="openvino")
    before = output.score(films).score
    output.load_state({name: value * 0.9 for name, value in output.state().items()})
    after = output.score(films).score
    output.runtime = Runtime()
    assert off(after, output.score(films).score) < 5e-4
    assert off(after, before) > 1e-3


def test_without_openvino_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino.*not installed"):
        Runtime(engine="openvino").prepare(Pair())


def test_openvino_is_loaded_without_what_reports_its_use() -> None:
    Runtime(engine="openvino").prepare(Pair())
    assert sys.modules["openvino_telemetry"] is None


def test_methods_without_a_seam_run_one_way() -> None:
    output = METHODS["mean-grey"](METHODS["mean-grey"].Config(), STATS)
    assert isinstance(detector(), Portable) and not isinstance(output, Portable)
    use_runtime(output, Runtime())
    with pytest.raises(UserError, match="mean-grey is always run in float32"):
        use_runtime(output, Runtime(precision="bfloat16"))


@dataclass
class Case:
    films: int
    spearman: float
    holds: bool


@pytest.mark.parametrize(
    "case", [Case(32, 0.995, True), Case(32, 0.98, False), Case(7, 1.0, False),
             Case(32, float("nan"), False)],
)  # fmt: skip
def test_p_values_survive_only_where_ranks_do(case: Case) -> None:
    result = Parity(films=case.films, spearman=case.spearman, largest_difference=0.0, gflop=1.0)
    assert result.holds == case.holds
    assert bool(result.why_not) != case.holds


def test_rank_correlation() -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0]).numpy()
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, a[[1, 0, 2, 3]]) == pytest.approx(0.8)
    assert rank_correlation(a, a * 0) != rank_correlation(a, a * 0)  # NaN


class Downhill(nn.Module):
    """Moves against a gradient of its own, as a guided method does while it scores."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.inner(x).square().sum(), x)
        return x - slope


def test_operations_are_counted_where_a_gradient_is_followed() -> None:
    with FlopCounter() as counter:
        Downhill()(torch.ones(2, 4))
    # forward and back: 2 x 4 x 4 multiplications and additions each
    assert counter.get_total_flops() == 2 * (2 * 2 * 4 * 4)
