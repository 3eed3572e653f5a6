"""Options and settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# no deadline: the machine may be shared, and the first example pays for imports; the same examples
# every time: a failure is the change's own (`make fuzz` looks for others)
settings.register_profile("tracelens", deadline=None, max_examples=100, derandomize=True)
settings.load_profile("tracelens")


#: Tests read files, and leave nothing in anybody's home; those of the cache have one of their own.
os.environ["TRACELENS_CACHE"] = "off"

#: Jobs that tests start; they import torch, which need not be there.
collect_ignore = ["gloo_job.py", "plain_job.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden``."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/golden/*.json anew instead of comparing with them",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared with."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A headless browser for the tests of one file; without one they skip."""
    from dash_case import browser

    made = browser()
    yield made
    made.quit()
