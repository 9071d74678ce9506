"""The viewer in a real browser: what it shows is what the service says, at the right place."""

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from support.serving import dicom_film, small_model
from support.viewer_home import (
    EVIL,
    HIGH,
    HOT,
    SIDE,
    TOP,
    WIDE,
    Page,
    browser,
    filled,
    grey,
    server,
)

TOKEN = "a token of more than twenty characters"
SERVICE = httpx.Client(timeout=60)  # a busy machine is slow to start what reads the first film


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("viewer")
    with browser(folder / "profile") as driver:
        model = small_model(folder / "diff3m", "diff3m")
        home, jobs = filled(folder / "home", more=50)
        with server(home.folder, "--model", str(model)) as url:
            film = dicom_film(folder / "films", 1).read_bytes()
            record = json.dumps({"age": 63, "sex": "M", "weight": 80})
            for _ in range(300):  # until the worker has its model
                if SERVICE.get(f"{url}/ready").status_code == 200:
                    break
                time.sleep(0.2)
            sent = SERVICE.post(f"{url}/v1/films", files={"film": film}, data={"record": record})
            jobs["scored"] = sent.json()["job"]
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False},
            )
            yield Page(driver, url, jobs)


def test_the_worklist_is_in_the_services_order(page: Page) -> None:
    page.worklist()
    payload = SERVICE.get(f"{page.url}/v1/jobs", params={"most": 50}).json()
    assert page.rows() == [job["job"] for job in payload["jobs"]]
    assert page.rows()[:3] == [page.jobs[name] for name in ("high", "next", "evil")]
    assert page.text(".films tbody .figure") == "0.0040"
    page.one("[data-order=score]").click()
    page.until(lambda: page.all("th.by-score[aria-sort=descending]"), "sorted by score")
    page.until(lambda: page.rows()[:1] == [page.jobs["high"]], "the highest score first")
    payload = SERVICE.get(
        f"{page.url}/v1/jobs", params={"order": "score", "descending": True}
    ).json()
    assert page.rows() == [job["job"] for job in payload["jobs"]][:50]
    page.one("[data-order=created]").click()
    page.until(lambda: page.all("th.by-created[aria-sort=descending]"), "sorted by time")
    page.press("]")
    rest = page.until(lambda: len(page.rows()) < 50 and page.rows(), "the second page")
    assert page.jobs["high"] in rest


def test_what_went_wrong_is_said_in_the_worklist(page: Page) -> None:
    page.worklist("?state=failed")
    page.until(lambda: page.rows() == [page.jobs["failed"]], "failed films alone")
    assert "cannot be decoded" in page.text(".films tbody .remarks")
    assert page.one(".tabs [aria-current]").get_attribute("data-state") == "failed"
    page.worklist()
    page.until(lambda: page.jobs["evil"] in page.rows(), "the list")
    row = f".films tr[data-job='{page.jobs['evil']}']"
    assert page.text(f"{row} .conflict") == "conflict"
    assert EVIL in page.text(f"{row} .remarks")  # as text, not as a script
    assert not page.all(".remarks script, .remarks img")
    page.worklist("?order=state&descending=true&skip=50")
    page.until(lambda: page.all(".state.refused") or page.all(".state.done"), "the last ones")
    page.worklist("?order=created")
    refused = f".films tr[data-job='{page.jobs['refused']}']"
    page.one(refused)
    assert page.text(f"{refused} .state") == "refused"
    assert "lies on its side" in page.text(f"{refused} .why")


