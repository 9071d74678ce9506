"""Fuzzes what reads text: films.csv, boxes.csv, lists, scores.csv, YAML, FHIR, audit logs, values.

A finding is any exception but UserError, whose message must be one line.

usage: python benchmarks/fuzz/tables.py CORPUS -max_total_time=600 (and other options of libFuzzer)
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["nofinding"]):
    from nofinding.data.ehr import FIELDS, parse, read_fields
    from nofinding.datasets.build.lesions import read_boxes
    from nofinding.datasets.build.splits import read_lists
    from nofinding.datasets.hospital.fhir.reading import read_folder
    from nofinding.datasets.local.table import TABLE
    from nofinding.errors import UserError
    from nofinding.evaluation.table import read_scores
    from nofinding.recipes.reading import read_recipe
    from nofinding.service.store.audit_log import verify_audit
    from nofinding.workflows.export import read_results

BASE = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
FOLDER = BASE / f"nofinding-fuzz-{os.getpid()}"
RUN = (
    b'{"calibration_n": 3, "calibration_from": "val", "method": "ae", "model_sha256": "0", '
    b'"versions": {"nofinding": "1"}, "aspect": "pad", "map_threshold": 1.5, "fields": ["age"]}'
)
TARGETS: list[tuple[str, bytes, Callable[[Path], Any]]] = [
    ("films.csv", b"image_id,path,age,height [in],sex,findings,split\na,a.png,63,70,F,Mass,test\n",
     lambda file: [*TABLE.read(str(file), FIELDS)]),
    ("boxes.csv", b"image,label,x,y,w,h\na.png,Mass,1,2,3.5,4e1\n", read_boxes),
    ("list.csv", b"film,split,label\na.png,test,0\n", lambda file: [*read_lists(file)]),
    ("list.json", b'{"train": {"0": ["a"], "unlabeled": {"1": ["b"]}}}',
     lambda file: [*read_lists(file)]),
    ("scores.csv", b"image_id,score,p_value,flags,attention.age,mse\na,0.5,0.1,x; y,0.2,1e-3\n",
     lambda file: (read_results(file.parent), read_scores(file, []))),
    ("fields.yaml", b"creatinine: {kind: numeric, unit: mg/dL, loinc: 2160-0, low: 0.1, high: 3}\n"
     b'smoker: {kind: categorical, categories: ["no", "yes"]}\n', read_fields),
    ("recipe.yaml", b"summary: x\ndataset: nih\npublished: [{method: a, value: 0.5}]\n",
     read_recipe),
    ("all.ndjson", b'{"resourceType": "Patient", "id": "a1", "gender": "male"}\n',
     lambda file: [*read_folder(file.parent, ("Patient", "Observation"), Counter())]),
    ("audit.log", b'{"number": 0, "before": "00", "hash": "00"}\n',
     lambda file: verify_audit(file, b"sixteen bytes or more")),
    ("value", b"180 lb",
     lambda file: [parse(field, file.read_bytes().decode("utf-8", "replace"), "kg")
                   for field in FIELDS.values()]),
]  # fmt: skip


def seeds(folder: Path) -> None:
    """A right file of each kind, to begin with. The first byte says which."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, content, _) in enumerate(TARGETS):
        (folder / name).write_bytes(bytes([number]) + content)


def one(data: bytes) -> None:
    """Has the one reader read it that the first byte names."""
    if not data:
        return
    name, _, read = TARGETS[data[0] % len(TARGETS)]
    place = FOLDER / name.replace(".", "-")
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(data[1:])
    if name == "scores.csv":
        (place / "run.json").write_bytes(RUN)
    try:
        read(place / name)
    except UserError as error:
        assert "\n" not in str(error), str(error)


def main() -> None:
    """Runs until libFuzzer is done."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    if not Path(sys.argv[1]).is_file():  # a finding, to be run again
        seeds(Path(sys.argv[1]))
    atheris.Setup([*sys.argv, "-rss_limit_mb=3072", "-timeout=30", "-max_len=4096"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
