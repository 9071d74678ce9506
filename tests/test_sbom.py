"""The bill of materials names what is installed and the weights, and nothing of this machine."""

import hashlib
import json
import re
import sys
from importlib.metadata import requires, version
from pathlib import Path
from types import ModuleType

import pytest

from test_docs import load

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("cyclonedx_py", reason="needs cyclonedx-bom (the extra dev)")


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return load(ROOT / "scripts" / "sbom.py", "sbom")


@pytest.fixture(scope="module")
def text(maker: ModuleType) -> str:
    return json.dumps(maker.finished(maker.installed(sys.executable)))


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_it_names_every_requirement_as_installed(text: str) -> None:
    payload = {plain(c["name"]): c.get("version") for c in json.loads(text)["components"]}
    needed = [re.split(r"[ ;<>=!\[]", line)[0] for line in requires("nofinding") or ()
              if "extra ==" not in line]  # fmt: skip
    assert len(needed) > 15
    assert {plain(name): payload.get(plain(name)) for name in needed} == {
        plain(name): version(name) for name in needed
    }


def test_it_names_the_weights_by_their_hash(text: str) -> None:
    payload = {
        c["name"]: c["hashes"][0]["content"]
        for c in json.loads(text)["components"]
        if c["type"] == "machine-learning-model"
    }
    folder = ROOT / "src" / "nofinding" / "weights"
    file = folder / "adult" / "model.safetensors"
    assert payload["nofinding weights adult/model"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(payload) == len([*folder.rglob("*.safetensors")])


def test_it_names_no_folder_of_this_machine(text: str) -> None:
    assert "file:" not in text and str(ROOT) not in text and str(Path.home()) + "/" not in text


def test_what_is_no_bill_is_refused(maker: ModuleType) -> None:
    with pytest.raises(SystemExit, match="not valid CycloneDX"):
        maker.check('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{}]}')
    maker.check('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}')
