"""What the dashboard's tests share: an application over built and recorded runs, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_report_case import EVIL, run_at

from dashboards.app import make, serve_in_thread
from dashboards.source import Source, open_source

REPO = Path(__file__).parent.parent
SAMPLES = REPO / "sample_traces"


def read_all(source: Source) -> Source:
    """Wait until every run is read."""
    for run in source.runs:
        run.job.start()
        assert run.job.wait(120).status == "done", run.job.state
    return source


def evil_run(folder: Path) -> Path:
    """A run whose kernels, groups and folder have names that try to be HTML."""
    return run_at(folder / "<img src=x onerror=alert(1)>", EVIL)


@contextmanager
def serving(source: Source) -> Iterator[str]:
    """The application on a free port of this machine; gives its address."""
    server = make(source, "127.0.0.1", 0)
    thread = serve_in_thread(server)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def open_runs(*paths: str | Path) -> Source:
    """Runs that are read."""
    return read_all(open_source(paths))


def browser() -> Any:
    """A headless Chromium of a laptop's size; skips the test where there is none."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        pytest.skip("selenium is not installed")
    binary = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("there is no Chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1366,768",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))
