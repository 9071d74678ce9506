"""How well a map points at a lesion, from counts of pixels at or above common thresholds.

Films counted are the normal ones and those abnormal ones on which somebody drew the finding; an
abnormal film without a drawing has pixels of unknown kind and is left out. A drawn box counts
as lesion throughout, padding as normal. Each film is reduced to counts at about 2,000 thresholds
(quantiles of the maps), so that every bootstrap draw is a sum of rows; pixel values between two
neighbouring thresholds are taken as tied, which moves the areas by less than 0.001.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from nofinding.evaluation.statistics.bounded_interval import expanded_interval
from nofinding.evaluation.statistics.intervals import DRAWS, Estimate, resampled

__all__ = ["FPR_LIMIT", "MappedFilm", "PixelMetrics", "measure_pixels", "normal_threshold"]

FPR_LIMIT = 0.3  # Bergmann et al. 2021, section 6: beyond it a map would call most of a film
THRESHOLDS = 1000  # from the lesions, and as many again from the other pixels
SAMPLED = 20_000  # pixels a film that help to choose thresholds


@dataclass(frozen=True, slots=True)
class MappedFilm:
    """A film's anomaly map (read when called), and where its finding is; None: normal."""

    anomaly_map: Callable[[], Float[np.ndarray, "h w"]]
    lesion: Bool[np.ndarray, "h w"] | None


