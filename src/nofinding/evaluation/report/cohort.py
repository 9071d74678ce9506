"""A cohort as a page: who is in it, who was left out, and what is known of them."""

from collections.abc import Sequence

from nofinding import __version__
from nofinding.datasets.build.flow import FieldRow, Flow
from nofinding.evaluation.report.figures import data_uri
from nofinding.evaluation.report.flow import flow_figure
from nofinding.evaluation.report.page import page

__all__ = ["cohort_html"]


def cohort_html(
    flow: Flow,
    *,
    fingerprint: str,
    command: str,
    deviations: Sequence[str],
    verify: str,
    twins: str = "skip",
) -> str:
    """One file, no script, nothing fetched, no film. `deviations` are from a published protocol."""
    checked = {
        "none": "No film was looked for.",
        "present": "Every film is there; equal films in two splits were not looked for.",
        "bytes": "Every film is there, and no file is in two splits.",
        "pixels": "Every film was decoded, and no picture is in two splits.",
    }[verify]
    if verify in ("bytes", "pixels") and twins != "skip":
        checked += " Altered copies of one film (twins) in different splits were looked for"
        checked += "; they are listed in twins.csv." if twins == "report" else ", and none is left."
    return page("cohort.html.j2").render(
        flow=flow,
        picture=data_uri(flow_figure(flow)),
        rows=[_cells(row) for row in flow.record],
        fingerprint=fingerprint,
        command=command,
        deviations=deviations,
        checked=checked,
        version=__version__,
    )


def _cells(row: FieldRow) -> dict[str, str]:
    """One line of the table of the record, as texts."""
    missing = 100 * (1 - row.known / row.films) if row.films else 0.0
    if row.shares:
        value = ", ".join(f"{name} {100 * share:.1f} %" for name, share in row.shares.items())
    elif row.mean is None:
        value = "–"
    else:
        value = f"{row.mean:.4g} ± {row.sd:.3g} {row.unit}".rstrip()
    return {
        "field": row.field,
        "split": row.split,
        "films": f"{row.films:,}",
        "known": f"{row.known:,}",
        "missing": f"{missing:.1f} %",
        "unusable": f"{row.unusable:,}",
        "value": value,
    }
