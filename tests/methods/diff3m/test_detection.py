"""Detection rules: many ways of scoring, one set of weights."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise, predict_x0
from nofinding.functional.image.residual import mse
from nofinding.functional.noise import gaussian, generators
from nofinding.methods import METHODS
from nofinding.methods.base.protocol import HasRules
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detection import RULES, encode_as_paper
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.types import Batch

STATS = EhrStats(
    fields=tuple(FIELDS[n] for n in ("age", "sex")), mean=(50.0, 0.0), std=(20.0, 1.0), known=(9, 9)
)
TINY = Diff3M.PRESETS["tiny"]


def detector(config: Diff3MConfig = TINY) -> Diff3M:
    torch.manual_seed(0)
    output = Diff3M(config, STATS)
    for parameter in output.net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return output


def with_rule(rule: str | None, steps: int = 0, config: Diff3MConfig = TINY) -> Diff3M:
    output = Diff3M(Diff3M.with_rule(config, rule, steps), STATS)
    output.load_state(detector(config).state())
    return output


def batch(n: int = 3) -> Batch:
    image = gaussian((1, 32, 32), generators(0, range(n))).clamp(-1, 1)
    ehr = torch.stack([torch.linspace(-1, 1, n), torch.ones(n)], 1)
    return Batch(image, ehr, torch.ones(n, 2, dtype=torch.bool), tuple(f"f{i}" for i in range(n)))


def calls_of(output: Diff3M) -> list[bool]:
    """Whether MPG was asked for, call by call."""
    calls: list[bool] = []
    real = output.net.forward

    def watched(x: Tensor, t: Tensor, context: Tensor, *, regenerate: bool = True):  # type: ignore[no-untyped-def]
        calls.append(regenerate)
        return real(x, t, context, regenerate=regenerate)

    output.net.forward = watched  # type: ignore[method-assign]
    output.score(batch())
    return calls


def test_only_diff3m_has_rules_and_all_set_real_options() -> None:
    assert isinstance(detector(), HasRules)
    assert {"paper", "blind", "np", "noise-start", "x0-error", "inversion-norm"} <= set(RULES)
    assert not isinstance(METHODS["mean-grey"](METHODS["mean-grey"].Config(), STATS), HasRules)
    for rule in RULES:
        assert Diff3M.with_rule(TINY, rule, 0) == replace(TINY, **RULES[rule])


@pytest.mark.parametrize("variant", ["paper", "program"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_counts_its_calls_and_seeds_its_noise(rule: str, variant: str) -> None:
    config = replace(TINY, variant=variant)
    if variant == "program" and rule in ("paper", "blind"):
        with pytest.raises(UserError, match="variant program"):
            Diff3M.with_rule(config, rule, 0)
        return
    output = with_rule(rule, config=config)
    assert len(calls_of(output)) == output.network_calls
    films = batch()
    together, again = output.score(films, seed=3), output.score(films, seed=3)
    assert torch.equal(together.score, again.score)
    for i in range(3):
        one = Batch(
            films.image[i : i + 1], films.ehr[i : i + 1], films.known[i : i + 1], (f"f{i}",)
        )
        torch.testing.assert_close(output.score(one, seed=3).score, together.score[i : i + 1])
    draws = rule in ("noise-start", "x0-error") or (variant == "program" and rule == "np")
    assert torch.equal(output.score(films, seed=4).score, together.score) != draws
    assert together.anomaly_map is not None and (together.anomaly_map >= 0).all()
    assert (together.reconstruction is None) == (rule == "inversion-norm")


def test_rules_cost_what_they_say() -> None:
    assert calls_of(with_rule("paper")) == [False] * 3 + [True] * 3
    assert calls_of(with_rule("np")) == [False] * 6
    assert calls_of(with_rule("noise-start")) == [True] * 3
    assert calls_of(with_rule("x0-error")) == [False] * 3
    assert calls_of(with_rule("inversion-norm")) == [False] * 3


def test_x0_error_is_the_mean_distance_from_the_clean_films_seen_in_noise() -> None:
    output, films = with_rule("x0-error", config=replace(TINY, x0_levels=2, score="mse")), batch()
    assert output.x0_levels == [2, 3]  # round(3 / 2) is 2: an even spread up to L = 3
    rows = generators(5, films.ids)
    with torch.no_grad():
        context, _ = output.net.attend(films.image, films.ehr, films.known)
        expected = torch.zeros(3)
        for k in output.x0_levels:
            x = add_noise(films.image, gaussian((1, 32, 32), rows), output.abar[k])
            t = output.timestep_map[k].float().expand(3)
            eps, _ = output.net(x, t, context, regenerate=False)
            guess = predict_x0(x, eps, output.abar[k])
            expected += mse((films.image + 1) / 2, (guess + 1) / 2) / 2
    torch.testing.assert_close(output.score(films, seed=5).score, expected)


def test_inversion_norm_is_the_mean_size_of_the_noise_on_the_way_up() -> None:
    output, films = with_rule("inversion-norm"), batch()
    with torch.no_grad():
        context, _ = output.net.attend(films.image, films.ehr, films.known)
        steps = output.timestep_map.float()
        latent, noises = encode_as_paper(
            lambda x, k: output.net(x, steps[k].expand(3), context, regenerate=False),
            films.image, output.abar, 3,
        )  # fmt: skip
    sizes = torch.stack([eps.flatten(1).norm(dim=1) / 32 for eps in noises])
    scores = output.score(films)
    torch.testing.assert_close(scores.score, sizes.mean(0))
    torch.testing.assert_close(scores.components["latent_rms"], latent.flatten(1).norm(dim=1) / 32)
    # Film and noise, mixed once, give the latent: the map is that noise.
    a = output.abar[3]
    noise = (latent - a.sqrt().float() * films.image) / (1 - a).sqrt().float()
    assert scores.anomaly_map is not None
    torch.testing.assert_close(scores.anomaly_map, noise.abs(), rtol=1e-4, atol=1e-5)


def test_noise_start_decodes_the_noised_film() -> None:
    output, films = with_rule("noise-start"), batch()
    starts: list[Tensor] = []
    real = output.net.forward
    output.net.forward = lambda x, *a, **k: starts.append(x.clone()) or real(x, *a, **k)  # type: ignore[method-assign]
    output.score(films, seed=2)
    noise = gaussian((1, 32, 32), generators(2, films.ids))
    torch.testing.assert_close(starts[0], add_noise(films.image, noise, output.abar[3]))


def test_steps_keep_the_share_of_the_schedule() -> None:
    config = replace(TINY, respacing="ddim50", noise_level=20)
    for steps, level in ((10, 4), (25, 10), (100, 40)):
        other = Diff3M.with_rule(config, None, steps)
        assert (other.respacing, other.noise_level) == (f"ddim{steps}", level)
        top = Diff3M(other, STATS).timestep_map[level]
        assert top == 400  # the level of t at which 20 of 50 stands
    assert Diff3M.with_rule(config, None, 50) == config
    with pytest.raises(UserError, match="steps 333"):
        Diff3M.with_rule(config, None, 333)


def test_rules_share_weights_with_the_model_that_was_fitted() -> None:
    scores = {rule: with_rule(rule).score(batch()).score for rule in ("blind", "np", "x0-error")}
    torch.testing.assert_close(scores["blind"], detector().score(batch()).score)
    assert not torch.allclose(scores["np"], scores["blind"])
