"""How much slower training and scoring become where other programs use the processor, too.

Two workloads, each a loop over one step of the real thing: a training step of `ae` (as `fit`
makes it) and a network call of the tiny U-Net of `ddpm` (as `score` makes many). A process runs
both for some seconds under one setting of the OpenMP runtime: by itself, beside two plain busy
loops, and beside two other torch programs. Settings take turns within a round, so that what else
the machine does meets all of them alike.

    python benchmarks/busy.py --out benchmarks/results/busy.md

takes 5 to 8 minutes on a machine that is quiet, which it must be. Each run is appended to
--runs at once; after --minutes the same command goes on where it stopped. Remove the file to begin
anew.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "nothing set": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "ours": {},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 3000": {"GOMP_SPINCOUNT": "3000"},
    "spin 30000": {"GOMP_SPINCOUNT": "30000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""What stands in the environment. The package sets its own wait as soon as it is imported; under
"nothing set" torch is imported before it, and its runtime has read the environment by then."""
COMPARED = ("nothing set", "passive", "ours")
OPENMP = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
NEIGHBOURS = ("none", "two loops", "two torch")
WORKLOADS = ("fit ae", "score ddpm")
WARM = 1  # steps that are not timed
LEAST = 3  # steps that are timed, however long they take
QUIET_COST, BUSY_COST = 1.05, 2.5
"""What our setting may cost: without neighbours, against nothing set; beside them, against itself
without."""
LOOP = "while True: pass"


def training_step() -> Callable[[], None]:
    """One step of `fit ae --preset small`: 64 films of 64 pixels."""
    import torch

    from nofinding.data.ehr import EhrStats
    from nofinding.methods import METHODS

    ae = METHODS["ae"]
    net = ae(ae.PRESETS["small"], EhrStats.of([], [])).new_net().train()  # type: ignore[attr-defined]
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
    net = ddpm(ddpm.PRESETS["tiny"], EhrStats.of([], [])).new_net().eval()  # type: ignore[attr-defined]
    side = ddpm.PRESETS["tiny"].image_size
    film, t = torch.rand(4, 1, side, side), torch.full((4,), 100.0)

    @torch.no_grad()
    def step() -> None:
        net(film, t)

    return step


STEPS = dict(zip(WORKLOADS, (training_step, scoring_step), strict=True))
Measured = dict[str, float]


def measured(step: Callable[[], None], seconds: float) -> Measured:
    """The time of a step, from all that fit into these seconds, and its processor time."""
    for _ in range(WARM):
        step()
    times: list[float] = []
    before, start = _processor_seconds(), time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < LEAST:
        since = time.perf_counter()
        step()
        times.append(time.perf_counter() - since)
    spent = _processor_seconds() - before
    return {"mean": statistics.mean(times), "cpu": spent / len(times), "steps": len(times)}


def worker(setting: str, seconds: float) -> None:
    """Prints what each workload takes in this process."""
    if setting == "nothing set":
        import torch  # noqa: F401  # before ours, which would set the wait
    import nofinding  # noqa: F401

    print(json.dumps({name: measured(new(), seconds) for name, new in STEPS.items()}))


def neighbour() -> None:
    """Trains for ever, as another program that knows nothing of ours would."""
    import torch  # noqa: F401

    step = training_step()
    while True:
        step()


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _environment(setting: Mapping[str, str]) -> dict[str, str]:
    """This one's, with nothing of OpenMP's but the setting."""
    return {k: v for k, v in os.environ.items() if k not in OPENMP} | dict(setting)


@contextmanager
def neighbours(kind: str) -> Iterator[None]:
    """Two programs that use the processor all the time, while the block runs."""
    torch = [sys.executable, __file__, "--neighbour"]
    command = {"none": None, "two loops": [sys.executable, "-c", LOOP], "two torch": torch}[kind]
    running = []
    if command is not None:
        running = [subprocess.Popen(command, env=_environment({})) for _ in range(2)]
        time.sleep(8 if kind == "two torch" else 0.5)
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(setting: str, seconds: float) -> dict[str, Measured]:
    """Both workloads in a process of their own."""
    command = [sys.executable, __file__, "--worker", setting, "--seconds", str(seconds)]
    env = _environment(SETTINGS[setting])
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    content: dict[str, Measured] = json.loads(done.stdout.splitlines()[-1])
    return content


Runs = dict[tuple[str, str, str], list[Measured]]


