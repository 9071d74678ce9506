"""AnoDDPM, pDDPM, cDDPM and mDDPM: what each noises, hides, tells, and puts together again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.sampler import add_noise
from nofinding.functional.noise import gaussian, generators, simplex
from nofinding.methods.base.simplex_noise import SimplexDenoising
from nofinding.methods.pixel_diffusion.anoddpm import AnoDDPM, AnoDDPMConfig
from nofinding.methods.pixel_diffusion.cddpm import CDDPM, Conditioned
from nofinding.methods.pixel_diffusion.mddpm import MDDPM, MDDPMConfig
from nofinding.methods.pixel_diffusion.pddpm import PDDPM
from nofinding.types import Batch

NO_RECORD = EhrStats.of([], [])
Kind = type[SimplexDenoising]


def detector_of(kind: Any, **changes: Any) -> Any:
    """With weights that are not those of an untrained net, whose last layers are zero."""
    torch.manual_seed(0)
    detector = kind(replace(kind.PRESETS["tiny"], **changes), NO_RECORD)
    for parameter in detector.net.parameters():
        nn.init.normal_(parameter, std=0.1)
    detector.fitted = True
    return detector


def films(n: int = 2) -> Batch:
    image = gaussian((1, 32, 32), generators(9, range(n))).clamp(-1, 1)
    nothing = torch.zeros(n, 0)
    return Batch(image, nothing, nothing.bool(), tuple(f"f{i}" for i in range(n)))


def watch(detector: Any) -> list[tuple[Tensor, ...]]:
    """What the network is given, call by call."""
    calls: list[tuple[Tensor, ...]] = []
    module = getattr(detector.net, "denoiser", detector.net)
    module.register_forward_pre_hook(lambda _, given: calls.append(tuple(g.clone() for g in given)))
    return calls


def answering(detector: Any, answer: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The detector, its network replaced."""
    detector.net.forward = lambda x, t, *rest: answer(x, t)
    return detector


@pytest.mark.parametrize("kind", [AnoDDPM, PDDPM, CDDPM, MDDPM])
def test_all_noise_is_simplex_noise_of_the_film_s_own(kind: Kind) -> None:
    detector = detector_of(kind)
    c = detector.config
    noise = detector.noise((1, 32, 32), generators(0, ["a", "b"]))
    expected = simplex(
        (1, 32, 32), generators(0, ["a", "b"]), wavelength=c.wavelength * 32, octaves=6,
        persistence=0.8,
    )  # fmt: skip
    assert torch.equal(noise, expected)
    same = replace(films(), image=films().image[:1].repeat(2, 1, 1, 1))
    score = detector.score(same).score
    assert score[0] != score[1]  # the same film under two ids


@pytest.mark.parametrize("kind", [AnoDDPM, PDDPM, CDDPM, MDDPM])
def test_calls_are_counted(kind: Kind) -> None:
    detector = detector_of(kind)
    calls = watch(detector)
    detector.score(films())
    assert len(calls) + isinstance(detector.net, Conditioned) == detector.network_calls


def test_anoddpm_noises_a_quarter_of_the_way_and_comes_down_in_strides() -> None:
    detector = detector_of(AnoDDPM)
    calls = watch(detector)
    detector.score(films(), seed=4)
    assert [t.item() for _, t in calls] == [250, 200, 150, 100, 50]
    noise = detector.noise((1, 32, 32), generators(4, films().ids))
    torch.testing.assert_close(calls[0][0], add_noise(films().image, noise, detector.abar[250]))
    assert detector_of(AnoDDPM, stride=1).network_calls == 250


def test_anoddpm_s_steps_are_those_of_ho_et_al() -> None:
    """With a network that knows the film, the way down ends there, whatever noise came in between;
    and what lies between has the spread of its level."""
    image = films(3).image
    detector = detector_of(AnoDDPM, stride=50)
    abar, calls = detector.abar, []

    def knows(x: Tensor, t: Tensor) -> Tensor:
        a = abar[int(t)]
        calls.append((x - a.sqrt().float() * image) / (1 - a).sqrt().float())
        return calls[-1]

    normal = answering(detector, knows).reconstruct(image, generators(0, "abc"))
    torch.testing.assert_close(normal, image, rtol=0, atol=1e-4)
    # Simplex at first (a film's share may be off), Gaussian more and more: of variance 1 all along.
    assert [round(eps.std().item(), 1) for eps in calls[1:]] == pytest.approx([1.0] * 4, abs=0.15)
    fresh = detector_of(AnoDDPM, stride=50, step_noise="simplex")
    answering(fresh, lambda x, t: knows(x, t))
    assert not torch.equal(fresh.reconstruct(image, generators(0, "abc")), normal)


