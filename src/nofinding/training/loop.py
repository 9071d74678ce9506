"""The loop: draw, predict, update, average, write down.

Everything that is random follows from (seed, step, row of the global batch). A run that was
killed, split over processes or cut into micro-batches therefore learns the same.
"""

import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.training.config import Loss, TrainConfig, Trained, TrainingRun
from nofinding.training.log import Log
from nofinding.training.state import State, begin, identity, restore, say, store
from nofinding.types import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from nofinding.data.batch import Films

__all__ = ["train"]

CPU_BF16 = ("avx512_bf16", "amx_tile")


def train(
    net: nn.Module,
    loss: Loss,
    films: "Films",
    config: TrainConfig,
    *,
    seed: int,
    job: TrainingRun,
    sample: Callable[[nn.Module], dict[str, Tensor]] | None = None,
) -> Trained:
    """Trains `net` in place; it then holds the averaged weights, in eval mode, where it lay.

    Weights with requires_grad False stay as they are. With `job.folder`, a checkpoint is written
    every `checkpoint_every` steps, at the end, and upon SIGTERM (then SystemExit(143)) or SIGINT
    (then KeyboardInterrupt); with `job.resume` a run goes on from there, on a CPU bit for bit.
    `sample` gets the averaged network every `sample_every` steps and gives pictures by name,
    (n, 1, h, w) in [-1, 1]. Under torchrun the global batch is split over the processes.

    Raises UserError: no films; the loss is not finite; the folder holds another run's
    checkpoints, or damaged ones only; the disk refuses.
    """
    if len(films) == 0:
        raise UserError("no film to train on: 0 films are left after split and findings")
    home = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    fabric = _launch(config, job)
    state = begin(net.to(fabric.device), config)
    world = fabric.world_size
    shared = identity(config, films, seed=seed, world=world, about=job.about)
    if job.folder:
        notes = restore(job.folder, state, shared, resume=job.resume)
        say(notes if fabric.is_global_zero else [])
        fabric.barrier()  # nobody writes into the folder while another still reads it
    if state.step < config.steps:
        run = _Run(fabric, state, loss, films, config, seed)
        seeded = [fabric.device.index] if fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices=seeded), _signals() as caught:
            _loop(run, job, shared, sample, caught)
    net.load_state_dict(state.ema.module.state_dict())
    net.to(home).eval()
    films_used = state.step * config.batch_size * config.accumulate * world
    return Trained(state.step, state.seconds, films_used / state.seconds, tuple(state.history))


class _Objective(nn.Module):
    """Network and loss as one module, so that its forward pass runs under autocast and DDP."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net = net
        self._loss = (loss,)  # in a tuple: a loss that is a module is not to be optimised
        # Without one unused weight, DDP warns at length that it looked for some in vain.
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        image: Float[Tensor, "b 1 h w"],
        ehr: Float[Tensor, "b f"],
        known: Bool[Tensor, "b f"],
        ids: tuple[str, ...],
        rows: Sequence[Generator],
    ) -> dict[str, Tensor]:
        parts = self._loss[0](self.net, Batch(image, ehr, known, ids), rows)
        # Only the loss keeps its graph: DDP takes every output's for one that is descended.
        return {k: v if k == "loss" else v.detach() for k, v in parts.items()}


class _Run:
    """One step at a time, the same whatever the number of processes and micro-batches."""

    def __init__(
        self,
        fabric: "Fabric",
        state: State,
        loss: Loss,
        films: "Films",
        config: TrainConfig,
        seed: int,
    ) -> None:
        self.fabric, self.state, self.films = fabric, state, films
        self.config, self.seed = config, seed
        self.films_a_step = config.batch_size * config.accumulate * fabric.world_size
        self.stop: set[int] = set()
        self._objective: Any
        self._optimizer: Any
        self._objective, self._optimizer = fabric.setup(
            _Objective(state.net, loss), state.optimizer
        )
        state.net.train()

    @property
    def lr(self) -> float:
        """Of the step to come: a linear rise over the warm-up, then level, then a linear fall."""
        c, step = self.config, self.state.step
        rise = (step + 1) / max(1, c.warmup)
        fall = (c.steps - step) / (c.anneal + 1) if c.anneal else 1.0
        return c.lr * min(1.0, rise, fall)

    def step(self, caught: set[int]) -> dict[str, float]:
        """One update; gives the parts of the loss, over the films of all processes.

        `caught` are the signals that this process got; `stop` holds those that any got, so that
        all leave after the same step. Raises UserError, and updates nothing, where the loss or
        its gradient is not finite.
        """
        fabric, lr = self.fabric, self.lr
        for group in self.state.optimizer.param_groups:
            group["lr"] = lr
        parts = self._descend()
        norm = fabric.clip_gradients(
            self._objective, self._optimizer, max_norm=self.config.clip, error_if_nonfinite=False
        )
        stops = (signal.SIGTERM, signal.SIGINT)
        mine = torch.tensor([float(number in caught) for number in stops], device=fabric.device)
        reported = torch.cat([torch.stack([*parts.values(), torch.as_tensor(norm)]).float(), mine])
        reduced: Any = fabric.all_reduce(reported, reduce_op="mean")  # one exchange for all of them
        *values, term, interrupt = reduced.tolist()
        numbers: dict[str, float] = dict(zip([*parts, "gradient_norm"], values, strict=True))
        self.stop = {n for n, share in zip(stops, (term, interrupt), strict=True) if share > 0}
        for name, what in (("loss", "loss"), ("gradient_norm", "gradient of the loss")):
            if not math.isfinite(numbers[name]):
                raise UserError(
                    f"the {what} became {numbers[name]} at step {self.state.step + 1}; lower lr "
                    f"(it was {lr:g}), lengthen warmup, or use precision 32"
                )
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.state.ema.update_parameters(self.state.net)
        self.state.history.append(numbers["loss"])
        return {**numbers, "lr": lr}

    def _descend(self) -> dict[str, Tensor]:
        """Leaves the gradient of the global batch in the weights; gives this process's means."""
        step, config, rank = self.state.step, self.config, self.fabric.global_rank
        # For layers that draw from torch itself (dropout): as if it were the first step.
        torch.manual_seed(generators(self.seed, [f"torch/{step}/{rank}"])[0].initial_seed())
        sums: dict[str, Tensor] = {}
        for micro in range(config.accumulate):
            first = (rank * config.accumulate + micro) * config.batch_size
            rows = range(first, first + config.batch_size)  # of the global batch
            places = [step * self.films_a_step + row for row in rows]
            batch = self.films.batch([order(self.seed, len(self.films), at) for at in places])
            on = [self.fabric.to_device(x) for x in (batch.image, batch.ehr, batch.known)]
            last = micro == config.accumulate - 1
            with self.fabric.no_backward_sync(self._objective, enabled=not last):
                chance = generators(self.seed, [f"{step}/{row}" for row in rows])
                parts = self._objective(*on, batch.ids, chance)
                self.fabric.backward(parts["loss"] / config.accumulate)
            for name, value in parts.items():
                share = value.detach() / config.accumulate
                sums[name] = sums[name] + share if name in sums else share
        return sums


