"""What a GPU makes of scoring and of training: films and updates a second, memory, by precision.

Networks alone, whole scores (noise, record and distances too), the command on films from the cache,
the published algorithm beside ours, and training. Each part has a time of its own; what does not
fit into it, or fails, is said in the page.

usage: python benchmarks/gpu.py --out FILE.md [--accelerator cuda] [--seconds 100] [--tiny]
--tiny tries the script itself, where there is no GPU: small networks, a few repetitions.
"""

import argparse
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.datasets.phantom import PHANTOM
from nofinding.functional.image.equalise import equalise
from nofinding.methods import Detector
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detector import Diff3M
from nofinding.methods.diff3m.feature_space.detector import Diff3MF
from nofinding.methods.diff3m.feature_space.views import Views
from nofinding.methods.diff3m.network import Answer
from nofinding.model.bundle import load_model
from nofinding.model.pretrained import model_folder
from nofinding.runtime import Portable, Runtime, to_device
from nofinding.scoring.options import ScoreOptions
from nofinding.training import TrainingRun, train
from nofinding.types import Batch
from nofinding.workflows.score import score

BATCHES = (1, 16, 128)
LEVELS = 400  # L of the published algorithm, of 1000
CALLS = 2 * (LEVELS - 1)
MIB = 2**20


@dataclass(frozen=True)
class Way:
    """How the arithmetic is done."""

    name: str
    tf32: bool = False
    low: bool = False
    last: bool = True
    """Channels last in memory, as `Runtime` lays them."""


FIRST = Way("float32, channels first", last=False)
FULL = Way("float32")
TF32 = Way("TF32", tf32=True)
LOW = Way("bfloat16", low=True)


