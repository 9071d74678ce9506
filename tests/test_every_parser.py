"""Whatever a file says, what comes of it is a value or one line to the user, never a traceback.

Each test makes up content that is nearly right, for what is wholly wrong is refused by its first
bytes. They are the same content on every run.
"""

import hashlib
import io
import json
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from nofinding.cli import main
from nofinding.clinical.dicom.source import read_source, spacing_of
from nofinding.data.decoding import decode
from nofinding.data.decoding.decode import FilmFile, VolumeFile, read_header, read_identity
from nofinding.data.decoding.limits import FilmError
from nofinding.data.ehr import FIELDS, EhrStats, parse, plausible, read_fields
from nofinding.datasets.build.cohort_folder import COHORT
from nofinding.datasets.build.lesions import read_boxes
from nofinding.datasets.build.splits import read_lists
from nofinding.datasets.hospital.fhir.reading import read_folder
from nofinding.datasets.local.single_files import file_exams
from nofinding.datasets.local.table import TABLE
from nofinding.errors import UserError
from nofinding.evaluation.table import read_scores
from nofinding.model.bundle import load_model
from nofinding.recipes.reading import read_recipe
from nofinding.service.store.audit_log import AuditLog, verify_audit
from nofinding.storage import checkpoint
from nofinding.storage.journal import Journal, entries
from nofinding.workflows.export import read_results
from support.dicom_film import film, in_bytes, plain

KEY = b"sixteen bytes or more"
SECRET = "Somebody^Secret"


