"""The plain diffusion model and the one with checkerboards, against Diff3M's own ablations."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.noise import gaussian, generators
from nofinding.methods import METHODS
from nofinding.methods.base.denoising import DenoiserConfig
from nofinding.methods.base.protocol import HasRules
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.methods.pixel_diffusion.checkerboard_ddpm import DDPMPCM
from nofinding.methods.pixel_diffusion.ddpm import DDPM, DDPMConfig
from nofinding.types import Batch

STATS = EhrStats(fields=(FIELDS["age"],), mean=(50.0,), std=(20.0,), known=(9,))
TINY = replace(DDPM.PRESETS["tiny"], respacing="ddim10", noise_level=3)


def stirred(net: nn.Module) -> None:
    """Weights that are not those of an untrained net, whose last layers are zero."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)


def detector(config: DDPMConfig = TINY) -> DDPM:
    output = DDPM(config, STATS)
    stirred(output.net)
    output.fitted = True
    return output


def batch(n: int = 2) -> Batch:
    image = gaussian((1, 32, 32), generators(0, range(n))).clamp(-1, 1)
    return Batch(
        image, torch.zeros(n, 1), torch.ones(n, 1).bool(), tuple(f"f{i}" for i in range(n))
    )


def test_it_is_the_ablation_of_diff3m() -> None:
    """Weights, steps and scores: only the training in two stages and the record are left out."""
    output, films = detector(), batch()
    config = replace(Diff3M.PRESETS["tiny-ddpm"], respacing="ddim10", noise_level=3, decode="np")
    other = Diff3M(config, STATS)
    other.load_state(output.state())
    scores, expected = output.score(films), other.score(films)
    torch.testing.assert_close(scores.score, expected.score)
    assert scores.anomaly_map is not None and expected.anomaly_map is not None
    torch.testing.assert_close(scores.anomaly_map, expected.anomaly_map)
    for name, part in expected.components.items():
        torch.testing.assert_close(scores.components[name], part)


def test_its_loss_is_the_ablation_s() -> None:
    output, films = detector(), batch()
    other = Diff3M(Diff3M.PRESETS["tiny-ddpm"], STATS)
    other.load_state(output.state())
    ours = output.loss(output.net, films, generators(3, range(2)))["loss"]
    theirs = other.loss(other.net, films, generators(3, range(2)), regenerate=False)["loss"]
    torch.testing.assert_close(ours, theirs)


def test_steps_go_up_to_t_and_down_again() -> None:
    output, levels = detector(), list[float]()
    output.net.register_forward_pre_hook(lambda _, given: levels.append(given[1].item()))
    output.score(batch())
    assert levels == [0, 100, 200, 300, 200, 100]
    assert len(levels) == output.network_calls


def test_a_perfect_round_trip_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    output = detector()
    monkeypatch.setattr(
        output.net, "forward", lambda x, t: torch.ones_like(x)
    )  # any constant noise
    assert output.score(batch()).score.max() < 1e-5


def test_the_score_is_the_part_asked_for() -> None:
    for name in ("mse", "max_abs", "mae", "ssim"):
        scores = detector(replace(TINY, score=name)).score(batch())
        assert torch.equal(scores.score, scores.components[name])


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
    output = DDPMPCM(DDPMPCM.PRESETS["tiny"], STATS)
    stirred(output.net)
    assert isinstance(output, HasRules) and not output.uses_ehr and output.net.regenerates
    other = Diff3M(Diff3M.PRESETS["tiny-ddpm-pcm"], STATS)
    other.load_state(output.state())
    torch.testing.assert_close(output.score(batch()).score, other.score(batch()).score)


def test_what_it_decodes_has_passed_the_checkerboards(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, calls = DDPMPCM(DDPMPCM.PRESETS["tiny"], STATS), list[Tensor]()
    stirred(outputs.net)
    real = outputs.net.regenerate
    monkeypatch.setattr(outputs.net, "regenerate", lambda *a: calls.append(a[0]) or real(*a))
    before = outputs.score(batch()).score
    assert len(calls) == outputs.config.noise_level  # on the way down alone
    by_noise = DDPMPCM(DDPMPCM.with_rule(outputs.config, "np", 0), STATS)
    by_noise.load_state(outputs.state())
    assert not torch.allclose(by_noise.score(batch()).score, before)


def test_published_sizes_are_diff3m_s() -> None:
    ours, theirs = DDPMPCM.PRESETS["paper"], Diff3M.PRESETS["paper-ddpm-pcm"]
    assert vars(ours) == vars(theirs)
