"""What a single header says against its film, beside what the SQL for a whole folder says."""

import hashlib
import hmac
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from nofinding.data.ehr import FIELDS
from nofinding.sources import headers
from nofinding.sources.assembly import Assembly
from nofinding.sources.choices import Choices
from nofinding.sources.headers import read_headers, stated_unfit
from nofinding.sources.pseudonyms import pseudonym_of, pseudonymise, read_key

DX, RAW, CAPTURE = headers.IMAGES[1], headers.IMAGES[2], headers.SECONDARY
VALUES = {
    "sop_class": (DX, RAW, CAPTURE),
    "body_part": (None, "CHEST", "port_chest", "HAND"),
    "region_code": (None, "51185008", "85562004"),
    "view": (None, "PA", "ap", "LL"),
    "view_code": (None, "272479007", "R-10206", "399067008"),
    "orientation": (None, "L\\F", "r\\h", "A\\F", "L", "F\\L", "LP\\F"),
    "unfit": (None, "has more than one frame"),
}
# What only a cohort asks for: `study` leaves these films to the gate.
UNSTATED = {"body part not stated", "frontal or lateral is not stated"}


@pytest.fixture
def assembly(tmp_path: Path) -> Iterator[Assembly]:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    (tmp_path / "films").mkdir()
    (tmp_path / "workshop").mkdir()
    made = Assembly(
        "dicom", tmp_path / "films", FIELDS, Choices(key=key), tmp_path / "workshop", threads=1
    )
    yield made
    made.close()


def test_one_header_is_judged_as_among_many(
    assembly: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = [dict(zip(VALUES, values, strict=True)) for values in product(*VALUES.values())]
    told = [
        {name: value for name, value in row.items() if value is not None}
        | {"sop": f"1.2.{number}", "modality": "DX", "patient": "P"}
        for number, row in enumerate(grid)
    ]
    monkeypatch.setattr(headers, "read_studies", lambda files, workers: iter(told))
    assembly.run("CREATE TABLE present (path VARCHAR)")
    read_headers(assembly, f"SELECT printf('%06d', i) AS path FROM range({len(told)}) t(i)")
    of_many = assembly.run("SELECT unfit FROM dicom ORDER BY path")
    disagreed = []
    for header, (many,) in zip(told, of_many, strict=True):
        one = stated_unfit(header)
        if (one is None) != (many is None) and many not in UNSTATED:
            disagreed.append((header, one, many))
    assert not disagreed
    assert {stated_unfit(header) for header in told} >= {None, "neither PA nor AP"}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"unfit": "is not a DICOM file"}, "is not a DICOM file"),
        ({}, "no SOP Instance UID"),
        ({"sop": "1", "sop_class": CAPTURE}, "neither a CR nor a DX image"),
        ({"sop": "1", "sop_class": DX, "body_part": "HAND"}, "another body part than the chest"),
        ({"sop": "1", "sop_class": DX, "view": "LL"}, "neither PA nor AP"),
        ({"sop": "1", "sop_class": DX, "view": "PA", "view_code": "R-10206"}, "neither PA nor AP"),
        ({"sop": "1", "sop_class": DX, "unfit": "has no pixels"}, "has no pixels"),
        ({"sop": "1", "sop_class": DX}, None),
    ],
)
def test_why_in_words(header: dict[str, str], said: str | None) -> None:
    assert stated_unfit(header) == said


def test_a_film_has_one_pseudonym_whoever_makes_it(assembly: Assembly) -> None:
    pseudonymise(assembly)
    made = assembly.one("SELECT pseudonym('film', ' 1.2.3 ')")
    assert made == pseudonym_of(read_key(assembly.choices.key), "film", " 1.2.3 ")
    digest = hmac.digest(b"0123456789abcdef", b"film|1.2.3", hashlib.sha256).hex()
    assert made == f"film-{digest[:20]}"
