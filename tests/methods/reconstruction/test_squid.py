"""SQUID: memories by place, the in-painting, the two generators, the judge, and the score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.patches import cut
from nofinding.functional.features.memory import recall
from nofinding.functional.noise import generators, uniform
from nofinding.methods.reconstruction.squid import SQUID, SQUIDConfig, moved
from nofinding.nets.inpainting import InpaintingGenerator, Memory, passed_by
from nofinding.training import TrainingRun
from nofinding.types import Exam, Pixels

NO_RECORD = EhrStats.of([], [])
QUIET = TrainingRun(progress=False, accelerator="cpu")
TINY = SQUID.PRESETS["tiny"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Stripes:
    """Waves whose direction follows from the number."""

    seed: int

    def __call__(self) -> Pixels:
        y, x = np.mgrid[0:1:32j, 0:1:32j]
        angle = np.random.default_rng(self.seed).uniform(0, 0.3)
        return (0.5 + 0.4 * np.sin(12 * (x + angle * y))).astype(np.float32)


def films(seeds: Sequence[int]) -> Films:
    exams = [Exam(image_id=f"{i}", patient_id=f"{i}", pixels=Stripes(i), ehr={}) for i in seeds]
    return Films(exams, NO_RECORD, 32)


def net_of(config: SQUIDConfig = TINY) -> nn.ModuleDict:
    torch.manual_seed(0)
    return SQUID(config, NO_RECORD).new_net()


def generator_of(config: SQUIDConfig = TINY) -> InpaintingGenerator:
    generator = net_of(config)["generator"]
    assert isinstance(generator, InpaintingGenerator)
    return generator


def gradient(loss: Tensor, module: nn.Module) -> float:
    """The largest entry of the gradient in the module's weights."""
    result = torch.autograd.grad(
        loss, list(module.parameters()), retain_graph=True, allow_unused=True
    )
    return max((float(each.abs().max()) for each in result if each is not None), default=0.0)


# --- memories


def test_a_queue_takes_normal_patches_by_place_in_training_alone() -> None:
    inpaint = generator_of().inpaint
    x = torch.randn(3 * 4, 32, 2, 2)  # three films of four patches
    before = inpaint.queue.codes.clone()
    inpaint.eval()(x, None)
    assert torch.equal(inpaint.queue.codes, before)
    asked = inpaint.train().squeeze(x).reshape(3, 4, -1)
    inpaint(x, generators(0, range(3)))
    torch.testing.assert_close(inpaint.queue.codes[:, :3], asked.transpose(0, 1))
    assert torch.equal(inpaint.queue.codes[:, 3:], before[:, :-3])
    assert not inpaint.queue.codes.requires_grad


def test_a_patch_is_rebuilt_from_its_neighbours_memories() -> None:
    """The attention is asked by the patch, told by what its eight neighbours remember, and by
    zeros beyond the film; its own memory stands beside."""
    config = replace(TINY, image_size=48, grid=3, discriminator=(8, 16, 16))
    inpaint = generator_of(config).inpaint.eval()
    message: list[tuple[Tensor, ...]] = []
    inpaint.attention.register_forward_pre_hook(lambda module, given: message.append(given))
    x = torch.randn(2 * 9, 32, 2, 2)
    inpaint(x, None)
    question, keys, values = message[0]
    asked = inpaint.squeeze(x).reshape(2, 9, -1)
    own = recall(asked, inpaint.queue.codes, config.recalled)
    torch.testing.assert_close(question[:, 0], asked.flatten(0, 1))
    assert keys is values
    middle = 9 + 4  # of the second film
    torch.testing.assert_close(keys[middle], own[1, [0, 1, 2, 3, 5, 6, 7, 8]])
    corner = keys[8]  # of the first
    assert torch.equal(corner[[2, 4, 5, 6, 7]], torch.zeros_like(corner[:5]))
    torch.testing.assert_close(corner[[0, 1, 3]], own[0, [4, 5, 7]])


def test_an_empty_memory_says_the_same_of_every_film() -> None:
    inpaint = generator_of().inpaint.eval()
    x = torch.randn(2 * 4, 32, 2, 2)
    changed = inpaint(x, None).reshape(2, 4, 32, 2, 2)
    assert (changed[0] - changed[1]).abs().max() > 1e-4
    inpaint.queue.codes.zero_()
    changed = inpaint(x, None).reshape(2, 4, 32, 2, 2)
    torch.testing.assert_close(changed[0], changed[1])
    assert (changed[0, 0] - changed[0, 1]).abs().max() > 1e-4  # but each place has its number


