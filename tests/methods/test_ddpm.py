"""The plain diffusion model and the one with checkerboards, against Diff3M's own ablations."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import gaussian, generators
from nofinding.methods import METHODS
from nofinding.methods.ddpm import DDPM, DDPMConfig
from nofinding.methods.ddpm_pcm import DDPMPCM
from nofinding.methods.denoising import DenoiserConfig
from nofinding.methods.diff3m import Diff3M
from nofinding.methods.protocol import Ruled
from nofinding.types import Batch

STATS = EhrStats(fields=(FIELDS["age"],), mean=(50.0,), std=(20.0,), known=(9,))
TINY = replace(DDPM.PRESETS["tiny"], respacing="ddim10", noise_level=3)


def stirred(net: nn.Module) -> None:
    """Weights that are not those of an untrained net, whose last layers are zero."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)


def detector(config: DDPMConfig = TINY) -> DDPM:
    made = DDPM(config, STATS)
    stirred(made.net)
    made.fitted = True
    return made


def batch(n: int = 2) -> Batch:
    image = gaussian((1, 32, 32), generators(0, range(n))).clamp(-1, 1)
    return Batch(
        image, torch.zeros(n, 1), torch.ones(n, 1).bool(), tuple(f"f{i}" for i in range(n))
    )


def test_it_is_the_ablation_of_diff3m() -> None:
    """Weights, steps and scores: only the training in two stages and the record are left out."""
    made, films = detector(), batch()
    config = replace(Diff3M.PRESETS["tiny-ddpm"], respacing="ddim10", noise_level=3, decode="np")
    other = Diff3M(config, STATS)
    other.load_state(made.state())
    scores, wanted = made.score(films), other.score(films)
    torch.testing.assert_close(scores.score, wanted.score)
    assert scores.map is not None and wanted.map is not None
    torch.testing.assert_close(scores.map, wanted.map)
    for name, part in wanted.parts.items():
        torch.testing.assert_close(scores.parts[name], part)


def test_its_loss_is_the_ablation_s() -> None:
    made, films = detector(), batch()
    other = Diff3M(Diff3M.PRESETS["tiny-ddpm"], STATS)
    other.load_state(made.state())
    ours = made.loss(made.net, films, generators(3, range(2)))["loss"]
    theirs = other.loss(other.net, films, generators(3, range(2)), regenerate=False)["loss"]
    torch.testing.assert_close(ours, theirs)


def test_steps_go_up_to_t_and_down_again() -> None:
    made, levels = detector(), list[float]()
    made.net.register_forward_pre_hook(lambda _, given: levels.append(given[1].item()))
    made.score(batch())
    assert levels == [0, 100, 200, 300, 200, 100]
    assert len(levels) == made.network_calls


def test_a_perfect_round_trip_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = detector()
    monkeypatch.setattr(made.net, "forward", lambda x, t: torch.ones_like(x))  # any constant noise
    assert made.score(batch()).score.max() < 1e-5


def test_the_score_is_the_part_asked_for() -> None:
    for name in ("mse", "max_abs", "mae", "ssim"):
        scores = detector(replace(TINY, score=name)).score(batch())
        assert torch.equal(scores.score, scores.parts[name])


def test_small_has_the_network_that_others_train() -> None:
    for name in ("ddpm", "osd-irf", "diffpath"):
        config = METHODS[name].PRESETS["small"]
        assert (config.net, config.image_size) == (DenoiserConfig(), 32)


def test_impossible_settings_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="noise_level 10: give 1 to 9"):
        detector(replace(TINY, noise_level=10))
    with pytest.raises(UserError, match="respacing 'ddim300'"):
        detector(replace(TINY, respacing="ddim300"))


def test_checkerboards_are_diff3m_s_without_the_record() -> None:
    made = DDPMPCM(DDPMPCM.PRESETS["tiny"], STATS)
    stirred(made.net)
    assert isinstance(made, Ruled) and not made.uses_ehr and made.net.regenerates
    other = Diff3M(Diff3M.PRESETS["tiny-ddpm-pcm"], STATS)
    other.load_state(made.state())
    torch.testing.assert_close(made.score(batch()).score, other.score(batch()).score)


def test_what_it_decodes_has_passed_the_checkerboards(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = DDPMPCM(DDPMPCM.PRESETS["tiny"], STATS), list[Tensor]()
    stirred(made.net)
    real = made.net.regenerate
    monkeypatch.setattr(made.net, "regenerate", lambda *a: calls.append(a[0]) or real(*a))
    before = made.score(batch()).score
    assert len(calls) == made.config.noise_level  # on the way down alone
    by_noise = DDPMPCM(DDPMPCM.ruled(made.config, "np", 0), STATS)
    by_noise.load_state(made.state())
    assert not torch.allclose(by_noise.score(batch()).score, before)


def test_published_sizes_are_diff3m_s() -> None:
    ours, theirs = DDPMPCM.PRESETS["paper"], Diff3M.PRESETS["paper-ddpm-pcm"]
    assert vars(ours) == vars(theirs)
