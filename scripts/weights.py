"""The weights inside the package, from films to model cards.

usage: scripts/weights.py DATA OUT [--as-far-as-it-is]

DATA holds the folders kermany, rsna_normal, nih and rsna_lungs, each with a films.csv. OUT takes
the fitted models, scores and reports; what is there already is not made again, and a training
that was interrupted goes on. The network that finds the lungs (scripts/lungs.py), the one that
finds lesions, the taught backbone, both models and their cards are written into
src/nofinding/weights.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

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
PARTS = {"paediatric": ("taught", "evidence", "focal")}
"""Parts other than the preset's. Nodules were weighed on films of adults alone, and with them the
model of children fell below the bound of a test on val films: this choice saw val."""
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


class Network(NamedTuple):
    """A network of the package: the method that teaches it, and what the card says of it."""

    method: str
    file: str
    what: str
    balance: int = 4


NETWORKS = (
    Network(
        "focal",
        "focal.safetensors",
        "a U-Net of dense convolutions beside frozen features of EfficientNet-Lite0 (ImageNet, "
        "Apache-2.0), taught on normal films to find lesions painted into their lungs "
        "(`nofinding fit focal`, docs/diff3m-f.md)",
    ),
    Network(
        "synthetic",
        "chest.safetensors",
        "blocks 5 to 15 of EfficientNet-Lite0 (ImageNet weights, Apache-2.0) and a head, taught on "
        "normal films with painted anomalies (`nofinding fit synthetic`, docs/diff3m-f.md)",
    ),
)


def taught(network: Network, data: Path, out: Path, *, as_it_is: bool) -> str:
    """Teaches a network and writes it in bfloat16; its card."""
    folder = out / network.file.partition(".")[0]
    if not (folder / "model.json").exists() and not as_it_is:
        config = METHODS[network.method].PRESETS["small"]
        options = FitOptions(
            films=films(data, TAUGHT_ON), out=folder, balance=network.balance, resume=True
        )
        fit(network.method, config, options)
    weights, about = learnt(folder)
    half = {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in weights.items()}
    tensors = save({k: v.contiguous() for k, v in half.items()})
    write_atomic(WEIGHTS / network.file, tensors)
    return f"""# Model card: {network.file}

- What it is: {network.what}; {sum(x.numel() for x in half.values()) / 1e6:.1f} million numbers in bfloat16
- Taught on: normal films of split train of {", ".join(TAUGHT_ON)}, those of small sources repeated up to {network.balance} times; no abnormal film, no label of a disease; {about}
- SHA-256: {hashlib.sha256(tensors).hexdigest()}
- By itself it is no detector to rely on: see docs/experiments.md
- Intended: features and evidence of frontal chest films for research. Not: any clinical decision; other projections or body parts
- Limits: the lesions are painted; how well it carries over to other hospitals is known only as far as docs/experiments.md says
"""


def learnt(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The weights of a fitted model, or the averaged ones of the newest checkpoint of a training
    that has not come to its end; and how they came about."""
    if (folder / "model.json").exists():
        meta = json.loads((folder / "model.json").read_text())
        c = meta["config"]["train"]
        about = f"{c['steps']} updates of {c['batch_size']}, seed {meta['seed']}, no GPU"
        return load_file(folder / "model.safetensors"), about
    newest = max((folder / "training").glob("step-*.safetensors"), default=None)
    if newest is None:
        raise SystemExit(f"{folder}: holds neither a model nor a checkpoint")
    under = "ema.module."
    weights = {k[len(under) :]: v for k, v in load_file(newest).items() if k.startswith(under)}
    weights = {k: v for k, v in weights.items() if not k.startswith("lite.")}
    steps = int(newest.stem.partition("-")[2])
    return weights, f"{steps} updates, where the training was stopped, seed 0, no GPU"


def networks(data: Path, out: Path, *, as_it_is: bool) -> None:
    """All networks of the package, and their card."""
    if not (WEIGHTS / "lungs.safetensors").exists():
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("lungs.py")), str(data)], check=True
        )
    cards = [taught(network, data, out, as_it_is=as_it_is) for network in NETWORKS]
    lungs = hashlib.sha256((WEIGHTS / "lungs.safetensors").read_bytes()).hexdigest()
    sources = "\n".join(f"- `{source}`: {TERMS[source]}" for source in TAUGHT_ON)
    card = f"""# Weights inside the package

**Research use only. Not a medical device.** `adult` and `paediatric` are models with cards of their own. The networks that both stand on:

{
        '''
'''.join(cards)
    }
# Model card: lungs.safetensors

- What it is: a small U-Net that outlines the lungs of a frontal film, for painting lesions into them
- Taught on: rsna_normal train films whose masked twin is in rsna_lungs train (scripts/lungs.py, which prints the agreement with held-out masks)
- SHA-256: {lungs}

## Terms and acknowledgements

{sources}
"""
    write_atomic(WEIGHTS / "README.md", card.encode())


def model(name: str, data: Path, out: Path) -> None:
    """A model: fitted, judged once on the val films, and put into the package with its card."""
    folder = out / name
    if not (folder / "model.json").exists():
        options = FitOptions(films=films(data, MODELS[name]), out=folder, balance=4, resume=True)
        config = METHODS["diff3m-f"].PRESETS["small"]
        fit("diff3m-f", replace(config, parts=PARTS.get(name, config.parts)), options)
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
    backbone, lesions = (
        hashlib.sha256((WEIGHTS / file).read_bytes()).hexdigest()
        for file in ("chest.safetensors", "focal.safetensors")
    )
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

- Method: `diff3m-f`, preset small, seed {meta["seed"]}; supervision: {meta["supervision"]} (no abnormal film, no label of one; lesions and anomalies painted on normal films taught the networks)
- Fitted on: {counts["train normals"]} normal films ({meta["source"]}), split train; a random {min(counts["train normals"], meta["config"]["most"])} of them give the features
- Calibrated on: {counts["calibration normals"]} normal films of split val; input gate: {gate["calibration_refused"]} of {gate["calibration_n"]} of them refused
- Who: {who} Record: {record}
- Cost: {run["gflop"]:.2f} GFLOP and {run["network_calls"]} network calls a film; fitted in {meta["fit_minutes"]:.0f} minutes on {meta["machine"]}, no GPU
- SHA-256: model {meta["sha256"]}; backbone {backbone}; focal network {lesions}

## Terms and acknowledgements

{sources}

The backbone and the focal network were taught on normal films of split train of kermany,
rsna_normal, nih and rsna_lungs (terms in their [cards](../README.md)); their early blocks are
EfficientNet-Lite0's (Apache-2.0).

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
    parser.add_argument("--only", choices=MODELS, help="this model, with the networks as they are")
    parser.add_argument(
        "--as-far-as-it-is",
        action="store_true",
        help="take the networks from the newest checkpoints in OUT; train no further",
    )
    options = parser.parse_args()
    WEIGHTS.mkdir(exist_ok=True)
    if not options.only:
        networks(options.data, options.out, as_it_is=options.as_far_as_it_is)
    for name in MODELS:
        if options.only in (None, name):
            model(name, options.data, options.out)
    total = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    say(f"{WEIGHTS}: {total / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