def test_the_student_decodes_what_its_memories_hold() -> None:
    memory = Memory(slots=3, size=2 * 4)
    x = torch.randn(5, 2, 4, 4)
    windows = cut(memory(x, count=1), 2).flatten(2)
    for place in range(4):  # one code for each window, of that place's own
        apart = torch.cdist(windows[:, place], memory.codes[place]).amin(1)
        assert apart.max() < 1e-5
    generator = generator_of()
    assert len(generator.student.memories) == 1 and not len(generator.teacher.memories)


def test_the_shortcut_lets_some_positions_pass_by_in_training() -> None:
    old, new = torch.zeros(40 * 4, 3, 8, 8), torch.ones(40 * 4, 3, 8, 8)
    mixed = passed_by(new, old, 0.95, generators(0, range(40)))
    assert 0.94 < mixed.mean() < 0.96
    assert torch.equal(mixed.amin(1), mixed.amax(1))  # whole positions
    assert torch.equal(passed_by(new, old, 0.95, None), new)
    again = passed_by(new[:4], old[:4], 0.95, generators(0, range(1)))
    assert torch.equal(again, mixed[:4])  # a film's positions are its own
    generator = generator_of(replace(TINY, shortcut=0.0))
    x = torch.randn(4, 32, 2, 2)
    assert torch.equal(generator.inpaint(x, generators(0, range(1))), x)
    assert not torch.equal(generator.inpaint(x, None), x)
    x, calls = (
        torch.randn(4, 32, 2, 2),
        [torch.randn(4, 4 * 2**k, 16 >> k, 16 >> k) for k in (2, 1, 0)],
    )
    student = generator.student
    with_memory = student(x, calls).film
    without = student(x, calls, generators(0, range(1))).film  # here all positions pass by
    student.memories[0].codes.data.add_(1)
    assert torch.equal(student(x, calls, generators(0, range(1))).film, without)
    assert not torch.equal(student(x, calls).film, with_memory)


# --- teacher, student, judge


def test_the_teacher_moves_neither_encoder_nor_student() -> None:
    generator = generator_of().train()
    film = torch.rand(3, 1, 32, 32)
    student, teacher = generator.both(film, generators(0, range(3)))
    loss = F.mse_loss(teacher.film, film)
    assert gradient(loss, generator.teacher) > 0
    for other in (generator.entry, generator.encoder, generator.inpaint, generator.student):
        assert gradient(loss, other) == 0
    for part in (generator.encoder, generator.inpaint, generator.student):
        assert gradient(F.mse_loss(student.film, film), part) > 0
    assert [m.shape[-1] for m in student.maps] == [4, 16, 32]  # patches first, then the film
    assert [m.shape for m in student.maps] == [m.shape for m in teacher.maps]
    x, calls = generator.eval().encode(film)
    torch.testing.assert_close(
        generator(film), generator.student(generator.inpaint(x, None), calls).film
    )


def test_the_five_losses() -> None:
    config = replace(
        TINY,
        student_weight=2.0,
        teacher_weight=3.0,
        distil_weight=5.0,
        generator_weight=7.0,
        discriminator_weight=11.0,
    )
    detector, net = SQUID(config, NO_RECORD), net_of(config).eval()
    batch = films(range(3)).batch(range(3))
    result = detector.loss(net, batch, generators(3, batch.ids))
    rows = generators(3, batch.ids)
    film = moved((batch.image + 1) / 2, rows, config.shift, config.zoom)
    fresh = net_of(config).eval()
    student, teacher = fresh["generator"].both(film, rows)
    ones = torch.ones(3)
    judged, real = fresh["discriminator"](student.film), fresh["discriminator"](film)
    cross = F.binary_cross_entropy_with_logits
    expected = {
        "student": (student.film - film).square().mean(),
        "teacher": (teacher.film - film).square().mean(),
        "distil": sum(
            (a - b).square().mean() for a, b in zip(student.maps, teacher.maps, strict=True)
        ),
        "generator": cross(judged, ones),
        "discriminator": cross(real, ones) + cross(judged, 0 * ones),
    }
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-6)
    total = sum(w * expected[n] for w, n in zip((2, 3, 5, 7, 11), expected, strict=True))
    torch.testing.assert_close(result["loss"], total, rtol=1e-4, atol=1e-6)
    assert gradient(result["distil"], net["generator"].student) > 0
    assert gradient(result["distil"], net["generator"].teacher) > 0


def test_generator_and_judge_do_not_learn_each_others_part() -> None:
    detector, net = SQUID(TINY, NO_RECORD), net_of().train()
    batch = films(range(4)).batch(range(4))
    result = detector.loss(net, batch, generators(0, batch.ids))
    assert gradient(result["generator"], net["discriminator"]) == 0
    assert gradient(result["discriminator"], net["generator"]) == 0
    assert gradient(result["generator"], net["generator"].student) > 0
    assert gradient(result["discriminator"], net["discriminator"]) > 0


