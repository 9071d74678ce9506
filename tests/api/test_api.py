"""The Python interface: what goes in, what comes out, and that it says what the commands say."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image

import nofinding as nf
from nofinding.scoring.exams import scaled
from support.dicom_film import film as dicom_film
from support.dicom_film import in_bytes

PHANTOM = "phantom:train=24,val=12,test=8,abnormal=8,size=32"


def test_the_public_names_are_these() -> None:
    assert sorted(nf.__all__) == sorted(
        [
            "AnomalyDetector",
            "BenchReport",
            "EvaluationReport",
            "Exam",
            "Films",
            "MethodInfo",
            "Methods",
            "Model",
            "Prediction",
            "Predictions",
            "UserError",
            "__version__",
            "bench",
            "evaluate",
            "fit",
            "load",
            "methods",
            "open",
            "sources",
        ]
    )
    for name in nf.__all__:
        assert getattr(nf, name).__doc__ or name == "__version__", name
    assert {*nf.__all__} <= {*dir(nf)}


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, nofinding; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def films() -> nf.Films:
    return nf.open(PHANTOM)


@pytest.fixture(scope="module")
def model(films: nf.Films, tmp_path_factory: pytest.TempPathFactory) -> nf.Model:
    folder = tmp_path_factory.mktemp("api") / "model"
    return nf.fit("pca", films, out=folder, components=8, gate="none")


def test_films_are_a_sequence_with_parts(films: nf.Films) -> None:
    train = films.normal("train")
    assert {r.split for r in train} == {"train"} and {r.findings for r in train} == {frozenset()}
    assert len(films.normal()) + len(films.abnormal()) == len(films)
    assert len(films[:3]) == 3 and films[0].image_id == next(iter(films)).image_id
    assert len(films.split("val")) and "Films(" in repr(films)
    frame = films.to_dataframe()
    assert len(frame) == len(films) and {"image_id", "age", "findings"} <= {*frame.columns}


def test_one_film_in_every_clothing_has_one_score(model: nf.Model, tmp_path: Path) -> None:
    grey = (np.linspace(0, 1, 48 * 48).reshape(48, 48) * 255).astype(np.uint8)
    png = tmp_path / "film.png"
    Image.fromarray(grey).save(png)
    ehr = {"age": 63, "sex": "M", "view": "PA", "weight": "180 lb"}
    want = model.predict(png, ehr=ehr)
    assert isinstance(want, nf.Prediction) and want.image_id == "film"
    clothes: dict[str, Any] = {
        "str": str(png),
        "bytes": png.read_bytes(),
        "uint8": grey,
        "uint16": grey.astype(np.uint16) * 257,
        "float": grey.astype(np.float64) / 255,
        "torch": torch.from_numpy(grey),
        "PIL": Image.open(png),
    }
    for name, film in clothes.items():
        assert model.predict(film, ehr=ehr).score == pytest.approx(want.score, rel=1e-5), name
    other = model.predict(255 - grey, ehr=ehr, bright="air")
    assert other.score == pytest.approx(want.score, rel=1e-5)
    twelve = (grey.astype(np.uint16) * 16).astype(np.uint16)
    result = model.predict(twelve, ehr=ehr, value_range=(0, 255 * 16))
    assert result.score == pytest.approx(want.score, rel=1e-5)


def test_a_pydicom_dataset_is_scored_as_its_file_is(model: nf.Model, tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(
        in_bytes(dicom_film(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096))
    )
    dataset = pydicom.dcmread(path)
    assert model.predict(dataset).score == pytest.approx(model.predict(path).score)
    with pytest.raises(nf.UserError, match="Dataset"):
        model.predict(pydicom.Dataset())


def test_many_films_are_scored_as_each_alone(model: nf.Model, films: nf.Films) -> None:
    part = films.split("test")
    many = model.predict(part, batch_size=3)
    assert isinstance(many, nf.Predictions) and [p.image_id for p in many] == [
        r.image_id for r in part
    ]
    alone = model.predict(part[0])
    assert alone.score == pytest.approx(many[0].score, abs=0)
    assert many.scores.shape == many.p_values.shape == (len(part),)
    frame = many.to_dataframe()
    assert len(frame) == len(part) and frame["score"].tolist() == many.scores.tolist()
    assert "films" in repr(many) and "<table>" in many._repr_html_()
    assert len(many[1:3]) == 2


def test_records_come_as_mappings_lists_or_data_frames(model: nf.Model) -> None:
    grey = np.zeros((40, 40), dtype=np.uint8)
    grey[10:30, 10:30] = 200
    pair = [grey, grey.T.copy()]
    frame = pd.DataFrame({"age": [63, None], "sex": ["M", "F"], "ward": ["a", "b"]})
    for ehr in (frame, [{"age": 63, "sex": "M"}, {"sex": "F"}]):
        result = model.predict(pair, ehr=ehr)
        assert [p.exam.ehr for p in result if p.exam] == [{"age": 63, "sex": 1}, {"sex": 0}]
    assert all(p.exam and p.exam.ehr == {"age": 5} for p in model.predict(pair, ehr={"age": 5}))
    with pytest.raises(nf.UserError, match="1 rows, and there are 2"):
        model.predict(pair, ehr=[{"age": 1}])
    with pytest.raises(nf.UserError, match="'agee': is not one of age"):
        model.predict(grey, ehr={"agee": 3})
    with pytest.raises(nf.UserError, match="age"):
        model.predict(grey, ehr={"age": "old"})


def test_an_array_must_state_what_it_cannot_say() -> None:
    grey = np.zeros((4, 4))
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (grey + 7, {}, "outside 0 to 1"),
        (grey.astype(np.int32), {}, "state its value_range"),
        (np.zeros((4, 4, 3), np.uint8), {}, "shape"),
        (grey * np.nan, {}, "no numbers"),
        (grey, {"bright": "bone"}, "bright 'bone'"),
        (grey, {"value_range": (1, 0)}, "value_range"),
        (np.zeros((0, 4)), {}, "shape"),
    ]
    for array, how, why in cases:
        settings = {"value_range": None, "bright": "dense"} | how
        with pytest.raises(nf.UserError, match=why):
            scaled(array, **settings)
    signed = np.array([[-1024, 3071]], dtype=np.int16)
    assert scaled(signed, (-1024, 3071), "dense").tolist() == [[0, 1]]
    assert scaled(signed, (-1024, 3071), "air").tolist() == [[1, 0]]


def test_what_is_no_film_is_refused_in_one_line(model: nf.Model, tmp_path: Path) -> None:
    text = tmp_path / "note.png"
    text.write_text("no picture")
    for film in (b"no picture", text, tmp_path / "absent.dcm", 3.5, {"a": 1}.keys):
        with pytest.raises(nf.UserError) as caught:
            model.predict(film) if not callable(film) else model.predict([film])
        assert "\n" not in str(caught.value)
    with pytest.raises(nf.UserError, match="batch_size 0"):
        model.predict(np.zeros((4, 4)), batch_size=0)


def test_a_prediction_shows_itself(model: nf.Model, films: nf.Films) -> None:
    result = model.predict(films.split("test")[0])
    assert repr(result).startswith("Prediction(") and "p_value=" in repr(result)
    page = result._repr_html_()
    assert "data:image/png;base64" in page and "Not a medical device" in page
    axes = result.plot()
    assert axes.get_title().startswith(result.image_id) and len(axes.images) >= 1
    assert result.image.shape == (result.size, result.size) and result.image.min() >= 0
    assert result.to_dict()["score"] == result.score
    assert result.anomaly_map is not None and result.anomaly_map.shape == result.image.shape
    assert result.anomaly_map.min() >= 0


def test_a_model_is_saved_and_found_again(model: nf.Model, films: nf.Films, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "copy")
    again = nf.load(folder)
    film = films.split("test")[0]
    assert again.predict(film).score == model.predict(film).score
    with pytest.raises(nf.UserError, match="not empty"):
        model.save(folder)
    with pytest.raises(nf.UserError, match="model"):
        nf.load(tmp_path / "absent")


def test_a_model_without_a_folder_lives_as_long_as_it_is_used(films: nf.Films) -> None:
    model = nf.fit("mean-grey", films.normal("train"), gate="none")
    result = model.predict(films.abnormal("test")[0])
    assert result.score == result.score and result.p_value is not None
    with pytest.raises(nf.UserError, match="'components_': is no option of pca"):
        nf.fit("pca", films, components_=3)
    with pytest.raises(nf.UserError, match="method 'pcaa'"):
        nf.fit("pcaa", films)


def test_an_evaluation_has_intervals(model: nf.Model, films: nf.Films, tmp_path: Path) -> None:
    predictions = model.predict(films.split("test"))
    report = nf.evaluate(predictions, films, split="test", bootstrap=200)
    low, high = report.auroc_interval
    assert 0 <= low <= report.auroc <= high <= 1
    assert report.n_normal == len(films.normal("test")) and 0 < report.prevalence < 1
    assert report.average_precision_interval[0] <= report.average_precision
    assert repr(report).startswith("EvaluationReport(auroc=")
    page = report.save(tmp_path / "report")
    assert page.read_text(encoding="utf-8") == report.page and "AUROC" in report._repr_html_()
    with pytest.raises(nf.UserError, match="trained on"):
        nf.evaluate(model.predict(films), films, bootstrap=100)


def test_methods_and_sources_are_listed() -> None:
    listed = nf.methods()
    assert "diff3m" in listed and listed["diff3m"].supervision == "normal-only"
    assert "diff3m" in repr(listed) and "<table>" in listed._repr_html_()
    assert len(listed.to_dataframe()) == len(listed)
    assert "table" in nf.sources()


def test_a_bench_is_a_data_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def run(options: Any) -> Path:
        given.append(options)
        (tmp_path / "results.csv").write_text("cohort,method,auroc\nphantom,ae,0.5\n")
        return tmp_path / "report.html"

    monkeypatch.setattr("nofinding.api.run_bench", run)
    collected = nf.bench([PHANTOM], methods=["ae", "vae:tiny"], out=tmp_path, pictures=False)
    assert (given[0].films, given[0].methods, given[0].pictures) == (
        [PHANTOM],
        "ae,vae:tiny",
        False,
    )
    assert collected.to_dataframe()["auroc"].tolist() == [0.5]
    with pytest.raises(nf.UserError, match="'seedz': is no option of bench"):
        nf.bench([PHANTOM], out=tmp_path, seedz=3)


def test_pictures_round_trip_through_memory(model: nf.Model) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(file, format="JPEG")
    result = model.predict(file.getvalue())
    assert result.image_id == "film-0" and result.image.max() > 0
