"""The documentation is true: links lead somewhere, commands run, what it quotes is printed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from dataclasses import fields
from pathlib import Path

import pytest

import tracelens
from tracelens.replay.tune import Tuning

REPO = Path(__file__).parent.parent
DEMO = REPO / "sample_traces" / "zero2_slow_fabric"
PAGES = sorted(
    [*REPO.glob("*.md"), *(REPO / "docs").glob("*.md"), REPO / "sample_traces" / "README.md"]
)
README = (REPO / "README.md").read_text(encoding="utf-8")

#: What the documents may name that a checkout does not hold.
NOT_FILES = {"traces/run1"}
_BEGIN = re.compile(r"<!-- report excerpt: begin.*-->\n")
_END = "<!-- report excerpt: end -->"


def pyproject_version() -> str:
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert found
    return found.group(1)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [t for t in targets if "://" not in t]
    assert not [t for t in local if not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_files_named_exist(page: Path) -> None:
    tops = "tracelens|collectors|dashboards|tests|docs|sample_traces|benchmarks|.ci"
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w/.-])(?:{tops})/[\w./*-]*", text)) - NOT_FILES
    named = {n.rstrip(".") for n in named}
    assert not [n for n in sorted(named) if not list(REPO.glob(n.rstrip("/")))]


def test_make_targets_named_exist() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = "\n".join(p.read_text(encoding="utf-8") for p in PAGES)
    named = set(re.findall(r"^ {4}make ([a-z]+)|`make ([a-z]+)", text, re.MULTILINE))
    named_targets = {a or b for a, b in named}
    assert {"demo", "test"} <= named_targets <= targets


def test_the_unrelated_project_of_that_name_is_never_installed() -> None:
    files = [*PAGES, *(REPO / d for d in ("Makefile", ".ci/run")), *REPO.glob("tracelens/**/*.py")]
    wrong = re.compile(r"pip3? install (?:-\S+ )*tracelens(?!-deepspeed)\b")
    assert not [str(f) for f in files if wrong.search(f.read_text(encoding="utf-8"))]


def test_versions_agree() -> None:
    changelog = (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert newest
    assert newest.group(1) == pyproject_version() == tracelens.__version__


def commands() -> list[str]:
    """Every ``tracelens ...`` line of the documents that names a sample run."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in PAGES)
    found = re.findall(r"^ {4}(?:\.venv/bin/)?tracelens (.+)$", text, re.MULTILINE)
    return sorted({c.split("#")[0].strip() for c in found})


def run_cli(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracelens", *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run.db of the documents, with a run in it."""
    path = tmp_path_factory.mktemp("store") / "run.db"
    tracelens.analyze(DEMO, db=path)
    return path


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("dashboard ")])
def test_dashboard_commands_serve(command: str, store: Path) -> None:
    """They run until they are stopped; the last --port counts."""
    stands = {"RUN": str(DEMO.relative_to(REPO)), "run.db": str(store)}
    args = [stands.get(a, a) for a in shlex.split(command)]
    arguments = [sys.executable, "-m", "tracelens", *args, "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=REPO) as running:
        try:
            assert running.stdout is not None
            url = running.stdout.readline().split()[0]
            with urllib.request.urlopen(url) as answer:
                assert b"react-entry-point" in answer.read()
        finally:
            running.terminate()


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("dashboard ")])
def test_commands_run(command: str, tmp_path: Path, store: Path) -> None:
    """RUN stands for a run, run.db for a store with one, and files are written elsewhere."""
    stands = {
        "RUN": str(DEMO.relative_to(REPO)),
        "report.html": str(tmp_path / "report.html"),
        "run.db": str(store),
        "tables/": str(tmp_path / "tables"),
        "ds_config.json": str(tmp_path / "ds_config.json"),
        "tuned.json": str(tmp_path / "tuned.json"),
    }
    (tmp_path / "ds_config.json").write_text('{"zero_optimization": {"stage": 2}}')
    args = [stands.get(a, a) for a in shlex.split(command)]
    done = run_cli(*args)
    assert done.returncode == 0, done.stderr
    assert done.stdout or (tmp_path / "report.html").exists()


def test_exit_codes_are_as_the_readme_says(tmp_path: Path) -> None:
    assert run_cli("analyze", str(tmp_path / "nothing")).returncode == 1
    assert run_cli("analyze", "--no-such-option").returncode == 2


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need a training job are compiled only."""
    monkeypatch.chdir(REPO)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        code = compile(block, "README.md", "exec")
        if "torch" not in block:
            names: dict[str, object] = {}
            exec(code, names)
            assert names["a"].setup["zero_stage"].value == 3  # type: ignore[attr-defined]


def test_every_json_key_is_documented() -> None:
    page = (REPO / "docs" / "json.md").read_text(encoding="utf-8")
    report = json.loads(json.dumps(tracelens.analyze(DEMO).to_json()))
    keys = set(report) | set(report["run"]) | set(report["setup"]) | set(report["summary"])
    keys |= set(report["steps"][0]) | set(report["collectives"][0]) | set(report["compute"])
    keys |= set(report["import"]) | set(report["setup"]["framework"])
    known = set(re.findall(r"\w+", page))
    assert not keys - known


def test_every_json_key_of_predictions_is_documented() -> None:
    page = (REPO / "docs" / "json.md").read_text(encoding="utf-8")
    page = page[page.index("# What other commands print") :]
    analysis = tracelens.analyze(DEMO)
    told = tracelens.whatif(analysis, {"reduce_bucket_size": 50_000_000}).to_json()
    path = tracelens.critical_path(analysis).to_json()
    keys = set(told) | set(told["baseline"]) | set(told["predicted"])
    keys |= set(path) | set(path["parts"][0])
    keys |= {f.name for f in fields(Tuning)} | {"best"}
    assert not keys - set(re.findall(r"\w+", page))


def excerpt(report: str) -> str:
    """Of the terminal report the head with the verdict, and the table of communication."""
    head = report.split("\nSetup\n")[0].rstrip()
    communication = report[report.index("\nCommunication") :].strip().split("\n\n")[0]
    return "```text\n" + "\n\n[...]\n\n".join((head, communication)) + "\n```\n"


def test_report_in_readme_is_what_is_printed(update_golden: bool) -> None:
    expected = excerpt(tracelens.analyze(DEMO).report(width=100))
    begin = _BEGIN.search(README)
    assert begin
    before, quoted, after = (
        README[: begin.end()],
        README[begin.end() : README.index(_END)],
        README[README.index(_END) :],
    )
    if update_golden:
        (REPO / "README.md").write_text(before + expected + after, encoding="utf-8")
    else:
        assert quoted == expected
