"""The use case `serve`: films by HTTP, scored by worker processes, looked at in a browser."""

import contextlib
import logging
import os
import resource
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nofinding.datasets.cohort import known_fields
from nofinding.errors import UserError
from nofinding.progress import say
from nofinding.service.monitoring import Drifting
from nofinding.service.options import ServeOptions
from nofinding.service.store.feedback import Feedback
from nofinding.service.store.home import Home
from nofinding.service.workers.pool import Pool

if TYPE_CHECKING:
    from nofinding.service.api.state import Service
    from nofinding.service.supervisor import Running

__all__ = ["serve"]

log = logging.getLogger(__name__)
TOKEN = "NOFINDING_TOKEN"
SHORTEST = 20  # characters of a token
DRAIN = 30.0  # seconds from SIGTERM to the end


def need_service() -> None:
    """Raises UserError where the extra is not installed."""
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "highdicom"):
        if find_spec(package) is None:
            raise UserError("the service needs the extra: pip install 'nofinding[clinical]'")


def token_of(options: ServeOptions) -> str | None:
    """The token, from the file or the environment. Raises UserError where there has to be one, or
    it is too short to keep anybody out."""
    from nofinding.service.api.auth import is_loopback

    token, source = os.environ.get(TOKEN), TOKEN
    if options.token_file is not None:
        source = f"--token-file {options.token_file}"
        try:
            mode = options.token_file.stat().st_mode
            token = options.token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise UserError(f"{source}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UserError(f"{source}: a token is of ASCII characters") from None
        if mode & 0o077:
            raise UserError(f"{source}: others may read it; `chmod 600` it first")
    if not token and source == TOKEN:
        if not is_loopback(options.host):
            raise UserError(
                f"--host {options.host}: without a token only this machine may be served; set "
                f"{TOKEN} or give --token-file"
            )
        return None
    if not token or len(token) < SHORTEST or not token.isascii() or not token.isprintable():
        raise UserError(f"{source}: a token has {SHORTEST} or more printable ASCII characters")
    return token


def serve(options: ServeOptions) -> int:
    """Serves until SIGTERM or Ctrl-C, then finishes what is at work, in 30 seconds at most.

    Gives the exit code. Raises UserError where it cannot begin.
    """
    need_service()
    token = token_of(options)
    fields = known_fields(options.fields_file)
    _many_files()
    from nofinding.service.supervisor import Running, logged, stopped_by_signals

    running = Running(options)
    pool = running.pool if options.workers else None
    service = _service(running.home, options, fields, pool, token)
    with logged(), stopped_by_signals() as stop:
        return _run(options, service, running, stop)


def _service(
    home: Home, options: ServeOptions, fields: Any, pool: Pool | None, token: str | None
) -> "Service":
    from nofinding.service.api.state import Limits, Service

    film = options.largest * 2**20
    return Service(
        home=home,
        fields=fields,
        drifting=Drifting(home, options.model, fields),
        feedback=Feedback(options.home / "feedback.sqlite"),
        pool=pool,
        token=token,
        limits=Limits(
            film=film,
            films=options.batch_films,
            batch=max(film, 2**30),
            upload=options.upload_seconds,
            requests=options.connections,
        ),
    )


def _run(
    options: ServeOptions, service: "Service", running: "Running", stop: threading.Event
) -> int:
    """Listens, with the workers beside it, until `stop`."""
    from nofinding.service.api.app import make_app
    from nofinding.service.api.server import Server, configured

    server = Server(configured(make_app(service), options), stop)
    socket = server.bound(options.host, options.port)  # before a worker is started
    code, pool = 0, running.pool
    with running:
        begun = threading.Event()
        watch = threading.Thread(
            target=_watch, args=(pool, options, stop, begun), name="start", daemon=True
        )
        watch.start()
        where = socket.getsockname()
        scheme = "https" if options.tls_key else "http"
        say(f"{scheme}://{options.host}:{where[1]}: serving; research use only")
        server.run(sockets=[socket])
        pool.drain = max(0.0, DRAIN - server.seconds_since_stop())
    if options.workers and pool.broken and not begun.is_set():
        say("nofinding: no worker could load the model; its own lines say why")
        code = 2
    return code


def _watch(
    pool: Pool, options: ServeOptions, stop: threading.Event, begun: threading.Event
) -> None:
    """Ends a service that has never had a model: nothing would ever be scored."""
    while options.workers and not stop.wait(0.2):
        if pool.ready:
            begun.set()
            log.info("a worker has its model")
            return
        if pool.broken:
            stop.set()


def _many_files() -> None:
    """Lets the process hold as many connections and files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