@dataclass(frozen=True, slots=True)
class PixelMetrics:
    """What the maps are worth, and what it was measured on."""

    estimates: dict[str, Estimate]  # pixel_auroc, aupro, best_dice, dice
    threshold: float  # of `dice`
    normal_films: int
    lesion_films: int
    regions: int


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of each film, how many pixels lie at or above each threshold (falling, +inf to -inf)."""

    lesion: Float[np.ndarray, "n k"]
    normal: Float[np.ndarray, "n k"]
    overlap: Float[np.ndarray, "n k"]  # the share of each region, summed over the film's regions
    regions: Float[np.ndarray, " n"]
    dice: Float[np.ndarray, " n"]  # at the fixed threshold; NaN without a lesion


def normal_threshold(
    maps: Sequence[Callable[[], Float[np.ndarray, "h w"]]], percentile: float = 99
) -> float:
    """Gives the value that `percentile` % of the pixels of normal films do not exceed."""
    return float(np.percentile(np.concatenate([_sample(m()) for m in maps]), percentile))


def _sample(values: np.ndarray) -> Float[np.ndarray, " s"]:
    # An odd step, so that films of even width are not sampled along columns.
    step = -(-values.size // SAMPLED)
    return np.asarray(values).ravel()[:: step + (step % 2 == 0)]


def measure_pixels(
    films: Sequence[MappedFilm],
    patient: Int[np.ndarray, " n"],
    threshold: float,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> PixelMetrics:
    """Gives pixel AUROC, AUPRO, best and fixed-threshold Dice with patient-bootstrap
    intervals, wider for few films with a lesion (`expanded_interval`).

    pixel_auroc: over all pixels of all films. aupro: the area, up to a false-positive rate of
    0.3 and divided by it, under the mean share of each connected region (8 neighbours) that is
    found (Bergmann et al., IJCV 129, 2021, section 6). dice: 2 |A and B| / (|A| + |B|), mean
    over the films with a lesion, at `threshold`, which must come from normal films; best_dice:
    at the one threshold that suits the lesions best, which nobody knows beforehand.
    """
    counts = _count(films, threshold)
    has_lesion = np.array([film.lesion is not None and film.lesion.any() for film in films])
    size = counts.lesion[:, -1:]
    overlap = 2 * counts.lesion / np.maximum(counts.lesion + counts.normal + size, 1)

    def statistic(weight: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c 4"]:
        lesions = weight * has_lesion
        with np.errstate(invalid="ignore", divide="ignore"):
            false_positive = _share(weight @ counts.normal)
            sensitivity = _share(weight @ counts.lesion)
            per_region = (weight @ counts.overlap) / (weight @ counts.regions)[:, None]
            dice_curve = (lesions @ overlap) / lesions.sum(axis=1)[:, None]
            dice = (lesions @ np.nan_to_num(counts.dice)) / lesions.sum(axis=1)
        columns = (
            np.trapezoid(sensitivity, false_positive, axis=1),
            _area_up_to(false_positive, per_region, FPR_LIMIT) / FPR_LIMIT,
            dice_curve.max(axis=1),
            dice,
        )
        return np.stack(columns, axis=-1)

    names = ("pixel_auroc", "aupro", "best_dice", "dice")
    value, drawn = resampled(statistic, patient, draws=draws, seed=seed)
    patients = len(np.unique(patient[has_lesion]))
    estimates = {
        name: expanded_interval(float(value[place]), drawn[:, place], patients)
        for place, name in enumerate(names)
    }
    return PixelMetrics(
        estimates=estimates,
        threshold=threshold,
        normal_films=sum(film.lesion is None for film in films),
        lesion_films=int(has_lesion.sum()),
        regions=int(counts.regions.sum()),
    )


def _share(total: Float[np.ndarray, "c k"]) -> Float[np.ndarray, "c k"]:
    return np.asarray(total / total[:, -1:])


def _area_up_to(
    x: Float[np.ndarray, "c k"], y: Float[np.ndarray, "c k"], limit: float
) -> Float[np.ndarray, " c"]:
    """Gives the area under the polyline (x rising from 0) between x = 0 and x = limit."""
    start, end = x[:, :-1], np.minimum(x[:, 1:], limit)
    width = np.maximum(end - start, 0)
    whole = np.diff(x, axis=1)
    part = np.divide(width, whole, out=np.zeros_like(whole), where=whole > 0)
    height = y[:, :-1] + np.diff(y, axis=1) * part / 2  # in the middle of the piece that counts
    return np.asarray((width * height).sum(axis=1))


def _thresholds(films: Sequence[MappedFilm]) -> Float[np.ndarray, " k"]:
    """Gives rising values that cut lesion pixels, and the others, into equal parts."""
    inside: list[np.ndarray] = []
    outside: list[np.ndarray] = []
    for film in films:
        values = film.anomaly_map()
        outside.append(_sample(values if film.lesion is None else values[~film.lesion]))
        if film.lesion is not None and film.lesion.any():
            inside.append(_sample(values[film.lesion]))
    steps = np.linspace(0, 1, THRESHOLDS)
    thresholds = [
        np.quantile(np.concatenate(part), steps, method="nearest")
        for part in (inside, outside)
        if part and sum(map(len, part))
    ]
    return np.unique(np.concatenate(thresholds))


def _count(films: Sequence[MappedFilm], threshold: float) -> _Counts:
    from scipy import ndimage

    edges = _thresholds(films)
    shape = (len(films), len(edges) + 2)
    lesion, normal, overlap = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    regions, dice = np.zeros(len(films)), np.full(len(films), np.nan)
    for i, film in enumerate(films):
        values = film.anomaly_map()
        # How many thresholds each pixel reaches, from the highest: its place in `edges`, reversed.
        place = len(edges) - np.searchsorted(edges, values, side="right")
        mask = np.zeros(values.shape, dtype=bool) if film.lesion is None else film.lesion
        lesion[i] = _at_or_above(place[mask], len(edges))
        normal[i] = _at_or_above(place[~mask], len(edges))
        labels, regions_of_mask = ndimage.label(mask, structure=np.ones((3, 3)))
        for region in range(1, regions_of_mask + 1):
            inside = _at_or_above(place[labels == region], len(edges))
            overlap[i] += inside / inside[-1]
        regions[i] = regions_of_mask
        if regions_of_mask:
            above = values >= threshold
            dice[i] = 2 * (above & mask).sum() / (above.sum() + mask.sum())
    return _Counts(lesion=lesion, normal=normal, overlap=overlap, regions=regions, dice=dice)


def _at_or_above(place: Int[np.ndarray, " p"], edges: int) -> Float[np.ndarray, " k"]:
    """Gives how many pixels reach nothing (threshold +inf), each edge from the top, and -inf."""
    return np.append(0.0, np.bincount(place, minlength=edges + 1).cumsum())