def test_a_film_shows_what_is_said_of_it_and_nothing_of_the_patient(page: Page) -> None:
    page.film("high")
    shown = page.text("body")
    assert page.text("#shown-p") == "0.0040" and page.text("#shown-score") == "3.25"
    assert "About 4 of 1,000 normal films score as high as this one" in shown
    for text in ("412 normal films of val, plain", "ab" * 32, "small (diff3m)", "nofinding 0.1.0"):
        assert text in page.text(".provenance")
    assert "age: unknown" in page.text(".flags")
    assert "DICOM" in page.text("tr[data-field=age]") and "75 %" in shown
    assert page.one("#notice").is_displayed() and "Research use only" in page.text("#notice")
    assert "P-40" not in shown and "1.2.826" not in shown
    links = [link.get_attribute("href") for link in page.all(".downloads a")]
    path = f"{page.url}/v1/jobs/{page.jobs['high']}"
    assert links == [f"{path}/report", f"{path}/objects/report"]
    page.driver.get(f"{page.url}/viewer/#/film/{page.jobs['refused']}")
    page.until(lambda: "lies on its side" in page.text(".objection"), "why it was refused")
    page.driver.get(f"{page.url}/viewer/#/film/{page.jobs['failed']}")
    page.until(lambda: "cannot be decoded" in page.text(".objection"), "why it failed")
    page.film("evil")
    first, second = (flag.text for flag in page.all(".flags li"))
    assert first.startswith("Conflict: ") and second == EVIL
    assert not page.all(".flags script, .flags img")
    assert page.driver.title == "Film – nofinding"


def test_the_map_lies_where_the_model_saw_it(page: Page) -> None:
    page.film("high")
    cell = HIGH / SIDE  # the film was padded to a square at its sides
    left = (SIDE - round(WIDE * SIDE / HIGH)) // 2
    row, column = (HOT[0] + 0.5) * cell, (HOT[1] - left + 0.5) * cell
    red, green, blue = page.pixel(row, column)
    assert red > 1.2 * blue  # coloured
    plain = page.pixel(row, column + 3 * cell)
    assert max(plain) - min(plain) <= 1
    edges = page.js(
        "const c = document.getElementById('film');"
        "const [s, l, t] = c.dataset.place.split(' ').map(Number);"
        "const {data, width} = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        "const [xs, ys] = [[], []];"
        "for (let i = 0; i < data.length; i += 4) if (data[i] - data[i + 2] > 12) {"
        "  xs.push((i / 4) % width);"
        "  ys.push(Math.floor(i / 4 / width));"
        "}"
        "const middle = (v) => (Math.min(...v) + Math.max(...v) + 1) / 2;"
        "return [(middle(xs) - l) / s, (middle(ys) - t) / s];"
    )
    assert edges == [pytest.approx(column, abs=1), pytest.approx(row, abs=1)]
    page.press("o")
    assert max(page.pixel(row, column)) - min(page.pixel(row, column)) <= 1
    page.press("o")
    assert page.pixel(row, column) == (red, green, blue)


def set_slider(page: Page, name: str, value: float) -> None:
    page.js(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )
    page.drawn()


def test_threshold_and_opacity(page: Page) -> None:
    page.film("high")
    cell = HIGH / SIDE
    row, column = (HOT[0] + 0.5) * cell, (HOT[1] - 6 + 0.5) * cell
    beside = column + 0.8 * cell  # the map falls to a fifth of its height there
    assert float(page.one("#threshold").get_property("value")) == pytest.approx(TOP, abs=0.05)

    def tinted(place: float) -> int:
        colour = page.pixel(row, place)
        return max(colour) - min(colour)

    assert tinted(column) > 20 and tinted(beside) <= 1
    set_slider(page, "threshold", 0.1)
    assert tinted(beside) > 5
    set_slider(page, "threshold", 2 * TOP)
    assert tinted(column) <= 1
    page.one("#model-threshold").click()
    page.drawn()
    strong = tinted(column)
    assert strong > 20 and tinted(beside) <= 1
    set_slider(page, "opacity", 0.1)
    assert 0 < tinted(column) < strong / 2
    set_slider(page, "opacity", 0.55)


