"""Diff3M against its paper, where a number or a picture of the network's inside can be known."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.diffusion.schedule import linear_abar
from nofinding.functional.noise import gaussian, generators
from nofinding.methods.diff3m import detector as diff3m
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detector import Diff3M, detect_as_paper, program_step
from nofinding.types import Batch

NAMES = ("age", "sex", "view", "bmi", "systolic")
STATS = EhrStats(
    fields=tuple(FIELDS[n] for n in NAMES),
    mean=(50.0, 0.0, 0.0, 25.0, 120.0),
    std=(20.0, 1.0, 1.0, 5.0, 20.0),
    known=(9,) * 5,
)
TINY = Diff3M.PRESETS["tiny"]


def detector(config: Diff3MConfig = TINY) -> Diff3M:
    """With weights that are not those of an untrained net, whose last layers are zero."""
    torch.manual_seed(0)
    output = Diff3M(config, STATS)
    for parameter in output.net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    output.net.eval()
    return output


def batch(n: int = 2, size: int = 32) -> Batch:
    image = gaussian((1, size, size), generators(0, range(n))).clamp(-1, 1)
    ehr = torch.tensor([[0.5, 1.0, 0.0, -1.0, 0.2], [-1.5, 0.0, 1.0, 2.0, 1.0]])[:n]
    return Batch(image, ehr, torch.ones(n, 5, dtype=torch.bool), tuple(f"f{i}" for i in range(n)))


def ideal(abar: Tensor, mean: float, std: float) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """The best noise predictor for independent Gaussian pixels, in closed form."""

    def call(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        a = abar[k].item()
        eps = (1 - a) ** 0.5 * (x - a**0.5 * mean) / (a * std**2 + 1 - a)
        return eps, x

    return call


def test_gaussian_pixels_come_back_from_t_500() -> None:
    abar = linear_abar()
    x0 = 0.3 + 0.4 * gaussian((1, 16, 16), generators(0, range(4)))
    call = ideal(abar, mean=0.3, std=0.4)
    calls = []
    back = detect_as_paper(lambda x, k: calls.append(x) or call(x, k), call, x0, abar, 500)
    assert (back - x0).abs().max() < 0.01
    # Between, it was nearly noise: the marginal of x_500 has this spread.
    a = abar[500].item()
    assert calls[0].std().item() == pytest.approx((a * 0.16 + 1 - a) ** 0.5, rel=0.1)


def test_paper_decodes_through_the_regenerated_film_and_encodes_without_it() -> None:
    abar, x0 = linear_abar()[::20], torch.zeros(1, 1, 4, 4)
    levels: list[tuple[str, int]] = []

    def call(kind: str, shift: float) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
        def network(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
            levels.append((kind, k))
            return torch.zeros_like(x), x + shift

        return network

    back = detect_as_paper(call("decode", 1.0), call("encode", 100.0), x0, abar, 3)
    assert levels == [("encode", k) for k in (0, 1, 2)] + [("decode", k) for k in (3, 2, 1)]
    # eps is 0: each decoding step is x <- (x + 1) sqrt(abar_to / abar_from).
    expected = 0.0
    for k in (3, 2, 1):
        expected = (expected + 1) * (abar[k - 1] / abar[k]).sqrt().item()
    torch.testing.assert_close(back, torch.full_like(back, expected))


def test_program_clamps_the_clean_film_and_takes_the_noise_from_it() -> None:
    abar = linear_abar()
    x = torch.full((1, 1, 2, 2), 0.5)
    out, x0 = program_step(lambda x, k: (torch.full_like(x, -9.0), x), x, 400, abar, abar[401])
    assert torch.equal(x0, torch.ones_like(x))
    eps = (x - abar[400].sqrt() * x0) / (1 - abar[400]).sqrt()
    torch.testing.assert_close(out, add_noise(x0, eps.float(), abar[401]), rtol=1e-4, atol=1e-5)


def test_network_calls_are_counted_right() -> None:
    for variant in ("paper", "program"):
        output = detector(replace(TINY, variant=variant))
        calls = []
        output.net.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        queries = []
        output.net.ieca.query.register_forward_hook(lambda *_, queries=queries: queries.append(1))
        output.score(batch())
        assert len(calls) == output.network_calls
        assert len(queries) == 1  # the clean film is looked at once, not once a step


def test_masked_branch_runs_only_where_its_output_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    output = detector()
    calls = []
    real = output.net.regenerate
    monkeypatch.setattr(output.net, "regenerate", lambda *a: calls.append(1) or real(*a))
    output.score(batch())
    assert len(calls) == output.config.noise_level


def test_paper_conditions_every_block_and_program_all_but_the_encoders() -> None:
    t, context = torch.tensor([5.0]), torch.ones(1, 32)
    paper, program = detector(), detector(replace(TINY, variant="program"))
    before, after = paper.net.embed(t, context)
    assert torch.equal(before, after)
    before, after = program.net.embed(t, context)
    assert torch.equal(before, program.net.time(t))
    torch.testing.assert_close(after, program.net.norm(program.net.time(t) + context))


def test_paper_has_one_softmax_and_program_two() -> None:
    for variant, sums in (("paper", [1.0]), ("program", [1.0, 1.0])):
        output = detector(replace(TINY, variant=variant))
        _, weights = output.net.attend(batch().image, batch().ehr, batch().known)
        assert len(output.groups) == len(sums)
        for group in output.groups:
            torch.testing.assert_close(weights[:, group].sum(1), torch.ones(2))


def test_attention_is_reported_for_every_field() -> None:
    films = batch()
    films.known[0, 3] = False
    parts = detector().score(films).components
    weights = torch.stack([parts[f"attention.{name}"] for name in NAMES], dim=1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert weights[0, 3] == 0 and weights[1, 3] > 0


def test_program_takes_age_as_the_published_one_does() -> None:
    output = detector(replace(TINY, variant="program"))
    values = output.values(torch.tensor([[0.5, 1.0, 0.0, -1.0, 0.2]]))
    torch.testing.assert_close(values[0, 0], torch.tensor((60.0 - 1) / 99))
    assert values[0, 1:].tolist() == pytest.approx([1.0, 0.0, -1.0, 0.2])


@pytest.mark.parametrize(
    ("preset", "moving", "still"),
    [
        ("tiny", ("age", "sex", "view", "bmi", "systolic"), ()),
        ("tiny-program", ("age", "sex", "view", "bmi", "systolic"), ()),
        ("tiny-demographics", ("age", "sex", "view"), ("bmi", "systolic")),
        ("tiny-ddpm-pcm", (), NAMES),
        ("tiny-ddpm", (), NAMES),
    ],
)
def test_ablations_see_what_their_names_say(
    preset: str, moving: tuple[str, ...], still: tuple[str, ...]
) -> None:
    output = detector(Diff3M.PRESETS[preset])
    films = batch()
    base = output.score(films).reconstruction
    for name in moving + still:
        ehr = films.ehr.clone()
        column = NAMES.index(name)
        ehr[:, column] = 1 - ehr[:, column]
        other = output.score(Batch(films.image, ehr, films.known, films.ids)).reconstruction
        assert torch.equal(base, other) == (name in still), name
    assert output.net.regenerates == (preset != "tiny-ddpm")
    assert output.uses_ehr == bool(moving)


def test_loss_weighs_noise_against_regeneration(monkeypatch: pytest.MonkeyPatch) -> None:
    output = detector(replace(TINY, balance=0.25, drop_record=0.0, drop_entry=0.0))
    rows = generators(0, range(2))
    monkeypatch.setattr(output.net, "predict_noise", lambda x, *_: torch.zeros_like(x))
    monkeypatch.setattr(output.net, "regenerate", lambda x, *_: x + 2.0)
    parts = output.loss(output.net, batch(), rows, regenerate=True)
    assert parts["noise"].item() == pytest.approx(1.0, rel=0.1)  # E eps^2
    assert parts["regeneration"].item() == pytest.approx(4.0)
    total = 0.25 * parts["noise"] + 0.75 * parts["regeneration"]  # eq. 4
    torch.testing.assert_close(parts["loss"], total)


def test_training_hides_records(monkeypatch: pytest.MonkeyPatch) -> None:
    output = detector(replace(TINY, drop_record=1.0))
    calls = []
    real = output.net.attend
    monkeypatch.setattr(output.net, "attend", lambda x, v, k: calls.append(k) or real(x, v, k))
    output.loss(output.net, batch(), generators(0, range(2)), regenerate=False)
    assert not calls[0].any()


def test_second_stage_starts_from_the_first_and_freezes_what_the_paper_freezes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = []

    def train(net, loss, films, config, *, seed, job, sample=None):  # type: ignore[no-untyped-def]
        free = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
        held = {name for name, p in net.named_parameters() if not p.requires_grad}
        copied = all(
            torch.equal(a, b)
            for encoder in net.mask_encoders
            for a, b in zip(encoder.parameters(), net.encoder.parameters(), strict=True)
        )
        stages.append(SimpleNamespace(free=free, held=held, copied=copied, steps=config.steps))
        for parameter in net.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)

    monkeypatch.setattr(diff3m, "train", train)
    config = replace(TINY, base_steps=7)
    Diff3M(config, STATS).fit(None)  # type: ignore[arg-type]
    base, fine = stages
    assert (base.steps, fine.steps) == (7, config.train.steps)
    assert base.free == {"time", "encoder", "middle", "decoder", "head", "ieca", "norm"}
    assert fine.copied and not base.copied
    assert "ieca.tokenizers.0.weight" not in fine.held
    held = {".".join(name.split(".")[: 2 if name.startswith("ieca") else 1]) for name in fine.held}
    assert held == {"encoder", "time", "ieca.query"}
    assert {"mask_encoders", "mask_middle", "mask_decoder", "mask_head"} <= fine.free


def test_impossible_settings_are_refused_in_one_line() -> None:
    for change in ({"noise_level": 10}, {"respacing": "ddim300"}, {"image_size": 31}):
        with pytest.raises(UserError, match=str(next(iter(change)))):
            Diff3M(replace(TINY, **change), STATS)


def test_paper_preset_is_the_published_size() -> None:
    with torch.device("meta"):
        net = Diff3M(Diff3M.PRESETS["paper-program"], STATS).net
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    assert millions == pytest.approx(290, abs=5)


def test_paper_presets_are_the_settings_of_their_tables() -> None:
    mimic, chexpert = Diff3M.PRESETS["paper"], Diff3M.PRESETS["paper-chexpert"]
    assert (mimic.score, mimic.noise_level, mimic.record) == ("mse", 400, "full")
    assert (mimic.base_steps, mimic.train.steps) == (60_000, 70_000)
    assert (chexpert.score, chexpert.noise_level) == ("max_abs", 600)
    # One stage from scratch: base_steps 0 leaves every part free to learn.
    assert (chexpert.base_steps, chexpert.train.steps) == (0, 60_000)


def test_blind_encoding_forgets_the_record_on_the_way_up_only() -> None:
    output = detector(replace(TINY, blind_encoding=True))
    calls: list[tuple[bool, bool]] = []
    real = output.net.forward

    def watched(x: Tensor, t: Tensor, context: Tensor, *, regenerate: bool = True):  # type: ignore[no-untyped-def]
        calls.append((regenerate, bool(context.any())))
        return real(x, t, context, regenerate=regenerate)

    output.net.forward = watched  # type: ignore[method-assign]
    output.score(batch())
    assert calls == [(False, False)] * 3 + [(True, True)] * 3
    assert not Diff3M.PRESETS["paper"].blind_encoding


def test_decoding_by_noise_prediction_leaves_mpg_out(monkeypatch: pytest.MonkeyPatch) -> None:
    output = detector(replace(TINY, decode="np"))
    monkeypatch.setattr(output.net, "regenerate", lambda *_: pytest.fail("MPG was run"))
    output.score(batch())


def test_fields_used_are_those_under_a_softmax_and_known_to_training() -> None:
    assert detector().fields_used == NAMES
    assert detector(Diff3M.PRESETS["tiny-demographics"]).fields_used == NAMES[:3]
    assert detector(Diff3M.PRESETS["tiny-ddpm"]).fields_used == ()
    stats = replace(STATS, known=(9, 9, 9, 0, 9))
    assert "bmi" not in Diff3M(TINY, stats).fields_used


@pytest.mark.parametrize(
    "change",
    [{"norm_groups": 0}, {"diffusion_steps": 10}, {"drop_record": 3.0}, {"balance": 7.0},
     {"base_steps": -5}, {"multipliers": ()}, {"heads": 3}, {"attention_at": (0,)}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=str(next(iter(change)))):
        Diff3M(replace(TINY, **change), STATS)
