"""A gate that knows 60 normal phantoms, and films to try it on."""

from collections.abc import Sequence

import pytest
import torch

from nofinding.data.ehr import FIELDS
from nofinding.gate import Eye, Gate, fit_gate, gate_films
from nofinding.sources.phantom import PHANTOM
from nofinding.types import Record


@pytest.fixture(scope="session")
def eye() -> Eye:
    torch.set_num_threads(1)
    return Eye()


@pytest.fixture(scope="session")
def phantoms() -> Sequence[Record]:
    text = "train=60,test=12,abnormal=6,kinds=mass+effusion+nodule,size=112"
    return list(PHANTOM.read(text, FIELDS))


@pytest.fixture(scope="session")
def gate(phantoms: Sequence[Record], eye: Eye) -> Gate:
    train = [record for record in phantoms if record.split == "train"]
    return fit_gate([gate_films(train, None)], eye=eye)