def some(examples: int) -> settings:
    """So many examples, the same ones each time."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[*HealthCheck],
    )


def refused(call: Callable[[], Any]) -> Any:
    """What came of it, or None where it was refused: in one line, that names no patient."""
    try:
        return call()
    except UserError as error:
        assert "\n" not in str(error) and SECRET not in str(error)
        return None


# --- bytes --------------------------------------------------------------------------------------


def damaged(data: st.DataObject, whole: bytes, first: int = 0) -> bytes:
    """The bytes with some of them changed, taken out, put in or cut off, from `first` on."""
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(first, len(content) - 1))
        match data.draw(st.sampled_from(["set", "put", "take", "long"])):
            case "set":
                content[at] = data.draw(st.integers(0, 255))
            case "put":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case "take":
                del content[at : at + data.draw(st.integers(1, 8))]
            case "long":
                content[at : at + 4] = data.draw(st.sampled_from([b"\xff" * 4, bytes(4)]))
    end = data.draw(st.just(len(content)) | st.integers(first, len(content)))
    return bytes(content[:end])


def dicom_films() -> dict[str, bytes]:
    """A film with a whole header, in several transfer syntaxes."""
    tags = {
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.4",
        "PatientID": SECRET,
        "PatientAge": "063Y",
        "PatientSex": "F",
        "PatientSize": "1.7",
        "StudyDate": "20200601",
        "StudyTime": "120000",
        "PixelSpacing": ["0.14", "0.14"],
        "BodyPartExamined": "CHEST",
        "SpecificCharacterSet": ["ISO 2022 IR 6", "ISO 2022 IR 149"],
        "NumberOfFrames": "1",
    }
    films = {
        syntax: plain(film(**tags), syntax)
        for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
    }
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        dataset = film(**tags)
        dataset.compress(syntax, generate_instance_uid=False)
        films[syntax] = in_bytes(dataset)
    return films


FILMS = dicom_films()


@some(60)
@given(st.sampled_from(sorted(FILMS)), st.data())
def test_dicom(tmp_path: Path, syntax: str, data: st.DataObject) -> None:
    file = tmp_path / "film.dcm"
    file.write_bytes(damaged(data, FILMS[syntax], first=132))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        all_of_a_film(file)
    assert not [one for one in said if SECRET[:8] in str(one.message)]


def all_of_a_film(file: Path) -> None:
    """Everything that is asked of a DICOM file."""
    pixels = refused(FilmFile(file))
    assert pixels is None or (pixels.ndim == 2 and 0 <= pixels.min() <= pixels.max() <= 1)
    header = refused(lambda: read_header(file))
    assert header is None or all(isinstance(value, str) for value in header.values())
    refused(lambda: file_exams([file], [], FIELDS))
    with suppress(FilmError):
        study = decode._child.ask(file, "study")[0]["header"]
        pa.array([*study.values()], pa.string())
    identity = refused(lambda: read_identity(file))
    assert identity is None or isinstance(identity, dict)
    source = refused(lambda: read_source(file))
    if source is not None:
        assert all(0 < apart < 100 for apart in spacing_of(source))
        in_bytes_of(source)


def in_bytes_of(source: Any) -> None:
    """An object that repeats these elements can be written."""
    source.file_meta = film().file_meta
    in_bytes(source)


@some(40)
@given(st.sampled_from(["PNG", "JPEG"]), st.sampled_from(["L", "RGB", "P", "LA"]), st.data())
def test_png_and_jpeg(tmp_path: Path, kind: str, mode: str, data: st.DataObject) -> None:
    mode = mode if kind == "PNG" else {"P": "L", "LA": "L"}.get(mode, mode)
    buffer = io.BytesIO()
    grey = Image.fromarray((np.arange(3072) % 251).astype(np.uint8).reshape(48, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.convert(mode).save(buffer, kind, exif=exif)
    (tmp_path / "film").write_bytes(damaged(data, buffer.getvalue()))
    refused(lambda: FilmFile(tmp_path / "film").check())
    pixels = refused(FilmFile(tmp_path / "film"))
    assert pixels is None or pixels.ndim == 2


@some(40)
@given(st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]), st.booleans(), st.data())
def test_nifti(tmp_path: Path, kind: Any, packed: bool, data: st.DataObject) -> None:
    whole = kind(np.arange(512, dtype=">i2").reshape(8, 8, 8), np.eye(4)).to_bytes()
    content = damaged(data, whole[:560]) + whole[560:]
    if packed:
        import gzip

        content = damaged(data, gzip.compress(content, mtime=0))
    (tmp_path / "a.nii").write_bytes(content)
    for mask in (False, True):
        volume = refused(VolumeFile(tmp_path / "a.nii", mask=mask))
        assert volume is None or volume.ndim == 3


# --- the record ---------------------------------------------------------------------------------

NUMBERLIKE = st.from_regex(r"\s*[+-]?\d{0,400}\.?\d{0,5}([eE][+-]?\d{1,4})?\s*[a-z/%\[\]{}2]{0,6}")


@some(200)
@given(st.sampled_from([*FIELDS.values()]), NUMBERLIKE, st.none() | st.text(max_size=8))
def test_values_and_units(field: Any, text: str, unit: str | None) -> None:
    value = refused(lambda: parse(field, text, unit))
    if value is not None:
        remaining, flags = plausible({field.name: value}, FIELDS)
        assert len(remaining) + len(flags) == 1


@some(100)
@given(st.lists(st.builds("{}={}".format, st.sampled_from([*FIELDS]), st.text()) | st.text()))
def test_pairs(tmp_path: Path, pairs: list[str]) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    refused(lambda: file_exams([tmp_path / "a.png"], pairs, FIELDS))


# --- YAML ---------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=12),
    st.dates(),
    st.lists(st.text(max_size=4) | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)
TAGS = ("!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!null", "!!set", "!!omap",
        "!!pairs", "!!python/object/apply:os.system", "&a", "*a", "<<: *a", "!x", "? ")  # fmt: skip


def as_yaml(data: st.DataObject, content: Any) -> str:
    """The content as YAML, in which a tag may stand before a value that it does not fit."""
    lines = yaml.safe_dump(content, allow_unicode=True).splitlines()
    if lines and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(lines) - 1))
        before, colon, value = lines[at].partition(":")
        tag, junk = data.draw(st.sampled_from(TAGS)), data.draw(st.sampled_from(["", "é", "x"]))
        lines[at] = f"{before}{colon} {tag} {junk}{value}"
    return "\n".join(lines) + "\n"


@some(150)
@given(st.dictionaries(
    st.sampled_from(["age", "creatinine", "smoker", "a b"]) | st.text(max_size=5),
    st.dictionaries(st.sampled_from(["kind", "unit", "loinc", "low", "high", "categories"]),
                    ODD | st.sampled_from(["numeric", "categorical", ["a", "b"]])) | ODD,
    max_size=3), st.data())  # fmt: skip
def test_fields(tmp_path: Path, content: dict[str, Any], data: st.DataObject) -> None:
    (tmp_path / "f.yaml").write_text(as_yaml(data, content), "utf-8", "surrogatepass")
    fields = refused(lambda: read_fields(tmp_path / "f.yaml"))
    if fields is not None:
        for field in fields.values():
            refused(lambda field=field: parse(field, "7", None))
            plausible({field.name: 7.0}, fields)
            json.dumps(EhrStats.of([], [field]).to_json())


RECIPE = yaml.safe_load(
    next((Path(checkpoint.__file__).parents[1] / "recipes").rglob("*.yaml")).read_text()
)
RECIPE["published"] = RECIPE["published"][:1]


@some(100)
@given(st.sampled_from([*RECIPE]), ODD, st.data())
def test_recipes(tmp_path: Path, key: str, value: Any, data: st.DataObject) -> None:
    content = RECIPE | {key: value}
    (tmp_path / "r.yaml").write_text(as_yaml(data, content), "utf-8", "surrogatepass")
    refused(lambda: read_recipe(tmp_path / "r.yaml"))


@some(30)
@given(
    st.sampled_from(["preset", "seed", "films", "method", "method.width", "out"]), ODD, st.data()
)
def test_config_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: Any,
    data: st.DataObject,
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(as_yaml(data, {key: value}), "utf-8", "surrogatepass")
    capsys.readouterr()
    code = main(["fit", "thumbnail", "--config", str(config), "--films", "table:none.csv",
                 "--out", str(tmp_path / "m")])  # fmt: skip
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and sum(line.startswith("nofinding: ") for line in lines) == 1, lines


# --- tables -------------------------------------------------------------------------------------

CELL = st.one_of(
    st.text(max_size=8),
    st.integers().map(str),
    st.sampled_from(["", "nan", "1e999", "../x", "a\0b", '"', "F", "PA", "2020-06-01", "-0", "=1"]),
)
HEADS = {
    "films": ["image_id", "path", "patient_id", "age", "sex", "height [in]", "findings", "split",
              "mask"],
    "boxes": ["image", "label", "x", "y", "w", "h"],
    "scores": ["image_id", "score", "p_value", "flags", "attention.age", "mse"],
    "list": ["film", "split", "label"],
}  # fmt: skip


@some(120)
@given(st.sampled_from(sorted(HEADS)), st.lists(st.lists(CELL, min_size=9, max_size=9), max_size=3),
       st.sampled_from([None, 0, 1]))  # fmt: skip
def test_tables(tmp_path: Path, kind: str, rows: list[list[str]], long: int | None) -> None:
    head = HEADS[kind]
    lines = [",".join(head), *(",".join(row[: len(head)]) for row in rows)]
    if long is not None and long < len(lines):
        lines[long] += "x" * 140_000  # above the limit of Python's reader
    file = tmp_path / f"{kind}.csv"
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    match kind:
        case "films":
            refused(lambda: [*TABLE.read(str(file), FIELDS)])
        case "boxes":
            refused(lambda: read_boxes(file))
        case "list":
            refused(lambda: [*read_lists(file)])
        case "scores":
            refused(lambda: read_scores(file, []))
            (tmp_path / "run.json").write_text(json.dumps(RUN))
            refused(lambda: read_results(tmp_path))


RUN = {
    "calibration_n": 3, "calibration_from": "val", "method": "ae", "model_sha256": "0" * 64,
    "versions": {"nofinding": "1"}, "aspect": "pad", "map_threshold": None, "fields": ["age"],
}  # fmt: skip


@some(60)
@given(st.sampled_from([*RUN, "all"]), ODD)
def test_runs(tmp_path: Path, key: str, value: Any) -> None:
    message = value if key == "all" else RUN | {key: value}
    (tmp_path / "run.json").write_text(json.dumps(message, default=str))
    (tmp_path / "scores.csv").write_text("image_id,score,p_value,flags\na,0.5,0.1,\n")
    refused(lambda: read_results(tmp_path))


CELLS = {
    "path": st.lists(st.none() | st.text(max_size=6), min_size=2, max_size=2),
    "age": st.lists(st.none() | st.floats() | st.integers(-9, 2**60), min_size=2, max_size=2),
    "sex": st.lists(st.none() | st.binary(max_size=4), min_size=2, max_size=2),
    "findings": st.lists(st.none() | st.lists(st.text(max_size=3)), min_size=2, max_size=2),
    "taken": st.lists(st.none() | st.datetimes(), min_size=2, max_size=2),
}


@some(60)
@given(st.fixed_dictionaries(CELLS), st.booleans(), st.data())
def test_parquet(
    tmp_path: Path, cells: dict[str, list[Any]], broken: bool, data: st.DataObject
) -> None:
    columns = {}
    for name, values in cells.items():
        with suppress(pa.ArrowException, UnicodeError, OverflowError):
            columns[name] = pa.array(values)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    if broken:
        whole = (tmp_path / "a.parquet").read_bytes()
        (tmp_path / "a.parquet").write_bytes(damaged(data, whole))
    refused(lambda: [*TABLE.read(str(tmp_path / "a.parquet"), FIELDS)])
    (tmp_path / "films.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    sha256 = hashlib.sha256((tmp_path / "films.parquet").read_bytes()).hexdigest()
    metadata = {"version": 1, "base": ".", "fields": {}, "sha256": sha256}
    (tmp_path / "cohort.json").write_text(json.dumps(metadata))
    refused(lambda: [*COHORT.read(str(tmp_path), FIELDS)])


@some(80)
@given(st.sampled_from(["version", "base", "fields", "sha256", "places"]), ODD)
def test_descriptions_of_cohorts(tmp_path: Path, key: str, value: Any) -> None:
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "films.parquet")
    sha256 = hashlib.sha256((tmp_path / "films.parquet").read_bytes()).hexdigest()
    metadata = {"version": 1, "base": ".", "fields": {"age": {"unit": "a"}}, "sha256": sha256}
    (tmp_path / "cohort.json").write_text(json.dumps(metadata | {key: value}, default=str))
    refused(lambda: [*COHORT.read(str(tmp_path), FIELDS)])
    refused(lambda: COHORT.offers(str(tmp_path), FIELDS))


# --- what the program itself writes ---------------------------------------------------------------


@some(60)
@given(st.data())
def test_journals(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / f"{data.draw(st.integers(0, 9))}.journal"
    file.unlink(missing_ok=True)
    with Journal(file) as journal:
        for number in range(3):
            journal.append({"batch": number, "films": []})
    file.write_bytes(damaged(data, file.read_bytes()))
    result = refused(lambda: [entry for _, entry in entries(file)])
    assert result is None or all(entry["batch"] in range(3) for entry in result)
    with Journal(file) as journal:
        journal.append({"batch": 9})
    assert [entry for _, entry in entries(file)][-1] == {"batch": 9}


JUNK = st.recursive(ODD.filter(lambda v: not hasattr(v, "isoformat")), st.lists, max_leaves=4)


@some(100)
@given(st.sampled_from(["number", "hash", "before", "who", "all"]), JUNK, st.data())
def test_audit_logs(tmp_path: Path, key: str, value: Any, data: st.DataObject) -> None:
    file = tmp_path / "audit.log"
    file.unlink(missing_ok=True)
    log = AuditLog(file, KEY, clock=lambda: 1.0)
    for _ in range(2):
        log.write("reader", "score")
    log.close()
    if data.draw(st.booleans()):
        lines = file.read_text().splitlines()
        payload = value if key == "all" else json.loads(lines[-1]) | {key: value}
        file.write_text("\n".join([lines[0], json.dumps(payload)]) + "\n")
    else:
        file.write_bytes(damaged(data, file.read_bytes()))
    refused(lambda: verify_audit(file, KEY))
    again = AuditLog(file, KEY)
    refused(lambda: again.write("reader", "score"))
    again.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model: it knows two fields."""
    out = tmp_path_factory.mktemp("models") / "m"
    films = "phantom:train=8,val=8,test=0,abnormal=0,size=32"
    command = ["fit", "ae", "--preset", "tiny", "--films", films, "--gate", "none"]
    assert main([*command, "--method.train.steps", "1", "--out", str(out)]) == 0
    return out