def test_greys_are_those_of_the_16_bit_film_under_the_window(page: Page) -> None:
    page.film("high")
    places = [(50.5, 20.5), (200.5, 160.5), (390.5, 300.5)]
    full = [page.pixel(*place)[0] for place in places]
    expected = [round(255 * grey(int(row), int(column)) / 65535) for row, column in places]
    assert full == [pytest.approx(value, abs=1) for value in expected]
    page.press(*"wwwwwwwwww")  # narrower: more contrast around the middle
    narrow = [page.pixel(*place)[0] for place in places]
    assert narrow[0] < full[0] and narrow[2] > full[2]
    assert narrow[1] == pytest.approx(full[1], abs=3)
    page.press("l", "l")
    assert page.pixel(*places[1])[0] > narrow[1]
    page.press("2", "i")
    assert page.pixel(*places[0])[0] == pytest.approx(255 - expected[0], abs=1)
    page.press("i")
    dragged(page, 120, -60)
    assert page.pixel(*places[1])[0] > full[1] + 5  # up: brighter
    for preset in "134":
        page.press("2")
        before = [page.pixel(*place) for place in places]
        page.one(f"#preset-{preset}").click()
        page.drawn()
        assert [page.pixel(*place) for place in places] != before or preset == "1"


def dragged(page: Page, dx: int, dy: int) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    chain = ActionChains(page.driver, duration=20)
    chain.click_and_hold(page.one("#film")).move_by_offset(dx, dy).release().perform()
    page.drawn()


