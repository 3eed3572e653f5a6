"""What is installed: the three packages, all of each, and nothing else."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
PACKAGES = ("tracelens", "collectors", "dashboards")
#: Older ones do not read the licence fields of pyproject.toml.
MIN_SETUPTOOLS = 77


def _build_unavailable() -> str | None:
    """Why a wheel cannot be built here; None if it can."""
    try:
        importlib.metadata.version("build")
        setuptools = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError as e:
        return f"{e.name} is not installed"
    if int(setuptools.split(".")[0]) < MIN_SETUPTOOLS:
        return f"setuptools {setuptools} is older than {MIN_SETUPTOOLS}"
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of this checkout, built in a copy: builds leave files behind."""
    if reason := _build_unavailable():
        pytest.skip(reason)
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    for name in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / name, source / name, ignore=ignore)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_top_level_names_are_exactly_the_three(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == set(PACKAGES)


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """The packages are listed by name in pyproject.toml: a new subpackage must be added there."""
    sources = {
        p.relative_to(REPO).as_posix()
        for package in PACKAGES
        for p in (REPO / package).rglob("*.py")
    }
    assets = {p.relative_to(REPO).as_posix() for p in (REPO / "dashboards/assets").iterdir()}
    packed = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert packed == sources | assets | {"tracelens/py.typed"}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    info = next(n for n in wheel.namelist() if n.endswith("/METADATA"))
    metadata = wheel.read(info).decode()
    assert "\nName: tracelens-deepspeed\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    scripts = wheel.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert "tracelens = tracelens.cli:main" in scripts
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in wheel.namelist())


def test_training_frameworks_are_not_needed_to_analyse(wheel: zipfile.ZipFile) -> None:
    info = next(n for n in wheel.namelist() if n.endswith("/METADATA"))
    needs = [
        line.removeprefix("Requires-Dist: ")
        for line in wheel.read(info).decode().splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    always = [n for n in needs if "extra ==" not in n]
    assert not [n for n in always if n.startswith(("torch", "deepspeed"))]
    assert [n for n in needs if n.startswith("torch") and 'extra == "collect"' in n]
