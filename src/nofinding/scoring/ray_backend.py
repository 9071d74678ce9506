"""Batches scored on a Ray cluster, by Ray Data over a pool of actors; journals stay the driver's.

Each worker puts the job together as the driver did, from the same model, films and options, which
must therefore lie where every node finds them, as must --out for the maps. A batch of a worker
that died is scored again by another one.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nofinding.errors import UserError
from nofinding.runtime import use_threads
from nofinding.scoring.job import prepare
from nofinding.scoring.options import ScoreOptions
from nofinding.scoring.workspace import partial_of

__all__ = ["entries_by_ray"]

RETRIES = 5  # of a batch whose worker died; a film that kills every worker must not go on for ever


class Worker:
    """A process on the cluster that scores batches."""

    def __init__(self, files: Sequence[str], options: ScoreOptions, where: str, out: Path) -> None:
        with suppress(OSError):  # relative paths are the driver's
            os.chdir(where)
        use_threads(options.threads)
        self.scorer = prepare(files, options).scorer(partial_of(out) / "result", bool(files))[0]

    def __call__(self, rows: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
        """The entry of one batch as JSON; or, of a fault in the input, the line about it."""
        (number,) = rows["batch"].tolist()
        try:
            return {"entry": [json.dumps(self.scorer(number))], "fault": [""]}
        except UserError as error:
            return {"entry": [""], "fault": [str(error)]}


def entries_by_ray(
    todo: Sequence[int], files: Sequence[str], options: ScoreOptions
) -> Iterator[dict[str, Any]]:
    """The entries of these batches, in whatever order they are done."""
    if not todo:
        return
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=options.address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--address {options.address}: no Ray cluster there ({reason})"
            ) from None
    try:
        for row in _scored(ray, todo, files, options).iter_rows():
            if row["fault"]:
                raise UserError(row["fault"])
            yield json.loads(row["entry"])
    finally:
        if ours:
            ray.shutdown()


def _scored(ray: Any, todo: Sequence[int], files: Sequence[str], options: ScoreOptions) -> Any:
    """Ray's plan: a block a batch, so that a worker that dies takes one batch with it."""
    threads = torch.get_num_threads()  # as many as here: they decide the last digits
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0)) if options.accelerator in ("auto", "cuda") else 0
    if gpus:
        share = {"num_gpus": 1}
        workers = options.workers or gpus
    else:
        share = {"num_cpus": threads}
        workers = options.workers or max(1, int(has.get("CPU", 1)) // threads)
        if workers * threads > has.get("CPU", 1):
            raise UserError(
                f"--workers {workers} of {threads} threads: the cluster has "
                f"{has.get('CPU', 0):g} cores; give less of --workers or of --threads"
            )
    data = import_module("ray.data")
    data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = data.from_items([{"batch": number} for number in todo], override_num_blocks=len(todo))
    return rows.map_batches(
        Worker,
        batch_size=1,
        compute=data.ActorPoolStrategy(size=min(workers, len(todo))),
        fn_constructor_args=(
            list(files),
            replace(options, threads=threads),
            str(Path.cwd()),
            options.out.resolve(),
        ),
        ray_remote_args_fn=_lives,
        **share,
    )


def _lives() -> dict[str, int]:
    """How often a worker that died is started again, and its batch with it."""
    return {"max_restarts": -1, "max_task_retries": RETRIES}


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise UserError(
            "--engine ray: Ray is not installed; pip install 'nofinding[ray]'"
        ) from None
