"""What is not in the core is asked for by name, in one line."""

import sys

import pytest

from nofinding.errors import UserError
from nofinding.extras import need
from nofinding.methods import METHODS


def test_an_absent_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    for name in [name for name in sys.modules if name.startswith("monai.")]:
        monkeypatch.delitem(sys.modules, name)
    line = "latent diffusion: needs the package monai; pip install 'nofinding[methods]'"
    with pytest.raises(UserError) as caught:
        need("monai.networks.nets.vqvae", "methods", "latent diffusion")
    assert str(caught.value) == line
    assert len(METHODS) > 40  # all others are there without it


def test_a_package_that_is_there_is_given() -> None:
    assert need("json", "core", "tests").dumps([]) == "[]"


def test_another_fault_inside_a_package_is_not_taken_for_its_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> object:
        raise ModuleNotFoundError("No module named 'inner'", name="inner")

    monkeypatch.setattr("nofinding.extras.import_module", broken)
    with pytest.raises(ModuleNotFoundError):
        need("monai", "methods", "latent diffusion")