@some(80)
@given(st.data())
def test_models_with_a_right_hash_and_wrong_content(
    model: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Whoever makes a model can write its hashes, too."""
    tensors, meta = checkpoint.load(model / "model")
    inside: Any = meta
    for _ in range(3):
        key = data.draw(st.sampled_from([*inside]))
        if not isinstance(inside[key], dict) or not inside[key] or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = data.draw(ODD.filter(lambda v: not hasattr(v, "isoformat")))
    name = data.draw(st.sampled_from([*tensors]))
    tensors[name] = data.draw(st.sampled_from([tensors[name], torch.zeros(1), torch.zeros(0)]))
    checkpoint.save(tmp_path / "model", tensors, meta)
    (tmp_path / "README.md").touch()
    result = refused(lambda: load_model(tmp_path))
    if result is not None:
        refused(lambda: result.calibration)


def test_a_model_without_its_card_is_refused(model: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model", *checkpoint.load(model / "model"))
    with pytest.raises(UserError, match=r"has no card \(README.md\)"):
        load_model(tmp_path)
    (tmp_path / "README.md").touch()
    assert load_model(tmp_path).detector.name == "ae"


NAMED = (
    "method: {class_path: os.system, init_args: {command: x}}",
    "method: {train: {class_path: os.system}}",
    "class_path: os.system",
    "method: os.system",
)


@pytest.mark.parametrize("named", NAMED)
def test_a_config_that_names_a_class_is_refused(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(named)
    capsys.readouterr()
    command = ["fit", "ae", "--films", "phantom:train=8", "--out", str(tmp_path / "m")]
    assert main([*command, "--config", str(tmp_path / "c.yaml")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "m").exists()


WRONG = (
    None,
    True,
    -1,
    10**400,
    float("inf"),
    "x",
    [],
    {},
    [[]],
    [1],
    {"scores": [1.0], "ids": []},
)
MUST_BE = ("aspect", "calibration", "method", "record", "config", "format")
MAY_NOT_BE = {"gate": [7, "x", [[]]], "map_threshold": ["x", [[]], float("inf"), 10**400],
              "training_pixels": [None, 7, "x", [[]], [1], {}]}  # fmt: skip


def test_models_whose_json_is_of_another_kind(model: Path, tmp_path: Path) -> None:
    """What scoring reads of it is looked at when it is loaded."""
    tensors, meta = checkpoint.load(model / "model")
    (tmp_path / "README.md").touch()
    cases = [(key, value) for key in MUST_BE for value in WRONG]
    cases += [(key, value) for key, values in MAY_NOT_BE.items() for value in values]
    for key, value in cases:
        if (key, value) in (("config", {}), ("format", True)):  # all defaults; equals 1
            continue
        checkpoint.save(tmp_path / "model", tensors, meta | {key: value})
        with pytest.raises(UserError):
            load_model(tmp_path)
    for key, value in (("train", None), ("train", "x"), ("channels", []), ("os.system", "x")):
        config = meta["config"] | {key: value}
        checkpoint.save(tmp_path / "model", tensors, meta | {"config": config})
        with pytest.raises(UserError):
            load_model(tmp_path)


@some(40)
@given(st.data())
def test_safetensors(tmp_path: Path, data: st.DataObject) -> None:
    checkpoint.save(tmp_path / "m", {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, {"x": 1})
    whole = (tmp_path / "m.safetensors").read_bytes()
    content = damaged(data, whole)
    if data.draw(st.booleans()):  # a header of any length and content
        head = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40],
                                 "data_offsets": [0, 8]}}).encode()  # fmt: skip
        content = struct.pack("<Q", data.draw(st.sampled_from([len(head), 2**60]))) + head
    (tmp_path / "m.safetensors").write_bytes(content)
    meta = json.loads((tmp_path / "m.json").read_text())
    meta["sha256"] = hashlib.sha256(content).hexdigest()
    meta["meta_sha256"] = checkpoint._meta_hash(meta)
    (tmp_path / "m.json").write_text(json.dumps(meta))
    refused(lambda: checkpoint.load(tmp_path / "m"))


# --- FHIR ---------------------------------------------------------------------------------------

TREE = st.recursive(
    ODD.filter(lambda v: not hasattr(v, "isoformat"))
    | st.sampled_from(["Patient/a1", "final", "2020-06-01", "http://loinc.org", "29463-7"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["resourceType", "id", "value", "code", "coding", "system", "reference", "entry",
             "resource", "unit", "start", "url"]
        ),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
PARTS = ["id", "gender", "birthDate", "identifier", "status", "subject", "code", "valueQuantity",
         "component", "effectiveDateTime", "effectivePeriod", "meta", "content", "view",
         "createdDateTime", "date"]  # fmt: skip
RESOURCE = st.fixed_dictionaries(
    {"resourceType": st.sampled_from(["Patient", "Observation", "Media", "DocumentReference"])},
    optional=dict.fromkeys(PARTS, TREE),
)


@some(60)
@given(st.lists(RESOURCE | TREE, max_size=4), st.booleans(), st.data())
def test_fhir_files(tmp_path: Path, resources: list[Any], whole: bool, data: st.DataObject) -> None:
    lines = [json.dumps(one) for one in resources]
    text = json.dumps({"resourceType": "Bundle", "entry": resources}) if whole else "\n".join(lines)
    content = text.encode()
    if content and data.draw(st.booleans()):
        content = damaged(data, content)
    for name in ("a.json", "a.ndjson"):
        (tmp_path / name).write_bytes(content)
    counts: Counter[str] = Counter()
    kinds = ("Patient", "Observation")
    result = refused(lambda: [*read_folder(tmp_path, kinds, counts)])
    assert result is None or all(one["resourceType"] in kinds for one in result)
