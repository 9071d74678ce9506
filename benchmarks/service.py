"""The service under load: 256 clients at once, slow ones beside them, and 64 DICOM senders.

The first part starts `nofinding serve` with a model that costs next to nothing, sends films from
many clients at once while slow ones hold connections open, and waits until every film that was
accepted has its result. The second stores objects by C-STORE over many associations at once into a
`Listener` with a queue behind it. Whatever was accepted has to be there afterwards: lost must be 0.

usage: python benchmarks/service.py FOLDER [--clients 256] [--films 4] [--slow 32]
           [--associations 64] [--stores 50] [--out FILE.md]
"""

import argparse
import asyncio
import concurrent.futures
import io
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation
from watching import machine, memory_of, run

import nofinding
from nofinding.datasets.examples import Copy
from nofinding.service.intake.dicom_store import Listener, ListenOptions
from nofinding.service.intake.offer import identity_of, offer
from nofinding.service.store.home import Home
from nofinding.service.store.spool import Received

SIDE = 64
ROOT = "1.2.826.0.1.3680043.8.498"
PACKAGE = str(Path(nofinding.__file__).parents[1])
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass
class Figures:
    """What became of many sendings."""

    seconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)

    def rows(self, what: str, elapsed: float) -> list[tuple[str, str]]:
        cuts = statistics.quantiles(self.seconds, n=100, method="inclusive")
        reasons = ", ".join(f"{count} x {why}" for why, count in sorted(self.refused.items()))
        return [
            (f"{what} in {elapsed:.0f} s", f"{len(self.seconds) / elapsed:.0f} a second"),
            ("seconds each: median, 95 %, 99 %, longest",
             f"{cuts[49]:.3f}, {cuts[94]:.3f}, {cuts[98]:.3f}, {max(self.seconds):.3f}"),
            ("told to come again", reasons or "none"),
        ]  # fmt: skip


def template(folder: Path) -> Dataset:
    """A small film of a phantom patient."""
    copy = Copy(root=folder / "films", patients=8, seed=0, size=SIDE)
    return dcmread(copy.dicom("film.dcm", copy.film(0), StudyInstanceUID=f"{ROOT}.1"))


def numbered(film: Dataset, number: int) -> Dataset:
    """The film as another instance, with other pixels."""
    film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.9.{number}"
    pixels = bytearray(film.PixelData)
    pixels[:4] = number.to_bytes(4, "little")
    film.PixelData = bytes(pixels)
    return film


def file_of(film: Dataset) -> bytes:
    stream = io.BytesIO()
    film.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def model_in(folder: Path) -> Path:
    """A model that costs next to nothing."""
    if not (folder / "model" / "model.json").exists():
        films = f"phantom:train=200,val=40,test=0,abnormal=0,size={SIDE}"
        fit = ["fit", "thumbnail", "--films", films, "--gate", "none", "--threads", 1]
        done = run([*fit, "--out", folder / "model"], ENVIRONMENT)
        assert done.status == 0, done.said
    return folder / "model"


async def send(client: httpx.AsyncClient, films: Sequence[bytes], figures: Figures) -> None:
    """One client: its films one after the other, each until it is taken."""
    for film in films:
        while True:
            begin = time.monotonic()
            try:
                answer = await client.post("/v1/films", files={"film": ("film", film)})
            except httpx.HTTPError as error:
                figures.refused[type(error).__name__] += 1
                await asyncio.sleep(0.5)
                continue
            if answer.status_code in (200, 202):
                figures.seconds.append(time.monotonic() - begin)
                figures.accepted.add(answer.json()["job"])
                break
            figures.refused[str(answer.status_code)] += 1
            await asyncio.sleep(min(5.0, float(answer.headers.get("retry-after", "1"))))


