"""A result as one HTML file: nothing fetched, no script, nothing of the patient's identity."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nofinding.storage.plain_json import finite

__all__ = ["docs_page", "report_page"]

PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def report_page(job: str, payload: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page; `pictures` are PNG files by their captions."""
    about: dict[str, Any] = finite(dict(payload))
    shown = {
        caption: "data:image/png;base64," + base64.b64encode(data).decode()
        for caption, data in pictures.items()
    }
    return PAGES.get_template("report.html.j2").render(
        job=job, payload=about, pictures=shown, meaning=meaning(about)
    )


def meaning(payload: Mapping[str, Any]) -> str:
    """What the p-value says, in a sentence."""
    if payload.get("refused"):
        return f"The film was not scored: it {payload['refused']}."
    p = payload.get("p_value")
    if p is None:
        return "The model is not calibrated: the score has no p-value."
    share = f"{100 * p:.2g}"
    return (
        f"Of 100 normal films like those of calibration, about {share} score as high or higher "
        f"({payload.get('calibration')}). It is not the probability of disease."
    )


def docs_page(described: Mapping[str, Any]) -> str:
    """The OpenAPI description as a page to read, with nothing from outside."""
    return PAGES.get_template("docs.html.j2").render(api=described)