def order(seed: int, count: int, place: int) -> int:
    """The film at `place` in the endless stream: every epoch is a permutation of its own."""
    return _permutation(seed, count, place // count)[place % count]


@lru_cache(maxsize=2)
def _permutation(seed: int, count: int, epoch: int) -> list[int]:
    chance = generators(seed, [f"epoch/{epoch}"])[0]
    shuffled: list[int] = torch.randperm(count, generator=chance).tolist()
    return shuffled


def _loop(
    run: _Run,
    job: TrainingRun,
    shared: Mapping[str, Any],
    sample: Callable[[nn.Module], dict[str, Tensor]] | None,
    caught: set[int],
) -> None:
    """Steps until the end or a signal; raises SystemExit or KeyboardInterrupt for the latter."""
    state, config, fabric = run.state, run.config, run.fabric
    writer = fabric.is_global_zero
    with Log(
        job.folder if writer else None,
        step=state.step,
        steps=config.steps,
        progress=job.progress and writer,
    ) as log:
        took: deque[float] = deque(maxlen=max(10, config.log_every))
        while state.step < config.steps and not run.stop:
            began = time.perf_counter()
            numbers = run.step(caught)
            took.append(time.perf_counter() - began)
            state.seconds += took[-1]
            numbers["films_per_second"] = run.films_a_step * len(took) / sum(took)
            step, last = state.step, state.step == config.steps
            log.show(step, numbers["loss"], numbers["films_per_second"])
            if step % config.log_every == 0 or last:
                log.write(step, numbers)
            due = config.sample_every and (step % config.sample_every == 0 or last)
            if sample and due and writer:
                with torch.no_grad():
                    log.pictures(step, sample(state.ema.module))
            if job.folder and (step % config.checkpoint_every == 0 or last or run.stop):
                if writer:
                    store(job.folder, state, shared, keep=config.keep)
                fabric.barrier()  # who leaves first has torchrun end the one that writes
    if run.stop and writer and job.folder:
        say([f"stopped after step {state.step}; --resume goes on from there"])
    if run.stop or caught:  # the latter alone: a signal after the last step
        _leave(run.stop | caught)


def _leave(caught: set[int]) -> None:
    """Ends the program as the signal would have, now that all is written."""
    if signal.SIGTERM in caught:
        raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt


@contextmanager
def _signals() -> Iterator[set[int]]:
    """Notes SIGTERM and SIGINT instead of dying of them in the middle of a step."""
    caught: set[int] = set()

    def note(number: int, frame: FrameType | None) -> None:
        caught.add(number)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _launch(config: TrainConfig, job: TrainingRun) -> "Fabric":
    """The device, the precision, and the other processes if torchrun started any."""
    from lightning_fabric import Fabric  # here: it takes a second, and scoring needs none of it
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    elastic = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    world = int(os.environ.get("WORLD_SIZE", "1")) if elastic else 1
    if job.devices > 1 and world == 1:
        raise UserError(
            f"devices: {job.devices} needs one process a device; start it with torchrun "
            f"--no-python --nproc-per-node {job.devices} nofinding fit ..."
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if elastic else 1
    fabric = Fabric(
        accelerator=job.accelerator,
        devices=here,
        num_nodes=world // here,
        # A loss may pass by a branch (record dropout), so some weights may have no gradient.
        strategy=DDPStrategy(find_unused_parameters=True) if elastic else "auto",
        precision="bf16-mixed" if _bf16(config, job) else "32-true",
    )
    fabric.launch()
    return fabric


def _bf16(config: TrainConfig, job: TrainingRun) -> bool:
    if config.precision != "auto":
        return config.precision == "bf16"
    if job.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if job.accelerator == "mps" or (
        job.accelerator == "auto" and torch.backends.mps.is_available()
    ):
        return False
    # Private, and missing on some processors; without them bfloat16 is emulated, and slow.
    asks = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in CPU_BF16]
    return any(ask() is True for ask in asks if ask is not None)
