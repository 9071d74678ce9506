"""Whether the service lives, is ready, and what it counts: for machines, without a token."""

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nofinding.service.api.response_models import Liveness, Readiness, described
from nofinding.service.api.state import Service, service_of

__all__ = ["Counted", "router"]

router = APIRouter(tags=["health"])
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 1800)
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)


@router.get(
    "/live", summary="Says that it lives", response_model=None, responses=described(Liveness)
)
async def get_live() -> JSONResponse:
    """200 as long as requests are answered."""
    return JSONResponse({"live": True})


@router.get(
    "/ready",
    summary="Says whether films are taken and scored",
    response_model=None,
    responses=described(Readiness) | described(Readiness, 503, "Not now; what is false says why."),
)
def get_ready(request: Request) -> JSONResponse:
    """200 where a worker has its model, the queue answers, and the disk has room; else 503."""
    service = service_of(request)
    payload: dict[str, Any] = {"workers": 0 if service.pool is None else service.pool.ready}
    payload["queue"] = True
    try:
        service.home.queue.counts()
    except Exception:  # whatever it is, it is no queue to rely on
        payload["queue"] = False
    try:
        service.require_disk()
        payload["disk"] = True
    except HTTPException:
        payload["disk"] = False
    scored = service.pool is None or payload["workers"] > 0
    ready = scored and payload["queue"] and payload["disk"]
    again = {} if ready else {"Retry-After": "5"}
    return JSONResponse({"ready": ready, **payload}, 200 if ready else 503, headers=again)


@router.get(
    "/metrics",
    summary="Counts, for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
def get_metrics(request: Request) -> Response:
    """Jobs, queue, seconds, workers, deliveries, disk; no id of anything."""
    counted: Counted = request.app.state.counted
    return Response(counted.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class Counted(Collector):
    """What is counted, of this process since it began, and of the home as it is."""

    def __init__(self, service: Service) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.service = service
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "nofinding_http_requests", "Requests answered.", ("method", "route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.request_seconds = Histogram(
            "nofinding_http_seconds", "Seconds until a request was answered.",
            buckets=REQUEST_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.job_seconds = Histogram(
            "nofinding_job_seconds", "Seconds from the arrival of a film to its result.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)
        self._lock = threading.Lock()
        self._visited = time.time()
        service.counted = self.count

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Of one request."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it, for Prometheus."""
        with self._lock:
            self._visited, finished = self.service.home.queue.finished(self._visited)
            for seconds in finished:
                self.job_seconds.observe(seconds)
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """What is read off at the moment."""
        service, queue = self.service, self.service.home.queue
        jobs = GaugeMetricFamily("nofinding_jobs", "Jobs by state.", labels=["state"])
        for state, count in queue.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        sent = GaugeMetricFamily("nofinding_deliveries", "Results on their way.", labels=["state"])
        for name, count in queue.delivery_counts().items():
            sent.add_metric([name], count)
        yield sent
        waiting, oldest = queue.ready()
        yield GaugeMetricFamily("nofinding_queue_depth", "Jobs that wait.", value=waiting)
        yield GaugeMetricFamily(
            "nofinding_queue_capacity", "Jobs that may wait.", value=queue.capacity
        )
        yield GaugeMetricFamily(
            "nofinding_queue_oldest_seconds", "How long the oldest job has waited.", value=oldest
        )
        ready, deaths = (
            (0, 0) if service.pool is None else (service.pool.ready, service.pool.deaths)
        )
        yield GaugeMetricFamily("nofinding_workers_ready", "Workers with a model.", value=ready)
        yield CounterMetricFamily("nofinding_worker_deaths", "Workers that died.", value=deaths)
        yield GaugeMetricFamily(
            "nofinding_disk_free_bytes",
            "Free on the disk of the home.",
            value=shutil.disk_usage(service.home.folder).free,
        )
        model = GaugeMetricFamily("nofinding_model", "Models that score.", labels=["model"])
        for name in service.drifting.names:
            model.add_metric([name], 1)
        yield model
