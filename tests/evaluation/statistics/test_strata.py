"""Mondrian and weighted calibration: by hand, and on simulated scores where plain fails."""

import json
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from nofinding.data.ehr import FIELDS
from nofinding.evaluation.statistics.conformal import p_values, weighted_p_values
from nofinding.evaluation.statistics.strata import (
    LEAST,
    Partition,
    Stratum,
    mondrian_p_values,
    record_weights,
)

LEVEL = 0.05
OLD, YOUNG = Stratum("F", "PA", "60+"), Stratum("F", "PA", "18-39")


def within_binomial(hits: int, n: int) -> bool:
    """Whether so many calls of n are what 5 % gives, at 1 in 10,000."""
    low, high = binom.interval(0.9999, n, LEVEL)
    return bool(low <= hits <= high)


@pytest.mark.parametrize(
    ("age", "band"), [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (40, "40-59"), (60, "60+")]
)
def test_bands_hold_their_first_age(age: float, band: str) -> None:
    assert Stratum.of({"age": age, "sex": 1.0, "view": 0.0}, FIELDS) == ("M", "PA", band)


def test_what_is_unknown_is_in_no_name() -> None:
    stratum = Stratum.of({"age": 50.0}, FIELDS)
    assert stratum == ("", "", "40-59")
    assert stratum.name(("sex", "view", "age")) == "age=40-59"
    assert Stratum("", "", "").name(("sex", "view", "age")) == "all"


F_PA = {age: Stratum("F", "PA", age) for age in ("0-17", "18-39", "40-59", "60+")}


@pytest.mark.parametrize(
    ("least", "names"),
    [
        (2, ["sex=F view=PA age=60+", "sex=F view=PA age=18-39"]),
        (3, ["sex=F/M view=PA age=18-39/60+"]),  # two young ones join the old, two men the women
        (4, ["all"]),  # five of F and PA are pooled; two men, then three of AP, join them
        (11, ["all"]),
    ],
)
def test_small_strata_are_pooled(least: int, names: list[str]) -> None:
    """Age bands first, then sexes, then views."""
    films = [F_PA["60+"]] * 3 + [F_PA["18-39"]] * 2 + [Stratum("M", "PA", "60+")] * 2
    partition = Partition.of([*films, *[Stratum("M", "AP", "60+")] * 3], least)
    cells = [partition.cell_of(film) for film in films[:4]]
    assert None not in cells
    said = [partition.name(c) for c in dict.fromkeys(cells) if c is not None]
    assert said == names
    members = [stratum for cell in partition.cells for stratum in cell]
    assert len(members) == len(set(members)) == 4


def test_a_pool_of_small_strata_is_a_cell_beside_the_large_one() -> None:
    films = [F_PA["60+"]] * 5 + [F_PA["18-39"]] * 2 + [F_PA["0-17"]] * 2
    partition = Partition.of(films, 4)
    names = {partition.name(i) for i in range(len(partition.cells))}
    assert names == {"sex=F view=PA age=60+", "sex=F view=PA age=0-17/18-39"}


def test_every_film_of_a_cell_is_compared_with_the_same_films() -> None:
    """Nobody falls back on films that are not compared with theirs."""
    rng = np.random.default_rng(0)
    known = [Stratum(s, v, a) for s in ("F", "M", "") for v in ("PA", "AP") for a in ("60+", "")]
    for _ in range(50):
        films = [known[i] for i in rng.choice(12, size=rng.integers(1, 120), p=CHANCES)]
        partition = Partition.of(films)
        sizes = Counter(partition.cell_of(film) for film in films)
        assert None not in sizes
        assert len(partition.cells) == 1 or min(sizes.values()) >= LEAST
        again = Partition.from_meta({"partition": json.loads(json.dumps(partition.to_json()))})
        assert again is not None and set(again.cells) == set(partition.cells)
        own = np.array([partition.cell_of(film) for film in films])
        scores, names = own + rng.normal(size=len(films)), [f"c{i}" for i in range(len(films))]
        p, _ = mondrian_p_values(
            np.ones(12), known, scores, films,
            ids=[f"j{i}" for i in range(12)], calibration_ids=names,
        )  # fmt: skip
        for film, one in zip(known, p, strict=True):
            if (cell := partition.cell_of(film)) is not None:
                assert one == (1 + (scores[own == cell] >= 1).sum()) / (1 + (own == cell).sum())
    assert Partition.from_meta({}) is None
    with pytest.raises(ValueError, match="version"):
        Partition.from_meta({"partition": {"version": 2, "cells": []}})


CHANCES = np.array([8, 1, 2, 8, 1, 1, 6, 1, 3, 4, 2, 1]) / 38


def test_a_record_like_no_calibration_film_gets_the_largest_p_of_those_it_may_be() -> None:
    strata = [OLD] * 20 + [YOUNG] * 20
    calibration = np.concatenate([np.arange(20.0), np.arange(20.0) - 10])
    unlike = [Stratum("", "PA", ""), Stratum("", "PA", "60+"), Stratum("M", "AP", "0-17")]
    p, used = mondrian_p_values(
        np.full(3, 12.0), unlike, calibration, strata,
        ids=list("xyz"), calibration_ids=[str(i) for i in range(40)],
    )  # fmt: skip
    assert p == pytest.approx([9 / 21] * 3)
    assert used[0] == used[2] == "none: the largest p of 2 groups"
    assert used[1] == "none: the largest p of sex=F view=PA age=60+"