def rounds(options: argparse.Namespace) -> tuple[Runs, list[float]]:
    """All runs, by workload, neighbours and setting, those of `options.runs` among them, and the
    load averages before each. The settings' order turns every round."""
    lines = options.runs.read_text().splitlines() if options.runs.exists() else []
    done = [json.loads(line) for line in lines]
    known = {(run["round"], run["neighbours"], run["setting"]) for run in done}
    names, begin = options.settings, time.monotonic()
    for kind in options.neighbours:
        todo = [
            (number, setting)
            for number in range(options.rounds)
            for setting in [*names[number % len(names) :], *names[: number % len(names)]]
            if (number, kind, setting) not in known
        ]
        if not todo:
            continue
        load = os.getloadavg()[0]  # of the others: before our neighbours begin
        with neighbours(kind), options.runs.open("a") as file:
            for number, setting in todo:
                if time.monotonic() - begin > 60 * options.minutes:
                    sys.exit(f"{options.minutes:g} minutes are over; the same command goes on")
                about = {"round": number, "neighbours": kind, "setting": setting, "load": load}
                run = about | {"steps": measure(setting, options.seconds)}
                done.append(run)
                file.write(json.dumps(run) + "\n")
                file.flush()
                print(json.dumps(run), flush=True)
    runs: Runs = {}
    for run in done:
        for workload in WORKLOADS:
            key = (workload, run["neighbours"], run["setting"])
            runs.setdefault(key, []).append(run["steps"][workload])
    return runs, sorted({run["load"] for run in done})


def _median(runs: Runs, key: tuple[str, str, str], what: str = "mean") -> float:
    return statistics.median(run[what] for run in runs[key])


def table(runs: Runs) -> list[str]:
    """A row for each workload, neighbours and setting: medians over the rounds."""
    lines = [
        "| workload | neighbours | setting | runs | ms a step, median (lowest to highest) "
        "| processor ms | against itself without neighbours | against nothing set |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = (WORKLOADS, NEIGHBOURS, tuple(SETTINGS))
    for key in sorted(runs, key=lambda key: [o.index(k) for o, k in zip(order, key, strict=True)]):
        workload, kind, setting = key
        ratios = [
            f"{_median(runs, key) / _median(runs, other):.2f}" if other in runs else ""
            for other in ((workload, "none", setting), (workload, kind, "nothing set"))
        ]
        spread = [1000 * run["mean"] for run in runs[key]]
        lines.append(
            f"| {workload} | {kind} | {setting} | {len(runs[key])} "
            f"| {1000 * _median(runs, key):.1f} ({min(spread):.1f} to {max(spread):.1f}) "
            f"| {1000 * _median(runs, key, 'cpu'):.1f} | {ratios[0]} | {ratios[1]} |"
        )
    return lines


def verdicts(runs: Runs, setting: str = "ours") -> list[str]:
    """Whether our setting costs no more than it may."""
    lines = []
    for workload in WORKLOADS:
        own = (workload, "none", setting)
        bounds = [("none", (workload, "none", "nothing set"), QUIET_COST, "nothing set")]
        bounds += [(kind, own, BUSY_COST, "its quiet time") for kind in NEIGHBOURS[1:]]
        for kind, other, most, against in bounds:
            if (workload, kind, setting) not in runs or other not in runs:
                continue
            ratio = _median(runs, (workload, kind, setting)) / _median(runs, other)
            held = "held" if ratio <= most else "NOT held"
            lines.append(
                f"- {workload}, neighbours {kind}: {ratio:.2f} times {against}; "
                f"at most {most}: {held}"
            )
    return lines


def main() -> None:
    """Measures and writes the table; as --worker, is what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=SETTINGS)
    parser.add_argument("--neighbour", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(COMPARED))
    parser.add_argument("--neighbours", nargs="+", choices=NEIGHBOURS, default=list(NEIGHBOURS))
    place = Path(tempfile.gettempdir()) / "nofinding-busy.jsonl"
    parser.add_argument("--runs", type=Path, default=place)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.neighbour:
        neighbour()
    if options.worker:
        worker(options.worker, options.seconds)
        return
    begin = time.monotonic()
    runs, loads = rounds(options)
    import torch

    about = (
        f"Medians of {options.rounds} runs; a run has a step to warm up and then takes "
        f"{options.seconds:g} s a workload, or {LEAST} steps. {os.cpu_count()} cores, torch "
        f"{torch.__version__}; load average of others before the runs {loads[0]:.1f} to "
        f"{loads[-1]:.1f}; {(time.monotonic() - begin) / 60:.1f} minutes."
    )
    text = "\n".join(
        ["# On a busy machine", "", about, "", *table(runs), "", *verdicts(runs), "",
         "Made by `python benchmarks/busy.py --out benchmarks/results/busy.md`.", ""]
    )  # fmt: skip
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
