"""How long the timeline takes to answer a viewport, and to have it on the screen.

A real trace is repeated to the wanted numbers of events, opened in the dashboard as a user would,
and asked for windows at random places at several zooms: through the application's own routes
(server), and by moving a headless Chromium (pixels: from the wish until the frame after the one
that drew the server's answer). Prints a Markdown table and, last, JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from repeat_trace import make_template, pieces, read_text

from dashboards.app import create_app, make, serve_in_thread
from dashboards.source import Source, open_source

ZOOMS = (1.0, 0.1, 0.01, 0.001, 1e-4)
#: Pixels that the page asks for on a laptop's screen: lanes are 1,000 wide, margins half of that.
WIDTH = 1_500
#: Rows on the screen with all CPU threads shown.
ROWS = 40
MOVE = """
const [t0, t1, done] = arguments, tl = window.tracelensTimeline.now, began = performance.now();
const drawn = new MutationObserver(() => {
  if (tl.busy) return;
  drawn.disconnect();
  requestAnimationFrame(() => done(performance.now() - began));
});
drawn.observe(tl.root, {attributes: true, attributeFilter: ["data-drawn"]});
tl.view.t0 = t0; tl.view.t1 = t1; tl.refresh();
"""


def grow(source: Path, target: Path, events: int) -> None:
    """Repeat a trace until it has at least so many events."""
    text = read_text(source)
    template, one = make_template(text), len(re.findall(r'"ph": ?"X"', text))
    with target.open("w", encoding="utf-8") as f:
        for piece in pieces(template, max(1, -(-events // one))):
            f.write(piece)


def ask(client: Any, what: str) -> Any:
    """An answer of the application."""
    answer = client.get(f"/_timeline/{what}", base_url="http://127.0.0.1")
    if answer.status_code != 200:
        raise SystemExit(f"{what[:200]}: {answer.status} {answer.get_data(as_text=True)}")
    return answer


def opened(source: Source) -> tuple[Any, dict[str, Any], float]:
    """A client, the rank's lanes, and how long reading them took, s."""
    began = time.perf_counter()
    source.runs[0].job.start()
    state = source.runs[0].job.wait()
    if state.status != "done":
        raise SystemExit(state.message)
    client = create_app(source).server.test_client()
    rank = source.runs[0].view.ranks[0]
    while True:
        told = ask(client, f"meta?load={rank}").get_json()
        if told["ranks"] and "lanes" in told["ranks"][0]:
            return client, told["ranks"][0], time.perf_counter() - began
        time.sleep(0.1)


def quantiles(ms: list[float]) -> dict[str, float]:
    """Median, 95th percentile and worst of milliseconds."""
    ms = sorted(ms)
    at = (len(ms) // 2, int(0.95 * (len(ms) - 1)), -1)
    return dict(zip(("median", "p95", "worst"), (round(ms[i], 1) for i in at), strict=True))


def windows(rank: dict[str, Any], zoom: float, n: int) -> Iterator[tuple[int, int]]:
    """Windows of one width at random places, the same in every run."""
    chance = random.Random(0)
    span = max(int((rank["t1"] - rank["t0"]) * zoom), 100)
    for _ in range(n):
        t0 = rank["t0"] + int(chance.random() * max(rank["t1"] - rank["t0"] - span, 0))
        yield t0, t0 + span


def rows_of(rank: dict[str, Any], threads: bool) -> str:
    """Rows as the page asks for them."""
    found = [
        f"{rank['rank']}.{i}.{d}"
        for i, lane in enumerate(rank["lanes"])
        if threads or not lane["hidden"]
        for d in range(lane["rows"])
    ]
    return ",".join(found[:ROWS])


def server_times(client: Any, rank: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Times and sizes of answers by zoom, with and without CPU threads."""
    told = []
    for threads in (False, True):
        rows = rows_of(rank, threads)
        for zoom in ZOOMS:
            wall, cpu, size = [], [], 0
            for t0, t1 in windows(rank, zoom, n):
                began, used = time.perf_counter(), time.thread_time()
                body = ask(client, f"view?t0={t0}&t1={t1}&w={WIDTH}&rows={rows}").get_data()
                cpu.append(1e3 * (time.thread_time() - used))
                wall.append(1e3 * (time.perf_counter() - began))
                size = max(size, len(body))
            shown = {"threads": threads, "rows": rows.count(",") + 1, "zoom": zoom, "bytes": size}
            told.append(shown | {"wall_ms": quantiles(wall), "cpu_ms": quantiles(cpu)})
    return told


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; None where there is none."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        yield None
        return
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1366,768"):
        options.add_argument(argument)
    made = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield made
    finally:
        made.quit()


def pixel_times(source: Source, rank: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Times until windows are on the screen, by zoom; none without a browser."""
    with chromium() as browser:
        if browser is None:
            return []
        server = make(source, "127.0.0.1", 0)
        serve_in_thread(server)
        browser.get(f"http://127.0.0.1:{server.port}/timeline")
        browser.set_script_timeout(60)
        ready = "return Boolean(window.tracelensTimeline?.now?.settled)"
        while not browser.execute_script(ready):
            time.sleep(0.2)
        told = []
        for threads in (False, True):
            if threads:
                browser.execute_script("window.tracelensTimeline.now.toggleCpu()")
                time.sleep(1)
            for zoom in ZOOMS:
                ms = [browser.execute_async_script(MOVE, *w) for w in windows(rank, zoom, n)]
                told.append({"threads": threads, "zoom": zoom, "ms": quantiles(ms)})
        server.shutdown()
    return told


def measure(source: Path, events: int, n: int, folder: Path) -> dict[str, Any]:
    """All times of one size."""
    target = folder / f"rank0_{events}.pt.trace.json"
    grow(source, target, events)
    found = open_source([target])
    client, rank, read_s = opened(found)
    told = {
        "events": rank["n"],
        "read_s": round(read_s, 1),
        "server": server_times(client, rank, n),
        "pixels": pixel_times(found, rank, n),
    }
    target.unlink()
    return told


def table(sizes: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| events | lanes | share of the run | server ms, median (p95, worst) | CPU ms, median "
        "| kB | pixels ms, median (p95, worst) |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        pixels = {(p["threads"], p["zoom"]): p["ms"] for p in size["pixels"]}
        for s in size["server"]:
            w, p = s["wall_ms"], pixels.get((s["threads"], s["zoom"]))
            drawn = f"{p['median']} ({p['p95']}, {p['worst']})" if p else "no browser"
            what = f"{s['rows']} rows" + (", CPU threads too" if s["threads"] else "")
            lines.append(
                f"| {size['events']:,} | {what} | {s['zoom']:g} "
                f"| {w['median']} ({w['p95']}, {w['worst']}) | {s['cpu_ms']['median']} "
                f"| {s['bytes'] // 1000} | {drawn} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="trace to repeat (.json, .json.gz, .json.xz)")
    parser.add_argument("--events", type=float, nargs="+", default=[0.2, 1, 5], help="millions")
    parser.add_argument("--windows", type=int, default=20, help="windows a zoom (default: 20)")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = [measure(a.source, int(m * 1e6), a.windows, Path(folder)) for m in a.events]
    print(table(sizes))
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
