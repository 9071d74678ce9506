"""A gate that knows 60 normal phantoms, and films to try it on."""

from collections.abc import Sequence

import pytest
import torch

from nofinding.data.ehr import FIELDS
from nofinding.datasets.phantom import PHANTOM
from nofinding.gate import FeatureExtractor, Gate, fit_gate, gate_films
from nofinding.types import Exam


@pytest.fixture(scope="session")
def extractor() -> FeatureExtractor:
    torch.set_num_threads(1)
    return FeatureExtractor()


@pytest.fixture(scope="session")
def phantoms() -> Sequence[Exam]:
    text = "train=60,test=12,abnormal=6,kinds=mass+effusion+nodule,size=112"
    return list(PHANTOM.read(text, FIELDS))


@pytest.fixture(scope="session")
def gate(phantoms: Sequence[Exam], extractor: FeatureExtractor) -> Gate:
    train = [exam for exam in phantoms if exam.split == "train"]
    return fit_gate([gate_films(train, None)], extractor=extractor)
