"""Ctrl-C before a script's main has begun, while torch or matplotlib is imported: one sentence, as after it.

A script imports this before anything that takes seconds (pyproject.toml keeps it on top). What an import wraps Ctrl-C
into is Ctrl-C too.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType

INTERRUPTED = (
    "interrupted; no file is half written, run the same command again: a run continues from its last checkpoint"
)
STATUS = 128 + signal.SIGINT


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the bottom of an error."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_sentence(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For sys.excepthook."""
    if not is_interrupt(error):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {INTERRUPTED}", file=sys.stderr, flush=True)
    os._exit(STATUS)  # what was half imported is not asked to clean up


sys.excepthook = one_sentence
