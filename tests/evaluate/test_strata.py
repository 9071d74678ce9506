"""Mondrian and weighted calibration: by hand, and on simulated scores where plain fails."""

import numpy as np
import pytest
from scipy.stats import binom

from nofinding.data.ehr import FIELDS
from nofinding.evaluate.calibration import p_values, weighted_p_values
from nofinding.evaluate.strata import LEAST, Stratum, mondrian_p_values, record_weights

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


def test_a_small_stratum_gives_way_to_a_coarser_one() -> None:
    """The age band goes first, then sex, then view."""
    calibration = [Stratum("F", "PA", "60+")] * 3 + [Stratum("F", "PA", "18-39")] * 2
    calibration += [Stratum("M", "PA", "60+")] * 2 + [Stratum("M", "AP", "60+")] * 3
    scores = np.arange(10.0)
    ids = [f"c{i}" for i in range(10)]
    film = [Stratum("F", "PA", "60+")] * 4 + [Stratum("", "PA", "60+"), Stratum("", "", "")]
    found = {
        least: mondrian_p_values(
            np.full(6, 4.0), film, scores, calibration,
            ids=[f"x{i}" for i in range(6)], calibration_ids=ids, least=least,
        )
        for least in (3, 5, 7, 8)
    }  # fmt: skip
    assert [found[least][1][0] for least in (3, 5, 7, 8)] == [
        "sex=F view=PA age=60+", "sex=F view=PA", "view=PA", "all",
    ]  # fmt: skip
    # films at least as high as 4: none of 3; one of 5 (itself 4); three of 7; six of 10
    assert [found[least][0][0] for least in (3, 5, 7, 8)] == [1 / 4, 2 / 6, 4 / 8, 7 / 11]
    assert found[3][1][4:] == ["view=PA age=60+", "all"]


def test_a_calibration_film_is_left_out_of_its_own_stratum() -> None:
    calibration, strata = np.arange(20.0), [OLD] * 20
    ids = [f"c{i}" for i in range(20)]
    p, used = mondrian_p_values(
        np.array([19.0, 19.0]), [OLD] * 2, calibration, strata,
        ids=["c19", "x"], calibration_ids=ids, least=20,
    )  # fmt: skip
    assert used == ["all", "sex=F view=PA age=60+"]  # 19 others are one too few
    assert p.tolist() == [1 / 20, 2 / 21]


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