def test_anoddpm_of_the_program_clamps_the_film_and_adds_beta(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = AnoDDPM.PRESETS["paper-program"]
    assert program.clamp and program.variance == "beta"
    assert not AnoDDPM.PRESETS["paper"].clamp
    output = AnoDDPM(replace(AnoDDPM.PRESETS["tiny"], clamp=True, variance="beta"), NO_RECORD)
    given: list[tuple[float, str]] = []

    def step(x, x0, noise, here, there, *, variance):  # type: ignore[no-untyped-def]
        given.append((float(x0.max()), variance))
        return x

    monkeypatch.setattr("nofinding.methods.pixel_diffusion.anoddpm.ddpm_step", step)
    monkeypatch.setattr(output, "look", lambda x, k: (x, torch.full_like(x, 3.0)))
    image = torch.zeros(1, 1, 32, 32)
    assert float(output.reconstruct(image, generators(0, [0])).max()) == 1
    assert given and set(given) == {(1.0, "beta")}


def test_pddpm_noises_one_patch_at_a_time_and_leaves_the_rest_untouched() -> None:
    detector = detector_of(PDDPM)
    calls, image = watch(detector), films().image
    detector.score(films(), seed=4)
    noised = add_noise(image, detector.noise((1, 32, 32), generators(4, films().ids)),
                       detector.abar[500])  # fmt: skip
    assert len(calls) == 4
    for number, (x, t) in enumerate(calls):
        assert t.item() == 500
        top, left = 16 * (number // 2), 16 * (number % 2)
        inside = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
        inside[:, :, top : top + 16, left : left + 16] = True
        assert torch.equal(x[~inside], image[~inside])
        torch.testing.assert_close(x[inside], noised[inside])


def test_pddpm_puts_each_patch_where_it_was() -> None:
    detector, count = detector_of(PDDPM), []

    def numbered(x: Tensor, t: Tensor) -> Tensor:
        count.append(1)
        return torch.full_like(x, float(len(count)))

    normal = answering(detector, numbered).reconstruct(films().image, generators(0, "ab"))
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(16, 0)
    assert torch.equal(normal[1, 0], expected.repeat_interleave(16, 1))


@pytest.mark.parametrize("kind", [PDDPM, MDDPM])
def test_only_the_noised_patch_counts_for_the_loss(kind: Kind) -> None:
    detector, batch = detector_of(kind), films(6)
    calls: list[Tensor] = []

    def wrong_outside(x: Tensor, t: Tensor) -> Tensor:
        """Right within the patch (the only part that is not as given), wrong elsewhere."""
        calls.append(x)
        changed = (x != shown).flatten(1)
        patch = torch.zeros_like(x)
        for row in range(len(x)):
            for number, mask in enumerate(detector.patches):
                if changed[row][mask.flatten()].float().mean() > 0.9:
                    patch[row] = mask.float()
                    assert not changed[row][~mask.flatten()].any(), number
        assert (patch.sum((1, 2, 3)) == 256).all()
        return torch.where(patch.bool(), batch.image, torch.full_like(x, 9.0))

    # What the network is shown before the noise: as the loss itself draws it.
    rows = generators(0, range(6))
    shown = batch.image if kind is PDDPM else detector.with_holes(batch.image, rows)
    loss = detector.loss(wrong_outside, batch, generators(0, range(6)))["loss"]
    assert loss.item() == 0 and len(calls) == 1


def test_mddpm_hides_rectangles_of_detail_or_of_coarse_structure() -> None:
    """A coarse and a fine wave: within a rectangle one of them is gone, outside both are there."""
    x = torch.arange(32) / 32
    coarse, fine = (torch.cos(2 * torch.pi * n * x).expand(64, 1, 32, 32) for n in (1, 9))
    film = 0.5 * coarse + 0.5 * fine
    detector = detector_of(MDDPM, sizes=(0.3, 0.5), band=(0.1, 0.1))
    shown = detector.with_holes(film, generators(0, range(64)))
    whole, low, high = ((shown - w).abs() < 1e-5 for w in (film, 0.5 * coarse, 0.5 * fine))
    assert (whole | low | high).all()  # nothing else is ever shown
    holed = (~whole).flatten(1).any(1)
    assert 0.7 < holed.float().mean() < 0.95  # 0 to 5 rectangles: five films of six
    kinds = torch.stack([(kind & ~whole).flatten(1).sum(1) for kind in (low, high)], 1)[holed]
    assert 0.3 < (kinds[:, 0] > kinds[:, 1]).float().mean() < 0.7  # by a coin


def test_mddpm_may_hide_all_that_a_rectangle_shows() -> None:
    detector, film = detector_of(MDDPM, mask="image"), films(16).image
    shown = detector.with_holes(film, generators(0, range(16)))
    assert ((shown == film) | (shown == -1)).all() and (shown != film).any()


def test_mddpm_is_to_give_the_film_without_holes_and_hides_nothing_to_detect() -> None:
    detector, batch = detector_of(MDDPM, mask="image", sizes=(1.0, 1.0)), films(32)
    loss = detector.loss(lambda x, t: batch.image, batch, generators(0, range(32)))["loss"]
    assert loss.item() == 0
    plain = detector_of(PDDPM)
    plain.load_state(detector.state())
    assert torch.equal(detector.score(films()).score, plain.score(films()).score)


def test_mddpm_and_pddpm_never_share_a_network() -> None:
    def identity(kind: Any, **changes: Any) -> str:
        (description,) = kind.trainings(replace(kind.PRESETS["tiny"], **changes))
        return str(description)

    names = {
        identity(kind, **changes)
        for kind, changes in [
            (PDDPM, {}), (MDDPM, {}), (MDDPM, {"mask": "image"}), (MDDPM, {"band": (0.1, 0.1)}),
            (PDDPM, {"patches": 4}), (PDDPM, {"octaves": 2}), (CDDPM, {}), (AnoDDPM, {}),
        ]
    }  # fmt: skip
    assert len(names) == 8
    same = identity(PDDPM, noise_level=300, score="mse")
    assert same == identity(PDDPM)


def test_cddpm_tells_the_denoiser_of_the_clean_film() -> None:
    detector = detector_of(CDDPM)
    calls = watch(detector)
    detector.score(films())
    code = detector.net.encode(films().image).detach()
    assert [t.item() for _, t, _ in calls] == [250, 500, 750]
    for _, _, message in calls:
        assert message.shape == (2, 16)
        torch.testing.assert_close(message, code)
    x, t = films().image, torch.tensor([500.0])
    with torch.no_grad():
        assert not torch.allclose(detector.net(x, t, code), detector.net(x, t, code.flip(0)))


def test_cddpm_s_encoder_learns_with_the_denoiser() -> None:
    detector = detector_of(CDDPM)
    calls = watch(detector)
    detector.loss(detector.net, films(), generators(0, range(2)))["loss"].backward()
    assert detector.net.squeeze.weight.grad.abs().sum() > 0
    x, _, message = calls[0]
    assert not torch.equal(x, films().image)
    torch.testing.assert_close(message, detector.net.encode(films().image))  # not of the noised one


def test_cddpm_averages_what_each_level_gives() -> None:
    detector = answering(detector_of(CDDPM), lambda x, t: torch.full((2, 1, 32, 32), float(t)))
    normal = detector.reconstruct(films().image, generators(0, "ab"))
    assert torch.equal(normal, torch.full_like(normal, 500.0))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (AnoDDPM, {"noise_level": 1000}), (AnoDDPM, {"stride": 0}), (AnoDDPM, {"octaves": 0}),
        (AnoDDPM, {"persistence": 0.0}), (AnoDDPM, {"wavelength": 0.0}),
        (PDDPM, {"noise_level": 0}), (PDDPM, {"patches": 5}), (CDDPM, {"code": 0}),
        (CDDPM, {"noise_levels": ()}), (MDDPM, {"rectangles": 0}), (MDDPM, {"sizes": (0.5, 0.2)}),
        (MDDPM, {"band": (0.1, 0.6)}),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_in_one_line(kind: Kind, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(change))} "):
        detector_of(kind, **change)


def test_published_settings() -> None:
    ano, p, c = (kind.PRESETS["paper"] for kind in (AnoDDPM, PDDPM, CDDPM))
    assert isinstance(ano, AnoDDPMConfig)
    assert (ano.image_size, ano.wavelength * ano.image_size, ano.octaves, ano.persistence) == (
        256, 64, 6, 0.8,
    )  # fmt: skip
    assert (ano.noise_level, ano.stride, ano.net.schedule, ano.net.loss) == (
        250,
        1,
        "linear",
        "mse",
    )
    assert (p.image_size, p.wavelength * 96, p.image_size // p.patches) == (96, 64, 48)
    assert (p.noise_level, p.net.predicts, p.net.loss) == (500, "x0", "l1")
    assert (c.code, c.noise_levels) == (128, (250, 500, 750))
    m = MDDPM.PRESETS["paper"]
    assert isinstance(m, MDDPMConfig) and (m.rectangles, m.sizes) == (5, (0.09, 0.18))
