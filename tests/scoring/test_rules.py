"""score --rule, --steps, --precision, --runtime: what they change, and what they void."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from nofinding.cli import main
from nofinding.errors import UserError
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.model import runtime_parity
from nofinding.model.bundle import config_from
from workflows.test_end_to_end import scores_in


@pytest.fixture
def score(
    cohort: Path, model: Path, tmp_path: Path
) -> Callable[..., tuple[dict[str, dict[str, str]], dict[str, Any]]]:
    def run(*more: str) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
        out = tmp_path / "-".join(["s", *more]).replace("/", "")
        films = f"table:{cohort / 'films.csv'}"
        given = ["score", "--model", str(model), "--films", films, "--split", "test"]
        assert main([*given, "--out", str(out), *more]) == 0
        return scores_in(out), json.loads((out / "run.json").read_text())

    return run


def test_another_rule_gives_scores_and_no_p_value(score: Callable[..., Any]) -> None:
    plain, _ = score("--no-maps")
    rows, run = score("--rule", "noise-start")
    assert (run["rule"], run["network_calls"], run["config"]["start"]) == (
        "noise-start",
        3,
        "noise",
    )
    assert run["calibration_n"] == 0 and "another detection rule" in run["uncalibrated"]
    for image_id, row in rows.items():
        assert row["p_value"] == "" and "p-value: none" in row["flags"]
        assert row["score"] != plain[image_id]["score"]


def test_the_models_own_rule_keeps_its_p_value(score: Callable[..., Any]) -> None:
    plain, _ = score("--no-maps")
    rows, run = score("--rule", "blind", "--steps", "10", "--no-maps")
    assert rows == plain and run["uncalibrated"] == "" and run["steps"] == 10
    rows, run = score("--steps", "20", "--no-maps")
    assert run["config"]["respacing"] == "ddim20" and run["network_calls"] == 12
    assert all(row["p_value"] == "" for row in rows.values())


def test_inversion_has_no_pseudo_healthy_film(score: Callable[..., Any], tmp_path: Path) -> None:
    rows, _ = score("--rule", "inversion-norm")
    assert all(float(row["score"]) == float(row["eps_rms"]) for row in rows.values())
    out = tmp_path / "s---rule-inversion-norm"
    assert (out / "maps").is_dir() and not (out / "normal").exists()


def test_another_runtime_is_compared_before_it_gets_p_values(
    score: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = score("--no-maps")
    rows, run = score("--runtime", "openvino", "--no-maps")
    assert run["runtime"] == "openvino" and run["parity"]["holds"]
    assert run["parity"]["films"] == len(rows) and run["parity"]["spearman"] == pytest.approx(1)
    assert run["gflop"] > 0.01  # counted on torch
    for image_id, row in rows.items():
        assert row["p_value"] == plain[image_id]["p_value"]
        assert float(row["score"]) == pytest.approx(float(plain[image_id]["score"]), rel=5e-4)
    monkeypatch.setattr(runtime_parity, "LEAST", 1.1)
    rows, run = score("--precision", "bfloat16", "--no-maps")
    assert run["precision"] == "bfloat16" and not run["parity"]["holds"]
    assert all(row["p_value"] == "" for row in rows.values())
    assert "rank films differently" in run["uncalibrated"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--rule", "best"), "--rule best: diff3m has paper, blind"),
        (("--steps", "-1"), "--steps -1"),
        (("--steps", "333"), "steps 333: no whole stride"),
        (("--runtime", "openvino", "--accelerator", "cuda"), "runs on the CPU"),
    ],
)
def test_impossible_requests_are_refused(
    cohort: Path, model: Path, tmp_path: Path, refused: Callable[..., str],
    given: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    films = f"table:{cohort / 'films.csv'}"
    assert said in refused(
        "score", "--model", model, "--films", films, "--out", tmp_path / "x", *given
    )


def test_an_older_model_without_an_option_takes_its_default() -> None:
    stored = asdict(Diff3MConfig(noise_level=7))
    del stored["detect"], stored["x0_levels"]
    assert config_from(Diff3MConfig, stored) == Diff3MConfig(noise_level=7)

    @dataclass(frozen=True)
    class Small:
        side: int = 3

    with pytest.raises(UserError, match="unknown 'height'"):
        config_from(Small, {"side": 4, "height": 2})