@dataclass
class Bench:
    """The page, and the clock of the part that is being measured."""

    device: torch.device
    tiny: bool
    out: Path | None
    lines: list[str] = field(default_factory=list)
    until: float = 0.0

    @property
    def batches(self) -> tuple[int, ...]:
        """Films at once."""
        return BATCHES[:2] if self.tiny else BATCHES

    def say(self, *lines: str) -> None:
        """Puts lines into the page, which is written whole each time."""
        print(*lines, sep="\n", flush=True)
        self.lines += lines
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text("\n".join(self.lines) + "\n")

    def part(self, title: str, work: Callable[["Bench"], None], seconds: float) -> None:
        """Runs one part; what goes wrong in it is said, and the next one begins."""
        self.say("", f"## {title}", "")
        began = time.perf_counter()
        self.until = began + seconds
        try:
            work(self)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            self.say("", f"**This part failed**: {type(error).__name__}: {reason[:300]}")
        self.say("", f"({time.perf_counter() - began:.0f} s of {seconds:.0f} for this part)")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object]) -> tuple[float, float] | str:
        """Median of a few runs and the peak of the GPU's memory, MiB; or why there is none."""
        left = self.until - time.perf_counter()
        if left < 0:
            return "no time"
        try:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            if 2 * self._once(work) > left:  # to warm up
                return "no time"
            took = [self._once(work)]
            while len(took) < (2 if self.tiny else 10) and sum(took) < 0.3:
                took.append(self._once(work))
            return median(took), self.peak()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return "memory"

    def _once(self, work: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Until the GPU has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak(self) -> float:
        """MiB of the GPU's memory since the last reset; NaN without one."""
        held = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else float("nan")
        return held / MIB


@contextmanager
def arithmetic(way: Way) -> Iterator[None]:
    """Within it, convolutions and products of float32 round as the way says."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = way.tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def stats_of(fields: int = len(FIELDS)) -> EhrStats:
    """Of made-up records."""
    exams = list(PHANTOM.read("train=64,val=0,test=1,abnormal=1", FIELDS))
    return EhrStats.of(exams, list(FIELDS.values())[:fields])


def batch_of(detector: Detector, rows: int) -> Batch:
    """Films of noise: what is in them costs nothing or the same."""
    side, fields = detector.image_size, len(detector.stats.fields)
    image = torch.rand(rows, 1, side, side, generator=Generator().manual_seed(0)) * 2 - 1
    known = torch.ones(rows, fields, dtype=torch.bool)
    return Batch(image, torch.zeros(rows, fields), known, tuple(map(str, range(rows))))


def adult() -> Diff3MF:
    """The shipped model for adults."""
    detector = load_model(model_folder("adult")).detector
    assert isinstance(detector, Diff3MF)
    return detector


def diff3m(config: Diff3MConfig) -> Diff3M:
    """With first weights: what they are costs nothing."""
    return Diff3M(config, stats_of())


def sizes(bench: Bench) -> dict[str, Diff3MConfig]:
    presets = Diff3M.PRESETS
    return {"small": presets["tiny" if bench.tiny else "small"]} | {
        "paper": replace(presets["small"], width=8, norm_groups=2)
        if bench.tiny
        else presets["paper"]
    }


def films_a_second(seconds: tuple[float, float] | str, rows: int) -> str:
    """A cell of a table."""
    return seconds if isinstance(seconds, str) else f"{rows / seconds[0]:.3g}"


def networks(bench: Bench) -> None:
    """One call of each network, tensors on the GPU before and after."""
    device, head = bench.device, " | ".join(f"{b} at once" for b in bench.batches)
    bench.say(
        f"| network | arithmetic | {head} | MiB at most |", "|---" * (3 + len(bench.batches)) + "|"
    )
    for name, module, inputs in modules(bench):
        module.to(device).eval()
        for way in (FIRST, FULL, TF32, LOW):
            with arithmetic(way):
                network = Runtime(precision="bfloat16" if way.low else "float32").prepare(module)
                if not way.last:
                    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
                cells, peak = [], 0.0
                for rows in bench.batches:
                    given = inputs(rows)
                    seconds = bench.seconds(lambda n=network, g=given: n(*g))  # type: ignore[misc]
                    cells.append(films_a_second(seconds, rows))
                    peak = peak if isinstance(seconds, str) else max(peak, seconds[1])
            bench.say(f"| {name} | {way.name} | {' | '.join(cells)} | {peak:.0f} |")
        module.to("cpu")


def modules(bench: Bench) -> Iterator[tuple[str, nn.Module, Callable[[int], tuple[Tensor, ...]]]]:
    """Name, module, and its inputs for so many films."""
    device, shipped = bench.device, adult()
    c = shipped.config

    def film(rows: int) -> tuple[Tensor, ...]:
        return (equalise(torch.rand(rows, 1, c.image_size, c.image_size, device=device)),)

    yield (
        "diff3m-f, its backbone, both ways round",
        Views(shipped.backbone, taught=True, mirror=True),
        film,
    )
    width = shipped.repair.norm.normalized_shape[0] if shipped.columns else 0

    def cells(rows: int) -> tuple[Tensor, ...]:
        side = c.image_size // 16
        context = torch.zeros(rows, width, device=device)
        return (torch.randn(rows, c.channels, side, side, device=device),
                torch.full((1,), 300.0, device=device), context)  # fmt: skip

    yield "diff3m-f, a call of the repair", Answer(shipped.repair, True), cells
    for size, config in sizes(bench).items():
        net = diff3m(config).net
        embedding = net.norm.normalized_shape[0]

        def image(
            rows: int, side: int = config.image_size, d: int = embedding
        ) -> tuple[Tensor, ...]:
            return (torch.randn(rows, 1, side, side, device=device),
                    torch.full((1,), 300.0, device=device),
                    torch.zeros(rows, d, device=device))  # fmt: skip

        yield f"diff3m `{size}`, a call with MPG", Answer(net, True), image


def scores(bench: Bench) -> None:
    """`score` of a batch that lies in the CPU's memory, to results that lie there."""
    head = " | ".join(f"{b} at once" for b in bench.batches)
    bench.say(
        f"| method | calls | arithmetic | {head} | MiB at most |",
        "|---" * (4 + len(bench.batches)) + "|",
    )
    for name, detector in (
        ("diff3m-f, shipped", adult()),
        ("diff3m `small`", diff3m(sizes(bench)["small"])),
    ):
        to_device(detector, bench.device.type)
        assert isinstance(detector, Portable)
        for way in (FULL, TF32, LOW):
            with arithmetic(way):
                detector.runtime = Runtime(precision="bfloat16" if way.low else "float32")
                cells, peak = [], 0.0
                for rows in bench.batches:
                    batch = batch_of(detector, rows)
                    seconds = bench.seconds(lambda d=detector, b=batch: d.score(b))  # type: ignore[misc]
                    cells.append(films_a_second(seconds, rows))
                    peak = peak if isinstance(seconds, str) else max(peak, seconds[1])
            calls = detector.network_calls
            bench.say(f"| {name} | {calls} | {way.name} | {' | '.join(cells)} | {peak:.0f} |")


def published(bench: Bench) -> None:
    """Seconds a film of the published algorithm, from a few of its calls, and of diff3m-f."""
    preset = Diff3M.PRESETS["tiny-program" if bench.tiny else "paper-program"]
    theirs, ours = diff3m(replace(preset, respacing="ddim1000", noise_level=3)), adult()
    few = theirs.network_calls
    for detector in (theirs, ours):
        to_device(detector, bench.device.type)
    bench.say(
        f"The published algorithm (variant `program`, {preset.image_size} pixels, L = {LEVELS}: "
        f"{CALLS} calls) by {few} of its calls, times {CALLS / few:.0f}; first weights.",
        "",
        "| films at once | arithmetic | published, s a film | diff3m-f, s a film | times |",
        "|---|---|---|---|---|",
    )
    for rows in (1, 16):
        for way in (FULL, TF32, LOW):
            with arithmetic(way):
                lines = []
                for detector in (theirs, ours):
                    detector.runtime = Runtime(precision="bfloat16" if way.low else "float32")
                    batch = batch_of(detector, rows)
                    lines.append(bench.seconds(lambda d=detector, b=batch: d.score(b)))  # type: ignore[misc]
            each = [None if isinstance(f, str) else f[0] / rows for f in lines]
            whole = None if each[0] is None else each[0] * CALLS / few
            cells = [
                str(f) if taken is None else f"{taken:.3g}"
                for f, taken in zip(lines, (whole, each[1]), strict=True)
            ]
            times = f"{whole / each[1]:,.0f}" if whole and each[1] else "-"
            bench.say(f"| {rows} | {way.name} | {cells[0]} | {cells[1]} | {times} |")


def pipeline(bench: Bench) -> None:
    """The command `score` in this process: records, films from the cache, gate, p-values, CSV."""
    count = 8 if bench.tiny else 384
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        films = f"table:{written(folder, count)}"

        def run(out: str, **changed: Any) -> float:
            options = ScoreOptions(
                out=folder / out,
                model="adult",
                films=[films],
                cache=folder / "cache",
                maps=False,
                missing_fields="mask",
                gate="flag",
                accelerator=bench.device.type,  # type: ignore[arg-type]
                **changed,
            )
            start = time.perf_counter()
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                score([], options)
            return time.perf_counter() - start

        first = run("first")
        bench.say(
            f"{count} films of 320 x 320 as PNG; the first time, from the files: {first:.1f} s, "
            f"{count / first:.0f} films/s. From the cache, with what it takes to begin:",
            "",
            "| films at once | precision | s | films/s |",
            "|---|---|---|---|",
        )
        for rows in (16, 128):
            for precision in ("float32", "bfloat16"):
                if time.perf_counter() > bench.until:
                    bench.say(f"| {rows} | {precision} | no time | |")
                    continue
                took = run(f"{rows}-{precision}", batch_size=rows, precision=precision)
                bench.say(f"| {rows} | {precision} | {took:.1f} | {count / took:.0f} |")


def written(folder: Path, count: int) -> Path:
    """A table of films: one phantom, each time with other noise, so that no two are equal."""
    (exam, *_) = PHANTOM.read("train=1,val=0,test=1,abnormal=1,size=320", FIELDS)
    body, chance = exam.pixels(), np.random.default_rng(0)
    rows = ["image_id,path,age,sex,view"]
    for number in range(count):
        film = np.clip(body + 0.01 * chance.standard_normal(body.shape), 0, 1)
        file = folder / f"{number}.png"
        Image.fromarray((film * 255).astype(np.uint8)).save(file, compress_level=1)
        rows.append(f"film-{number},{file.name},{20 + number % 60},{'MF'[number % 2]},PA")
    table = folder / "films.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def training(bench: Bench) -> None:
    """Updates a second of the second stage, all branches, in the loop that `fit` uses."""
    bench.say(
        "| preset | films an update | arithmetic | updates/s | films/s | MiB at most |",
        "|---|---|---|---|---|---|",
    )
    for size, config in sizes(bench).items():
        batch = 3 if size == "paper" else config.train.batch_size
        for way in (FULL, TF32, LOW):
            if time.perf_counter() > bench.until:
                bench.say(f"| {size} | {batch} | {way.name} | no time | | |")
                continue
            with arithmetic(way):
                speed = updates(bench, config, batch, 4 if size == "paper" else 20, low=way.low)
            bench.say(f"| {size} | {batch} | {way.name} | {speed} |")


def updates(bench: Bench, config: Diff3MConfig, batch: int, steps: int, *, low: bool) -> str:
    """The last cells of a row."""
    exams = list(PHANTOM.read(f"train=8,val=0,test=1,abnormal=1,size={config.image_size}", FIELDS))
    detector = diff3m(config)
    films = Films(exams[:8], detector.stats, config.image_size)
    films.batch(range(8))  # decoded now
    detector.net.to(bench.device).start_fine_tuning()

    def loss(net: nn.Module, some: Batch, rows: Any) -> dict[str, Tensor]:
        return detector.loss(net, some, rows, regenerate=True)

    job = TrainingRun(progress=False, accelerator=bench.device.type)
    plan = replace(
        config.train, batch_size=batch, sample_every=0, precision="bf16" if low else "32"
    )
    try:
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        train(detector.net, loss, films, replace(plan, steps=2), seed=0, job=job)
        done = train(detector.net, loss, films, replace(plan, steps=steps), seed=1, job=job)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "memory | | "
    rate = steps / done.seconds
    return f"{rate:.3g} | {rate * batch:.3g} | {bench.peak():.0f}"


def head(bench: Bench) -> None:
    """What it was measured on."""
    name = platform.processor() or platform.machine()
    if bench.device.type == "cuda":
        about = torch.cuda.get_device_properties(0)
        name = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    nn.Conv2d(8, 8, 3, device=bench.device)(torch.zeros(1, 8, 8, 8, device=bench.device))
    cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    bench.say(
        "# On a GPU",
        "",
        f"`python benchmarks/gpu.py`{' --tiny: a trial of the script, no result' * bench.tiny}. "
        f"{name}; {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}"
        f"{cuda if torch.version.cuda else ''}.",
        "Films a second unless said; medians of up to ten runs after one that warms up, each with "
        "the GPU waited for. `no time`: would not have fitted into the part's time. `memory`: did "
        "not fit into the GPU's. nofinding itself scores in float32 (no TF32) or, with "
        "`--precision bfloat16`, in bfloat16, channels last; it trains in bfloat16 where the GPU "
        "multiplies it. TF32 and channels first are here to compare.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--accelerator", default="cuda")
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    bench = Bench(torch.device(options.accelerator), options.tiny, options.out)
    head(bench)
    for title, work, seconds in (
        ("Whole scores", scores, 12),
        ("The published algorithm beside diff3m-f", published, 22),
        ("The command, from the cache", pipeline, 18),
        ("Training Diff3M", training, 30),
        ("Networks alone", networks, 18),
    ):
        bench.part(title, work, seconds * options.seconds / 100)


if __name__ == "__main__":
    main()
