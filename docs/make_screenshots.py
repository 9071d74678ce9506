"""Draws docs/pictures/viewer-*.png: the viewer with phantom films in a real Chromium.

    .venv/bin/python docs/make_screenshots.py [FOLDER]

The films are simulated; no film of a patient is drawn here. They are scored by the shipped adult
model; the pseudo-healthy film is that of `pca`, fitted on phantom films here, as the shipped model
makes none. The days on which the films of the drift panel came are made up.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains

from nofinding.datasets.examples import Copy

WIDE, HIGH = 1280, 720
COLOURS = 160
FILMS, SIZE, DAYS = 36, 640, 12
RUN = "from nofinding.cli import main; raise SystemExit(main())"
KINDS = ("mass", "consolidation", "effusion", "nodule", "cardiomegaly", "atelectasis")
SHOWN = 24  # the film that is opened: a phantom with a mass
FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    *("disable-dev-shm-usage", "hide-scrollbars", f"window-size={WIDE},{HIGH}"),
)


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", RUN, *words]


class Hospital:
    """Phantom films on their way into a service."""

    def __init__(self, folder: Path) -> None:
        self.copy = Copy(root=folder, patients=FILMS + 8, seed=3, size=SIZE)

    def file(self, number: int, pixels: np.ndarray, uid: str = "", **more: Any) -> Path:
        root = f"1.2.826.0.1.3680043.8.498.{number + 1}"
        return self.copy.dicom(
            f"{number}.dcm", pixels, StudyInstanceUID=root, SeriesInstanceUID=f"{root}.1",
            SOPInstanceUID=uid or f"{root}.1.1", PatientID=f"phantom-{number}", **more,
        )  # fmt: skip

    def film(self, number: int) -> Path:
        kind = KINDS[number // 4 % len(KINDS)] if number % 4 == 0 and number else None
        return self.file(number, self.copy.film(number, kind))

    def record(self, number: int) -> dict[str, Any]:
        person = self.copy.person(number)
        person.pop("view")
        record: dict[str, Any] = {name: round(value, 1) for name, value in person.items()}
        names = {"sex": ("F", "M")}
        return {
            name: names[name][int(value)] if name in names else value
            for name, value in record.items()
        } | {"view": ("PA", "AP")[number % 5 == 0]}

    def odd(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """A film on its head, one with a damaged header, and one that was there with others."""
        yield self.file(FILMS, self.copy.film(FILMS)[::-1].copy()), self.record(FILMS)
        broken = self.file(FILMS + 1, self.copy.film(FILMS + 1), SamplesPerPixel=7)
        yield broken, {}
        other = self.copy.film(FILMS + 2)
        again = self.file(FILMS + 2, other, uid="1.2.826.0.1.3680043.8.498.2.1.1")
        yield again, self.record(1) | {"weight": 420}


@contextlib.contextmanager
def service(home: Path, model: str) -> Iterator[str]:
    """`nofinding serve`, until it is ready."""
    process = subprocess.Popen(
        command("serve", "--home", str(home), "--model", model, "--port", "0", "--keep-free", "0"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    url = ""
    try:
        while not url:
            line = process.stderr.readline()
            url = line.partition(": serving")[0] if ": serving" in line else ""
        os.set_blocking(process.stderr.fileno(), False)
        while httpx.get(f"{url}/ready").status_code != 200:
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def send(url: str, film: Path, record: dict[str, Any]) -> str:
    answer = httpx.post(
        f"{url}/v1/films",
        files={"film": ("film.dcm", film.read_bytes(), "application/dicom")},
        data={"record": json.dumps(record)},
        timeout=60,
    )
    job: str = answer.raise_for_status().json()["job"]
    return job


def finish(url: str) -> None:
    while any(httpx.get(f"{url}/v1/jobs").json()["counts"][s] for s in ("waiting", "working")):
        time.sleep(1)


class Browser:
    """Chromium on the viewer, and its pictures."""

    def __init__(self, profile: Path, out: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        size = {"width": WIDE, "height": HIGH, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.out = out

    def open(self, url: str, screen: str, what: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{url}/viewer/#/{screen}")
        self.wait(what)

    def wait(self, selector: str) -> Any:
        for _ in range(300):
            if elements := self.driver.find_elements("css selector", selector):
                time.sleep(0.3)
                return elements[0]
            time.sleep(0.1)
        raise SystemExit(f"the viewer never showed {selector}")

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()
        time.sleep(0.4)

    def js(self, text: str) -> None:
        self.driver.execute_script(text)
        time.sleep(0.4)

    def picture(self, name: str) -> None:
        """Writes a PNG of so few colours that it is small enough for a page."""
        file = self.out / f"viewer-{name}.png"
        self.driver.save_screenshot(str(file))
        picture = Image.open(file).convert("RGB")
        picture.quantize(COLOURS, kmeans=3, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file.name}: {file.stat().st_size / 1024:.0f} kB")


def draw(folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    hospital = Hospital(folder / "films")
    browser = Browser(folder / "profile", out)
    try:
        with service(folder / "home", "adult") as url:
            jobs = [send(url, hospital.film(n), hospital.record(n)) for n in range(FILMS)]
            for film, record in hospital.odd():
                jobs.append(send(url, film, record))
            finish(url)
            spread(folder / "home" / "queue.sqlite", jobs)
            of_adult(browser, url, jobs[SHOWN])
        model = folder / "pca"
        films = (
            f"phantom:train=400,val=100,test=0,abnormal=0,size=128,seed={hospital.copy.seed + 1}"
        )
        fit = ("fit", "pca", "--films", films, "--out", str(model), "--method.image-size", "128")
        subprocess.run(command(*fit, "--method.components", "64", "--gate", "none"), check=True)
        with service(folder / "home-pca", str(model)) as url:
            job = send(url, hospital.film(SHOWN), hospital.record(SHOWN))
            finish(url)
            browser.open(url, f"film/{job}", "#film[data-place]")
            browser.press("s", "o", ".", ".")
            browser.picture("swipe")
    finally:
        browser.driver.quit()


def spread(queue: Path, jobs: list[str]) -> None:
    """Makes up on which days the films came: the last one now."""
    with contextlib.closing(sqlite3.connect(queue)) as db, db:
        for number, job in enumerate(jobs):
            ago = 86400 * DAYS * (len(jobs) - 1 - number) / len(jobs)
            db.execute("UPDATE jobs SET made = made - ? WHERE id = ?", [ago, job])


def of_adult(browser: Browser, url: str, job: str) -> None:
    browser.open(url, "worklist?order=made&descending=true", ".films tbody a")
    browser.press("j", "j")
    browser.picture("worklist")
    browser.open(url, f"film/{job}", "#film[data-place]")
    browser.picture("film")
    browser.js("document.querySelector('.panel').scrollTop = 190")
    browser.js(
        "const age = document.getElementById('if-age'); age.value = 30;"
        "age.dispatchEvent(new Event('input'));"
        "document.querySelector('[aria-label=\"drop sex\"]').click();"
        "document.getElementById('rescore').click()"
    )
    browser.wait(".beside")
    browser.picture("what-if")
    browser.open(url, "drift", ".chart svg")
    browser.picture("drift")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent / "pictures"
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), Path(sys.argv[1]) if len(sys.argv) > 1 else here)
