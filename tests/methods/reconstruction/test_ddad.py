"""Two modules, what each learns from, and where they disagree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.methods.reconstruction.autoencoder import AE, as_published
from nofinding.methods.reconstruction.ddad import DDAD, DDADConfig, DDADIntra
from nofinding.training import TrainingRun
from nofinding.types import Batch, Exam, Pixels

NO_RECORD = EhrStats.of([], [])
QUIET = TrainingRun(progress=False, accelerator="cpu")
TINY = DDAD.PRESETS["tiny"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Slope:
    """Grey that rises to one side; with a bright spot, if asked for."""

    seed: int
    spot: bool = False

    def __call__(self) -> Pixels:
        rng = np.random.default_rng(self.seed)
        film = np.linspace(0.2, 0.2 + 0.3 * rng.random(), 16, dtype=np.float32)
        film = np.tile(film, (16, 1))
        if self.spot:
            film[4:10, 4:10] = 1.0
        return film


def films(seeds: Sequence[int], *, spots: bool = False) -> Films:
    return Films(
        [Exam(image_id=f"{i}", patient_id=str(i), pixels=Slope(i, spots), ehr={}) for i in seeds],
        NO_RECORD,
        16,
    )


class Fixed(nn.Module):
    """Always the same grey, and the same log-variance where there is a second channel."""

    def __init__(self, *channels: float) -> None:
        super().__init__()
        self.channels = nn.Parameter(torch.tensor(channels)[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.channels.expand(len(x), -1, *x.shape[-2:])


def batch_of(grey: float) -> Batch:
    none = torch.zeros(2, 0)
    return Batch(torch.full((2, 1, 16, 16), grey), none, none.bool(), ("0", "1"))


def with_nets(kind: Any, backbone: str, **nets: Fixed) -> Any:
    detector = kind(replace(TINY, backbone=backbone), NO_RECORD)
    detector.net = nn.ModuleDict(nets)
    return detector


def test_scores_by_hand() -> None:
    """Greys of [-1, 1] inside, of [0, 1] outside: every difference is halved."""
    nets = {"a0": Fixed(0.5), "a1": Fixed(0.7), "b0": Fixed(0.0), "b1": Fixed(0.4)}
    scores = with_nets(DDAD, "ae", **nets).score(batch_of(0.6))
    assert scores.score.tolist() == pytest.approx([0.2, 0.2])  # |0.6 - 0.2| / 2
    assert scores.components["intra"].tolist() == pytest.approx([0.1, 0.1])  # 0.2 / 2
    assert scores.components["rec"].tolist() == pytest.approx([0.04, 0.04])  # (0.4 / 2)^2
    torch.testing.assert_close(scores.anomaly_map, torch.full((2, 1, 16, 16), 0.2))
    torch.testing.assert_close(scores.reconstruction, torch.full((2, 1, 16, 16), 0.2))
    b = {"b0": Fixed(0.0), "b1": Fixed(0.4)}
    scores = with_nets(DDADIntra, "ae", **b).score(batch_of(0.6))
    assert scores.score.tolist() == pytest.approx([0.1, 0.1])
    assert set(scores.components) == {"intra", "rec"}


def test_with_a_predicted_variance_everything_is_in_deviations_of_module_b() -> None:
    log1, log7 = 0.0, float(np.log(7.0))  # the mean variance is 4, the deviation 2
    nets = {"a0": Fixed(0.5, 9.0), "a1": Fixed(0.7, 9.0)}
    nets |= {"b0": Fixed(0.0, log1), "b1": Fixed(0.4, log7)}
    scores = with_nets(DDAD, "ae-u", **nets).score(batch_of(0.6))
    assert scores.score.tolist() == pytest.approx([0.2, 0.2], abs=1e-5)  # 0.4 / 2
    assert scores.components["intra"].tolist() == pytest.approx([0.1, 0.1], abs=1e-5)
    assert scores.components["rec"].tolist() == pytest.approx([0.04, 0.04], abs=1e-5)  # 0.16 / 4


def test_module_a_learns_from_both_module_b_from_normal_films_each_with_its_own_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[Films, int]] = []

    def note(self: AE, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> AE:
        calls.append((normal, seed))
        self.net = self.new_net()
        return self

    monkeypatch.setattr(AE, "fit", note)
    normal, others = films(range(5)), films(range(10, 13), spots=True)
    detector = DDAD(replace(TINY, members=3), NO_RECORD)
    detector.set_auxiliary(others)
    detector.fit(normal, seed=4)
    assert [message.ids for message, _ in calls] == [normal.ids + others.ids] * 3 + [normal.ids] * 3
    assert len({seed for _, seed in calls}) == 6
    assert detector.network_calls == 6
    assert {name.split(".")[0] for name in detector.state()} == {"a0", "a1", "a2", "b0", "b1", "b2"}
    mine = [seed for _, seed in calls]
    calls.clear()
    DDADIntra(replace(TINY, members=3), NO_RECORD).fit(normal, seed=4)
    assert [seed for _, seed in calls] == mine[3:]  # module B is the same in both methods


def test_what_the_unlabelled_films_show_comes_back_from_module_a_alone(tmp_path: Path) -> None:
    """Spots are in half the unlabelled films: A learns to give them back, B cannot."""
    normal = films(range(24))
    config = replace(TINY, latent=2, train=as_published(steps=80, batch_size=8, lr=5e-3))
    spotted, plain = films(range(50, 54), spots=True), films(range(60, 64))
    inter = {}
    for name, spots in (("spots", True), ("none", False)):
        detector = DDAD(config, NO_RECORD)
        detector.set_auxiliary(films(range(100, 124), spots=spots))
        # Of three seeds the one whose margins a processor's other rounding does not use up.
        detector.fit(normal, seed=3, job=replace(QUIET, shared=tmp_path))
        assert (detector.borrowed_seconds > 0) == (name == "none")  # module B is trained once
        scores = detector.score(spotted.batch(range(4)))
        inter[name] = float(scores.score.mean())
        if spots:
            assert scores.anomaly_map is not None
            inside = scores.anomaly_map[:, 0, 4:10, 4:10].mean()
            assert inside > 2 * scores.anomaly_map.mean()
            assert scores.score.min() > 2 * detector.score(plain.batch(range(4))).score.max()
    assert inter["spots"] > 2 * inter["none"]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match="members 1: give 2 or more"):
        DDAD(DDADConfig(members=1), NO_RECORD)
    with pytest.raises(UserError, match="backbone vae: give one of ae, ae-u"):
        DDAD(DDADConfig(backbone="vae"), NO_RECORD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="image_size 40: give a multiple"):
        DDAD(DDADConfig(image_size=40), NO_RECORD)
    with pytest.raises(UserError, match="ddad: not fitted yet"):
        DDAD(TINY, NO_RECORD).score(films([0]).batch([0]))


def test_a_memory_can_be_the_backbone() -> None:
    detector = DDADIntra(replace(TINY, backbone="memae"), NO_RECORD)
    detector.fit(films(range(8)), job=QUIET)
    assert any(name.endswith("memory") for name in detector.state())
    assert detector.score(films(range(4)).batch(range(4))).score.isfinite().all()
