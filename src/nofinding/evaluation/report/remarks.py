"""What a reader must know beside the numbers, in sentences."""

from collections.abc import Iterable, Sequence

from nofinding.evaluation.baselines import METADATA
from nofinding.evaluation.report.page import Row, Verdict
from nofinding.evaluation.statistics.conformal import LEVELS, least_n, share
from nofinding.evaluation.statistics.intervals import DRAWS, difference
from nofinding.evaluation.statistics.pixels import PixelMetrics
from nofinding.evaluation.table import Scored

__all__ = ["notes", "verdicts"]


def verdicts(
    rows: Sequence[Row], scored: Scored, *, draws: int = DRAWS, seed: int = 0
) -> list[Verdict]:
    """Gives, for each baseline that has a score, whether the method (first row) beats it.

    It does if the paired 95 % interval of the difference in AUROC lies above 0. A row whose own
    interval lies below 0.5 is turned round first: what it looks at tells the films apart, and a
    method must do better than that, whichever way it points.
    """
    method = rows[0]
    said = []
    for row in rows:
        if row.role != "baseline" or row.score is None:
            continue
        turned = row.metrics["auroc"].high < 0.5
        baselines = -row.score if turned else row.score
        name = f"{row.name} (turned round)" if turned else row.name
        gap = difference(
            scored.score, baselines, scored.abnormal, scored.patient, draws=draws, seed=seed
        )
        beats = gap.low > 0  # False where there is no interval
        verb = "beats" if beats else "is worse than" if gap.high < 0 else "does not beat"
        sentence = (
            f"{method.name} {verb} {name}: difference in AUROC {gap.value:+.3f} "
            f"(95 % interval {gap.low:+.3f} to {gap.high:+.3f})."
        ).replace("-0.", "−0.")
        said.append(Verdict(name, gap, beats, sentence))
    return said


def notes(scored: Scored, rows: Sequence[Row], pixels: PixelMetrics | None) -> list[str]:
    """Gives the remarks that hold for these films and these scores."""
    return [*_on_films(scored), *_on_p_values(scored), *_on_rows(rows), *_on_pixels(scored, pixels)]


def _on_films(scored: Scored) -> Iterable[str]:
    if scored.unlabelled:
        yield f"{scored.unlabelled} scored films have no label and were left out."
    if scored.unscored:
        yield f"{scored.unscored} labelled films of the same split have no score and are missing."
    if scored.twins:
        yield (
            f"{len(scored.twins)} of the films judged are altered copies of training or "
            "calibration films (twins); the figures flatter the method."
        )
    if any(scored.refused):
        yield _on_refused(scored)
    drift = scored.run.get("drift")
    if isinstance(drift, dict) and drift.get("line"):
        yield f"Of all films scored: {drift['line']}."
    if scored.patients < len(scored.exams):
        yield (
            f"The {len(scored.exams)} films are of {scored.patients} patients. Bootstrap "
            "intervals, the AUROC's and the paired test count patients; exact (Clopper-Pearson) "
            "intervals take films as independent and are somewhat too narrow."
        )


def _on_refused(scored: Scored) -> str:
    kinds = zip(
        ("normal", "abnormal"), scored.refused, (scored.n_normal, scored.n_abnormal), strict=True
    )
    said = []
    for kind, k, left in kinds:
        part = share(k, k + left)
        said.append(
            f"{k} of {k + left} {kind} films ({100 * part.value:.1f} %, 95 % interval "
            f"{100 * part.low:.1f} to {100 * part.high:.1f})"
        )
    return (
        f"The input gate refused {' and '.join(said)}. They have no score and are in no number "
        "here: a method that scores every film is judged on more than this one."
    )


def _on_p_values(scored: Scored) -> Iterable[str]:
    if scored.p_value is None:
        why = scored.run.get("uncalibrated") or "no calibration films were stored with the model"
        yield f"The scores carry no p-value: {why}."
        return
    yield from _on_calibration(scored)
    listed = scored.run.get("calibration_ids")
    if not isinstance(listed, list):
        yield (
            "It is not stated which films calibrated the p-value; if they are among the evaluated "
            "normal films, the calibration table is no evidence."
        )
        return
    shared = int((scored.calibrates & ~scored.abnormal).sum())
    if shared:
        left = "none are left" if shared == scored.n_normal else "they are left out of it"
        yield (
            f"{shared} of the {scored.n_normal} evaluated normal films also calibrated the "
            "p-value. Each was left out of its own calibration, so its p-value is right, but how "
            "many of such films are called is fixed by their number, whatever the scores: it "
            f"is no evidence of a false-positive rate, and {left}."
        )


def _on_calibration(scored: Scored) -> Iterable[str]:
    """What the kind of calibration, and too few films for it, mean for the p-values."""
    run = scored.run
    if run.get("calibration_warning"):
        yield f"Of the p-value: {run['calibration_warning']}."
    if run.get("calibration") == "mondrian":
        strata = "; ".join(f"{name} ({n} films)" for name, n in run.get("strata", {}).items())
        yield f"Each p-value is against normal films of the film's own stratum: {strata}."
    elif run.get("calibration") == "weighted":
        yield (
            "Calibration films are weighted to the records of the films scored, and are worth "
            f"{run.get('calibration_effective_n', 0):.0f} equally weighted ones."
        )
    elif isinstance(run.get("calibration_n"), int) and run["calibration_n"]:
        for level in LEVELS:
            if run["calibration_n"] < least_n(level):
                yield (
                    f"With {run['calibration_n']} calibration films no p-value can be {level:g} or "
                    f"less, which takes {least_n(level)}: nothing called there says nothing."
                )


def _on_rows(rows: Sequence[Row]) -> Iterable[str]:
    baselines = [row for row in rows if row.role == "baseline"]
    if not baselines:
        yield "The baselines were not run; without them an AUROC says little."
    for row in baselines:
        area = row.metrics.get("auroc")
        if area is not None and area.high < 0.5 and row.name != METADATA:
            yield (
                f"{row.name} separates these films the wrong way round (AUROC {area.value:.3f}; "
                f"turned round, {1 - area.value:.3f}): normal and abnormal films differ in "
                "something plain, such as brightness or scanner, that any method may pick up."
            )
        if area is not None and area.low > 0.5 and row.name == METADATA:
            yield (
                f"The record alone tells abnormal from normal (AUROC {area.value:.3f}, learnt from "
                "the labels of other evaluated patients): a method that reads the record may owe "
                "part of its result to who is ill rather than to the film."
            )


def _on_pixels(scored: Scored, pixels: PixelMetrics | None) -> Iterable[str]:
    if pixels is None:
        return
    if scored.run.get("map_threshold") is None:
        yield (
            "The Dice threshold is the 99th percentile of the maps of the evaluated normal films: "
            "no abnormal film took part in choosing it, but films that are judged did."
        )
    without = scored.n_abnormal - pixels.lesion_films
    if without:
        yield (
            f"{without} abnormal films have no map or no drawn finding and are not in the pixel "
            "metrics."
        )
