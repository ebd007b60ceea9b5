"""What the tests of grading/ share: values that programs report, programs that use CPU, problems of one function."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

from grading.execution import Execution, ExecutionReport
from grading.jail.protocol import BEAT
from grading.pool import Pool, run_limits
from problems import Problem

# Uses so many seconds of CPU, whatever runs beside it.
BURN = """
import time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
SLEEPS = "import time\ndef f(seconds):\n    time.sleep(seconds)\n    return seconds"


def run_values(pool: Pool, jobs: list[Execution]) -> tuple[list[ExecutionReport], list[list]]:
    """Reports, and the results that were reported last for every test: [job][test] -> JSON values."""
    seen: list[dict] = [{} for _ in jobs]

    def note(i: int, test: int, values: list) -> bool:
        seen[i][test] = values
        return True

    reports = pool.run(jobs, note)
    return reports, [[found[test] for test in sorted(found)] for found in seen]


def add_idle(pool: Pool, count: int) -> None:
    """Give a pool so many idle zygotes that are up: how many a batch leaves idle depends on the machine's load."""
    for _ in range(count):
        zygote = pool.zygote(fresh=True)
        zygote.socket.settimeout(600)
        zygote.give(Execution("", "", (("1",),)), run_limits(9.0, look=False))
        while all(answer.stop == BEAT for answer in zygote.answers()):
            pass
        pool.idle.append(zygote)


def problem(*tests: str, setup: str = "", entry: str = "Solution().f", content: str = "f") -> Problem:
    return Problem("p", ({"role": "user", "content": content},), setup, tests, entry)


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def wait_until(look, wanted, seconds: float = 60.0):
    """What `look()` returns, once that is `wanted` or after so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def busy_loops(count: int):
    """So many processes that use all the CPU they get, and end with this one, however it ends."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    loops = [subprocess.Popen([sys.executable, "-S", "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