def test_a_calibration_film_is_left_out_of_its_own_cell() -> None:
    calibration, strata = np.arange(20.0), [OLD] * 20
    p, used = mondrian_p_values(
        np.array([19.0, 19.0]), [OLD] * 2, calibration, strata,
        ids=["c19", "x"], calibration_ids=[f"c{i}" for i in range(20)],
    )  # fmt: skip
    assert used == ["all", "all"]
    assert p.tolist() == [1 / 20, 2 / 21]


def test_the_promise_holds_in_every_cell_where_groups_are_small() -> None:
    """Twelve groups, most too small, whose normal films score differently: 17 to 22 % of the films
    that fell back on others' were called before the partition was fixed."""
    rng = np.random.default_rng(0)
    groups = [
        Stratum(s, v, a) for s in "FM" for v in ("AP", "PA") for a in ("18-39", "40-59", "60+")
    ]
    chance = np.array([2, 5, 13, 10, 15, 5, 2, 3, 20, 10, 10, 5]) / 100
    shift = rng.normal(size=12)
    calls, films = Counter[bool](), Counter[bool]()
    for _ in range(250):
        own = rng.choice(12, size=400, p=chance)
        scores = rng.normal(size=400) + shift[own]
        strata = [groups[i] for i in own]
        p, used = mondrian_p_values(
            scores[200:], strata[200:], scores[:200], strata[:200],
            ids=[""] * 200, calibration_ids=["c"] * 200,
        )  # fmt: skip
        for value, name in zip(p, used, strict=True):
            calls["/" in name] += value <= LEVEL + 1e-9
            films["/" in name] += 1
    for pooled in (False, True):
        assert films[pooled] > 5_000
        # 1.645 errors of a rate of 5 %, films of one calibration set counting as 5 independent ones
        error = np.sqrt(LEVEL * (1 - LEVEL) / (films[pooled] / 5))
        assert 0.02 < calls[pooled] / films[pooled] <= LEVEL + 1.645 * error


def test_mondrian_keeps_its_promise_in_each_stratum_where_plain_does_not() -> None:
    """Normal films of old patients score higher; a third of the films are theirs."""
    rng = np.random.default_rng(0)
    calls = {"plain": [0, 0], "mondrian": [0, 0]}
    films = [0, 0]
    for _ in range(150):
        old = rng.random(240) < 1 / 3
        scores = rng.normal(size=240) + 1.5 * old
        strata = [OLD if o else YOUNG for o in old]
        ids = [str(i) for i in range(240)]
        judged = slice(120, 240)
        plain = p_values(scores[judged], scores[:120])
        mondrian, _ = mondrian_p_values(
            scores[judged], strata[judged], scores[:120], strata[:120],
            ids=ids[judged], calibration_ids=ids[:120],
        )  # fmt: skip
        for k in (0, 1):
            films[k] += int((old[judged] == k).sum())
            calls["plain"][k] += int((plain[old[judged] == k] <= LEVEL).sum())
            calls["mondrian"][k] += int((mondrian[old[judged] == k] <= LEVEL).sum())
    assert not any(map(within_binomial, calls["plain"], films))
    rates = [c / n for c, n in zip(calls["mondrian"], films, strict=True)]
    # Counts are whole: p <= 0.05 has a chance of floor(0.05 (n + 1)) / (n + 1), 0.03 to 0.05.
    assert all(0.03 <= rate <= 0.054 for rate in rates), rates


def test_weighted_keeps_its_promise_under_a_shift_where_plain_does_not() -> None:
    """One in five calibration films is of an old patient, but four in five of those judged."""
    rng = np.random.default_rng(0)
    plain = weighted = films = 0
    n = 1000
    for _ in range(40):
        old = np.concatenate([rng.random(n) < 0.2, rng.random(200) < 0.8])
        scores = rng.normal(size=n + 200) + 1.5 * old
        strata = [OLD if o else YOUNG for o in old]
        ids = [str(i) for i in range(n + 200)]
        weights, own = record_weights(strata[:n], strata[n:])
        p = weighted_p_values(
            scores[n:], own, scores[:n], weights, ids=ids[n:], calibration_ids=ids[:n]
        )
        weighted += int((p <= LEVEL).sum())
        plain += int((p_values(scores[n:], scores[:n]) <= LEVEL).sum())
        films += 200
    assert plain / films > 0.1
    # The film's own weight, 4 of about 1,000, makes it a little careful.
    assert 0.04 <= weighted / films <= 0.055


def test_weights_are_the_ratio_of_the_shares() -> None:
    weights, own = record_weights([OLD] * 200 + [YOUNG] * 800, [OLD] * 400 + [YOUNG] * 100)
    assert weights[0] == pytest.approx(0.8 / 0.2, rel=0.05)  # shrunk a little by the penalty
    assert weights[-1] == pytest.approx(0.2 / 0.8, rel=0.05)
    assert own[0] == weights[0] and own[-1] == weights[-1]


def test_alike_records_have_equal_weights() -> None:
    for films in ([OLD] * 9, [OLD, YOUNG] * 9, [Stratum("", "", "")] * 9):
        weights, own = record_weights(films, films)
        assert np.concatenate([weights, own]) == pytest.approx(np.ones(2 * len(films)), abs=1e-6)


def test_not_recorded_is_a_value_of_its_own() -> None:
    unknown = Stratum("", "PA", "60+")
    weights, _ = record_weights([OLD] * 50 + [unknown] * 50, [unknown] * 100)
    assert weights[-1] > 1.5 > 0.5 > weights[0]


def test_the_least_stratum_can_reach_five_per_cent() -> None:
    assert p_values(np.array([9.0]), np.zeros(LEAST))[0] == pytest.approx(0.05)