async def dribble(port: int, gone: Counter[str]) -> None:
    """One slow client: a byte every now and then, until it is let go."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/films HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
        try:
            for byte in (head + "Content-Type: multipart/form-data; boundary=B\r\n\r\n").encode():
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
            while await reader.read(100):
                pass
        except OSError:
            pass
        finally:
            writer.close()
        gone["let go"] += 1


async def load(port: int, clients: int, films: Sequence[bytes], slow: int) -> Figures:
    figures, gone = Figures(), Counter[str]()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, limits=limits, timeout=120) as client:
        slow_ones = [asyncio.create_task(dribble(port, gone)) for _ in range(slow)]
        each = [films[start::clients] for start in range(clients)]
        await asyncio.gather(*(send(client, mine, figures) for mine in each))
        for task in slow_ones:
            task.cancel()
        await asyncio.gather(*slow_ones, return_exceptions=True)
    figures.refused.update({f"slow client {why}": count for why, count in gone.items()})
    return figures


def by_http(
    folder: Path, film: Dataset, clients: int, each: int, slow: int
) -> list[tuple[str, str]]:
    """Films by HTTP, until all of them have their results."""
    home = folder / "home"
    films = [file_of(numbered(film, number)) for number in range(clients * each)]
    command = [
        *(sys.executable, "-c", "import sys; from nofinding.cli import main; sys.exit(main())"),
        *("serve", "--home", str(home), "--model", str(model_in(folder)), "--port", "0"),
        *("--keep-free", "0", "--threads", "1", "--batch-size", "32", "--capacity", "600"),
    ]
    errors = folder / "serve.err"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            command, stderr=stream, env={**os.environ, "PYTHONPATH": PACKAGE, **ENVIRONMENT}
        )
    try:
        while not (address := re.search(r":(\d+): serving", errors.read_text())):
            assert process.poll() is None, errors.read_text()
            time.sleep(0.1)
        port = int(address[1])
        while httpx.get(f"http://127.0.0.1:{port}/ready").status_code != 200:
            time.sleep(0.2)
        before, begin = memory_of(process.pid), time.monotonic()
        figures = asyncio.run(load(port, clients, films, slow))
        elapsed = time.monotonic() - begin
        held = memory_of(process.pid)
        queue = Home(home, keep_free=0).queue
        while (counts := queue.counts())["waiting"] + counts["working"]:
            time.sleep(0.2)
        whole = time.monotonic() - begin
        done = sum(getattr(queue.get(job), "state", "") == "done" for job in figures.accepted)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    return [
        *figures.rows(f"{len(films)} films from {clients} clients, {slow} slow beside", elapsed),
        ("all of them scored after", f"{whole:.0f} s"),
        ("accepted, scored, lost",
         f"{len(figures.accepted)}, {done}, {len(figures.accepted) - done}"),
        ("memory of the service, workers and decoders, before and after",
         f"{before:.0f}, {held:.0f} MiB"),
    ]  # fmt: skip


def stored(film: bytes, port: int, first: int, count: int) -> list[tuple[float, int]]:
    """One association: seconds and status of each object."""
    ae = AE(ae_title="SCANNER")
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 300
    statuses, data = [], dcmread(io.BytesIO(film))
    association = ae.associate("127.0.0.1", port, ae_title="NOFINDING")
    assert association.is_established
    for number in range(first, first + count):
        begin = time.monotonic()
        status = association.send_c_store(numbered(data, number))
        statuses.append((time.monotonic() - begin, int(status.get("Status", 0xFFFF))))
    association.release()
    return statuses


def sender(given: tuple[bytes, int, int, int, int]) -> list[tuple[float, int]]:
    """A process with some of the associations, each in a thread."""
    film, port, first, associations, count = given
    with concurrent.futures.ThreadPoolExecutor(associations) as threads:
        waiting = [
            threads.submit(stored, film, port, first + number * count, count)
            for number in range(associations)
        ]
        return [one for future in waiting for one in future.result()]


def by_dicom(
    folder: Path, template: Dataset, associations: int, each: int
) -> list[tuple[str, str]]:
    """Objects by C-STORE, into the spool and the queue."""
    film = file_of(template)
    home = Home(folder / "listen", capacity=10**6, keep_free=0)

    def arrived(received: Received) -> None:
        offer(home, received, patient=identity_of(received.path).patient)

    processes = min(8, associations)
    options = ListenOptions(port=0, accept=("SCANNER",), associations=associations, seconds=300)
    figures = Figures()
    with Listener(options, home.spool, arrived) as listener:
        share = associations // processes
        given: list[Any] = [
            (film, listener.port, number * share * each, share, each) for number in range(processes)
        ]
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            pool.map(len, [""] * processes)  # they have loaded their libraries
            begin = time.monotonic()
            statuses = [one for part in pool.map(sender, given, chunksize=1) for one in part]
        elapsed = time.monotonic() - begin
    for seconds, status in statuses:
        if status == 0:
            figures.seconds.append(seconds)
        else:
            figures.refused[f"{status:#06x}"] += 1
    stored, jobs = len([*home.spool.folder.iterdir()]), sum(home.queue.counts().values())
    total = processes * share * each
    return [
        *figures.rows(f"{total} objects over {processes * share} associations", elapsed),
        ("answered 0x0000, on the disk, in the queue, lost",
         f"{len(figures.seconds)}, {stored}, {jobs}, {len(figures.seconds) - min(stored, jobs)}"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, default in (
        ("clients", 256), ("films", 4), ("slow", 32), ("associations", 64), ("stores", 50)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    busy = os.getloadavg()[0]
    film = template(given.folder)
    rows = by_http(given.folder, film, given.clients, given.films, given.slow)
    rows += by_dicom(given.folder, film, given.associations, given.stores)
    about = (
        "`python benchmarks/service.py FOLDER`. The model is `thumbnail`, on films of 64 pixels: "
        "what is measured is the service,\nnot the scoring. Clients and senders run on the same "
        f"machine: {machine()}.\nLoad average at the start: {busy:.1f}."
    )
    lines = ["# The service under load", "", about, "", "| what | measured |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in rows]
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
