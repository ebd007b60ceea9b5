"""What is run and what became of it: an Execution goes to a child, an ExecutionReport is read, with distrust.

What a child says is the program's own word: the harness shares a process with the program, which can find the pipe and
write to it. So nothing secret or decisive enters the child. Expected values stay in the trainer, and a forged report
can only claim values of the program's own choosing. They are judged as the lines are read and then dropped, from the
first wrong one on unread: what a program says can take neither the trainer's memory nor its time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from grading.jail.protocol import KILLED, STARVED, TIME
from lib.errors import SandboxError

# Whether the results of test i (from 0), JSON-decoded, are right.
Judge = Callable[[int, list], bool]

# Bytes of a line that reports no results; honest ones have at most 300 characters, escaped.
MAX_LINE = 4096
# Brackets of a line of results: each may be a list, which takes the trainer some microseconds.
MAX_LISTS = 60_000
# Why a run has no outcome: the zygote died under it, and the batch's time was up. Others stand in jail/protocol.py.
LOST = "lost"
CUT = "cut"
# Share of sleep in a run's own time from which on its time limit was not one of CPU.
SLEPT = 0.1


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
    """What became of an Execution. All but the last five fields is the program's word; `compiled` was said before."""

    compiled: bool = False
    loaded: bool = False
    defined: bool = False
    """The module, or its class Solution, holds Execution.watch."""
    tested: int = 0
    """Tests whose results were reported, up to the first wrong one."""
    wrong: int = 0
    """Number, from 1, of the first test whose results are wrong; 0 if there is none."""
    finished: bool = False
    """Every test and the call ran to the end."""
    error: str = ""
    """Exception of compiling, loading, a test or the call."""
    stop: str = ""
    """"" if the child ended by itself, else why it was stopped (jail/protocol.py), LOST or CUT."""
    cpu: float = 0.0
    """Seconds of CPU that the run used."""
    sleep: float = 0.0
    """Seconds that it slept."""
    retried: bool = False
    """It is the second run: the first one had no outcome that counts."""

    @property
    def seconds(self) -> float:
        """The run's own time."""
        return self.cpu + self.sleep

    @property
    def unknown(self) -> bool:
        """Whether the run had no outcome: the host, and not the program, is why it did not end."""
        return self.stop in (LOST, CUT, STARVED)

    @property
    def blameless(self) -> bool:
        """Whether something beside the program may have ended the run, so that it should be tried again alone.

        Among others a time limit that it did not reach by CPU alone: what it waited for may have been held by another.
        """
        return self.stop in (LOST, STARVED, KILLED) or (self.stop == TIME and self.sleep > SLEPT * self.seconds)


def parse_report(
    job: Execution, judge: Judge | None, stop: str, cpu: float, sleep: float, output: bytes
) -> ExecutionReport:
    """ExecutionReport of a child's lines. It may have written any of them but the first; what is malformed is an error.

    Raises SandboxError if the child says, before the program could speak, that it could not be locked down.
    """
    compiled = loaded = defined = finished = False
    error = ""
    tested = wrong = 0
    lines = output.split(b"\n", len(job.tests) + 4)[:-1]  # no more than an honest run has, and what follows in one
    for number, line in enumerate(lines):
        # Results: judged up to the first wrong one. A run without tests has none, whatever it says.
        if line.startswith(b'["v"'):
            if not job.tests or finished or tested >= len(job.tests):
                error = error or "malformed report"
            elif not wrong:
                values = read_line(line)[1] if line.count(b"[") <= MAX_LISTS else None
                tested += 1
                if not isinstance(values, list) or judge is None or not judge(tested - 1, values):
                    wrong = tested
            continue

        tag, value = read_line(line) if len(line) <= MAX_LINE else ("e", "malformed report")
        if number == 0 and tag == "x":
            raise SandboxError(f"a sandboxed child could not be locked down: {printable(value)}")
        if number == 0 and tag == "c":
            compiled = True
        elif tag == "l" and not loaded:
            loaded = True
            defined = value is True
        elif tag == "f" and loaded and not finished:
            finished = True
        else:
            error = error or (printable(value) if tag == "e" else "malformed report")
            break
    return ExecutionReport(
        compiled=compiled,
        loaded=loaded,
        defined=defined,
        tested=tested,
        wrong=wrong,
        finished=finished and not error and not stop,
        error=error,
        stop=stop,
        cpu=cpu,
        sleep=sleep,
    )


def read_line(line: bytes) -> tuple:
    """(tag, value) of a line; an error where it is malformed."""
    try:
        tag, value = DECODER.decode(line.decode())
    except (ValueError, TypeError, RecursionError):
        return "e", "malformed report"
    return tag, value


def printable(value) -> str:
    """The start of a program's own words, fit for a terminal and a log."""
    text = value if isinstance(value, str) else "malformed report"
    return "".join(c if c.isprintable() else "?" for c in text[:300])


def _refuse(pairs):
    raise ValueError("objects are not part of the protocol")


DECODER = json.JSONDecoder(object_pairs_hook=_refuse)
