"""``import tracelens`` is light: what is heavy comes on first use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tracelens

REPO = Path(__file__).parent.parent
HEAVY = {"numpy", "pandas", "plotly", "dash", "rich", "msgspec", "sqlite_utils", "torch"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import tracelens",
        "import tracelens; tracelens.TraceLensError, tracelens.__version__, dir(tracelens)",
        "import tracelens.cli",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_the_api_loads_no_drawing() -> None:
    assert not loaded_by("import tracelens; tracelens.analyze") & {"pandas", "plotly", "rich"}


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_report_loads_no_tables_no_figures_and_no_replay(how: list[str]) -> None:
    """Half of a short command's time would be pandas'."""
    args = ["analyze", str(REPO / "sample_traces" / "zero2_kernels_only"), *how]
    code = f"""
import json, sys
from tracelens.cli import main
main({args!r}, standalone_mode=False)
late = [m for m in sys.modules if m.startswith("tracelens.replay.predict")]
assert not late
"""
    assert not loaded_by(code) & {"pandas", "plotly", "dash", "sqlite_utils"}


def test_the_verdict_of_a_kept_run_needs_no_tables_and_no_figures(tmp_path: Path) -> None:
    """Opening a run.db must not wait for what only other pages, or figures, need."""
    store = tmp_path / "run.db"
    tracelens.analyze(REPO / "sample_traces" / "zero2_kernels_only", db=store)
    code = f"""
from dashboards.source import open_source
from dashboards.app import create_app
from dashboards.pages import PAGES
from dashboards.query import Query
source = open_source([{str(store)!r}])
source.runs[0].job.start()
assert source.runs[0].job.wait(60).status == "done"
client = create_app(source).server.test_client()
assert client.get("/", base_url="http://127.0.0.1").status_code == 200
assert PAGES[0].layout(source.runs[0].view, Query(), source).children
"""
    late = {"numpy", "pandas", "msgspec", "sqlite_utils", "zstandard"}
    assert not loaded_by(code) & late


def test_import_takes_less_than_a_tenth_of_a_second() -> None:
    """Measured inside, without the interpreter's own start; the best of three runs."""
    code = "import time; t = time.perf_counter(); import tracelens; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=REPO).stdout)
        for _ in range(3)
    ]
    assert min(runs) < 0.1


def test_help_is_quick() -> None:
    def once() -> float:
        since = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "tracelens", "--help"], capture_output=True, check=True, cwd=REPO
        )
        return time.perf_counter() - since

    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], check=True)
    interpreter = time.perf_counter() - start
    assert min(once() for _ in range(3)) < 0.25 + interpreter


def test_every_public_name_is_there() -> None:
    for name in tracelens.__all__:
        assert getattr(tracelens, name) is not None
        assert name in dir(tracelens)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        tracelens.analyse  # noqa: B018


def test_one_version() -> None:
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert found
    assert found.group(1) == tracelens.__version__
