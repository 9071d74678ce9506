"""A fitted method as a folder: weights, what they were made of, and a card to read."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from nofinding.data.ehr import EhrStats
from nofinding.data.image import Aspect
from nofinding.data.nearest_value import EhrWindow
from nofinding.errors import UserError
from nofinding.evaluation.statistics.strata import Partition, Stratum
from nofinding.methods import METHODS
from nofinding.methods.base.protocol import Decides, Detector, HasRules
from nofinding.progress import say
from nofinding.storage import checkpoint
from nofinding.storage.atomic import write_atomic

__all__ = ["Model", "config_from", "load_model", "save_model", "stored_window", "with_rule"]

STEM = "model"
CARD = "README.md"
FORMAT = 1
# What a method raises for a configuration that it cannot have written.
MISFIT = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError),
    *(RuntimeError, TypeError, ValueError),
)


@dataclass(frozen=True)
class Model:
    """A detector that can score, and everything that was written down with it."""

    detector: Detector
    meta: Mapping[str, Any]
    uncalibrated: str = ""
    """Why the stored calibration does not hold for the scores as they are made now; "": it does."""

    @property
    def sha256(self) -> str:
        """Of the weights; names the model in every output."""
        return str(self.meta["sha256"])

    @property
    def calibration(self) -> tuple[np.ndarray, list[str]]:
        """Scores of the calibration normals, and their hashed ids, in one order; none where they
        are of another score than this one."""
        if self.uncalibrated:
            return np.empty(0), []
        stored = self.meta["calibration"]
        return np.array(stored["scores"], dtype=np.float64), list(stored["ids"])

    @property
    def ehr_window(self) -> EhrWindow:
        """When a value of the EHR counts for a film, as for those that the model was fitted on."""
        return _window_in(self.meta) or EhrWindow()

    @property
    def has_window(self) -> bool:
        """Whether that was stored, and measured fields depend on it."""
        return _window_in(self.meta) is not None and _measures(self.meta)


def stored_window(folder: Path) -> EhrWindow:
    """When a value of the EHR counts for the model in a folder, whose weights are not looked at.

    Says so where a model that was fitted on measured fields is too old to have it stored: the
    default counts then. Raises UserError where the folder holds no model.
    """
    meta = checkpoint.load_meta(folder / STEM)
    window = _window_in(meta)
    if window is None and _measures(meta):
        say(f"{folder}: the model does not say when a value of the EHR counts; {EhrWindow()} does")
    return window or EhrWindow()


def _window_in(meta: Mapping[str, Any]) -> EhrWindow | None:
    stored = meta.get("ehr_window")
    return None if stored is None else EhrWindow.from_json(stored)


def _measures(meta: Mapping[str, Any]) -> bool:
    """Whether the model was fitted with fields that change with the day."""
    return any(f["kind"] == "numeric" and f["name"] != "age" for f in meta["record"]["fields"])


def config_from(cls: type, data: Mapping[str, Any]) -> Any:
    """A config dataclass from what its `asdict` became in JSON. Raises UserError for a misfit.

    A field that is absent takes its default: the model is older than the field. Whoever adds one
    therefore gives it the default that does what was done before.
    """
    if not isinstance(data, Mapping):
        raise UserError("the model's configuration maps nothing")
    values = {}
    defaults = cls()
    for field in fields(cls):
        if field.name not in data:
            continue
        value, default = data[field.name], getattr(defaults, field.name)
        if is_dataclass(default) and isinstance(value, Mapping):
            value = config_from(type(default), value)
        elif isinstance(value, list):
            value = tuple(value)
        elif is_dataclass(default):
            raise UserError(f"the model's configuration has a wrong {field.name!r}")
        values[field.name] = value
    unknown = set(data) - set(values)
    if unknown:
        raise UserError(f"the model's configuration has unknown {sorted(unknown)[0]!r}")
    return cls(**values)


def save_model(folder: Path, detector: Detector, meta: Mapping[str, Any]) -> None:
    """Writes model.safetensors, model.json and the card README.md into the folder."""
    metadata = {
        "format": FORMAT,
        "method": detector.name,
        "summary": detector.summary,
        "paper": detector.paper,
        "supervision": str(detector.supervision),
        "config": asdict(detector.config),
        "record": detector.stats.to_json(),
        "uses_ehr": detector.uses_ehr,
        "code_version": checkpoint.code_version(),
        "torch_version": torch.__version__,
        **({"decided": dict(detector.decided)} if isinstance(detector, Decides) else {}),
        **meta,
    }
    write_atomic(folder / CARD, card(metadata).encode())
    checkpoint.save(folder / STEM, detector.state(), metadata)


def load_model(folder: Path) -> Model:
    """The model in a folder. Raises UserError where it is absent, damaged or of another kind."""
    if not (folder / f"{STEM}.json").is_file():
        hint = " (its training is unfinished: use fit --resume)" if folder.is_dir() else ""
        raise UserError(f"--model {folder}: holds no {STEM}.json{hint}")
    tensors, meta = checkpoint.load(folder / STEM)
    if meta.get("format") != FORMAT:
        raise UserError(f"--model {folder}: format {meta.get('format')!r}, this program reads 1")
    if not isinstance(meta.get("method"), str) or meta["method"] not in METHODS:
        raise UserError(
            f"--model {folder}: method {meta.get('method')!r} is not one of {', '.join(METHODS)}"
        )
    cls = METHODS[meta["method"]]
    try:
        stats = EhrStats.from_json(meta["record"])
        detector = cls(config_from(cls.Config, meta["config"]), stats)
        detector.load_state(tensors)
    except MISFIT as error:
        raise UserError(
            f"--model {folder}: weights and configuration do not fit each other"
        ) from error
    try:
        _check_rest(meta)
    except (*MISFIT, UserError):
        raise UserError(
            f"--model {folder}: what {STEM}.json says of calibration, gate, map or films is damaged"
        ) from None
    if not (folder / CARD).is_file():
        raise UserError(
            f"--model {folder}: has no card ({CARD}), which says what it is for; restore it from "
            "where the model is from"
        )
    return Model(detector, meta)


def _check_rest(meta: Mapping[str, Any]) -> None:
    """That all else in model.json is what scoring takes it for. Raises one of MISFIT."""
    stored = meta["calibration"]
    columns = [stored["ids"], *(stored[k] for k in Stratum._fields if stored.get(k) is not None)]
    scores = np.array(stored["scores"], dtype=np.float64)
    threshold, gate = meta.get("map_threshold"), meta.get("gate")
    _window_in(meta)
    partition, strata = Partition.from_meta(stored), Stratum.from_meta(stored)
    if partition is not None and any(partition.cell_of(s) is None for s in strata or ()):
        raise ValueError
    right = (
        all(map(_texts, columns))
        and {scores.shape} == {(len(column),) for column in columns}
        and np.isfinite(scores).all()
        and meta["aspect"] in get_args(Aspect)
        and (threshold is None or math.isfinite(threshold))
        and (gate is None or isinstance(gate, dict))
        and (not gate or not gate.get("fitted") or isinstance(gate["sha256"], str))
        and _texts(meta.get("training_pixels", []))
    )
    if not (right and isinstance(stored["from"], str)):
        raise ValueError


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def with_rule(model: Model, rule: str | None, steps: int) -> Model:
    """The model with another detection rule, or `steps` kept levels; None and 0 change nothing.

    Its p-values are void where its scores are others than those that it was calibrated with.
    Raises UserError where the method has no such rule.
    """
    detector, name = model.detector, model.detector.name
    if rule is None and steps == 0:
        return model
    if steps < 0:
        raise UserError(f"--steps {steps}: give 1 or more, or 0 for the model's own")
    if not isinstance(detector, HasRules):
        asked = f"--rule {rule}" if rule is not None else f"--steps {steps}"
        raise UserError(f"{asked}: {name} has one way of scoring; leave it out")
    if rule is not None and rule not in detector.RULES:
        raise UserError(f"--rule {rule}: {name} has {', '.join(detector.RULES)}")
    config = detector.with_rule(detector.config, rule, steps)
    if config == detector.config:
        return model
    other = type(detector)(config, detector.stats)
    other.load_state(detector.state())
    why = "the model was calibrated with another detection rule or number of steps"
    # The map's threshold, too, is of the other rule's maps.
    return replace(
        model, detector=other, meta={**model.meta, "map_threshold": None}, uncalibrated=why
    )


def card(meta: Mapping[str, Any]) -> str:
    """The model card: what it was trained on, for what, and what it must not be used for."""
    counts, calibration = meta.get("counts", {}), meta.get("calibration", {})
    rows = "\n".join(
        f"| {f['name']} | {f['unit'] or '/'.join(f['categories'])} | {n} | {m:.4g} | {s:.4g} |"
        for f, m, s, n in zip(
            meta["record"]["fields"],
            meta["record"]["mean"],
            meta["record"]["std"],
            meta["record"]["known"],
            strict=True,
        )
    )
    minutes = meta.get("fit_minutes")
    trained = "" if minutes is None else f"- Trained in {minutes:.1f} minutes, {meta['machine']}\n"
    counts_text = ", ".join(f"{n} {what}" for what, n in counts.items()) or "not stated"
    return f"""# Model card: {meta["method"]}

