"""Differences between many methods: against the paired test of two, textbook examples, scipy."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from nofinding.benchmark.figures import cliques
from nofinding.evaluation.statistics.comparison import (
    Ranks,
    agreement,
    contrast,
    disagreed_most,
    holm,
    mean_metrics,
    mean_rank,
    ranks_over,
    subsets,
)
from nofinding.evaluation.statistics.delong import delong_test
from nofinding.types import Exam

RNG = np.random.default_rng(0)
ABNORMAL = np.repeat([False, True], [60, 40])
PATIENT = np.arange(100)


def scores(seeds: int, shift: float) -> np.ndarray:
    return RNG.standard_normal((seeds, 100)) + shift * ABNORMAL


def test_one_seed_each_is_the_paired_delong_test() -> None:
    first, second = scores(1, 1.0), scores(1, 0.4)
    result, expected = contrast(first, second, ABNORMAL), delong_test(first[0], second[0], ABNORMAL)
    assert result.difference == pytest.approx(expected.difference)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.p_value == pytest.approx(expected.p_value)


def test_seeds_are_averaged_and_their_covariance_counts() -> None:
    first, second = scores(3, 1.0), scores(2, 0.4)
    result = contrast(first, second, ABNORMAL)
    areas = [[roc_auc_score(ABNORMAL, s) for s in group] for group in (first, second)]
    assert result.difference == pytest.approx(np.mean(areas[0]) - np.mean(areas[1]))
    # The same scores three times over say no more than once.
    once = contrast(first[:1], second[:1], ABNORMAL)
    thrice = contrast(np.repeat(first[:1], 3, 0), np.repeat(second[:1], 3, 0), ABNORMAL)
    assert thrice.p_value == pytest.approx(once.p_value)
    # Independent seeds say more: the interval of the mean is narrower than that of one.
    assert result.high - result.low < once.high - once.low


def test_a_method_does_not_differ_from_itself() -> None:
    own = scores(2, 1.0)
    assert contrast(own, own, ABNORMAL).p_value == 1.0


def test_holm_on_a_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_mean_over_seeds_is_measured_on_every_draw() -> None:
    several = scores(3, 0.8)
    result = mean_metrics(several, ABNORMAL, PATIENT, draws=200)
    alone = [mean_metrics(s[None], ABNORMAL, PATIENT, draws=200)["auroc"].value for s in several]
    assert result["auroc"].value == pytest.approx(np.mean(alone))
    assert result["auroc"].low < result["auroc"].value < result["auroc"].high
    one = mean_metrics(several[:1], ABNORMAL, PATIENT, draws=200)["auroc"]
    assert result["auroc"].high - result["auroc"].low < one.high - one.low


def test_ranks_and_their_critical_difference() -> None:
    auroc = {c: {"a": 0.9, "b": 0.8 - 0.01 * i, "c": 0.7} for i, c in enumerate("xyz")}
    auroc["y"] |= {"b": 0.6, "d": 0.99}  # d is not on every cohort
    result = ranks_over(auroc)
    assert result is not None
    assert result.mean == pytest.approx({"a": 1.0, "b": 7 / 3, "c": 8 / 3})
    assert [*result.mean] == ["a", "b", "c"]
    # Demsar 2006, table 5: q 2.343 for three classifiers at 5 %.
    assert result.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 3)), abs=2e-3)
    assert ranks_over({"x": auroc["x"]}) is None
    assert ranks_over({"x": {"a": 1.0, "b": 0.5}, "y": {"a": 1.0, "b": 0.5}}) is None


def test_bars_join_what_does_not_differ() -> None:
    ranks = Ranks({"a": 1.0, "b": 1.5, "c": 3.0, "d": 3.4}, 9, 1.6, 0.01)
    assert cliques(ranks) == [(1.0, 1.5), (1.5, 3.0), (3.0, 3.4)]
    assert cliques(Ranks({"a": 1.0, "b": 3.0}, 9, 1.6, 0.01)) == []


def test_agreement_is_spearmans() -> None:
    result = agreement({"a": (one := scores(1, 1.0)), "b": (two := scores(1, 0.0)), "c": -one})
    assert result[0, 1] == pytest.approx(spearmanr(one[0], two[0]).statistic)
    assert result[0, 2] == pytest.approx(-1)
    constant = agreement({"a": one, "b": np.zeros((1, 100))})
    assert constant[0, 1] == 0


def test_films_on_which_methods_disagree() -> None:
    alike = np.arange(100.0)[None]
    other = alike.copy()
    other[0, 3], other[0, 97] = 97, 3
    assert set(disagreed_most({"a": alike, "b": other}, 2)) == {3, 97}
    assert mean_rank(alike)[[0, 99]].tolist() == [0, 1]


def exam(number: int, findings: set[str], sex: float | None) -> Exam:
    return Exam(
        image_id=f"f{number}",
        patient_id=f"p{number}",
        pixels=lambda: np.zeros((2, 2), np.float32),
        ehr={} if sex is None else {"sex": sex},
        findings=frozenset(findings),
    )


def test_subsets_are_findings_against_all_normals_and_groups_against_their_own() -> None:
    exams = [exam(i, set(), float(i % 2)) for i in range(40)]
    exams += [exam(40 + i, {"mass"} if i < 12 else {"edema", "mass"}, 1.0) for i in range(20)]
    exams += [exam(90, {"rare"}, None)]
    abnormal = np.array([bool(r.findings) for r in exams])
    entries = {(s.kind, s.name): s for s in subsets(exams, abnormal)}
    mass = entries["finding", "mass"]
    assert (mass.n_normal, mass.n_abnormal) == (40, 20)
    assert entries["finding", "edema"].n_abnormal == 8 and entries["finding", "edema"].too_few
    assert entries["finding", "rare"].auroc(np.zeros((1, 61)), abnormal, np.arange(61)) is None
    men = entries["sex", "M"]
    assert (men.n_normal, men.n_abnormal) == (20, 20)
    assert ("sex", "not recorded") not in entries
    score = np.where(abnormal, 1.0, 0.0)[None]
    message = men.auroc(score, abnormal, np.arange(61), draws=20)
    assert message is not None and message.value == 1
