"""The service's application without a network, for the tests of its routes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from nofinding.data.ehr import FIELDS
from nofinding.service.api.app import make_app
from nofinding.service.api.guard import Guard
from nofinding.service.api.state import Service
from nofinding.service.monitoring import Drifting
from nofinding.service.store.feedback import Feedback
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import QueuedJob

TOKEN = "a token of more than twenty characters"
TOLD: dict[str, Any] = {
    "schema": 1, "notice": "RESEARCH USE ONLY", "refused": None, "flags": ["age: <b>told</b>"],
    "conflict": False, "size": [64, 32], "seconds": 0.5, "point": [], "score": 1.5,
    "p_value": 0.02, "calibration": "8 normal films", "stratum": None, "method": "diff3m",
    "model": "adult", "sha256": "0" * 64, "version": "0", "aspect": "pad", "threshold": 0.25,
    "map": True, "normal": True,
    "record": [
        {"field": "age", "value": 63.0, "text": "63", "unit": "a", "categories": [], "used": True,
         "attention": 0.5, "source": "request"},
        {"field": "sex", "value": None, "text": "", "unit": "", "categories": ["F", "M"],
         "used": True, "attention": None, "source": "request"},
    ],
}  # fmt: skip


@dataclass
class Pool:
    """Workers that are said to be there."""

    ready: int = 1
    deaths: int = 0
    broken: bool = False


def home_in(tmp_path: Path, **more: Any) -> Home:
    return Home(tmp_path / "home", **{"keep_free": 0, **more})


def app_for(home: Home, model: Path | str = "adult", **more: Any) -> Guard:
    """A service on that home; `more` are attributes of `Service`."""
    return make_app(
        Service(
            home=home,
            fields=FIELDS,
            drifting=Drifting(home, str(model), FIELDS),
            feedback=Feedback(home.folder / "feedback.sqlite"),
            **more,
        )
    )


def client_of(app: Guard, **more: Any) -> TestClient:
    """Who asks from this machine."""
    return TestClient(app, base_url="http://127.0.0.1:8000", **more)


def png(seed: int = 0, kind: str = "png") -> bytes:
    """A picture file of noise."""
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (32, 32), np.uint8)
    Image.fromarray(noise).save(stream, format=kind)
    return stream.getvalue()


def done_job(home: Home, film: str = "film", payload: Mapping[str, Any] | None = None) -> QueuedJob:
    """A job that a worker has done."""
    about = {**TOLD, "film": film, **(payload or {})}
    file = home.spool.put(film, film.encode(), ".png").path.name
    home.queue.offer(film, f"digest of {film}", {"file": file, "record": {"age": 63.0}})
    (job,) = home.queue.claim()
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    arrays: dict[Any, np.ndarray] = {
        "film": (65535 * ramp[:, ::2]).astype(np.uint16),
        "map": ramp,
        "normal": 1 - ramp,
    }
    home.results.put(job.id, about, arrays, {"report": b"DICOM with CANARY^NAME"})
    remaining = ("score", "p_value", "model", "sha256", "refused", "flags", "seconds", "point")
    assert home.queue.done(job, {name: about[name] for name in remaining}, pixels="p")
    queued = home.queue.get(job.id)
    assert queued is not None
    return queued
