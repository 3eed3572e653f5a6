"""The dashboard in a real, headless browser over recorded runs: every page, links, schemes, names.

Skipped where there is no Chromium with its driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dash_case import SAMPLES, evil_run, open_runs, serving

from dashboards.pages import PAGES
from dashboards.source import open_source

WAIT_S = 20


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two recorded runs, and one whose names are hostile."""
    evil = evil_run(tmp_path_factory.mktemp("evil"))
    with serving(open_runs(SAMPLES / "zero2_slow_fabric", SAMPLES / "zero3", evil)) as at:
        yield at


def until(driver: Any, what: Callable[[], Any], why: str) -> Any:
    """Wait until something is so, and return it."""
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    ignored = [StaleElementReferenceException, WebDriverException]
    waiting = WebDriverWait(driver, WAIT_S, ignored_exceptions=ignored)
    return waiting.until(lambda _: what(), why)


def text_of(driver: Any, css: str = "#page") -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0])?.innerText", css))


def see(driver: Any, url: str, text: str) -> str:
    """Open a page and wait until it shows a text; returns all of it."""
    driver.get(url)
    until(driver, lambda: text in text_of(driver), f"{url} shows no {text!r}")
    return text_of(driver)


def complaints(driver: Any) -> list[str]:
    """What the browser's console has complained of since it was asked last."""
    return [m["message"] for m in driver.get_log("browser") if m["level"] == "SEVERE"]


SHOWS = {
    "/": "What slows the step",
    "/overlap": "Waiting and transfer",
    "/ranks": "Who waits for whom",
    "/setup": "Read off the recording",
    "/compare": "What was changed",
    "/memory": "No allocator events were recorded",
    "/whatif": "Predict",
    "/flops": "No FLOPs were counted",
}


@pytest.mark.parametrize("path", [p.path for p in PAGES if p.path in SHOWS])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_shows_and_nothing_complains(
    driver: Any, address: str, path: str, scheme: str
) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    see(driver, f"{address}{path}?run=2", SHOWS[path])
    root = "return document.documentElement.dataset.mantineColorScheme"
    until(driver, lambda: driver.execute_script(root) == scheme, f"the page is not {scheme}")
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert driver.execute_script(wide), "the page is wider than a laptop's screen"
    assert not complaints(driver)


def test_figures_are_drawn(driver: Any, address: str) -> None:
    see(driver, f"{address}/?run=1", "Where each step went")
    bars = "return document.querySelectorAll('#step-bars .bars .point').length"
    until(driver, lambda: driver.execute_script(bars) > 8, "no bars")


def test_nothing_is_asked_of_another_host(driver: Any, address: str) -> None:
    driver.get_log("performance")
    for page in PAGES:
        driver.get(f"{address}{page.path}?run=1")
        until(driver, lambda: text_of(driver), "no page")
    asked = [json.loads(m["message"])["message"] for m in driver.get_log("performance")]
    urls = [
        m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) > 20
    assert not [u for u in urls if not u.startswith((address, "data:", "blob:"))]


def test_the_scheme_can_be_switched_and_stays(driver: Any, address: str) -> None:
    root = "return document.documentElement.dataset.mantineColorScheme"
    see(driver, f"{address}/?run=1", "What slows the step")
    was = driver.execute_script(root)
    driver.find_element("id", "scheme").click()
    until(driver, lambda: driver.execute_script(root) != was, "nothing was switched")
    see(driver, f"{address}/setup?run=1", "Setup")
    until(driver, lambda: driver.execute_script(root) != was, "it did not stay")
    tables = "return document.body.dataset.agThemeMode"
    assert driver.execute_script(tables) == driver.execute_script(root)
    driver.execute_script("localStorage.clear()")


def test_pages_keep_the_run_and_the_back_button_works(driver: Any, address: str) -> None:
    see(driver, f"{address}/?run=2", "DeepSpeed ZeRO-3")
    driver.find_element("link text", "Ranks").click()
    until(driver, lambda: "Who waits" in text_of(driver), "the link leads nowhere")
    assert driver.current_url == f"{address}/ranks?run=2"
    driver.back()
    until(driver, lambda: "What slows" in text_of(driver), "no way back")


