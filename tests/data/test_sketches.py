"""Sketches: what a model was fitted on is known again without the films."""

import pytest
import torch

from nofinding.data.image import fit_square
from nofinding.data.signatures import SIDE, Signatures, signatures_of
from nofinding.data.sketches import Sketches
from support.clothes import CLOTHES, Film, film

SEEDS = range(8)
KNOWN = ("inverted", "masked", "masked, inverted", "smaller", "gamma", "jpeg", "mirrored")


def signatures(films: list[Film]) -> Signatures:
    return signatures_of([fit_square(image, SIDE) for image in films])


@pytest.fixture(scope="module")
def plain() -> Sketches:
    return Sketches.of(signatures([film(seed) for seed in SEEDS]))


@pytest.mark.parametrize("clothes", KNOWN)
def test_a_film_in_other_clothes_is_known(clothes: str, plain: Sketches) -> None:
    worn = signatures([CLOTHES[clothes](seed) for seed in SEEDS])
    assert plain.twin_of_each(worn) == [*SEEDS]


def test_no_other_film_is(plain: Sketches) -> None:
    others = [film(seed) for seed in range(20, 28)] + [film(s, later=True) for s in SEEDS]
    assert plain.twin_of_each(signatures(others)) == [None] * 16
    assert plain.twin_of_each(Signatures.room(0)) == []
    assert Sketches.of(Signatures.room(0)).twin_of_each(signatures([film(0)])) == [None]


def test_blank_films_are_no_twins() -> None:
    blank = Signatures.room(3)
    assert Sketches.of(blank).twin_of_each(blank) == [None] * 3


def test_a_sketch_takes_250_bytes_and_comes_back_as_it_was(plain: Sketches) -> None:
    stored = plain.tensors()
    assert sum(tensor.nbytes for tensor in stored.values()) == 250 * len(SEEDS)
    again = Sketches.from_tensors(stored)
    assert all(torch.equal(getattr(again, name), tensor) for name, tensor in stored.items())
    with pytest.raises(ValueError, match="another kind"):
        Sketches.from_tensors({**stored, "shown": stored["shown"][:, :3]})
    with pytest.raises(KeyError):
        Sketches.from_tensors({"shown": stored["shown"]})
