"""The timeline in a real, headless browser: what is drawn, moved, selected, found and linked to.

Skipped where there is no Chromium with its driver.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from dash_case import SAMPLES, evil_run, open_runs, serving

WAIT_S = 30
NOW = "const tl = window.tracelensTimeline.now;"
FIND = """
return tl.server.json("find", {q: arguments[0], after: 0, forward: 1})
  .then((f) => tl.select(f.next));
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A recorded run of four ranks, and one whose names are hostile."""
    evil = evil_run(tmp_path_factory.mktemp("evil"))
    with serving(open_runs(SAMPLES / "zero2_slow_fabric", evil)) as at:
        yield at


def until(driver: Any, what: Callable[[], Any], why: str) -> Any:
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    waiting = WebDriverWait(driver, WAIT_S, 0.1, ignored_exceptions=[WebDriverException])
    return waiting.until(lambda _: what(), why)


def told(driver: Any, expression: str) -> Any:
    return driver.execute_script(f"{NOW} return {expression};")


def see(driver: Any, url: str) -> None:
    """Open the timeline and wait until all ranks are read and drawn."""
    driver.get("about:blank")
    driver.get(url)
    until(driver, lambda: told(driver, "tl.settled && tl.drawn > 0 && !tl.busy"), f"{url}: nothing")


def window(driver: Any) -> tuple[float, float]:
    t0, t1 = told(driver, "[tl.view.t0, tl.view.t1]")
    return t0, t1


def press(driver: Any, keys: str) -> None:
    driver.find_element("css selector", ".tl-canvas").send_keys(keys)


def pixels(driver: Any, color: str) -> int:
    """How many pixels of the canvas have a colour."""
    return int(
        driver.execute_script(
            NOW
            + "const c = tl.canvas, d = c.getContext('2d').getImageData(0, 0, c.width, c.height)"
            ".data, w = arguments[0].match(/../g).map((h) => parseInt(h, 16)); let n = 0;"
            "for (let i = 0; i < d.length; i += 4)"
            "  n += d[i] === w[0] && d[i + 1] === w[1] && d[i + 2] === w[2]; return n;",
            color.lstrip("#"),
        )
    )


def test_exposed_communication_is_on_the_canvas_in_both_schemes(driver: Any, address: str) -> None:
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        see(driver, f"{address}/timeline?run=1")
        until(
            driver, lambda: pixels(driver, "#D55E00") > 5_000, f"nothing exposed is seen: {scheme}"
        )
        assert pixels(driver, "#0072B2") > 1_000, "no compute"
        ground = pixels(driver, "#1f2124" if scheme == "dark" else "#ffffff")
        assert ground > 10_000, f"not {scheme}"
    assert not [m for m in driver.get_log("browser") if m["level"] == "SEVERE"]


def test_keys_move_zoom_and_fit(driver: Any, address: str) -> None:
    see(driver, f"{address}/timeline?run=1")
    all_of_it = window(driver)
    press(driver, "www")
    zoomed = window(driver)
    assert zoomed[1] - zoomed[0] < 0.8 * (all_of_it[1] - all_of_it[0])
    press(driver, "d")
    moved = window(driver)
    assert moved[0] > zoomed[0]
    assert moved[1] - moved[0] == pytest.approx(zoomed[1] - zoomed[0])
    press(driver, "a")
    press(driver, "s")
    assert window(driver)[1] - window(driver)[0] > zoomed[1] - zoomed[0]
    press(driver, "f")
    t0, t1 = window(driver)
    assert t1 - t0 >= all_of_it[1] - all_of_it[0]


def test_dragging_selects_and_sums(driver: Any, address: str) -> None:
    from selenium.webdriver import ActionChains

    see(driver, f"{address}/timeline?run=1")
    canvas = driver.find_element("css selector", ".tl-canvas")
    ActionChains(driver).move_to_element(canvas).click_and_hold().move_by_offset(200, 5).perform()
    ActionChains(driver).release().perform()
    panel = until(driver, lambda: driver.find_element("css selector", ".tl-panel h3"), "no sums")
    until(driver, lambda: panel.text.startswith("Selected"), "no sums")
    rows = driver.find_elements("css selector", ".tl-ranks tbody tr")
    assert [r.text.split("\n")[0][:6] for r in rows] == [f"rank {i}" for i in range(4)]
    shares = [float(x) for x in re.findall(r"([\d.]+)%", rows[0].text)]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    press(driver, "\ue00c")
    assert told(driver, "tl.range") is None


def test_search_selects_and_names_the_launch(driver: Any, address: str) -> None:
    see(driver, f"{address}/timeline?run=1")
    press(driver, "/")
    field = driver.switch_to.active_element
    assert field.get_attribute("class") == "tl-search"
    field.send_keys("DevKernel_AllReduce\n")
    name = until(driver, lambda: driver.find_element("css selector", ".tl-name").text, "not found")
    assert "AllReduce" in name
    panel = driver.find_element("css selector", ".tl-panel").text
    assert "launched by" in panel
    assert "The same collective on all ranks" in panel
    assert re.search(r"\d+ of \d+", driver.find_element("css selector", ".tl-matches").text)


def test_a_link_shows_the_same_to_a_colleague(driver: Any, address: str) -> None:
    see(driver, f"{address}/timeline?run=1")
    press(driver, "www")
    press(driver, "c")
    driver.execute_script(NOW + "tl.pin({type: 'lane', rank: 2, lane: 2})")
    driver.execute_script(NOW + FIND, "AllGather")
    until(driver, lambda: "sel=" in driver.current_url, "the URL does not follow")
    until(driver, lambda: told(driver, "!tl.busy"), "busy")
    wanted = (
        "[Math.round(tl.view.t0), Math.round(tl.view.t1), tl.event.event, [...tl.open], tl.pins]"
    )
    before = told(driver, wanted)
    until(driver, lambda: f"t0={before[0]}&" in driver.current_url, "the URL does not follow")
    link = driver.current_url
    see(driver, link)
    until(driver, lambda: told(driver, "tl.event !== null && tl.event !== undefined"), "no event")
    assert told(driver, wanted) == before


def test_a_step_of_another_page_is_shown(driver: Any, address: str) -> None:
    see(driver, f"{address}/timeline?run=1&rank=2&step=2")
    t0, t1 = told(driver, "tl.rank(2).steps.find(([n]) => n === 2).slice(1)")
    assert window(driver) == pytest.approx((t0, t1))
    assert parse_qs(urlsplit(driver.current_url).query)["rank"] == ["2"]


def test_hovering_tells_what_is_there(driver: Any, address: str) -> None:
    from selenium.webdriver import ActionChains

    see(driver, f"{address}/timeline?run=1")
    canvas = driver.find_element("css selector", ".tl-canvas")
    lane = told(driver, "tl.items.findIndex((i) => i.info.kind === 'stream')")
    y = told(driver, f"tl.items[{lane}].y + tl.items[{lane}].one / 2 + 24 - tl.scroll")
    half = canvas.size["width"] / 2, canvas.size["height"] / 2
    for x in (300, 420):
        move = ActionChains(driver).move_to_element_with_offset(canvas, x - half[0], y - half[1])
        move.perform()
        until(
            driver,
            lambda: driver.find_element("css selector", ".tl-tip").text,
            f"nothing is told of {x}, {y}",
        )


def test_the_picture_can_be_had(driver: Any, address: str) -> None:
    see(driver, f"{address}/timeline?run=1")
    raw = base64.b64decode(told(driver, "tl.canvas.toDataURL('image/png').split(',')[1]"))
    assert raw.startswith(b"\x89PNG")
    assert len(raw) > 10_000


def test_hostile_names_stay_text(driver: Any, address: str) -> None:
    see(driver, f"{address}/timeline?run=2")
    driver.execute_script(NOW + FIND, "<")
    name = until(driver, lambda: driver.find_element("css selector", ".tl-name"), "no details")
    assert "<" in name.text
    assert not driver.find_elements(
        "css selector", "#timeline img, #timeline script, #timeline b i"
    )
    press(driver, "?")
    assert driver.find_element("css selector", ".tl-help").is_displayed()
    assert not [m for m in driver.get_log("browser") if m["level"] == "SEVERE"]


def test_reading_can_be_cancelled_and_begun_again(driver: Any) -> None:
    source = open_runs(SAMPLES / "zero2_slow_fabric")
    view, go = source.runs[0].view, threading.Event()
    assert view is not None

    def slow(rank: int, tick: Any = None) -> Any:
        while not go.wait(0.01):
            tick("rank", 1, 4)
        return view.open_rank(rank, tick)

    source.runs[0].job._result = replace(view, open_rank=slow)
    with serving(source) as at:
        driver.get(f"{at}/timeline")
        button = until(driver, lambda: driver.find_element("css selector", ".tl-cancel"), "none")
        until(driver, button.is_displayed, "reading cannot be cancelled")
        button.click()
        status = "tl.meta.ranks.find((r) => r.rank === 0).state.status"
        until(driver, lambda: told(driver, status) == "cancelled", "it went on")
        until(driver, lambda: not button.is_displayed(), "there is nothing to cancel any more")
        go.set()
        driver.execute_script(NOW + "tl.clickLabel(tl.items.find((i) => i.rank === 0), 10)")
        until(driver, lambda: told(driver, "tl.drawn > 0"), "it was not read again")
