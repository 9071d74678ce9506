"""The weights inside the package, from films to model cards.

usage: scripts/weights.py DATA OUT

DATA holds the folders kermany, rsna_normal, nih and rsna_lungs, each with a films.csv. OUT takes
the fitted models, scores and reports; what is there already is not made again. The backbone, both
models and their cards are then written into src/nofinding/weights.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from nofinding.methods import METHODS
from nofinding.model.pretrained import calibration_of
from nofinding.progress import say
from nofinding.storage.atomic import write_atomic
from nofinding.workflows.evaluate import EvaluateOptions, evaluate
from nofinding.workflows.fit import FitOptions, fit
from nofinding.workflows.score import ScoreOptions, score

WEIGHTS = Path(__file__).resolve().parents[1] / "src" / "nofinding" / "weights"
TAUGHT_ON = ("kermany", "rsna_normal", "nih", "rsna_lungs")
MODELS = {"adult": ("rsna_normal", "nih"), "paediatric": ("kermany",)}
JUDGED_ON = {"adult": "nih", "paediatric": "kermany"}
TERMS = {
    "kermany": "Kermany et al. 2018, Mendeley Data rscbjbr9sj, CC BY 4.0: chest radiographs of "
    "children of 1 to 5 years, Guangzhou Women and Children's Medical Center.",
    "nih": "ChestX-ray14, provided by the NIH Clinical Center; Wang et al., CVPR 2017. Its usage is "
    "unrestricted; download site: https://nihcc.app.box.com/v/ChestXray-NIHCC.",
    "rsna_normal": "Films of the RSNA Pneumonia Detection Challenge that radiologists called normal; "
    "the pixels are of ChestX-ray14 (NIH Clinical Center; Wang et al., CVPR 2017).",
    "rsna_lungs": "Films of the RSNA Pneumonia Detection Challenge with all but the lungs blacked "
    "out; the pixels are of ChestX-ray14 (NIH Clinical Center; Wang et al., CVPR 2017).",
}


def films(data: Path, names: tuple[str, ...]) -> list[str]:
    return [f"table:{data / name / 'films.csv'}" for name in names]


def taught(data: Path, out: Path) -> None:
    """The backbone: fitted, and written in bfloat16."""
    folder = out / "chest"
    if not (folder / "model.json").exists():
        config = METHODS["synthetic"].PRESETS["small"]
        options = FitOptions(films=films(data, TAUGHT_ON), out=folder, balance=4, resume=True)
        fit("synthetic", config, options)
    weights = load_file(folder / "model.safetensors")
    half = {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in weights.items()}
    tensors = save(half)
    write_atomic(WEIGHTS / "chest.safetensors", tensors)
    meta = json.loads((folder / "model.json").read_text())
    sources = "\n".join(f"- `{source}`: {TERMS[source]}" for source in TAUGHT_ON)
    card = f"""# Weights inside the package

**Research use only. Not a medical device.** `adult` and `paediatric` are models with cards of their own. The backbone that both stand on:

# Model card: chest.safetensors

- What it is: blocks 5 to 15 of EfficientNet-Lite0 (ImageNet weights, Apache-2.0) and a head, taught on normal films with painted anomalies (`nofinding fit synthetic`, docs/diff3m-f.md); {sum(x.numel() for x in half.values()) / 1e6:.1f} million numbers in bfloat16
- Taught on: {meta["counts"]["train normals"]} normal films of split train, those of small sources repeated up to 4 times; no abnormal film, no label of a disease; {meta["config"]["train"]["steps"]} updates of {meta["config"]["train"]["batch_size"]} pairs, seed {meta["seed"]}, on {meta["machine"]}, no GPU
- SHA-256: {hashlib.sha256(tensors).hexdigest()}
- By itself (rule `evidence`) it is no detector to rely on: see the tables of docs/experiments.md
- Intended: features of frontal chest films for research. Not: any clinical decision; other projections or body parts
- Limits: the anomalies are crude and lie where lungs usually are; how well it carries over to other hospitals is known only as far as docs/experiments.md says

## Terms and acknowledgements

