"""Zygotes on demand: hands programs out, starts another beside each slow one, collects their reports in order.

grading/jail/README.md has the threat model and what bounds a program's time.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable, Sequence

from grading.execution import Execution, ExecutionReport, parse_report
from grading.fork_server import Zygote, library_paths, no_sandbox
from grading.jail.locks import landlock_version
from grading.jail.protocol import MORE, OVERTIME, SLOW_S, STOP, TOTAL
from lib.errors import SandboxError

PROBE = Execution("", "x = 1", (("x + 1",),))


class Pool:
    """Zygotes on demand: `workers` jobs at a time, and one more for every job that runs longer than SLOW_S."""

    def __init__(self, workers: int = 0, timeout_s: float = 4.0, memory_mb: int = 1024, isolation: str = "bwrap"):
        """workers 0: one per core. Raises SandboxError if this machine cannot run the sandbox."""
        if isolation not in ("bwrap", "rlimits"):
            raise SandboxError(f"unknown isolation {isolation!r}: choose --isolation bwrap or --isolation rlimits")
        self.workers = workers or len(os.sched_getaffinity(0))
        self.most = max(8, 5 * self.workers) if self.workers <= 32 else self.workers * 3
        self.config = {
            "namespaces": isolation == "bwrap",
            "timeout_s": timeout_s,
            "cpu_s": int(timeout_s * TOTAL) + 2,
            "memory_mb": memory_mb,
            "landlock": 0 if isolation == "bwrap" else landlock_version(),
            "readable": library_paths(),
        }
        # What is in force.
        self.isolation = isolation + ("+landlock" if self.config["landlock"] else "")
        self.idle: list[Zygote] = []
        self.busy: list[Zygote] = []
        self.probe()

    def probe(self) -> None:
        """Raise SandboxError, with the pool closed, unless a program that must run does."""
        report = self.run([PROBE])[0]
        if report.values != ((2,),):
            self.close()
            raise no_sandbox(report.error or report.stop)

    def run(
        self,
        jobs: Sequence[Execution],
        then: Callable[[int, ExecutionReport], Execution | None] | None = None,
        is_settled: Callable[[int, ExecutionReport], bool] | None = None,
    ) -> list[ExecutionReport]:
        """Reports of `jobs`, in order. Not for several threads at once.

        `then(i, report)` may return a follow-up for job i, which overlaps with the rest of the batch; its report goes
        to `then(i, report)` again and nowhere else. `is_settled(i, report)` may look at what a slow job with tests has
        reported so far, and have it stopped by returning True. Raises SandboxError if the sandbox has stopped working.
        """
        reports: list[ExecutionReport | None] = [None] * len(jobs)
        queue = deque((i, job, 0) for i, job in enumerate(jobs))
        try:
            while queue or self.busy:
                self._fill(queue)
                for zygote, outcome in self._wait(SLOW_S / 4 if queue else 1.0):
                    i, job, tries = zygote.task

                    # Results so far: it may be stopped.
                    if outcome is not None and outcome[0] == MORE:
                        if is_settled is not None and job.tests and is_settled(i, parse_report(job, *outcome)):
                            with contextlib.suppress(OSError):  # if it is gone, _wait will tell
                                zygote.send(STOP, None)
                        continue

                    # A report: the first of a job is returned, `then` sees all; what was lost is tried once more.
                    report = self._finish(zygote, outcome)
                    if report.stop == "lost" and tries == 0:
                        queue.appendleft((i, job, 1))
                        continue
                    reports[i] = reports[i] or report
                    if then is not None and (more := then(i, report)) is not None:
                        queue.appendleft((i, more, 0))
        finally:  # after an exception, the answers of busy zygotes must not be taken for those of a later batch
            for zygote in self.busy:
                zygote.close()
            self.busy = []
        lost = [report for report in reports if report.stop == "lost"]
        if lost and jobs != [PROBE]:
            self.probe()  # either these programs brought their zygotes down twice, or no program can run any more
        return reports

    def _fill(self, queue: deque) -> None:
        """Start queued tasks: a worker's worth of quick ones, and one beside every slow one."""
        now = time.monotonic()
        quick = sum(now - z.started < SLOW_S for z in self.busy)
        while queue and quick < self.workers and len(self.busy) < self.most:
            self._start(queue.popleft())
            quick += 1

    def _finish(self, zygote: Zygote, outcome) -> ExecutionReport:
        """Take a zygote's answer; one that died or could not lock a child down is closed, and the job lost."""
        self.busy.remove(zygote)
        if outcome is not None:
            try:
                report = parse_report(zygote.task[1], *outcome)
                self.idle.append(zygote)
                return report
            except SandboxError as error:
                zygote.close()
                return ExecutionReport(stop="lost", error=str(error))
        said = zygote.close()[-200:]
        return ExecutionReport(stop="lost", error=f"the sandbox died under this program {said}".strip())

    def _start(self, task: tuple[int, Execution, int]) -> None:
        """Give a task to an idle zygote, or to a new one: always so the second time, as others may be dying too."""
        while True:
            fresh = not self.idle or task[2] > 0
            zygote = Zygote(self.config) if fresh else self.idle.pop()
            try:
                zygote.give(task[1])
            except OSError:
                said = zygote.close()
                if fresh:
                    raise no_sandbox(said) from None
                continue
            zygote.started, zygote.task = time.monotonic(), task
            self.busy.append(zygote)
            return

    def _wait(self, seconds: float) -> list[tuple[Zygote, tuple | None]]:
        """Busy zygotes that answered, showed results, died or must be given up: [(zygote, answer or None)]."""
        poll = select.poll()
        sockets = {z.socket.fileno(): z for z in self.busy}
        for fd in sockets:
            poll.register(fd, select.POLLIN)
        done = []
        for fd, _ in poll.poll(seconds * 1000):
            try:
                answer = sockets[fd].answer()
                if answer is not None:
                    done.append((sockets[fd], answer))
            except (OSError, EOFError):
                done.append((sockets[fd], None))
        late = time.monotonic() - OVERTIME * self.config["timeout_s"] - 10
        finished = {id(z) for z, _ in done}
        done += [(z, None) for z in self.busy if z.started < late and id(z) not in finished]
        return done

    def close(self) -> None:
        """End every zygote."""
        for zygote in self.idle + self.busy:
            zygote.close()
        self.idle, self.busy = [], []
