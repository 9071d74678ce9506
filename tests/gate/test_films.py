"""The gate refuses what is no upright frontal chest film, says why, and lets disease through."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from sklearn.datasets import load_sample_images
from torch import Tensor

from nofinding.data.ehr import FIELDS
from nofinding.data.image import fit_square
from nofinding.datasets import SOURCES
from nofinding.errors import UserError
from nofinding.gate import GATE_LEAST, SIZE, FeatureExtractor, Gate, fit_gate, gate_films
from nofinding.gate import films as films_module
from nofinding.gate.corruptions import REASONS, SPOILT, UPRIGHT
from nofinding.gate.films import UNLIKE, distance
from nofinding.types import Exam

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def judged(phantoms: Sequence[Exam]) -> Tensor:
    """12 normal films and 18 abnormal ones that the gate has not seen."""
    records = [exam for exam in phantoms if exam.split == "test"]
    return gate_films(records, None).batch(range(len(records))).image


def as_film(picture: np.ndarray) -> Tensor:
    grey = picture.astype(np.float32)
    grey = (grey - grey.min()) / (grey.max() - grey.min())
    film = fit_square(grey, SIZE, "pad").astype(np.float32)
    return torch.from_numpy(film)[None, None] / 65535 * 2 - 1


@pytest.mark.parametrize("change", UPRIGHT, ids=["as it is", "mirrored"])
def test_upright_films_pass_normal_and_abnormal(
    gate: Gate, extractor: FeatureExtractor, judged: Tensor, change
) -> None:
    films = torch.stack([change(film, i) for i, film in enumerate(judged)])
    reasons = [verdict.reason for verdict in gate.judge(extractor(films))]
    assert reasons[:12] == [""] * 12  # the normal ones
    assert sum(map(bool, reasons[12:])) <= 1  # of 18: about what docs/gate.md allows


@pytest.mark.parametrize(
    ("label", "change"), SPOILT, ids=["90", "270", "180", "flipped", "inverted", "lung", "half"]
)
def test_spoilt_films_do_not(
    gate: Gate, extractor: FeatureExtractor, judged: Tensor, label: int, change
) -> None:
    films = torch.stack([change(film, i) for i, film in enumerate(judged)])
    reasons = [verdict.reason for verdict in gate.judge(extractor(films))]
    assert set(reasons) <= {REASONS[label], UNLIKE}
    if label in (2, 3):  # the phantom's other copies look like nothing it knows
        assert reasons.count(REASONS[label]) > 20


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_slices_are_unlike(gate: Gate, extractor: FeatureExtractor, name: str) -> None:
    path = get_testdata_file(name)
    assert path is not None
    slice_ = pydicom.dcmread(path).pixel_array
    assert gate.judge(extractor(as_film(slice_)))[0].reason == UNLIKE


def test_photographs_are_unlike(gate: Gate, extractor: FeatureExtractor) -> None:
    for photograph in load_sample_images().images:
        verdict = gate.judge(extractor(as_film(photograph.mean(axis=2))))[0]
        assert verdict.reason == UNLIKE and verdict.distance > gate.limit


def test_the_distance_alone_refuses_too(
    gate: Gate, extractor: FeatureExtractor, judged: Tensor
) -> None:
    """A classifier that takes anything for an upright film leaves it to the distance."""
    trusting = gate.tensors | {"bias": torch.tensor([1e3, 0, 0, 0, 0], dtype=torch.float64)}
    blind = Gate(trusting, gate.limit)
    photograph = as_film(load_sample_images().images[0].mean(axis=2))
    assert blind.judge(extractor(photograph))[0].reason == UNLIKE
    assert blind.judge(extractor(judged[:1]))[0].reason == ""


def test_blank_films_and_noise(gate: Gate, extractor: FeatureExtractor) -> None:
    noise = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blank = torch.full((1, 1, SIZE, SIZE), -0.3)
    reasons = [verdict.reason for verdict in gate.judge(extractor(torch.cat([noise, blank])))]
    assert reasons[0].startswith("is noise") and reasons[1].startswith("is blank")


def test_a_verdict_does_not_depend_on_the_other_films(
    gate: Gate, extractor: FeatureExtractor, judged: Tensor
) -> None:
    together = gate.judge(extractor(judged[:5]))
    alone = [gate.judge(extractor(judged[i : i + 1]))[0] for i in range(5)]
    for one, other in zip(together, alone, strict=True):
        assert one.reason == other.reason
        assert one.distance == pytest.approx(other.distance, rel=1e-4)


def test_it_comes_back_from_what_is_stored(
    gate: Gate, extractor: FeatureExtractor, judged: Tensor
) -> None:
    again = Gate.from_stored(dict(gate.tensors), gate.to_meta())
    calls = extractor(judged[:4])
    assert again.judge(calls) == gate.judge(calls)


def test_too_few_films_are_refused(phantoms: Sequence[Exam]) -> None:
    with pytest.raises(UserError, match=f"takes {GATE_LEAST} normal films; here are 3"):
        fit_gate([gate_films(phantoms[:3], None)])


def test_distance_is_to_the_nearest_centre_in_units_of_spread() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    precision = torch.diag(torch.tensor([1.0, 0.25]))
    distances = distance(torch.tensor([[9.0, 0.0], [0.0, 4.0]]), centres, precision)
    assert distances.tolist() == pytest.approx([0.5**0.5, 2**0.5])


@pytest.mark.films
@pytest.mark.skipif(not (DATA / "nih" / "films.csv").is_file(), reason=f"no films in {DATA}")
def test_real_films_of_disease_pass(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(films_module, "MOST", 60)
    exams = list(SOURCES["table"].read(str(DATA / "nih" / "films.csv"), FIELDS))
    gate = fit_gate(
        [gate_films([r for r in exams if r.split == "train"], None)], extractor=extractor
    )
    for sick, most in ((False, 0.02), (True, 0.05)):
        val = [r for r in exams if r.split == "val" and bool(r.findings) is sick]
        image = gate_films(val, None).batch(range(len(val))).image
        assert np.mean([bool(v.reason) for v in gate.judge(extractor(image))]) <= most
        upside_down = gate.judge(extractor(image[:20].flip(2)))
        assert [v.reason for v in upside_down].count(REASONS[2]) >= 19