def test_the_judge_takes_each_film_by_itself() -> None:
    judge = net_of()["discriminator"]
    x = torch.rand(4, 1, 32, 32)
    together = judge.train()(x)
    alone = torch.cat([judge(x[i : i + 1]) for i in range(4)])
    assert (together - alone).abs().max() > 1e-3
    torch.testing.assert_close(judge.eval()(x), alone)


# --- fit and score


def test_the_score_is_the_logit_on_the_scale_of_the_training_films() -> None:
    config = replace(TINY, train=replace(TINY.train, steps=25))
    normal = films(range(40))
    detector = SQUID(config, NO_RECORD).fit(normal, job=QUIET)
    batch = normal.batch(range(40))
    assert detector.net is not None
    with torch.no_grad():
        output = detector.net["generator"](batch.image / 2 + 0.5)
        logit = detector.net["discriminator"](output)
    scores = detector.score(batch)
    expected = (logit.mean() - logit) / logit.std(correction=0)
    torch.testing.assert_close(scores.score, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        scores.components["unreal"], expected.sigmoid(), rtol=1e-3, atol=1e-3
    )
    assert scores.anomaly_map is not None and scores.reconstruction is not None
    torch.testing.assert_close(scores.anomaly_map, (output - batch.image / 2 - 0.5).abs())
    torch.testing.assert_close(scores.reconstruction, output * 2 - 1)
    other = SQUID(config, NO_RECORD)
    other.load_state(detector.state())
    assert torch.equal(other.score(batch).score, scores.score)


def test_training_films_are_moved_a_little() -> None:
    film = torch.zeros(60, 1, 40, 40)
    film[:, :, 18:22, 18:22] = 1
    rows = generators(0, range(60))
    torch.testing.assert_close(moved(film, rows, 0.0, 0.0), film)
    result = moved(film, generators(0, range(60)), 0.05, 0.0)
    where = torch.arange(40).float()
    for axis in (2, 3):  # of the mean over the other axis
        mass = result.sum(5 - axis)[:, 0]
        place = (mass * where).sum(1) / mass.sum(1) - 19.5
        assert place.abs().max() <= 2.01 and place.max() > 1.5 and place.min() < -1.5
    torch.testing.assert_close(result[:1], moved(film[:1], generators(0, range(1)), 0.05, 0.0))
    square = torch.zeros(60, 1, 40, 40)
    square[:, :, 10:30, 10:30] = 1
    area = moved(square, generators(0, range(60)), 0.0, 0.05).sum((1, 2, 3))
    drawn = uniform((3,), generators(0, range(60)))[:, 2]
    torch.testing.assert_close((area / 400) ** 0.5, 0.95 + 0.1 * drawn, rtol=0, atol=0.004)


def test_the_published_sizes() -> None:
    paper = SQUID.PRESETS["paper"]
    assert (paper.epochs, paper.train.batch_size, paper.train.lr) == (200, 16, 1e-4)
    weights = [getattr(paper, f"{n}_weight") for n in ("student", "teacher", "distil")]
    assert weights == [10, 0.01, 0.001]
    assert (paper.generator_weight, paper.discriminator_weight) == (0.005, 0.005)
    net = SQUID(paper, NO_RECORD).new_net()
    assert net["generator"].inpaint.queue.codes.shape == (4, 200, 2048)
    shapes = [tuple(m.codes.shape) for m in net["generator"].student.memories]
    assert shapes == [(4, 200, 256 * 16), (4, 200, 128 * 64)]
    assert net["discriminator"].judge.weight.shape == (1, 128 * 4 * 4)
    assert SQUID(paper, NO_RECORD).image_size == 128


def test_impossible_settings_are_refused() -> None:
    for settings, said in (
        ({"memories": 4}, "memories 4: give 0 to 3"),
        ({"image_size": 48}, "image_size 48: give a multiple of 32"),
        ({"discriminator": (8,) * 6}, "image_size 64: .* multiple of 128, for 6 layers"),
        ({"discriminator": ()}, r"discriminator \(none\): give 1 or more"),
        ({"heads": 7}, "heads 7: give a divisor of 128"),
        ({"slots": 0}, "slots 0: give 1 or more"),
        ({"shortcut": 1.5}, "shortcut 1.5: give 0 to 1"),
        ({"zoom": 1}, "zoom 1: give 0 or more and below 1"),
        ({"train": replace(TINY.train, batch_size=1)}, r"train\.batch_size 1: give 2"),
    ):
        with pytest.raises(UserError, match=said):
            SQUID(SQUIDConfig(**settings), NO_RECORD)
