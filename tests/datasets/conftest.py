"""What holds for all tests of sources."""

import pytest


@pytest.fixture(autouse=True)
def key_of_the_tests(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test makes, or takes, the pseudonyms' key of whoever runs it."""
    folder = tmp_path_factory.getbasetemp() / "config"
    key = folder / "nofinding" / "pseudonym.key"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text("0123456789abcdef" * 4)  # splits are drawn by pseudonym
    key.chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
