"""How long `tracelens dashboard` takes to open: from the command to the verdict on the screen.

Starts the command on each run or run.db that is given, in a fresh process, and notes, in seconds
since the start: the address printed, the page answered; and in a headless Chromium, which is
running already, with an empty cache: the verdict drawn (the largest cause and where a step goes),
the overview that can be used, its first figure. CPU is that of the command.
Prints the best and the median of several starts as a Markdown table and, last, JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from timeline_latency import chromium

#: Notes when a selector is first there and drawn: ms since 1970.
WATCH = """
const marks = {
  verdict: "#first h2, #page h2", overview: "#page h2", figure: "#step-bars .main-svg",
};
window.seen = {};
const look = () => {
  for (const [name, css] of Object.entries(marks))
    if (!(name in window.seen) && document.querySelector(css)) {
      window.seen[name] = 0;
      requestAnimationFrame(() => { window.seen[name] = Date.now(); });
    }
  requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
MARKS = ("address", "page", "verdict", "overview", "figure")
PATIENCE_S = 120


def open_once(target: str, browser: Any) -> dict[str, float]:
    """Start the command on a run, look at it, and end it: seconds since the start, and CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tracelens", "dashboard", target, "--port", "0"]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    began, clock = time.perf_counter(), time.time()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            told = {"address": time.perf_counter() - began}
            urllib.request.urlopen(address).read()
            told["page"] = time.perf_counter() - began
            if browser is not None:
                told |= {k: v / 1e3 - clock for k, v in _seen(browser, address).items()}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told["cpu"] = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return told


def _seen(browser: Any, address: str) -> dict[str, float]:
    """When what was drawn, ms since 1970."""
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    browser.get(address)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        seen = browser.execute_script("return window.seen") or {}
        if len([v for v in seen.values() if v]) == len(MARKS) - 2:
            browser.get("about:blank")
            return dict(seen)
        time.sleep(0.05)
    raise SystemExit(f"{address}: nothing was drawn in {PATIENCE_S} s")


def measure(target: str, n: int) -> dict[str, Any]:
    """All starts on one run."""
    with chromium() as browser:
        if browser is not None:
            browser.execute_cdp_cmd("Page.enable", {})
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        told = [open_once(target, browser) for _ in range(n)]
    return {"target": Path(target).name, "starts": told}


def table(found: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    marks = (*MARKS, "cpu")
    lines = [f"| opened | {' | '.join(f'{m} s' for m in marks)} |", "|---" * (len(marks) + 1) + "|"]
    for run in found:
        cells = []
        for mark in marks:
            values = [s[mark] for s in run["starts"] if mark in s]
            best, middle = min(values, default=0.0), statistics.median(values or [0.0])
            cells.append(f"{best:.2f} ({middle:.2f})" if values else "no browser")
        lines.append(f"| {run['target']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("targets", nargs="+", help="traces, folders or run.db")
    parser.add_argument("--starts", type=int, default=5, help="starts of each (default: 5)")
    a = parser.parse_args()
    found = [measure(t, a.starts) for t in a.targets]
    print(table(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