def test_a_choice_is_in_the_url(driver: Any, address: str) -> None:
    see(driver, f"{address}/overlap?run=2&rank=3&step=2", "When it ran")
    fields = driver.find_elements("css selector", "#page input.mantine-Select-input")
    assert [f.get_attribute("value") for f in fields] == ["rank 3", "step 2"]
    fields[0].click()
    option = "//div[@role='option'][.='rank 1']"
    until(driver, lambda: driver.find_element("xpath", option).is_displayed(), "no choice")
    driver.find_element("xpath", option).click()
    until(driver, lambda: "rank=1" in driver.current_url, "the URL does not follow")
    assert "run=2" in driver.current_url


def test_a_finding_leads_to_its_place(driver: Any, address: str) -> None:
    see(driver, f"{address}/?run=1", "What slows the step")
    driver.find_element("partial link text", "Show me on the timeline").click()
    drawn = "return Boolean(document.querySelector('#timeline canvas'))"
    until(driver, lambda: driver.execute_script(drawn), "no timeline")
    assert driver.current_url.startswith(f"{address}/timeline?run=1&rank=")
    assert "t0=" in driver.current_url
    assert not complaints(driver)


def test_a_bar_leads_to_its_step(driver: Any, address: str) -> None:
    from selenium.webdriver import ActionChains

    see(driver, f"{address}/?run=1", "Where each step went")
    bars = "#step-bars .bars .point path"
    until(driver, lambda: len(driver.find_elements("css selector", bars)) > 8, "no bars")
    ActionChains(driver).move_to_element(driver.find_element("css selector", bars)).perform()
    hover = "#step-bars .hoverlayer .hovertext"
    until(driver, lambda: driver.find_elements("css selector", hover), "nothing on hovering")
    ActionChains(driver).click().perform()
    until(driver, lambda: "/timeline?" in driver.current_url, "the bar leads nowhere")
    assert "rank=0" in driver.current_url


def test_a_table_is_saved(driver: Any, address: str, tmp_path: Path) -> None:
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    see(driver, f"{address}/overlap?run=2", "All collectives")
    button = driver.find_element("xpath", "//button[.='Save as CSV']")
    driver.execute_script("arguments[0].scrollIntoView()", button)
    button.click()
    file = tmp_path / "tracelens-collectives.csv"
    until(driver, file.exists, "no file")
    until(driver, lambda: "all_gather" in file.read_text(), "nothing in it")


def test_a_change_is_predicted_and_the_url_keeps_it(driver: Any, address: str) -> None:
    see(driver, f"{address}/whatif?run=1", "Predict")
    driver.find_element("xpath", "//label[.='off']").click()
    driver.find_element("xpath", "//button[.='Predict']").click()
    until(driver, lambda: "of the replayed step" in text_of(driver), "no prediction")
    assert "set.overlap_comm=false" in driver.current_url
    assert "With overlap_comm = false" in see(driver, driver.current_url, "confidence")


def test_a_remedy_leads_to_its_prediction(driver: Any, address: str) -> None:
    """Without a prediction of its own asked for: the link's settings are set and predicted."""
    see(driver, f"{address}/?run=1", "What slows the step")
    link = "a[href*='set.reduce_bucket_size=']"
    href = until(driver, lambda: driver.find_elements("css selector", link), "no link")[0]
    assert href.get_attribute("textContent") == "Predict it →"
    see(driver, href.get_attribute("href"), "predicted")
    # a run of another setup has no such remedy
    see(driver, f"{address}/?run=2", "What slows the step")
    assert not driver.find_elements("css selector", link)


def test_better_settings_are_searched_and_saved(driver: Any, address: str, tmp_path: Path) -> None:
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    see(driver, f"{address}/whatif?run=1", "Search for better")
    driver.find_element("xpath", "//button[.='Search for better']").click()
    until(driver, lambda: "Better settings" in text_of(driver), "nothing was found")
    button = driver.find_element("id", "patch-save")
    driver.execute_script("arguments[0].scrollIntoView()", button)
    button.click()
    file = tmp_path / "ds_config.tuned.json"
    until(driver, file.exists, "no file")
    until(driver, file.read_text, "nothing in it")
    assert json.loads(file.read_text())["zero_optimization"]


