"""What can go wrong, as one tree.

TraceLensError
├── InputError              the user's file or folder (exit code 1)
│   ├── UnsupportedFormat   readable, but not a trace that we know
│   ├── CorruptTrace        a trace, but nothing usable can be read from it
│   ├── EmptyTrace          a sound trace without what the question needs
│   └── CannotPredict       the recording does not show what a prediction needs
├── UsageError              the question cannot be asked this way (exit code 2)
└── InvariantError          our own bug: please report it (exit code 70)
"""

from __future__ import annotations


class TraceLensError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message : str
        What is wrong, where, with numbers.
    hint : str, optional
        What the user can do about it; shown on a line of its own.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(TraceLensError):
    """The input cannot be used as it is."""

    exit_code = 1


class UnsupportedFormat(InputError):
    """The file can be read, and is not a trace that tracelens knows."""


class CorruptTrace(InputError):
    """The file claims to be a trace and no whole event can be had from it."""


class EmptyTrace(InputError):
    """The trace is sound but lacks what the question needs (GPU work, steps ...)."""


class CannotPredict(InputError):
    """The recording does not show what a prediction needs; the hint says what to record."""


class StoreError(InputError):
    """The run.db cannot be used as it is; what it holds was left as it was."""


class UsageError(TraceLensError):
    """The question cannot be asked this way."""

    exit_code = 2


class InvariantError(TraceLensError):
    """A promise between our own modules is broken."""