def test_zoom_keeps_what_is_under_the_pointer(page: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    page.film("high")

    def place() -> list[float]:
        return [float(n) for n in page.one("#film").get_attribute("data-place").split()]

    def under(x: float, y: float) -> list[float]:
        scale, left, top = place()
        return [(x - left) / scale, (y - top) / scale]

    canvas = page.one("#film")
    fitted, size = place(), canvas.size
    x, y = size["width"] / 2 + 90, size["height"] / 2 - 70
    before = under(x, y)
    origin = ScrollOrigin.from_element(canvas, 90, -70)
    ActionChains(page.driver).scroll_from_origin(origin, 0, -400).perform()
    page.drawn()
    assert place()[0] > 1.5 * fitted[0]
    assert under(x, y) == [pytest.approx(value, abs=1.5) for value in before]
    zoomed = place()
    page.press("\ue014")  # arrow to the right
    assert place()[1] == pytest.approx(zoomed[1] + 60, abs=1)
    ActionChains(page.driver).double_click(canvas).perform()
    page.drawn()
    assert place() == [pytest.approx(value, abs=0.01) for value in fitted]


def test_the_pseudo_healthy_film_behind_a_divider_and_beside(page: Page) -> None:
    page.film("high")
    page.press("o")
    row, left, right = 100.5, 60.5, 260.5
    own = [page.pixel(row, column)[0] for column in (left, right)]
    page.press("s")
    assert page.one("#divider").is_displayed()
    assert page.pixel(row, left)[0] == own[0]
    assert page.pixel(row, right)[0] == pytest.approx(128, abs=1) != own[1]
    page.one("#divider").send_keys("\ue010")  # End: all the way to the right
    page.drawn()
    assert page.pixel(row, right)[0] == own[1]
    assert page.one("#divider").get_attribute("aria-valuenow") == "100"
    page.press("n")
    assert page.pixel(row, right)[0] == own[1]
    assert page.text(".names") == "FilmPseudo-healthy"
    other = page.js(
        "const c = document.getElementById('film');"
        "return c.getContext('2d').getImageData(c.width * 3 / 4, c.height / 2, 1, 1).data[0]"
    )
    assert other == pytest.approx(128, abs=1)
    page.press("n", "o")


def test_what_if_scores_the_film_with_another_record(page: Page) -> None:
    page.film("scored")
    url = f"{page.url}/v1/jobs/{page.jobs['scored']}"
    result = SERVICE.get(f"{url}/result").json()
    assert page.text("#shown-score") == f"{result['score']:#.3g}"
    page.press("r")
    page.js("document.querySelector('.record details').open = true")
    age = page.one("#if-age")
    age.clear()
    age.send_keys("20")
    page.one("[aria-label='drop weight']").click()
    assert page.all("tr[data-field=weight].changed") and page.all("tr[data-field=age].changed")
    page.one("#rescore").click()
    page.until(lambda: page.text("#if-score"), "the other score", 30)
    asked = {"record": {"age": 20, "sex": "M"}}
    again = SERVICE.post(f"{url}/what-if", json=asked).json()
    assert again["new"] is False  # exactly that was asked
    other = SERVICE.get(f"{page.url}/v1/jobs/{again['job']}/result").json()
    assert other["score"] != result["score"]
    assert page.text("#if-score").startswith(f"{other['score']:#.3g} (")
    assert page.text("#shown-score") == f"{result['score']:#.3g}"
    assert "63 years20 years" in page.text(".beside") and "unknown" in page.text(".beside")
    page.js("document.querySelectorAll('[name=map-of]')[1].click()")
    page.until(lambda: page.js(
        "return performance.getEntriesByType('resource').some(e => e.name.includes(arguments[0]))",
        f"{again['job']}/map"), "the map of the what-if")  # fmt: skip
    page.one("#reset").click()
    assert age.get_property("value") == "63" and not page.all(".changed, .beside")


def test_feedback_is_stored_shown_and_exported(page: Page) -> None:
    page.film("next")
    page.press("v")
    assert not page.one("#store").is_enabled()
    page.one("#disagree").click()
    page.one("#comment").send_keys(EVIL)
    page.one("#store").click()
    page.until(lambda: page.text(".said li"), "the remark")
    assert page.text(".said li p") == EVIL and page.text(".said li strong") == "disagree"
    assert not page.all(".said script, .said img") and "owned" not in page.driver.title
    page.film("next")
    page.until(lambda: page.text(".said li p") == EVIL, "still there")
    export = page.one("#export").get_attribute("href")
    rows = [*csv.DictReader(io.StringIO(SERVICE.get(export).text))]
    row = next(row for row in rows if row["job"] == page.jobs["next"])
    assert (row["verdict"], row["comment"], row["p_value"]) == ("disagree", EVIL, "0.02")


def test_a_reader_needs_no_mouse(page: Page) -> None:
    page.worklist()
    page.until(lambda: page.rows()[:1] == [page.jobs["high"]], "the list")
    page.press("j", "k", "j")
    focus = "const e = document.activeElement, s = getComputedStyle(e);"
    assert page.js(f"{focus} return e.closest('tr').dataset.job") == page.jobs["next"]
    assert page.js(f"{focus} return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2")
    page.press("\ue007")  # Enter
    page.until(lambda: page.text("#shown-p") == "0.020", "the film")
    page.until(lambda: page.js("return document.activeElement.id") == "film", "the canvas")
    page.press("k")
    page.until(lambda: page.text("#shown-p") == "0.0040", "the film before")
    page.until(lambda: page.js("return document.getElementById('film').dataset.place"), "drawn")
    page.press("r", "o", "\ue00c")  # a letter typed into a field is text
    assert page.one("#overlay").get_attribute("aria-pressed") == "true"
    page.press("o")
    assert page.one("#overlay").get_attribute("aria-pressed") == "false"
    page.press("o", "?")
    keys = page.text("dialog.keys")
    assert "window: lungs" in keys and page.js("return document.activeElement.closest('dialog')")
    page.press("?")
    assert not page.all("dialog")
    page.press("v", " ", "\ue00c", "d")
    page.until(lambda: "#/drift" in page.driver.current_url, "the drift panel")
    page.press("g")
    page.until(lambda: page.rows(), "the worklist again")


def test_the_drift_panel_draws_what_the_service_says(page: Page) -> None:
    page.driver.get("about:blank")
    page.driver.get(f"{page.url}/viewer/#/drift")
    page.until(lambda: page.all(".chart svg"), "charts")
    payload = SERVICE.get(f"{page.url}/v1/drift").json()["models"]
    assert {text.text for text in page.all(".models h2")} >= {f"Model {name}" for name in payload}
    charts = [chart.get_attribute("aria-label") for chart in page.all(".chart svg")]
    about = next(iter(payload.values()))
    day = about["days"][-1]
    assert f"Films a day: {day['n']} on {day['day']}" in charts
    assert page.all(".chart .bar") and page.all(".chart .point")
    assert about["why"] in page.text(".tested")


def test_an_alarm_of_the_drift_test_is_seen_on_every_screen(page: Page) -> None:
    metadata = {"models": {"small": {"alarming": True}}}
    stub = (
        "const ask = window.fetch; window.fetch = (url, options) => url.includes('v1/drift')"
        f" ? Promise.resolve(new Response('{json.dumps(metadata)}')) : ask(url, options)"
    )
    output = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": stub})
    try:
        page.worklist()
        page.until(lambda: page.all("#to-drift.alarm"), "the mark")
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", output)
    page.worklist()
    page.film("high")
    assert not page.all("#to-drift.alarm")


def test_a_new_film_comes_up_by_itself_and_the_page_fits(page: Page, tmp_path: Path) -> None:
    page.worklist("?order=created&descending=true")
    film = dicom_film(tmp_path, 2).read_bytes()
    job = SERVICE.post(f"{page.url}/v1/films", files={"film": film}).json()["job"]
    page.until(lambda: page.rows()[:1] == [job], "the new film")
    for name in ("#/worklist", f"#/film/{page.jobs['high']}", "#/drift"):
        for wide in (1280, 1024):
            size = {"width": wide, "height": 720, "deviceScaleFactor": 1, "mobile": False}
            page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            page.driver.get(f"{page.url}/viewer/{name}")
            page.until(lambda: page.all(".films td, #shown-p, .chart"), name)
            page.drawn()
            over = "const d = document.documentElement, m = document.getElementById('main');"
            assert page.js(f"{over} return d.scrollWidth <= innerWidth")
            assert page.js(f"{over} return m.scrollWidth <= m.clientWidth")
            if "film" in name:
                box = page.one("#film").size
                assert box["width"] >= 600 and box["height"] >= 500
    unnamed = page.js(
        "return [...document.querySelectorAll('button, input, select, textarea, a')].filter("
        "e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_a_token_is_asked_for_and_kept_where_no_script_reads_it(page: Page, tmp_path: Path) -> None:
    home, jobs = filled(tmp_path / "home")
    with server(home.folder, "--workers", "0", NOFINDING_TOKEN=TOKEN) as url:
        other = Page(page.driver, url, jobs)
        page.driver.get(f"{url}/viewer/")
        other.one("#token").send_keys("wrong", "\ue007")
        other.until(lambda: "not the token" in other.text(".login .error"), "turned away")
        assert not other.all(".films")
        other.one("#token").send_keys(TOKEN, "\ue007")
        other.until(lambda: other.all(".films tbody a"), "let in")
        assert page.js("return document.cookie") == "" and TOKEN not in page.driver.page_source
        assert TOKEN not in page.js(
            "return JSON.stringify([{...localStorage}, {...sessionStorage}])"
        )
        other.film("next")
        other.one("#agree").click()
        other.one("#store").click()  # a change by cookie
        other.until(lambda: other.text(".said li strong") == "agree", "stored")
        other.one("#sign-out").click()
        other.one("#token")
        page.driver.get("about:blank")
        page.driver.get(f"{url}/viewer/")
        other.one("#token")


def test_nobody_else_was_asked_and_nothing_was_amiss(page: Page) -> None:
    """Of all that the tests before have done."""
    page.film("scored")
    asked = [
        message["params"]["request"]["url"]
        for entry in page.driver.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert any("/v1/jobs" in url for url in asked)
    own = ("about:", "chrome:", "chrome-untrusted:", "data:")  # the browser's first, empty page
    others = {url for url in asked if not url.startswith(own)}
    assert {url[:60] for url in others if urlsplit(url).hostname != "127.0.0.1"} == set()
    expected = r"/v1/(login|session) - .*401|willReadFrequently"  # wrong token; these tests' own
    errors = [entry["message"] for entry in page.driver.get_log("browser")]
    errors = [message for message in errors if not re.search(expected, message)]
    assert errors == []  # violations of the security policy are among them
    policy = SERVICE.get(f"{page.url}/viewer/").headers["content-security-policy"]
    assert "unsafe" not in policy and "script-src 'self'" in policy
