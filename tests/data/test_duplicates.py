"""Twins: an altered copy of a film is recognised, and nothing else is."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nofinding.data.duplicates import Indexed, candidates, twins_between, twins_within
from nofinding.data.image import fit_square
from nofinding.data.signatures import SIDE, Signatures, signatures_of
from nofinding.functional.image.fingerprint import edges
from support.clothes import CLOTHES, Film, film, masked

SEEDS = range(12)
DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = 20  # pairs of real films


def signatures(films: Sequence[Film]) -> Signatures:
    return signatures_of([fit_square(image, SIDE) for image in films])


@pytest.fixture(scope="module")
def plain() -> Signatures:
    return signatures([film(seed) for seed in SEEDS])


@pytest.mark.parametrize("clothes", CLOTHES)
def test_a_film_in_other_clothes_is_found_and_no_other(clothes: str, plain: Signatures) -> None:
    pairs = twins_between(plain, signatures([CLOTHES[clothes](seed) for seed in SEEDS]))
    joined = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert joined <= {(seed, seed) for seed in SEEDS}
    missed = 1 if clothes == "all but a crop" else 0  # rounded to 8 bits when dim
    if "masked" in clothes and "cropped" in clothes:
        missed = 4  # little of these lungs is left
    assert len(joined) >= len(SEEDS) - missed
    assert set(pairs.mirrored) == {"mirrored" in clothes or clothes == "all but a crop"}
    assert set(pairs.inverted) == {"inverted" in clothes or clothes == "all but a crop"}


def test_a_masked_and_cropped_film_is_found_whichever_side_it_is_on(plain: Signatures) -> None:
    whole = plain.at([0, 2, 3])
    cut = signatures([CLOTHES["masked, inverted, cropped, mirrored"](seed) for seed in (0, 2, 3)])
    for first, second in ((whole, cut), (cut, whole)):
        pairs = twins_between(first, second)
        assert pairs.first.tolist() == pairs.second.tolist() == [0, 1, 2]
        assert pairs.mirrored.all() and pairs.inverted.all()


def test_films_of_one_patient_at_different_times_are_not_twins(plain: Signatures) -> None:
    assert len(twins_between(plain, signatures([film(s, later=True) for s in SEEDS]))) == 0


def test_a_set_is_compared_with_itself_once() -> None:
    worn = [film(0), film(1), 1 - film(0), film(2), film(1)[:, ::-1].copy()]
    pairs = twins_within(signatures(worn))
    assert [*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)] == [(0, 2), (1, 4)]
    assert pairs.inverted.tolist() == [True, False]
    assert pairs.mirrored.tolist() == [False, True]


def test_a_film_without_detail_is_nobodys_twin() -> None:
    blank = np.full((224, 224), 0.4, np.float32)
    noisy_black = np.zeros((224, 224), np.float32)
    assert len(twins_within(signatures([blank, blank, noisy_black, noisy_black]))) == 0


def test_blocks_give_what_the_whole_gives(
    plain: Signatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    worn = signatures([CLOTHES["inverted"](seed) for seed in SEEDS])
    whole = twins_between(plain, worn)
    assert len(whole) == len(SEEDS)
    monkeypatch.setattr("nofinding.data.duplicates.BLOCK", 5)
    monkeypatch.setattr("nofinding.data.duplicates.ROWS", 2)
    monkeypatch.setattr("nofinding.data.duplicates.COLUMNS", 3)
    parts = twins_between(plain, worn)
    np.testing.assert_array_equal(whole.first, parts.first)
    np.testing.assert_array_equal(whole.second, parts.second)


def test_an_inverted_film_has_the_code_of_the_film_with_its_sign_turned() -> None:
    first, second = signatures([film(0), 1 - film(0)]).code.astype(np.float32)
    assert first @ second < -0.95


def test_a_film_is_looked_for_in_every_frame(plain: Signatures) -> None:
    """A crop is found in its film, and a film by its crop, at the frame where they meet."""
    cut = signatures([CLOTHES["cropped"](seed) for seed in SEEDS])
    for queries, indexed, side in ((plain, cut, 0.9), (cut, plain, 1 / 0.9)):
        pairs = candidates(queries, Indexed.of(indexed))
        own = pairs.at((pairs.first == pairs.second) & ~pairs.mirrored)
        assert own.first.tolist() == [*SEEDS]
        assert np.median(own.frame[:, 0]) == pytest.approx(side)
        assert abs(np.median(own.frame[:, 2:], axis=0)).max() == 0


def test_a_film_and_its_lungs_alone_have_the_same_edges() -> None:
    """Where all five cells are film in both, nothing of the mask's border comes in."""
    image = np.stack([film(0), masked(film(0), 0)])[:, ::2, ::2]
    strength, within = edges(*(torch.from_numpy(a) for a in (image, np.float32(image > 0))))
    both = within[0] * within[1]
    assert both.sum() > 100
    assert torch.corrcoef(strength[:, both > 0])[0, 1] > 0.9


def test_a_signature_survives_the_cache(plain: Signatures) -> None:
    again = Signatures.unpacked(plain.packed(3))
    for name in ("film", "code"):
        np.testing.assert_array_equal(getattr(again, name)[0], getattr(plain, name)[3])


def test_signatures_of_many_films_lie_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nofinding.data.signatures.IN_MEMORY", 1)
    room = Signatures.room(2)
    assert isinstance(room.film, np.memmap)
    room.put(1, signatures([film(4)]))
    assert room.code[1].any() and not room.code[0].any()


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name / "films.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read(name: str, row: dict[str, str]) -> Film:
    return np.asarray(Image.open(DATA / name / row["path"]).convert("L"), np.float32) / 255


@pytest.mark.skipif(not (DATA / "rsna_lungs").is_dir(), reason="needs ../shared/data")
def test_real_films_cut_down_to_the_lungs_are_found_and_no_other() -> None:
    """Pairs that neither the weights nor the thresholds come from."""
    whole = {row["image_id"]: row for row in rows_of("rsna_normal")}
    both = [row for row in rows_of("rsna_lungs") if row["same_film"] in whole][1::2][::50][:REAL]
    cut = signatures([read("rsna_lungs", row) for row in both])
    uncut = signatures([read("rsna_normal", whole[row["same_film"]]) for row in both])
    pairs = twins_between(cut, uncut)
    right = [(i, j) for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)]
    assert all(i == j for i, j in right)
    assert len(right) >= REAL - 1


@pytest.mark.skipif(not (DATA / "nih").is_dir(), reason="needs ../shared/data")
def test_real_films_of_one_patient_are_not_joined() -> None:
    films: dict[str, list[dict[str, str]]] = {}
    for row in rows_of("nih"):
        if row["image_id"].endswith("@320"):
            films.setdefault(row["patient_id"], []).append(row)
    several = [row for rows in films.values() if len(rows) > 1 for row in rows][: 2 * REAL]
    assert len(several) == 2 * REAL
    assert len(twins_within(signatures([read("nih", row) for row in several]))) == 0
