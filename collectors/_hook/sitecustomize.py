"""Run by Python at its start, where ``tracelens collect`` put this folder on PYTHONPATH.

It runs the environment's own sitecustomize, if there is one, then attaches a collector to what the
job imports. Nothing else is put on the path: the collectors are loaded from their files.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _run_the_other() -> None:
    """The sitecustomize that this one hides."""
    hidden = [p for p in sys.path if Path(p or ".").resolve() == _HERE]
    for p in hidden:
        sys.path.remove(p)
    mine = sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ImportError):
        importlib.import_module("sitecustomize")
    if mine is not None:
        sys.modules.setdefault("sitecustomize", mine)


def _attach() -> None:
    """Load the collectors under a name of their own and let them wait for torch."""
    package = _HERE.parent
    name = "_tracelens_collectors"
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[os.fspath(package)]
    )
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    importlib.import_module(f"{name}._auto").install()


_run_the_other()
# whatever goes wrong in here, the job starts
try:
    _attach()
except Exception as e:
    print(f"tracelens collect: not recording: {type(e).__name__}: {e}", file=sys.stderr)
