"""What the service says of a film, as JSON: the same in its API, in its viewer and on its disk."""

from collections.abc import Mapping, Sequence
from typing import Any

from nofinding.clinical.result import NOTICE, Result
from nofinding.data.ehr import EhrField
from nofinding.scoring.predictor import Outcome

__all__ = ["CONFLICT", "SCHEMA", "entries", "result_payload", "summary"]

SCHEMA = 1
CONFLICT = "film: the same instance came before with other pixels"


def entries(
    ehr: Mapping[str, float],
    fields: Mapping[str, EhrField],
    result: Result | None,
    sources: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The record, a row a field that the model uses or that is known.

    `sources` says by field where its value is from: "request", "header", "fhir".
    """
    used = () if result is None else result.fields
    rows = []
    for name in [*dict.fromkeys((*used, *ehr))]:
        field, value = fields[name], ehr.get(name)
        text = ""
        if value is not None:
            text = field.categories[int(value)] if field.categories else f"{value:g}"
        rows.append(
            {
                "field": name,
                "value": value,
                "text": text,
                "unit": field.unit,
                "categories": [*field.categories],
                "used": name in used,
                "attention": None if result is None else result.attention.get(name),
                "source": sources.get(name, "request"),
            }
        )
    return rows


def result_payload(
    outcome: Outcome,
    *,
    film: str,
    size: Sequence[int],
    record: list[dict[str, Any]],
    conflict: bool,
    seconds: float,
) -> dict[str, Any]:
    """All of it: `film` is its pseudonym, `size` rows and columns of the decoded film."""
    result = outcome.result
    flags = [*outcome.flags, *([CONFLICT] if conflict else [])]
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "notice": NOTICE,
        "film": film,
        "refused": outcome.refused or None,
        "flags": flags,
        "conflict": conflict,
        "size": [*size],
        "record": record,
        "seconds": round(seconds, 3),
        "point": [*outcome.point],
    }
    if result is None:
        return about
    return about | {
        "score": result.score,
        "p_value": result.p_value,
        "calibration": result.calibration,
        "stratum": outcome.stratum or None,
        "method": result.method,
        "model": result.model,
        "sha256": result.sha256,
        "version": result.version,
        "aspect": result.aspect,
        "threshold": result.threshold,
        "map": result.anomaly_map is not None,
        "normal": outcome.reconstruction is not None,
    }


def summary(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the queue keeps of it, for lists: no array, no record."""
    names = ("score", "p_value", "model", "sha256", "refused", "flags", "seconds", "point")
    return {name: about.get(name) for name in names}
