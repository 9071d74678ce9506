"""How much slower training and scoring become where other programs use the processor, too.

Two workloads, each a loop over one step of the real thing: a training step of `ae` (as `fit`
makes it) and a network call of the tiny U-Net of `ddpm` (as `score` and the tests make many). Each
runs for some seconds in a process of its own under one setting of the OpenMP runtime, by itself,
beside plain busy loops, and beside other torch programs. Settings take turns within a round, so
that what else the machine does meets all of them alike.

    python benchmarks/busy.py --out benchmarks/results/busy.md

Times are given as the mean step and as the fastest tenth of the steps: on a machine that is not
quiet the latter is the nearest thing to a quiet one, for hardly any of those steps was interrupted.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "runtime's own": {"GOMP_SPINCOUNT": "300000"},
    "spin 30000": {"GOMP_SPINCOUNT": "30000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 3000": {"GOMP_SPINCOUNT": "3000"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""What is set before torch is imported. 300,000 is what libgomp takes where nothing is set."""
OPENMP = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
NEIGHBOURS = ("none", "two loops", "two torch")
WORKLOADS = ("fit ae", "score ddpm")
WARM = 3  # steps that are not timed
LOOP = "while True: pass"


def training_step() -> Callable[[], None]:
    """One step of `fit ae --preset small`: 64 films of 64 pixels."""
    import torch

    from nofinding.data.ehr import EhrStats
    from nofinding.methods import METHODS

    ae = METHODS["ae"]
    net = ae(ae.PRESETS["small"], EhrStats.of([], [])).new_net().train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    films = torch.rand(64, 1, 64, 64)

    def step() -> None:
        optimiser.zero_grad()
        (net(films) - films).square().mean().backward()
        optimiser.step()

    return step


def scoring_step() -> Callable[[], None]:
    """One network call of four films' diffusion, by the U-Net of `ddpm --preset tiny`."""
    import torch

    from nofinding.data.ehr import EhrStats
    from nofinding.methods import METHODS

    ddpm = METHODS["ddpm"]
    net = ddpm(ddpm.PRESETS["tiny"], EhrStats.of([], [])).new_net().eval()
    side = ddpm.PRESETS["tiny"].image_size
    film, t = torch.rand(4, 1, side, side), torch.full((4,), 100.0)

    @torch.no_grad()
    def step() -> None:
        net(film, t)

    return step


def worker(workload: str, seconds: float) -> None:
    """Prints the time of a step, from all that fit into these seconds, and its processor time."""
    step = training_step() if workload == WORKLOADS[0] else scoring_step()
    for _ in range(WARM):
        step()
    times: list[float] = []
    before, start = _processor_seconds(), time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 2 * WARM:
        since = time.perf_counter()
        step()
        times.append(time.perf_counter() - since)
    spent = _processor_seconds() - before
    tenth = statistics.quantiles(times, n=10)[0]
    print(json.dumps({"mean": statistics.mean(times), "tenth": tenth, "cpu": spent / len(times)}))


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _environment(setting: Mapping[str, str]) -> dict[str, str]:
    """This one's, with nothing of OpenMP's but the setting."""
    return {k: v for k, v in os.environ.items() if k not in OPENMP} | dict(setting)


@contextmanager
def neighbours(kind: str) -> Iterator[None]:
    """Two programs that use the processor all the time, while the block runs."""
    here = [sys.executable, __file__, "--worker", WORKLOADS[0], "--seconds", "1e9"]
    command = {"none": None, "two loops": [sys.executable, "-c", LOOP], "two torch": here}[kind]
    running = []
    if command is not None:
        env = _environment(SETTINGS["runtime's own"])
        running = [subprocess.Popen(command, env=env) for _ in range(2)]
        time.sleep(10 if kind == "two torch" else 0.5)
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(workload: str, setting: str, seconds: float) -> dict[str, float]:
    """One run of a workload in a process of its own."""
    command = [sys.executable, __file__, "--worker", workload, "--seconds", str(seconds)]
    env = _environment(SETTINGS[setting])
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    content: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return content


Runs = dict[tuple[str, str, str], list[dict[str, float]]]


def rounds(options: argparse.Namespace) -> Runs:
    """All runs, by workload, neighbours and setting. The settings' order turns every round."""
    runs: Runs = {}
    names = options.settings
    for number in range(options.rounds):
        turn = number % len(names)
        for kind in options.neighbours:
            with neighbours(kind):
                for setting in [*names[turn:], *names[:turn]]:
                    for workload in options.workloads:
                        measured = measure(workload, setting, options.seconds)
                        runs.setdefault((workload, kind, setting), []).append(measured)
                        line = {k: round(1000 * v, 2) for k, v in measured.items()}
                        print(number, kind, setting, workload, line, os.getloadavg()[0], flush=True)
    return runs


def _median(runs: Runs, key: tuple[str, str, str], what: str) -> float:
    return 1000 * statistics.median(run[what] for run in runs[key])


def table(runs: Runs) -> list[str]:
    """A row for each workload, neighbours and setting: medians over the rounds."""
    lines = [
        "| workload | neighbours | setting | mean ms a step (lowest to highest) "
        "| fastest tenth, ms | processor ms | mean against itself without neighbours "
        "| mean against the runtime's own "
        "| fastest tenth against the runtime's own |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in sorted(runs, key=lambda key: (key[0], NEIGHBOURS.index(key[1]))):
        workload, kind, setting = key
        mean, tenth = _median(runs, key, "mean"), _median(runs, key, "tenth")
        spread = [1000 * run["mean"] for run in runs[key]]
        alone, own = (workload, "none", setting), (workload, kind, "runtime's own")
        ratios = [
            f"{mean / _median(runs, other, what):.2f}" if other in runs else ""
            for other, what in ((alone, "mean"), (own, "mean"))
        ]
        fastest = f"{tenth / _median(runs, own, 'tenth'):.2f}" if own in runs else ""
        lines.append(
            f"| {workload} | {kind} | {setting} | {mean:.1f} ({min(spread):.1f} to "
            f"{max(spread):.1f}) | {tenth:.1f} | {_median(runs, key, 'cpu'):.1f} "
            f"| {ratios[0]} | {ratios[1]} | {fastest} |"
        )
    return lines


def main() -> None:
    """Measures and writes the table; as --worker, is what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=WORKLOADS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--neighbours", nargs="+", choices=NEIGHBOURS, default=list(NEIGHBOURS))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.seconds)
        return
    load = os.getloadavg()[0]
    lines = table(rounds(options))
    about = (
        f"{options.rounds} rounds of {options.seconds:g} s, medians; {os.cpu_count()} cores; "
        f"load average {load:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    text = "\n".join([about, "", *lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
