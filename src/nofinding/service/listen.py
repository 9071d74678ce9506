"""The command `listen`: a DICOM store whose films are scored, and whose results go where they are
to go."""

from nofinding.errors import UserError
from nofinding.progress import say
from nofinding.service.intake.dicom_store import Listener, ListenOptions
from nofinding.service.intake.offer import offer
from nofinding.service.store.spool import Received
from nofinding.service.supervisor import Running, logged, stopped_by_signals

__all__ = ["ListenOptions", "listen"]

LOOK = 0.5  # seconds between looks at the workers


def listen(options: ListenOptions) -> None:
    """Runs until SIGTERM or Ctrl-C; then nothing more is taken in, and what is being scored is
    finished. Raises UserError where it cannot begin, or nothing can be scored any more."""
    running = Running(options)

    def arrived(received: Received) -> None:
        accepted = offer(running.home, received)
        if accepted.new:
            running.home.audit.write("store", "received", film=received.film, job=accepted.job.id)

    with logged(), stopped_by_signals() as stop, running:
        running.pool.wait_ready(stop=stop)
        with Listener(options, running.home.spool, arrived) as listener:
            where = f"{options.host}:{listener.port}"
            say(f"listening as {options.title} on {where}; research use only")
            while not stop.wait(LOOK):
                if running.pool.broken:  # whoever watches this service starts it again
                    raise UserError("no worker can load the model any more; films wait")
        say("stopping: what is being scored is finished")
    say(f"stopped; {running.home.queue.counts()['waiting']} films wait for the next start")