**Research use only. Not a medical device.** A high score says that a film is unlike the
normal films this model was fitted on; it is not a diagnosis, and a low score excludes nothing.

- Method: {meta["summary"]} ({meta["paper"]}); supervision: {meta["supervision"]}
- Films: {meta.get("source", "not stated")}; {counts_text}
- Film: {meta.get("image_size")} pixels, aspect {meta.get("aspect")}
- Calibration: {len(calibration.get("scores", []))} normal films ({calibration.get("from")});
  how many of them are called is fixed by their number, and no evidence. If options were chosen
  on split val, figures on val flatter the model.
- EHR: a value counts if it is from at most {_window_in(meta) or EhrWindow()}
- Seed {meta.get("seed")}, version {meta["code_version"]}, torch {meta["torch_version"]}
{trained}{_decided(meta)}{_adapted(meta)}
Intended for: research on anomaly detection with films like those it was fitted on. Misuse:
films of another body part, projection or age group; any clinical decision.

| record field | unit or categories | known in | mean | spread |
|---|---|---|---|---|
{rows}
"""


def _decided(meta: Mapping[str, Any]) -> str:
    """The line of the card on what normal training films decided; "" where nothing was."""
    decided = meta.get("decided")
    return f"- {decided['said']}\n" if decided else ""


def _adapted(meta: Mapping[str, Any]) -> str:
    """The lines of the card on the hospital that the model was adapted to; "" of any other."""
    about = meta.get("adapted")
    if not about:
        return ""
    lines = [
        f"- Adapted to: {about['films']} {about['mode']} films of {about['source']}, "
        f"{about['created']}; moved: {about['moved']}",
        f"- Adapted from: {about['base']}, SHA-256 {about['base_sha256']}",
    ]
    if about["mode"] == "unlabelled":
        lines.append(
            f"- Taken for normal: {100 * about['normal_share']:.0f} % of the local films; at most "
            f"{100 * about['abnormal_at_most']:.0f} % were allowed to be abnormal. "
            f"{about['not_known']}"
        )
    for when, against in (("before", "the films it was calibrated on"), ("after", "each other")):
        test = about["drift"][when]
        said = (
            "not tested, too few films"
            if test is None
            else (f"p = {test['p']:.3g}, effect {test['effect']:.2f}")
        )
        lines.append(f"- Drift {when} adapting, local films against {against}: {said}")
    lines.append("- p-values hold for films of that hospital alone.")
    return "\n".join(lines) + "\n"
