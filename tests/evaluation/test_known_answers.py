"""Who sees the lesions is told so; who sees the hospital alone is told that that is nothing."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nofinding.datasets.insertion.trial import Case, Held, Trial, build_trial
from nofinding.errors import UserError
from nofinding.evaluation.known_answers import FALSE_POSITIVES, Scorer, froc, judge, table
from nofinding.evaluation.report.lesions import gallery, plot_froc
from nofinding.types import Exam

SIDE, FILMS = 40, 24


def exam(name: str, film: np.ndarray, findings: frozenset[str] | None = frozenset()) -> Exam:
    return Exam(
        image_id=name,
        patient_id=f"p{name}",
        pixels=Held((film * 255).astype(np.uint8)),
        ehr={},
        findings=findings,
    )


@pytest.fixture(scope="module")
def trial() -> Trial:
    """Films whose lesion is a bright square; a twin's place is told by its number."""
    rng = np.random.default_rng(0)
    cases = []
    for i in range(FILMS):
        film = rng.uniform(0.2, 0.4, (SIDE, SIDE))
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        row, column = rng.integers(4, SIDE - 8, 2)
        mask[row : row + 5, column : column + 5] = True
        twin = exam(f"f{i}", film)
        with_it = exam(f"f{i}+nodule#0", np.where(mask, 0.9, film), frozenset({"nodule"}))
        cases.append(
            Case(
                record=with_it,
                twin=twin,
                kind="nodule",
                diameter=6.0 if i % 2 else 15.0,
                contrast=0.7 if i % 2 else 3.0,
                cell="open",
                mask=mask,
            )
        )
    return Trial(tuple(cases), ())


def scorer(see: float, noise: float) -> Scorer:
    """Sees what is brighter than any normal tissue, and noise of its own."""

    def scored(exams: Sequence[Exam]) -> tuple[np.ndarray, np.ndarray]:
        maps = []
        for r in exams:
            rng = np.random.default_rng(zlib.crc32(r.image_id.encode()))
            film = r.pixels()
            maps.append(see * (film > 0.8) + noise * rng.random(film.shape))
        stacked = np.stack(maps)
        return stacked.max(axis=(1, 2)), stacked

    return scored


def test_who_sees_all_gets_all(trial: Trial) -> None:
    row = judge(trial, scorer(5.0, 0.1), draws=50).row("nodule")
    assert row.auroc.value == pytest.approx(1) and row.raised.value == 1 and row.hit.value == 1
    assert row.place > 98 and row.pixel_auroc > 0.98
    assert 30 < row.place_twin < 70 and row.hit_twin < 0.3
    assert [e.value for e in row.froc] == pytest.approx([1, 1, 1])


def test_who_sees_nothing_gets_chance(trial: Trial) -> None:
    row = judge(trial, scorer(0.0, 1.0), draws=200).row("nodule")
    assert abs(row.auroc.value - 0.5) < 0.25  # three standard errors of 24 pairs
    assert abs(row.raised.value - 0.5) < 0.31
    assert 35 < row.place < 65 and row.hit.value < 0.3


def test_a_score_of_the_hospital_alone_is_chance_to_the_last_digit(trial: Trial) -> None:
    def of_site(exams: Sequence[Exam]) -> tuple[np.ndarray, None]:
        return np.array([float(r.patient_id[2:].partition("+")[0]) for r in exams]), None

    row = judge(trial, of_site, draws=20).row("nodule")
    assert row.auroc.value == pytest.approx(0.5) and row.raised.value == 0.5
    assert row.froc == () and np.isnan(row.place)


def test_rows_by_size_and_contrast(trial: Trial) -> None:
    verdict = judge(trial, scorer(1.0, 0.5), draws=20)
    small, clear = verdict.row("nodule", "4 to 8 mm"), verdict.row("nodule", "contrast/noise > 2")
    assert small.lesions == clear.lesions == FILMS // 2
    with pytest.raises(KeyError):
        verdict.row("nodule", "20 to 30 mm")
    assert table(verdict).count("\n") == 2 + len(verdict.rows)


def test_maps_on_another_grid_point_at_the_same_place(trial: Trial) -> None:
    fine = scorer(5.0, 0.1)

    def coarse(exams: Sequence[Exam]) -> tuple[np.ndarray, np.ndarray]:
        scores, maps = fine(exams)
        assert maps is not None
        return scores, maps.reshape(len(exams), SIDE // 2, 2, SIDE // 2, 2).max(axis=(2, 4))

    assert judge(trial, coarse, draws=20).row("nodule").hit.value == 1


def test_froc_counts_marks_of_normal_films_at_every_threshold() -> None:
    false, share = froc([3.0, 1.5, -np.inf], [np.array([2.0, 1.0]), np.array([0.5])])
    np.testing.assert_allclose(false, [0, 0, 0.5, 0.5, 1, 1.5])
    np.testing.assert_allclose(share, [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])


def test_the_table_reads_the_froc_curve_where_it_says(trial: Trial) -> None:
    verdict = judge(trial, scorer(0.3, 1.0), draws=20)
    false, share = verdict.curves["nodule"]
    row = verdict.row("nodule")
    for allowed, estimate in zip(FALSE_POSITIVES, row.froc, strict=True):
        assert estimate.value == pytest.approx(share[false <= allowed].max())


@pytest.mark.parametrize("scores", [np.zeros(3), np.full(16, np.nan)])
def test_a_scorer_gives_one_finite_number_a_film(trial: Trial, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="16 finite numbers"):
        judge(trial, lambda records: (scores, None))


def test_lesions_go_into_normal_films_only() -> None:
    film = np.zeros((SIDE, SIDE))
    for findings in (None, frozenset({"Mass"})):
        with pytest.raises(UserError, match="not labelled normal"):
            build_trial([exam("f", film, findings)])
    with pytest.raises(UserError, match="is one of nodule"):
        build_trial([exam("f", film)], kinds=("wart",))


def test_a_film_without_lungs_is_skipped_and_named() -> None:
    trial = build_trial([exam("f", np.zeros((64, 64)))], kinds=("nodule",))
    assert trial.skipped == ("f",) and not trial.cases


def test_what_is_stored_is_what_was_made(tmp_path: Path) -> None:
    from nofinding.data.ehr import FIELDS
    from nofinding.datasets.phantom import PHANTOM

    exams = [r for r in PHANTOM.read("train=1,seed=1,size=128", FIELDS) if r.split == "train"]
    first, again, without = (
        build_trial(exams, kinds=("nodule", "effusion"), cache=cache)
        for cache in (tmp_path, tmp_path, None)
    )
    assert len(list(tmp_path.glob("*.npz"))) == 2 and len(first.cases) == 3
    for one, other, third in zip(first.cases, again.cases, without.cases, strict=True):
        np.testing.assert_array_equal(one.record.pixels(), other.record.pixels())
        np.testing.assert_array_equal(one.record.pixels(), third.record.pixels())
        np.testing.assert_array_equal(one.mask, third.mask)
        assert (one.kind, one.diameter, one.contrast) == (
            other.kind,
            other.diameter,
            third.contrast,
        )
    assert [case.kind for case in first.of(["effusion"]).cases] == ["effusion"]


def test_pictures_are_written(trial: Trial, tmp_path: Path) -> None:
    see = scorer(5.0, 0.1)
    plot_froc(judge(trial, see, draws=10), tmp_path / "froc.png", title="all")
    gallery(trial.cases[:2], tmp_path / "gallery.png", scorer=see)
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("froc.png", "gallery.png"))
