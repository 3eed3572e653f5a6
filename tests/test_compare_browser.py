"""Two steps aligned on the compare page, in a real, headless browser.

Skipped where there is no Chromium with its driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from dash_case import SAMPLES, evil_run, open_runs, serving
from test_dashboard_browser import complaints, text_of, until

PAIR = "const p = window.tracelensTimeline.pair;"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two recorded runs whose steps differ in length, and one whose names are hostile."""
    evil = evil_run(tmp_path_factory.mktemp("evil"))
    with serving(open_runs(SAMPLES / "zero2_slow_fabric", SAMPLES / "zero1", evil)) as at:
        yield at


def told(driver: Any, expression: str) -> Any:
    return driver.execute_script(f"{PAIR} return {expression};")


def see(driver: Any, url: str) -> None:
    """Open the page and wait until both steps are drawn."""
    driver.get("about:blank")
    driver.get(url)
    until(driver, lambda: told(driver, "Number(p.root.dataset.drawn) >= 2"), f"{url}: nothing")


def windows(driver: Any) -> list[tuple[float, float]]:
    """The window of each side's picture in ns since the beginning of its step, margins off."""
    js = """p.sides.map((s) => {
      const r = [...s.rows.values()][0], m = (r.t1 - r.t0) / 6;
      return [r.t0 + m - s.t0, r.t1 - m - s.t0];
    })"""
    return [tuple(w) for w in told(driver, js)]


def settled(driver: Any) -> bool:
    """Whether both pictures are of the window that is shown."""
    t0, t1 = told(driver, "[p.view.t0, p.view.t1]")
    near = (t1 - t0) / 200
    return all(abs(a - t0) < near and abs(b - t1) < near for a, b in windows(driver))


def press(driver: Any, keys: str) -> None:
    driver.find_element("css selector", "#pair .tl-canvas").send_keys(keys)


def test_both_steps_begin_at_zero_on_one_scale(driver: Any, address: str) -> None:
    see(driver, f"{address}/compare?before_step=2&after_step=1")
    steps = told(driver, "p.sides.map((s) => [s.run, s.step, s.t1 - s.t0])")
    assert [s[:2] for s in steps] == [["1", 2], ["2", 1]]
    t0, t1 = told(driver, "[p.view.t0, p.view.t1]")
    assert t0 < 0
    assert t1 > max(s[2] for s in steps)  # all of the longer one is shown
    until(driver, lambda: settled(driver), "the pictures are of other windows")
    bands = """p.sides.map((s) => {
      const r = s.rows.get(s.items.find((i) => i.kind === "band").key), ns = (r.t1 - r.t0) / r.w;
      return [...r.x0].map((x) => r.t0 + x * ns - s.t0);
    })"""
    for starts in told(driver, bands):
        # a band begins where the axis has its zero, to the pixel
        assert min(abs(x) for x in starts) < (t1 - t0) / told(driver, "p.view.w")
    assert not complaints(driver)


def test_moving_and_zooming_one_moves_both(driver: Any, address: str) -> None:
    from selenium.webdriver import ActionChains

    see(driver, f"{address}/compare")
    whole = told(driver, "[p.view.t0, p.view.t1]")
    press(driver, "www")
    zoomed = told(driver, "[p.view.t0, p.view.t1]")
    assert zoomed[1] - zoomed[0] < 0.7 * (whole[1] - whole[0])
    until(driver, lambda: settled(driver), "one stayed behind")
    canvas = driver.find_element("css selector", "#pair .tl-canvas")
    ActionChains(driver).move_to_element(canvas).click_and_hold().move_by_offset(-120, 0).perform()
    ActionChains(driver).release().perform()
    moved = told(driver, "[p.view.t0, p.view.t1]")
    assert moved[0] > zoomed[0]
    assert moved[1] - moved[0] == pytest.approx(zoomed[1] - zoomed[0])
    until(driver, lambda: settled(driver), "one stayed behind")
    press(driver, "f")
    assert told(driver, "[p.view.t0, p.view.t1]") == pytest.approx(whole)


def test_a_link_shows_the_same_window(driver: Any, address: str) -> None:
    see(driver, f"{address}/compare?before_step=2&after_step=2&after_rank=1")
    press(driver, "wwd")
    view = told(driver, "[p.view.t0, p.view.t1]")
    until(driver, lambda: "w0=" in driver.current_url, "the URL does not follow")
    see(driver, driver.current_url)
    assert told(driver, "[p.view.t0, p.view.t1]") == pytest.approx(view, abs=1)
    assert told(driver, "p.sides.map((s) => [s.rank, s.step])") == [[0, 2], [1, 2]]
    links = driver.find_elements("css selector", ".tl-pair-link")
    asked = [parse_qs(urlsplit(a.get_attribute("href")).query) for a in links]
    assert [(q["run"], q["rank"]) for q in asked] == [(["1"], ["0"]), (["2"], ["1"])]
    start = told(driver, "p.sides.map((s) => s.t0)")
    for q, at in zip(asked, start, strict=True):
        assert int(q["t0"][0]) == pytest.approx(at + view[0], abs=2)


def test_hovering_tells_what_ran(driver: Any, address: str) -> None:
    from selenium.webdriver import ActionChains

    see(driver, f"{address}/compare")
    canvas = driver.find_element("css selector", "#pair .tl-canvas")
    half = canvas.size["width"] / 2, canvas.size["height"] / 2
    y = told(driver, "p.sides[0].items.find((i) => i.kind === 'stream').y + 8")
    move = ActionChains(driver).move_to_element_with_offset(canvas, 260 - half[0], y - half[1])
    move.perform()
    tip = "#pair .tl-tip"
    until(driver, lambda: driver.find_element("css selector", tip).text, "nothing is told")


def test_differences_stand_beside_the_steps(driver: Any, address: str) -> None:
    see(driver, f"{address}/compare?before_step=2&after_step=2")
    rows = driver.find_elements("css selector", ".differences tbody tr")
    cells = [[c.text for c in r.find_elements("css selector", "td")] for r in rows]
    assert cells[0][0] == "the step"
    number = {name: [float(v.replace(",", "")) for v in rest] for name, *rest in cells}
    for before, after, change in number.values():
        assert after - before == pytest.approx(change, abs=0.011)
    parts = ("compute", "exposed comm", "exposed copies", "idle")
    for i in range(3):
        whole = sum(number[p][i] for p in parts if p in number)
        assert whole == pytest.approx(number["the step"][i], abs=0.03)


def test_hostile_names_stay_text_on_both_sides(driver: Any, address: str) -> None:
    see(driver, f"{address}/compare?before=3&after=1")
    assert "<img src=x" in told(driver, "p.sides[0].name")
    assert not driver.find_elements("css selector", "#page img, #page script")
    assert "aligned" in text_of(driver)
    assert not complaints(driver)
