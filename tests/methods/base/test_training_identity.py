"""Which networks methods share, and that nothing stale is ever taken for a fresh one."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nofinding.benchmark import grid
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods import METHODS
from nofinding.methods.base import training_identity as module
from nofinding.methods.base.training_identity import describe, trained_once, trainings_of

SHARERS = [
    name
    for name, kind in METHODS.items()
    if hasattr(kind(kind.PRESETS["tiny"], EhrStats.of([], [])), "borrowed_seconds")
]


@pytest.fixture
def fresh_digests() -> Iterator[None]:
    """Digests are taken anew, now and after the test."""
    for digest in (module._module_digest, module._package_digest):
        digest.cache_clear()
    yield
    for digest in (module._module_digest, module._package_digest):
        digest.cache_clear()


def of(name: str, preset: str = "tiny") -> set[str]:
    return set(trainings_of(METHODS[name], METHODS[name].PRESETS[preset]))


def test_all_that_take_over_networks_say_which() -> None:
    assert {"ae", "ddad", "ddad-intra", "ldm-ood", "ldm-kl", "diad", "mad-ad"} <= set(SHARERS)
    for name in SHARERS:
        for preset in METHODS[name].PRESETS:
            assert of(name, preset), f"{name}:{preset}"
    assert not of("mean-grey")


@pytest.mark.parametrize("name", SHARERS)
def test_another_program_is_another_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(name)
    assert before == of(name)
    for digest in ("_module_digest", "_package_digest"):
        with monkeypatch.context() as patch:
            patch.setattr(module, digest, lambda name: f"{name}, changed")
            assert before.isdisjoint(of(name)), digest
    monkeypatch.setattr(module.torch, "__version__", "0.0")
    assert before.isdisjoint(of(name))


@pytest.mark.parametrize("name", SHARERS)
def test_another_training_configuration_is_another_training(name: str) -> None:
    presets = METHODS[name].PRESETS
    assert of(name, "tiny").isdisjoint(of(name, "small")) or presets["tiny"] == presets["small"]


@pytest.mark.usefixtures("fresh_digests")
def test_an_edited_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "edited.py"
    own = ModuleType("edited")
    own.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "edited", own)

    def learn() -> None: ...

    learn.__module__ = "edited"
    names = set()
    for text in ("a = 1\n", "a = 2\n"):
        file.write_text(text)
        module._module_digest.cache_clear()
        names.add(describe({}, [learn]))
    package = ModuleType("packaged")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "packaged", package)
    monkeypatch.setattr(module, "SHARED_CODE", (package,))
    for text in ("b = 1\n", "b = 2\n"):
        (tmp_path / "part.py").write_text(text)
        module._package_digest.cache_clear()
        names.add(describe({}, [learn]))
    assert len(names) == 4


class Hashed:
    """Films of which only the pixel hashes count."""

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def pixel_hash(self, index: int) -> str:
        return f"{index}"


def test_a_network_is_trained_once_and_its_weights_serve_all(tmp_path: Path) -> None:
    learnt: list[nn.Module] = []

    def offered(shared: Path | None, description: str = "a", films: Any = None, seed: int = 0
                ) -> tuple[nn.Linear, float]:  # fmt: skip
        net = nn.Linear(2, 1)

        def learn() -> float:
            learnt.append(net)
            return 12.5

        return net, trained_once(net, description, films or Hashed(), seed, shared, learn)

    first, spared = offered(tmp_path)
    assert (len(learnt), spared) == (1, 0)
    second, spared = offered(tmp_path)
    assert (len(learnt), spared) == (1, 12.5)
    assert torch.equal(first.weight, second.weight) and not second.training
    changes: list[dict[str, Any]] = [{"description": "b"}, {"films": Hashed(3)}, {"seed": 1}]
    for change in changes:
        assert offered(tmp_path, **change)[1] == 0
    assert offered(None)[1] == 0 and len(learnt) == 5  # nowhere to lie: each trains its own
    assert len([*tmp_path.glob("*.json")]) == 4
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        offered(tmp_path)


def test_a_network_whose_training_failed_is_not_shared(tmp_path: Path) -> None:
    def fail() -> float:
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="disk is full"):
        trained_once(nn.Linear(2, 1), "a", Hashed(), 0, tmp_path, fail)  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]


def cell(method: str, preset: str = "tiny", seed: int = 0, cohort: str = "a") -> Any:
    return SimpleNamespace(
        method=method, preset=preset, seed=seed, share=SimpleNamespace(name=cohort)
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("ddad", "ddad-intra"), ("ldm-ood", "ldm-kl"), ("diad", "mad-ad"), ("ddpm", "autoddpm")],
)
def test_the_bench_never_trains_one_network_twice_at_a_time(first: str, second: str) -> None:
    running, waiting = cell(first), cell(second)
    assert grid._next([waiting], [running]) is None
    assert grid._next([running], [waiting]) is None
    assert grid._next([waiting], []) is waiting
    for other in (cell(second, seed=1), cell(second, cohort="b"), cell("mean-grey"), cell("vae")):
        assert grid._next([waiting, other], [running]) is other


def test_the_bench_knows_that_a_method_shares_with_itself() -> None:
    assert grid._next([cell("ae")], [cell("ae")]) is None
