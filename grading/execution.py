"""What is run and what became of it: an Execution goes to a child, an ExecutionReport is read, with distrust.

What a child says is the program's own word: the harness shares a process with the program, which can find the pipe and
write to it. So nothing secret or decisive enters the child. Expected values stay in the trainer, and a forged report
can only claim values of the program's own choosing.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from lib.errors import SandboxError


class Execution(NamedTuple):
    """One program to be run. The child gets all of it, so it must hold no expected value."""

    setup: str
    """Trusted code that runs first, in the program's namespace."""
    source: str
    """The program; its __name__ is "solution"."""
    tests: tuple[tuple[str, ...], ...] = ()
    """Expressions evaluated after the program, in order, grouped by test; the first that raises ends the run."""
    call: str = ""
    """An evaluator to call after the program: module function, else method of Solution; "" for none."""
    watch: str = ""
    """A name whose presence after loading is reported as `defined`."""


class ExecutionReport(NamedTuple):
    """What became of an Execution. All but `stop` and `seconds` is the program's word; `compiled` was said before."""

    compiled: bool = False
    loaded: bool = False
    defined: bool = False
    """The module, or its class Solution, holds Execution.watch."""
    values: tuple[tuple, ...] = ()
    """For each test that ran, its expressions' results as `child.encode` writes them, JSON-decoded."""
    finished: bool = False
    """Every test and the call ran to the end."""
    error: str = ""
    """Exception of compiling, loading, a test or the call."""
    stop: str = ""
    """"" if the child ended by itself; "time", "flood", "wrong" (as `is_settled` of Pool.run said) or "lost" (the
    zygote died with it)."""
    seconds: float = 0.0


def parse_report(job: Execution, stop: str, output: bytes, seconds: float) -> ExecutionReport:
    """Read a child's lines. The program may have written any of them but the first; what is malformed is an error.

    Raises SandboxError if the child says, before the program could speak, that it could not be locked down.
    """
    compiled = loaded = defined = finished = False
    error = ""
    values = []
    lines = output.split(b"\n", len(job.tests) + 4)[:-1]  # no more than an honest run has, and what follows in one
    for number, line in enumerate(lines):
        try:
            tag, value = DECODER.decode(line.decode())
        except (ValueError, TypeError, RecursionError):
            tag, value = "e", "malformed report"
        if number == 0 and tag == "x":
            raise SandboxError(f"a sandboxed child could not be locked down: {value}")
        if number == 0 and tag == "c":
            compiled = True
        elif tag == "l" and not loaded:
            loaded = True
            defined = value is True
        elif tag == "v" and isinstance(value, list) and not finished:
            values.append(tuple(value))
        elif tag == "f" and loaded and not finished:
            finished = True
        else:
            error = printable(value)[:300] if tag == "e" else "malformed report"
            break
    return ExecutionReport(
        compiled=compiled,
        loaded=loaded,
        defined=defined,
        values=tuple(values),
        finished=finished and not error and not stop,
        error=error,
        stop=stop,
        seconds=seconds,
    )


def printable(value) -> str:
    """A program's own words, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _refuse(pairs):
    raise ValueError("objects are not part of the protocol")


DECODER = json.JSONDecoder(object_pairs_hook=_refuse)
