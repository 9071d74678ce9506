"""What holds for all tests of sources."""

import pytest


@pytest.fixture(autouse=True)
def key_of_the_tests(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test makes, or takes, the pseudonyms' key of whoever runs it."""
    folder = tmp_path_factory.getbasetemp() / "config"
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
