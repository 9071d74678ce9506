"""The command `listen`: a DICOM store whose films are scored, and whose results go where they are
to go."""

from nofinding.run.progress import say
from nofinding.service.intake import offer
from nofinding.service.listen import Listener, ListenOptions
from nofinding.service.running import Running, logged, stopped_by_signals
from nofinding.service.spool import Received

__all__ = ["ListenOptions", "listen"]


def listen(options: ListenOptions) -> None:
    """Runs until SIGTERM or Ctrl-C; then nothing more is taken in, and what is being scored is
    finished. Raises UserError where it cannot begin."""
    running = Running(options)

    def arrived(received: Received) -> None:
        accepted = offer(running.home, received)
        if accepted.new:
            running.home.audit.write("store", "received", film=received.film, job=accepted.job.id)

    with logged(), stopped_by_signals() as stop, running:
        running.pool.wait_ready()
        with Listener(options, running.home.spool, arrived) as listener:
            where = f"{options.host}:{listener.port}"
            say(f"listening as {options.title} on {where}; research use only")
            stop.wait()
        say("stopping: what is being scored is finished")
    say(f"stopped; {running.home.queue.counts()['waiting']} films wait for the next start")
