"""The command: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_report_case import run_at

import tracelens.api
from tracelens.cli import main
from tracelens.errors import InvariantError

REPO = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_at(tmp_path_factory.mktemp("case") / "run")


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def command(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The command in its own process, with pipes."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tracelens", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=REPO,
        **options,  # type: ignore[call-overload]
    )


def test_report_is_on_stdout(run: Path) -> None:
    done = command("analyze", run)
    assert done.returncode == 0
    assert "Verdict" in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_json_is_all_of_stdout(run: Path, tmp_path: Path) -> None:
    done = command("analyze", run, "--json", "--html", tmp_path / "r.html")
    assert done.returncode == 0
    assert json.loads(done.stdout)["format"] == 1
    assert "r.html" in done.stderr
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_width_follows_columns(run: Path) -> None:
    narrow = command("analyze", run, env={**os.environ, "COLUMNS": "60"})
    assert max(map(len, narrow.stdout.splitlines())) <= 60


def test_an_ascii_terminal_gets_ascii(run: Path) -> None:
    done = command("analyze", run, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout.isascii()


def test_ranks_can_be_chosen(run: Path) -> None:
    done = invoke("analyze", run, "--rank", 1, "--json")
    assert json.loads(done.stdout)["run"]["ranks"] == [1]


def test_a_rank_that_is_not_there_is_wrong_usage(run: Path) -> None:
    done = invoke("analyze", run, "--rank", 7)
    assert done.exit_code == 2
    assert "rank 7" in done.stderr
    assert "hint: " in done.stderr


def test_bad_input_is_one_error_and_a_hint(tmp_path: Path) -> None:
    done = command("analyze", tmp_path / "none")
    assert done.returncode == 1
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")


def test_a_disk_error_is_no_bug_of_ours(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/rank0.json")

    monkeypatch.setattr(tracelens.api, "analyze", fail)
    done = invoke("analyze", run)
    assert done.exit_code == 1
    assert "error: /data/rank0.json: Permission denied" in done.stderr


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    done = command("analyze", tmp_path / "a\x1b[31m")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("args", [[], ["--nonsense"], ["analyze"], ["analyze", ".", "--rank", "x"]])
def test_wrong_usage(args: list[str]) -> None:
    assert invoke(*args).exit_code == 2


def test_a_missing_folder_is_said_before_reading(run: Path, tmp_path: Path) -> None:
    done = invoke("analyze", run, "--html", tmp_path / "none" / "r.html")
    assert done.exit_code == 2
    assert "no folder" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), InvariantError("oops")])
def test_our_bug_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tracelens.api, "analyze", fail)
    monkeypatch.delenv("TRACELENS_DEBUG", raising=False)
    done = invoke("analyze", run)
    assert done.exit_code == 70
    assert "oops" in done.stderr
    assert "TRACELENS_DEBUG=1" in done.stderr
    assert "Traceback" not in done.stderr

    monkeypatch.setenv("TRACELENS_DEBUG", "1")
    assert "Traceback" in invoke("analyze", run).stderr


def test_interrupt_leaves_nothing(run: Path, tmp_path: Path) -> None:
    """Ctrl-C while the report is being written: exit code 130, the old file as it was."""
    target = tmp_path / "r.html"
    target.write_text("old")
    code = (
        "import os, signal, tracelens.report.html as h, tracelens.cli as c\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in background jobs
        "page = h.page\n"
        "h.page = lambda a: (os.kill(os.getpid(), signal.SIGINT), page(a))[1]\n"
        f"c.main(['analyze', {str(run)!r}, '--html', {str(target)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.html"]


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no pipes of this kind")
@pytest.mark.parametrize("kind", [[], ["--json"]])
def test_a_closed_pipe_is_quiet(run: Path, kind: list[str]) -> None:
    args = [sys.executable, "-m", "tracelens", "analyze", str(run), *kind]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPO) as p:
        assert p.stdout is not None
        assert p.stderr is not None
        p.stdout.close()
        stderr = p.stderr.read()
        assert p.wait() == 141
    assert stderr == b""


def test_version() -> None:
    assert invoke("--version").output == f"tracelens {tracelens.__version__}\n"


def test_the_bar_stays_away_from_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracelens.report import progress

    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    with progress.ReadingBar() as bar:
        time.sleep(0.001)
        bar("file", 1, 2)
        assert bar._bar is None


def test_the_bar_shows_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tracelens.report import progress

    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.ReadingBar() as bar:
        bar("[bold]evil\x1b.json", 1, 2)
        bar("[bold]evil\x1b.json", 2, 2)
        assert bar._bar is not None
        assert bar._bar.tasks[0].fields["what"] == "[bold]evil?.json"
    assert capsys.readouterr().out == ""
