from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from nofinding.evaluation.statistics.pixels import MappedFilm, measure_pixels, normal_threshold


def film(heat: np.ndarray, lesion: np.ndarray | None = None) -> MappedFilm:
    return MappedFilm(lambda: heat, lesion)


def films(seed: int = 0, *, levels: int = 0) -> list[MappedFilm]:
    """12 normal films and 12 with two regions of different size each."""
    rng = np.random.default_rng(seed)
    outputs = []
    for i in range(24):
        heat = ndimage.gaussian_filter(rng.uniform(0, 1, (40, 40)), 1)
        lesion = np.zeros((40, 40), dtype=bool)
        lesion[4:9, 5 : 8 + i % 5] = True
        lesion[20:35, 20:32] = True
        if i >= 12:
            heat = heat + 0.1 * lesion * rng.uniform(0, 2)
        if levels:
            heat = np.round(heat * levels) / levels
        outputs.append(film(heat.astype(np.float32), lesion if i >= 12 else None))
    return outputs


def pooled(films: Sequence[MappedFilm]) -> tuple[np.ndarray, np.ndarray]:
    heat = np.stack([f.anomaly_map() for f in films])
    mask = np.stack([np.zeros((40, 40), bool) if f.lesion is None else f.lesion for f in films])
    return heat, mask


def aupro_by_definition(films: Sequence[MappedFilm]) -> float:
    heat, mask = pooled(films)
    regions = [
        heat[i][labels == r]
        for i in range(len(films))
        for labels, n in [ndimage.label(mask[i], np.ones((3, 3)))]
        for r in range(1, n + 1)
    ]
    values = np.concatenate([[np.inf], np.unique(heat)[::-1]])
    outside = heat[~mask]
    rate = np.array([(outside >= v).mean() for v in values])
    overlap = np.array([np.mean([(r >= v).mean() for r in regions]) for v in values])
    grid = np.linspace(0, 0.3, 200_001)
    return float(np.trapezoid(np.interp(grid, rate, overlap), grid) / 0.3)


@pytest.mark.parametrize("levels", [0, 40])
def test_areas_are_those_of_scikit_learn_and_of_the_definition(levels: int) -> None:
    output = films(levels=levels)
    heat, mask = pooled(output)
    measured = measure_pixels(output, np.arange(24), 0.6, draws=0).estimates
    tolerance = 1e-6 if levels else 2e-4
    assert measured["pixel_auroc"].value == pytest.approx(
        roc_auc_score(mask.ravel(), heat.ravel()), abs=tolerance
    )
    if levels:  # the definition is slow over distinct values
        assert measured["aupro"].value == pytest.approx(aupro_by_definition(output), abs=1e-4)


def test_aupro_counts_regions_alike_whatever_their_size() -> None:
    lesion = np.zeros((40, 40), dtype=bool)
    lesion[0, 0] = True
    lesion[10:40, 10:40] = True
    heat = np.zeros((40, 40))
    heat[0, 0] = 1.0  # the one-pixel region is found, the large one is not
    output = [film(heat, lesion), film(np.zeros((40, 40)))]
    measured = measure_pixels(output, np.arange(2), 0.5, draws=0)
    assert measured.regions == 2
    # from (0, one half) straight to (1, 1): at 0.3 it is 0.65, on average 0.575
    assert measured.estimates["aupro"].value == pytest.approx(0.575)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    output = [film(np.zeros((40, 40)), np.eye(40, dtype=bool)), film(np.zeros((40, 40)))]
    assert measure_pixels(output, np.arange(2), 0.5, draws=0).regions == 1


def test_a_map_without_information_has_aupro_015_and_auroc_05() -> None:
    rng = np.random.default_rng(0)
    output = [film(rng.uniform(size=(40, 40)), f.lesion) for f in films() for _ in range(10)]
    measured = measure_pixels(output, np.arange(len(output)), 0.5, draws=0).estimates
    assert measured["pixel_auroc"].value == pytest.approx(0.5, abs=0.01)
    assert measured["aupro"].value == pytest.approx(0.15, abs=0.01)


def test_dice_is_the_mean_over_films_with_a_lesion_at_the_given_threshold() -> None:
    output = films()
    expected = []
    for one in output[12:]:
        above = one.anomaly_map() >= 0.62
        expected.append(2 * (above & one.lesion).sum() / (above.sum() + one.lesion.sum()))
    measured = measure_pixels(output, np.arange(24), 0.62, draws=200)
    assert measured.estimates["dice"].value == pytest.approx(np.mean(expected))
    assert measured.estimates["dice"].low < np.mean(expected) < measured.estimates["dice"].high
    assert (measured.normal_films, measured.lesion_films, measured.regions) == (12, 12, 24)


def test_best_dice_is_the_highest_of_any_threshold() -> None:
    output = films(levels=40)
    fixed = [
        measure_pixels(output, np.arange(24), value, draws=0).estimates["dice"].value
        for value in np.arange(0, 60) / 40
    ]
    best = measure_pixels(output, np.arange(24), 0.5, draws=0).estimates["best_dice"].value
    assert best == pytest.approx(max(fixed), abs=1e-6)
    assert best > fixed[20] + 0.01


def test_intervals_draw_patients() -> None:
    output = films()
    alone = measure_pixels(output, np.arange(24), 0.6, draws=400).estimates["pixel_auroc"]
    grouped = measure_pixels(output, np.arange(24) % 12 // 3, 0.6, draws=400).estimates[
        "pixel_auroc"
    ]
    assert alone.value == grouped.value
    assert alone.low < alone.value < alone.high
    assert (alone.low, alone.high) != (grouped.low, grouped.high)


def test_threshold_comes_from_the_percentile_of_normal_maps() -> None:
    maps = [lambda: np.arange(100.0).reshape(10, 10), lambda: np.arange(100.0, 200).reshape(10, 10)]
    assert normal_threshold(maps) == pytest.approx(np.percentile(np.arange(200), 99))
    assert normal_threshold(maps, 50) == pytest.approx(99.5)
