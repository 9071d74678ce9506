"""Whatever stands in a publisher's tables, `cohort` makes a cohort of it or says one line."""

import gzip
import random
from pathlib import Path

import pytest

from nofinding.cli import main
from support.shipped import Shipped

SOURCES = ("mimic-cxr", "chexpert", "omop", "fhir", "padchest", "rsna", "vindr", "nih")
CELLS = ("", "nan", "1e999", "9" * 400, "../x", "a\0b", '"', "é", "2020-13-40", "0001-01-01",
         "'; DROP TABLE films; --", "[]", "No Finding|x", "x" * 70_000, "\udcff")  # fmt: skip
SECRET = "Somebody^Secret"


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A table with odd cells, some bytes changed, or its end cut off."""
    lines = content.split(b"\n")
    for _ in range(3):
        at = rng.randrange(len(lines))
        cells = lines[at].split(b",")
        odd = rng.choice((*CELLS, SECRET)).encode("utf-8", "surrogateescape")
        cells[rng.randrange(len(cells))] = odd
        lines[at] = b",".join(cells)
    changed = bytearray(b"\n".join(lines))
    how = rng.choice(("cells", "bytes", "end"))
    if how == "bytes":
        for _ in range(4):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed))] if how == "end" else changed)


@pytest.mark.parametrize("source", SOURCES)
def test_a_damaged_table_is_a_cohort_or_one_line(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(source)
    copy = Shipped.write(source, tmp_path, patients=8)
    endings = (".csv", ".json", ".ndjson", ".gz", ".txt")
    tables = {p: p.read_bytes() for p in sorted(copy.root.rglob("*")) if p.suffix in endings}
    for number in range(6):
        for path, content in tables.items():
            path.write_bytes(content)
        path = rng.choice([*tables])
        packed = path.suffix == ".gz"
        content = gzip.decompress(tables[path]) if packed else tables[path]
        content = damaged(content, rng)
        if packed:
            content = gzip.compress(content, mtime=0)
            if rng.random() < 0.3:
                content = content[:20] + bytes([7]) * 9 + content[29:]
        path.write_bytes(content)
        code = main(["cohort", f"{source}:{copy.root}", "--out", str(tmp_path / f"c{number}")])
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.startswith("nofinding: ")]
        assert (code, len(lines)) in ((0, 0), (2, 1)), said
        assert "Traceback" not in said and (tmp_path / f"c{number}").exists() == (code == 0)
        assert SECRET not in said or "is not one of" in said or "is listed" in said
