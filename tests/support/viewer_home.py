"""A service with films of all sorts, a server beside it, and a real browser to look with."""

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from nofinding.service.result_schema import CONFLICT, summary
from nofinding.service.store.home import Home
from nofinding.service.store.job_queue import QueuedJob
from support.serving import dicom_film

HIGH, WIDE, SIDE = 400, 320, 64  # of the film that is shown; of the model's square
HOT = (20, 40)  # row and column on the square where its map is high
TOP = 2.0  # the model's threshold
EVIL = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"
RUN = "from nofinding.cli import main; raise SystemExit(main())"


def grey(row: int, column: int) -> int:
    """The value of the film there: a ramp that no window shows whole in 8 bits."""
    return (row * WIDE + column) * 65535 // (HIGH * WIDE - 1)


def payload_of(job: QueuedJob, **more: Any) -> dict[str, Any]:
    """A result as a worker keeps it."""
    row = {"field": "age", "value": 63.0, "text": "63", "unit": "a", "categories": [],
           "used": True, "attention": 0.75, "source": "header"}  # fmt: skip
    sex = {"field": "sex", "value": 1.0, "text": "M", "unit": "", "categories": ["F", "M"],
           "used": True, "attention": 0.25, "source": "request"}  # fmt: skip
    return {
        "schema": 1, "notice": "RESEARCH USE ONLY", "film": job.film, "refused": None,
        "flags": [], "conflict": False, "size": [HIGH, WIDE], "record": [row, sex],
        "seconds": 0.4, "point": [], "score": 3.25, "p_value": 0.004,
        "calibration": "412 normal films of val, plain", "stratum": None, "method": "diff3m",
        "model": "small", "sha256": "ab" * 32, "version": "0.1.0", "aspect": "pad",
        "threshold": TOP, "map": True, "normal": True,
    } | more  # fmt: skip


def arrays() -> dict[Any, np.ndarray]:
    """The ramp, a map that is high in one cell, and a pseudo-healthy film of one grey."""
    film = np.arange(HIGH * WIDE, dtype=np.int64).reshape(HIGH, WIDE) * 65535 // (HIGH * WIDE - 1)
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[HOT] = 2 * TOP
    return {
        "film": film.astype("<u2"),
        "map": heat,
        "normal": np.full((SIDE, SIDE), 0.5, np.float32),
    }


def filled(folder: Path, more: int = 0) -> tuple[Home, dict[str, str]]:
    """A home with films of every sort that no worker has to score, and their jobs by name; `more`
    are in the list alone."""
    home = Home(folder, keep_free=0)
    file = dicom_film(folder.parent / "films", 40)
    received = home.spool.put(file.name, file.read_bytes(), ".dcm")
    names = {}

    def add(name: str, why: str | None = None, conflict: bool = False, **more: Any) -> None:
        payload = {"file": received.path.name, "record": {"age": 63.0, "sex": 1.0}}
        home.queue.offer(home.pseudonym("film", name), name, payload)
        job = home.queue.claim()[0]
        names[name] = job.id
        if why is not None:
            home.queue.fail(job, why)
            return
        about = payload_of(job, conflict=conflict, **more)
        if not name.startswith("more"):
            objects = {"report": b"DICM"} if name == "high" else {}
            home.results.put(job.id, about, arrays(), objects)
        home.queue.done(job, summary(about), conflict=conflict)

    add("high", flags=["age: unknown; the model is for adults"])
    add("next", p_value=0.02, score=2.5)
    add("evil", p_value=0.03, score=2.0, flags=[EVIL, CONFLICT], conflict=True)
    add("refused", score=None, p_value=None, refused="lies on its side (turned by 90 degrees)")
    add("failed", why="the film cannot be decoded")
    for number in range(more):
        add(f"more-{number}", p_value=0.1 + number / 100, score=1.0)
    return home, names


@contextlib.contextmanager
def server(home: Path, *more: str, **environment: str) -> Iterator[str]:
    """A real one on a free port; gives its address, and ends it."""
    command = [sys.executable, "-c", RUN, "serve", "--home", str(home), "--port", "0",
               "--keep-free", "0", "--threads", "1", "--wait", "0", *more]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr or ()])
    reader.start()
    try:
        while ": serving" not in (line := lines.get(timeout=60)):
            pass
        yield line.partition(": serving")[0]
    finally:
        process.terminate()
        process.wait(60)
        reader.join(10)
        process.stderr.close()


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """Chromium without a screen, with its logs; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service as DriverService

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs the programs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("disable-dev-shm-usage", f"user-data-dir={folder}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    output = webdriver.Chrome(options=options, service=DriverService(driver))
    try:
        output.set_script_timeout(20)
        yield output
    finally:
        output.quit()


class Page(NamedTuple):
    """A browser on the viewer of a running service."""

    driver: Any
    url: str
    jobs: dict[str, str]

    def js(self, text: str, *given: object) -> Any:
        return self.driver.execute_script(text, *given)

    def until(self, true: Callable[[], Any], what: str, seconds: float = 15) -> Any:
        """Waits until it is true, and gives what it gave."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if result := true():
                    return result
            except StaleElementReferenceException:
                pass  # the page has just been drawn anew
            time.sleep(0.03)
        pytest.fail(f"never: {what}")

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.until(lambda: self.all(selector), selector)[0]

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def press(self, *keys: str) -> None:
        """Types with nothing but the keyboard."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()
        self.drawn()

    def drawn(self) -> None:
        """Waits for two frames."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

    def worklist(self, query: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/viewer/#/worklist{query}")
        self.one(".films tbody tr td")

    def film(self, name: str) -> None:
        """Opens a film, as a reader finds it who has touched nothing yet."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/viewer/#/film/{self.jobs.get(name, name)}")
        self.until(lambda: self.js("return document.getElementById('film')?.dataset.place"), name)
        self.press("2")  # all greys

    def pixel(self, row: float, column: float) -> tuple[int, int, int]:
        """The colour on the screen at a place of the film, in the film's pixels."""
        result = self.js(
            "const film = document.getElementById('film');"
            "const [scale, left, top] = film.dataset.place.split(' ').map(Number);"
            "const at = (share, from) => Math.floor(from + share * scale);"
            "return [...film.getContext('2d').getImageData("
            "at(arguments[1], left), at(arguments[0], top), 1, 1).data].slice(0, 3);",
            row,
            column,
        )
        return result[0], result[1], result[2]

    def rows(self) -> list[str]:
        return self.js(
            "return [...document.querySelectorAll('.films tbody tr')].map(r => r.dataset.job)"
        )
