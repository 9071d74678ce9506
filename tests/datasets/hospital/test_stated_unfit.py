"""What a single header says against its film, beside what the SQL for a whole folder says."""

import hashlib
import hmac
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from nofinding.data.ehr import FIELDS
from nofinding.datasets.build.choices import Choices
from nofinding.datasets.build.database import CohortDatabase
from nofinding.datasets.hospital import film_headers
from nofinding.datasets.hospital.film_headers import read_headers, stated_unfit
from nofinding.datasets.hospital.pseudonyms import pseudonym_of, pseudonymise, read_key

DX, RAW, CAPTURE = film_headers.IMAGES[1], film_headers.IMAGES[2], film_headers.SECONDARY
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
def database(tmp_path: Path) -> Iterator[CohortDatabase]:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    (tmp_path / "films").mkdir()
    (tmp_path / "workshop").mkdir()
    place = CohortDatabase(
        "dicom", tmp_path / "films", FIELDS, Choices(key=key), tmp_path / "workshop", threads=1
    )
    yield place
    place.close()


def test_one_header_is_judged_as_among_many(
    database: CohortDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = [dict(zip(VALUES, values, strict=True)) for values in product(*VALUES.values())]
    message = [
        {name: value for name, value in row.items() if value is not None}
        | {"sop": f"1.2.{number}", "modality": "DX", "patient": "P"}
        for number, row in enumerate(grid)
    ]
    monkeypatch.setattr(film_headers, "read_studies", lambda files, workers: iter(message))
    database.run("CREATE TABLE present (path VARCHAR)")
    read_headers(database, f"SELECT printf('%06d', i) AS path FROM range({len(message)}) t(i)")
    of_many = database.run("SELECT unfit FROM dicom ORDER BY path")
    disagreed = []
    for header, (many,) in zip(message, of_many, strict=True):
        one = stated_unfit(header)
        if (one is None) != (many is None) and many not in UNSTATED:
            disagreed.append((header, one, many))
    assert not disagreed
    assert {stated_unfit(header) for header in message} >= {None, "neither PA nor AP"}


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


def test_a_film_has_one_pseudonym_whoever_makes_it(database: CohortDatabase) -> None:
    pseudonymise(database)
    output = database.one("SELECT pseudonym('film', ' 1.2.3 ')")
    assert output == pseudonym_of(read_key(database.choices.key), "film", " 1.2.3 ")
    digest = hmac.digest(b"0123456789abcdef", b"film|1.2.3", hashlib.sha256).hex()
    assert output == f"film-{digest[:20]}"
