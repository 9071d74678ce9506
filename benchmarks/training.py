"""Films a second of training Diff3M: a plain float32 loop against the training loop's settings.

Both train the same network on the same films in the same batches, in turns, in one process. Plain:
float32, channels first, no autocast, AdamW, one weight average, and what torch does by itself.
Ours: `nofinding.training.train` as `fit` calls it. No checkpoints are written by either.

usage: python benchmarks/training.py [--size 64] [--width 16] [--batch 16] [--steps 20] [--rounds 5]
           [--threads 1]
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.datasets.phantom import PHANTOM
from nofinding.functional.noise import generators
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.training import TrainingRun, train

SEED = 0


def plain(detector: Diff3M, films: Films, batch: int, steps: int, *, fine: bool) -> float:
    """Seconds of so many plain updates."""
    net = detector.net.train()
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = AdamW(weights, lr=1e-4)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999))  # type: ignore[no-untyped-call]
    start = time.perf_counter()
    for step in range(steps):
        rows = range(step * batch, (step + 1) * batch)
        some = films.batch([row % len(films) for row in rows])
        parts = detector.loss(net, some, generators(SEED, list(rows)), regenerate=fine)
        parts["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(net)
    return time.perf_counter() - start


def ours(detector: Diff3M, films: Films, batch: int, steps: int, *, fine: bool) -> float:
    """Seconds of so many updates by the training loop."""

    def loss(net: nn.Module, some: object, rows: Sequence[torch.Generator]) -> object:
        return detector.loss(net, some, rows, regenerate=fine)  # type: ignore[arg-type]

    config = replace(detector.config.train, steps=steps, batch_size=batch, sample_every=0)
    job = TrainingRun(progress=False, accelerator="cpu")
    return train(detector.net, loss, films, config, seed=SEED, job=job).seconds  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (
        ("size", 64),
        ("width", 16),
        ("batch", 16),
        ("steps", 20),
        ("rounds", 5),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    exams = list(PHANTOM.read(f"train=64,val=0,test=1,abnormal=1,size={options.size}", FIELDS))
    exams = [exam for exam in exams if exam.split == "train"]
    stats = EhrStats.of(exams, list(FIELDS.values()))
    films = Films(exams, stats, options.size)
    films.batch(range(len(films)))
    print("| stage | plain, films/s | ours, films/s | times |\n|---|---|---|---|")
    for stage, fine in (("1, NP and IECA", False), ("2, all branches", True)):
        seconds: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(options.rounds + 1):  # the first round warms up
            for name, loop in (("plain", plain), ("ours", ours)):
                detector = Diff3M(
                    replace(
                        Diff3M.PRESETS["small"],
                        image_size=options.size,
                        width=options.width,
                        norm_groups=options.width // 4,
                    ),
                    stats,
                )
                detector.net.start_fine_tuning() if fine else detector.net.start_base()
                seconds[name].append(loop(detector, films, options.batch, options.steps, fine=fine))
        count = options.batch * options.steps
        rate = {name: count / median(took[1:]) for name, took in seconds.items()}
        times = median(
            a / b for a, b in zip(seconds["plain"][1:], seconds["ours"][1:], strict=True)
        )
        print(f"| {stage} | {rate['plain']:.1f} | {rate['ours']:.1f} | {times:.2f} |", flush=True)


if __name__ == "__main__":
    main()
