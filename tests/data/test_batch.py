"""What a method may see."""

from dataclasses import fields as dataclass_fields
from pathlib import Path

import numpy as np
import pytest
import torch

from nofinding.data import batch as module
from nofinding.data.batch import Films, Joined
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.types import Batch, Exam, Pixels

COLUMNS = [FIELDS["age"], FIELDS["sex"]]


class Seeded:
    """A film of noise that counts how often it was decoded."""

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self) -> Pixels:
        self.calls += 1
        return np.random.default_rng(self.seed).random((12, 12), dtype=np.float32)

    def fingerprint(self) -> str:
        return f"seed {self.seed}"


def cohort(count: int = 4) -> list[Exam]:
    ehr = [{"age": 40.0, "sex": 1.0}, {"age": 60.0}, {}, {"sex": 0.0}]
    return [
        Exam(
            image_id=f"f{i}",
            patient_id=f"p{i}",
            pixels=Seeded(i),
            ehr=ehr[i % 4],
            findings=frozenset({"Mass"}),
        )
        for i in range(count)
    ]


def films(exams: list[Exam], **options: object) -> Films:
    return Films(exams, EhrStats.of(exams, COLUMNS), 8, **options)  # type: ignore[arg-type]


def test_a_batch_has_films_and_records_in_the_order_asked_for() -> None:
    batch = films(cohort()).batch([2, 0])
    assert batch.ids == ("f2", "f0")
    assert batch.image.shape == (2, 1, 8, 8) and batch.image.dtype == torch.float32
    assert -1 <= batch.image.min() < 0 < batch.image.max() <= 1
    assert batch.known.tolist() == [[False, False], [True, True]]
    assert batch.ehr.tolist() == [[0, 0], [-1, 1]] and batch.ehr.dtype == torch.float32


def test_black_is_minus_one_and_white_is_one() -> None:
    def half() -> Pixels:
        return np.repeat(np.float32([[0, 1]]), 8, axis=0).repeat(4, axis=1)

    exam = Exam(image_id="a", patient_id="a", pixels=half, ehr={})
    image = films([exam]).batch([0]).image
    assert (image[..., :4] == -1).all() and (image[..., 4:] == 1).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    together = films(cohort()).batch([0, 1, 2, 3])
    for row in range(4):
        alone = films(cohort()).batch([row])
        # the statistics come from all records in both cases
        assert torch.equal(alone.image[0], together.image[row])
        assert torch.equal(alone.ehr[0], together.ehr[row])


def test_a_second_epoch_never_decodes() -> None:
    exams = cohort()
    some = films(exams)
    first, second = some.batch([0, 1]), some.batch([0, 1])
    assert torch.equal(first.image, second.image)
    assert [r.pixels.calls for r in exams] == [1, 1, 0, 0]  # type: ignore[attr-defined]


def test_films_beyond_the_memory_are_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY", 2 * 8 * 8)
    exams = cohort()
    some = films(exams)
    expected = some.batch([0, 1])
    assert torch.equal(some.batch([0, 1]).image, expected.image)
    assert [r.pixels.calls for r in exams] == [1, 2, 0, 0]  # type: ignore[attr-defined]


def test_cached_equals_fresh(tmp_path: Path) -> None:
    fresh = films(cohort()).batch(range(4))
    for _ in range(2):
        cached = films(cohort(), cache=FilmCache(tmp_path)).batch(range(4))
        assert torch.equal(cached.image, fresh.image)


def test_changing_a_batch_in_place_does_not_change_the_films() -> None:
    some = films(cohort())
    expected = some.batch([0]).image.clone()
    batch = some.batch([0])
    batch.image.zero_()
    batch.ehr.fill_(9)
    assert torch.equal(some.batch([0]).image, expected)
    assert some.batch([0]).ehr.max() < 9


def test_pixel_hashes_are_equal_for_equal_films_only() -> None:
    records = cohort(3)
    records.append(Exam(image_id="copy", patient_id="x", pixels=Seeded(0), ehr={}, findings=None))
    hashes = [films(records).pixel_hash(i) for i in range(4)]
    assert hashes[0] == hashes[3] and len(set(hashes)) == 3
    assert all(len(h) == 16 and int(h, 16) >= 0 for h in hashes)


def test_there_is_no_label_to_leak() -> None:
    assert {f.name for f in dataclass_fields(Batch)} == {"image", "ehr", "known", "ids"}
    some = films(cohort())
    assert "Mass" not in repr(vars(some)) and not any(
        isinstance(value, Exam) for value in vars(some).values()
    )


def test_no_films_and_no_fields_still_make_a_batch() -> None:
    none = Films([], EhrStats.of([], COLUMNS), 8)
    assert len(none) == 0 and none.batch([]).ehr.shape == (0, 2)
    bare = Films(cohort(), EhrStats.of([], []), 8).batch([0, 1])
    assert bare.ehr.shape == (2, 0) and bare.known.shape == (2, 0)
    with pytest.raises(IndexError):
        films(cohort()).batch([4])


def test_records_alone_are_those_of_the_batch_and_decode_nothing() -> None:
    exams = cohort()
    some = films(exams)
    ehr, known = some.ehr_rows([2, 0, 3])
    assert [r.pixels.calls for r in exams] == [0, 0, 0, 0]  # type: ignore[attr-defined]
    batch = some.batch([2, 0, 3])
    assert torch.equal(ehr, batch.ehr) and torch.equal(known, batch.known)
    ehr[0] = 9  # a copy: the films' own records stay
    assert torch.equal(some.ehr_rows([2])[0], batch.ehr[:1])


def test_films_joined_are_the_one_and_then_the_other() -> None:
    exams = cohort(5)
    stats = EhrStats.of(exams, COLUMNS)
    a, b = Films(exams[:3], stats, 8), Films(exams[3:], stats, 8)
    both = Joined(a, b)
    assert len(both) == 5 and both.ids == a.ids + b.ids
    assert (both.stats, both.size, both.aspect) == (stats, 8, "pad")
    batch = both.batch([4, 0])
    assert batch.ids == ("f4", "f0")
    for row, (part, index) in enumerate(((b, 1), (a, 0))):
        expected = part.batch([index])
        assert torch.equal(batch.image[row], expected.image[0])
        assert torch.equal(batch.ehr[row], expected.ehr[0])
        assert torch.equal(batch.known[row], expected.known[0])
    assert [both.pixel_hash(i) for i in range(5)] == [
        *(a.pixel_hash(i) for i in range(3)),
        *(b.pixel_hash(i) for i in range(2)),
    ]
    assert torch.equal(both.ehr_rows([3, 1])[0], both.batch([3, 1]).ehr)
    assert all(exam.pixels.calls == 1 for exam in exams)  # type: ignore[attr-defined]
    with pytest.raises(IndexError):
        both.batch([5])


def test_films_that_differ_in_size_or_record_are_not_joined() -> None:
    records = cohort()
    some = films(records)
    with pytest.raises(ValueError, match="films of 16 pixels"):
        Joined(some, Films(records, some.stats, 16))
    with pytest.raises(ValueError, match="another record"):
        Joined(some, Films(records, EhrStats.of(records, COLUMNS[:1]), 8))