{sources}
"""
    write_atomic(WEIGHTS / "README.md", card.encode())


def model(name: str, data: Path, out: Path) -> None:
    """A model: fitted, judged once on the val films, and put into the package with its card."""
    folder = out / name
    if not (folder / "model.json").exists():
        options = FitOptions(films=films(data, MODELS[name]), out=folder, resume=True)
        fit("diff3m-f", METHODS["diff3m-f"].PRESETS["small"], options)
    judged = films(data, (JUDGED_ON[name],))
    if not (out / f"{name}-scores" / "run.json").exists():
        to = out / f"{name}-scores"
        score(
            [],
            ScoreOptions(
                model=str(folder),
                films=judged,
                split="val",
                out=to,
                gate="flag",
                calibration=calibration_of(name),
            ),
        )
    if not (out / f"{name}-report" / "metrics.json").exists():
        table = out / f"{name}-scores" / "scores.csv"
        evaluate(EvaluateOptions(scores=table, films=judged, out=out / f"{name}-report"))
    for path in sorted(folder.glob("*.*")):
        if path.suffix in (".json", ".safetensors"):
            write_atomic(WEIGHTS / name / path.name, path.read_bytes())
    card = text(name, folder, out)
    write_atomic(WEIGHTS / name / "README.md", card.encode())


def text(name: str, folder: Path, out: Path) -> str:
    """The model card."""
    meta = json.loads((folder / "model.json").read_text())
    gate = json.loads((folder / "gate.json").read_text())
    run = json.loads((out / f"{name}-scores" / "run.json").read_text())
    metrics = json.loads((out / f"{name}-report" / "metrics.json").read_text())
    counts, judged = meta["counts"], metrics["films"]
    sources = "\n".join(f"- `{source}`: {TERMS[source]}" for source in MODELS[name])
    backbone = hashlib.sha256((WEIGHTS / "chest.safetensors").read_bytes()).hexdigest()
    who = {
        "adult": "Adults, 18 to 87 years where the age is known (NIH); frontal films, AP and PA.",
        "paediatric": "Children of 1 to 5 years; frontal films, AP, of one hospital.",
    }[name]
    record = ", ".join(run["fields"]) or "none"
    hits = metrics["calibration"]["abnormal"]["0.05"]
    limits = {
        "adult": "The nih films differ in scanner and brightness between normal and abnormal, and "
        'their labels are text-mined: about a third of the "No Finding" films that radiologists '
        "looked at again show an opacity. The rsna_normal films have no record and no abnormal "
        "counterpart, so nothing is known of the score's use on films like those.",
        "paediatric": "Normal films from elsewhere lie farther from these: before anything else, look at the "
        "drift test in run.json. No record is used, for none is known of these films.",
    }[name]
    return f"""# Model card: {name}

**Research use only. Not a medical device.** A high score says that a film is unlike the
normal films this model was fitted on; it is not a diagnosis, and a low score excludes nothing.

- Method: `diff3m-f`, preset small, seed {meta["seed"]}; supervision: {meta["supervision"]} (no abnormal film, no label of one; anomalies painted on normal films taught the backbone)
- Fitted on: {counts["train normals"]} normal films ({meta["source"]}), split train; a random {min(counts["train normals"], meta["config"]["most"])} of them give the features
- Calibrated on: {counts["calibration normals"]} normal films of split val; input gate: {gate["calibration_refused"]} of {gate["calibration_n"]} of them refused
- Who: {who} Record: {record}
- Cost: {run["gflop"]:.2f} GFLOP and {run["network_calls"]} network calls a film; fitted in {meta["fit_minutes"]:.0f} minutes on {meta["machine"]}, no GPU
- SHA-256: model {meta["sha256"]}; backbone {backbone}

## Terms and acknowledgements

{sources}

The backbone was taught on normal films of split train of kermany, rsna_normal, nih and rsna_lungs
(terms in its own [card](../README.md)); its early blocks are EfficientNet-Lite0's (Apache-2.0).

## What it does on films it was not fitted on

`{JUDGED_ON[name]}`, split val: {judged["normal"]} normal, {judged["abnormal"]} abnormal (prevalence {judged["prevalence"]:.2f}), {judged["patients"]} patients. These
films were looked at while the model was chosen, so that the figures flatter it; the normal ones also calibrate the p-value. 95 % intervals: patient bootstrap, {metrics["bootstrap"]["draws"]} draws.

{_table(metrics)}

Called at p <= 0.05 ({run["calibration"]} calibration): {_share(hits)} of the abnormal films. No false-positive rate is given: these normal films
calibrate the p-value, so that how many are called is fixed by their number. The input gate objects
to {sum(run["gate"]["objected"].values())} of the {run["n"]} films.

{_groups(metrics)}

## Use

Intended: research on anomaly detection, and finding odd films in archives, on frontal films of such
patients. Not: any clinical decision; other projections, body parts or ages; ranking patients across
hospitals. {limits}

Made again by `scripts/weights DATA OUT`; see docs/weights.md.
"""


def _estimate(e: dict[str, Any] | None) -> str:
    return "too few" if e is None else f"{e['value']:.3f} ({e['low']:.3f} to {e['high']:.3f})"


def _share(s: dict[str, Any]) -> str:
    return f"{100 * s['value']:.1f} % ({100 * s['low']:.1f} to {100 * s['high']:.1f})"


def _table(metrics: dict[str, Any]) -> str:
    rows = [
        f"| {row['name']} | {_estimate(row['metrics']['auroc'])} | {_estimate(row['metrics']['ap'])} |"
        for row in metrics["rows"]
        if row["metrics"]
    ]
    return "| | AUROC | AP |\n|---|---|---|\n" + "\n".join(rows)


def _groups(metrics: dict[str, Any]) -> str:
    if not metrics["groups"]:
        return "Subgroups: none, for sex, age and view of these films are not known."
    rows = [
        f"| {g['kind']} {g['name']} | {g['n_normal']} / {g['n_abnormal']} | {_estimate(g['auroc'])} |"
        for g in metrics["groups"]
    ]
    head = "| subgroup | normal / abnormal | AUROC |\n|---|---|---|\n"
    return head + "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=MODELS, help="this model, with the backbone as it is")
    options = parser.parse_args()
    WEIGHTS.mkdir(exist_ok=True)
    if not options.only:
        taught(options.data, options.out)
    for name in MODELS:
        if options.only in (None, name):
            model(name, options.data, options.out)
    total = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    say(f"{WEIGHTS}: {total / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