def test_what_cannot_be_predicted_is_said(driver: Any, address: str) -> None:
    see(driver, f"{address}/whatif?run=1&set.nonsense=1", "not a key that can be changed")
    see(driver, f"{address}/whatif?run=2&set.stage=2", "this recording cannot tell")


def test_a_figure_is_saved(driver: Any, address: str, tmp_path: Path) -> None:
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    see(driver, f"{address}/ranks?run=2", "Who waits for whom")
    button = "document.querySelector('.modebar-btn[data-title^=\"Download\"]')"
    until(driver, lambda: driver.execute_script(f"return Boolean({button})"), "no button")
    driver.execute_script(f"{button}.click()")
    file = tmp_path / "tracelens-who-waits.png"
    until(driver, file.exists, "no file")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_no_figure_offers_to_send_data_away(driver: Any, address: str) -> None:
    titles = "return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"
    for path in ("/", "/overlap", "/ranks"):
        driver.get(f"{address}{path}?run=2")
        until(driver, lambda: driver.execute_script(titles), f"no figure on {path}")
        offered = set(driver.execute_script(titles))
        assert offered == {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}


def test_names_from_a_trace_stay_text(driver: Any, address: str) -> None:
    """Kernels, groups and the run's folder hold script, image and bold tags."""
    for page in PAGES:
        driver.get(f"{address}{page.path}?run=3")
        until(driver, lambda: len(text_of(driver)) > 40, f"{page.path} shows nothing")
        made = "return [...document.querySelectorAll('#page img, #page script, header img')].length"
        assert driver.execute_script(made) == 0
        assert not driver.execute_script("return Boolean(window.evil)")
    assert not complaints(driver)
    see(driver, f"{address}/overlap?run=3", "<b>evil & co</b>")


def test_hovering_shows_names_as_text(driver: Any, address: str) -> None:
    see(driver, f"{address}/overlap?run=3", "When it ran")
    texts = """
      return [...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p.data)
        .flatMap(t => [t.hovertext, t.y, t.name]).flat(3).filter(x => typeof x === 'string')
    """
    until(driver, lambda: driver.execute_script(texts), "no figures")
    raw = [
        t for t in driver.execute_script(texts) if "<" in t.replace("<br>", "").replace("<b>", "")
    ]
    assert not [t for t in raw if "evil" in t or "script" in t]


def test_the_verdict_is_there_before_any_script(driver: Any, address: str) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(f"{address}/?run=1")
        said = driver.find_element("css selector", "#first h2").text
        numbers = driver.find_elements("css selector", "#first .stat-value")
        assert len([n for n in numbers if n.is_displayed()]) == 5
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    see(driver, f"{address}/?run=1", "Where each step went")
    until(driver, lambda: not driver.find_elements("id", "first"), "it lies over the page")
    assert driver.find_element("css selector", "#page h2").text == said
    assert not complaints(driver)


def test_reading_shows_how_far_it_is_and_the_page_follows(driver: Any) -> None:
    with serving(open_source([SAMPLES / "zero1_overlap"])) as at:
        see(driver, at, "What slows the step")
        assert not complaints(driver)


def test_reading_can_be_cancelled_and_begun_again(driver: Any) -> None:
    import threading

    source = open_source([SAMPLES / "zero1"])
    job, go = source.runs[0].job, threading.Event()
    work = job._work

    def slow(tick: Any) -> Any:
        while not go.wait(0.01):
            tick("rank0", 30_000_000, 120_000_000)
        return work(tick)

    job._work = slow
    with serving(source) as at:
        see(driver, at, "30 of 120 MB")
        driver.find_element("id", "pending-cancel").click()
        until(driver, lambda: "Cancelled." in text_of(driver), "it went on")
        go.set()
        driver.find_element("id", "pending-again").click()
        until(driver, lambda: "What slows the step" in text_of(driver), "it did not begin again")


def test_a_run_that_cannot_be_read_says_why(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "rank0.json").write_text("{")
    with serving(open_source([tmp_path])) as at:
        assert "rank0.json" in see(driver, at, "That did not work")
