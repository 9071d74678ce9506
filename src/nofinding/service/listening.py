"""The command `listen`: a DICOM store whose films are scored, and whose results go where they are
to go."""

from nofinding.run.progress import say
from nofinding.service.listen import Listener, ListenOptions
from nofinding.service.running import Service, stopped_by_signals
from nofinding.service.spool import Received

__all__ = ["ListenOptions", "listen"]


def listen(options: ListenOptions) -> None:
    """Runs until SIGTERM or SIGINT; then nothing more is taken in, and what is being scored is
    finished. Raises UserError where it cannot begin."""
    service = Service(options)

    def arrived(received: Received) -> None:
        accepted = service.home.offer(received, {})
        if accepted.new:
            service.home.audit.write("store", "received", film=received.film, job=accepted.job.id)

    with stopped_by_signals() as stop, service:
        service.pool.wait_ready()
        with Listener(options, service.home.spool, arrived) as listener:
            say(f"listening as {options.title} on {options.host}:{listener.port}")
            stop.wait()
        say("stopping: what is being scored is finished")
    say(f"stopped; {service.home.queue.counts()['waiting']} films wait for the next start")
