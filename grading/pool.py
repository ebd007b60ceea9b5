"""Zygotes on demand, and batches of programs run in rounds, so that a grade depends on its program alone.

    looks    every program; one that has results is stopped at LOOK_S of its own time, and done if one of them is wrong
    right    to their limits, from the start: those that were right so far
    rest     the same: those that had to make room and had no results
    alone    one at a time: those that something beside the program may have ended
    calls    own evaluators that were seen only when their program had ended

Limits are in a program's own time (jail/README.md, section Time). No round begins before the last one has ended, and
none but `right` has a program that learns, from being alive, that its results were right: it meets nobody who could
use it, and what it may have left in a zygote goes with that.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from grading.execution import CUT, LOST, Execution, ExecutionReport, Judge, parse_report
from grading.fork_server import PATIENCE_S, Answer, Limits, Zygote, no_sandbox
from grading.host import OwnClock, free_memory_mb
from grading.jail.locks import landlock_version
from grading.jail.protocol import BEAT, LOOK, TOLD, WALL_S
from grading.library import landlock_paths
from lib.errors import SandboxError

# Of a batch, in order; `alone` comes again at the end.
ROUNDS = ("looks", "right", "rest", "alone", "calls")
# Own seconds after which a program that has results is stopped in the first round.
LOOK_S = 0.2
# Limits of a later test and of all of them, in units of the first; no total is above LONGEST_S unless the first one is.
EACH, TOTAL, LONGEST_S = 6.0, 12.0, 24.0
# Seconds that a batch may take, in its own time, and more for each of its runs on one core.
BATCH_S, RUN_S = 24.0, 0.1
# Seconds of wall clock after which another program is started beside one.
SLOW_S = 0.1
# Share of a batch's time after which programs that take long make room for those that were right so far.
LOOKS = 0.6
# Share of the free memory that programs may take together.
MEMORY = 0.5


def run_limits(timeout_s: float, look: bool) -> Limits:
    """Limits of a ground-truth run whose first result may take `timeout_s`."""
    total = min(TOTAL * timeout_s, max(LONGEST_S, timeout_s))
    return Limits(min(LOOK_S, timeout_s / 2) if look else 0.0, timeout_s, min(EACH * timeout_s, total), total)


def call_limits(timeout_s: float) -> Limits:
    """Limits of a run that reports no results: to load, and to call the evaluator."""
    return Limits(0.0, timeout_s, timeout_s, 2 * timeout_s)


@dataclass
class Submission:
    """A program on its way through the rounds."""

    job: Execution
    judge: Judge | None
    deliver: Callable[[ExecutionReport], None]
    """Called once, with the report that counts."""
    first: ExecutionReport | None = None
    """Its report that does not count yet, in the last round."""


class Pool:
    """Zygotes: `workers` programs at a time, and one more for every program that runs longer than SLOW_S."""

    def __init__(self, workers: int = 0, timeout_s: float = 1.0, memory_mb: int = 1024, isolation: str = "bwrap"):
        """workers 0: one per core. Raises SandboxError if this machine cannot run the sandbox."""
        if isolation not in ("bwrap", "rlimits"):
            raise SandboxError(f"unknown isolation {isolation!r}: choose --isolation bwrap or --isolation rlimits")
        self.workers = workers or len(os.sched_getaffinity(0))
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.config = {
            "namespaces": isolation == "bwrap",
            "cpu_s": int(max(run_limits(timeout_s, False).total, call_limits(timeout_s).total)) + 2,
            "memory_mb": memory_mb,
            "landlock": 0 if isolation == "bwrap" else landlock_version(),
            "readable": [] if isolation == "bwrap" else landlock_paths(),
        }
        # What is in force.
        self.isolation = isolation + ("+landlock" if self.config["landlock"] else "")
        self.idle: list[Zygote] = []
        self.session: Session | None = None
        self.probe()

    def probe(self) -> None:
        """Raise SandboxError, with the pool closed, unless a program that must run does."""
        seen = []
        job = Execution("", "x = 1", (("x + 1",),))
        report = self.run([job], lambda i, test, values: seen.append(values) or True)[0]
        if seen != [[2]]:
            self.close()
            raise no_sandbox(report.error or report.stop)

    def open(self) -> Session:
        """A new batch; one that was not finished is abandoned."""
        if self.session is not None:
            self.session.abandon()
        self.session = Session(self)
        return self.session

    def run(
        self, jobs: Sequence[Execution], judge: Callable[[int, int, list], bool] = lambda i, test, values: True
    ) -> list[ExecutionReport]:
        """Reports of `jobs`, in order; `judge(i, test, values)` says whether results of job i are right."""
        session = self.open()
        reports: list[ExecutionReport | None] = [None] * len(jobs)
        for i, job in enumerate(jobs):
            session.submit(job, partial(judge, i), partial(reports.__setitem__, i))
        session.finish()
        return reports

    def zygote(self, fresh: bool = False) -> Zygote:
        """An idle zygote or a new one. Raises SandboxError if there is none to be had."""
        return self.idle.pop() if self.idle and not fresh else Zygote(self.config)

    def close(self) -> None:
        """End every zygote."""
        if self.session is not None:
            self.session.abandon()
        self.renew()

    def renew(self) -> None:
        """End the idle zygotes: the next programs get new ones."""
        for zygote in self.idle:
            zygote.socket.close()  # all at once, and then each is waited for
        for zygote in self.idle:
            zygote.close()
        self.idle = []


class Session:
    """One batch. Not for several threads at once.

    Programs start as they are submitted, and reports come in as `poll` is called: between other work, as often as that
    allows. `finish` runs all to their ends. What was submitted, in which order and when, changes no report.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.most = max(8, 5 * pool.workers) if pool.workers <= 32 else pool.workers * 3
        self.most = max(pool.workers, min(self.most, int(MEMORY * free_memory_mb() / pool.memory_mb)))
        self.round = "looks"
        self.queue: deque[Submission] = deque()
        self.tests = 0
        """So many at the head of the queue have tests: they go before own evaluators."""
        self.later: dict[str, deque[Submission]] = {name: deque() for name in ROUNDS[1:]}
        self.busy: dict[Zygote, Submission] = {}
        self.clock = OwnClock(pool.workers)
        self.submitted = 0
        self.lost = False
        self.informed = False
        """Programs ran that knew, from being alive, that their results were right, or could have."""
        self.over = False
        """Its time is up."""

    @property
    def bound_s(self) -> float:
        """The most own time that the batch may take."""
        total = run_limits(self.pool.timeout_s, False).total
        return max(BATCH_S, total) + RUN_S * self.submitted / self.pool.workers

    def submit(
        self, job: Execution, judge: Judge | None, deliver: Callable[[ExecutionReport], None], last: bool = False
    ) -> None:
        """Have a program run; `judge` its results, `deliver` gets its report.

        last: after all others, as must be what is submitted from within `deliver`: who finds itself run knows then that
        another program has ended, and maybe why.
        """
        if self.over:
            return deliver(ExecutionReport(stop=CUT))
        submission = Submission(job, judge, deliver)
        self.submitted += 1
        if last:
            self.later["calls"].append(submission)
        elif job.tests:
            self.queue.insert(self.tests, submission)
            self.tests += 1
        else:
            self.queue.append(submission)

    def poll(self, seconds: float = 0.0) -> None:
        """Start what can start and take the reports that arrive within so many seconds. Raises SandboxError."""
        try:
            self._fill()
            for zygote, answer in self._answers(seconds):
                self._take(zygote, answer)
            self.clock.tick(len(self.busy))
            self._fill()
        except BaseException:
            self.abandon()
            raise

    def finish(self) -> None:
        """Run everything to its end, or until the batch's time is up. Raises SandboxError if programs cannot run."""
        self.clock.own()
        for name in (*ROUNDS, "alone"):
            self.round = name
            if name != "looks":
                self.queue, self.later[name] = self.later[name], deque()
            while self.queue or self.busy:
                if self.clock.seconds > self.bound_s and not self.over:
                    self._cut()
                if self.later["right"] and not self.queue and self.clock.seconds > LOOKS * self.bound_s:
                    self._tell(list(self.busy))
                self.poll(SLOW_S / 4 if self.queue else 0.5)
            if self.informed and name in ("right", "alone"):
                self.pool.renew()
        if self.lost:
            self.pool.probe()  # either programs brought their zygotes down twice, or no program can run any more

    def abandon(self) -> None:
        """End what runs and forget the rest: its answers must not be taken for those of a later batch."""
        for zygote in self.busy:
            zygote.close()
        self.busy = {}
        self.queue.clear()
        if self.informed:
            self.pool.renew()

    # --- starting ---

    def _fill(self) -> None:
        """Start queued programs: a worker's worth of quick ones, and one beside every slow one."""
        now = time.monotonic()
        alone = self.round == "alone"
        most, workers = (1, 1) if alone else (self.most, self.pool.workers)
        quick = sum(now - zygote.given < SLOW_S for zygote in self.busy)
        while self.queue and quick < workers and len(self.busy) < most:
            self.tests = max(0, self.tests - 1)
            self._start(self.queue.popleft())
            quick += 1

        # No room is left: those that had the most make some, and run again in the next round.
        if self.round == "looks" and len(self.busy) >= most:
            told = sum(zygote.told for zygote in self.busy)
            slow = sorted((z for z in self.busy if z.seconds > LOOK_S and not z.told), key=lambda z: -z.seconds)
            self._tell(slow[: max(0, len(self.queue) - told)])

    def _tell(self, zygotes: list[Zygote]) -> None:
        """Have programs stopped."""
        for zygote in zygotes:
            if not zygote.told:
                zygote.tell_to_end()

    def _start(self, submission: Submission) -> None:
        """Give a program to an idle zygote, or to a new one: always so the second time, as what ended it may have."""
        timeout_s = self.pool.timeout_s
        limits = run_limits(timeout_s, self.round == "looks") if submission.job.tests else call_limits(timeout_s)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            fresh = not self.pool.idle or submission.first is not None
            zygote = self.pool.zygote(fresh)
            try:
                zygote.give(submission.job, limits)
            except OSError:
                said = zygote.close()
                if fresh and (time.monotonic() > deadline or not is_scarcity(said)):
                    raise no_sandbox(said) from None
                continue
            self.busy[zygote] = submission
            return

    # --- reports ---

    def _answers(self, seconds: float) -> list[tuple[Zygote, Answer | None]]:
        """What busy zygotes say; None of one that died or must be given up.

        Its socket need not tell: a bubblewrap that is killed before it is up leaves a child that keeps the other end.
        """
        poll = select.poll()
        sockets = {zygote.socket.fileno(): zygote for zygote in self.busy}
        for fd in sockets:
            poll.register(fd, select.POLLIN)
        found = []
        for fd, _ in poll.poll(seconds * 1000):
            try:
                found += [(sockets[fd], answer) for answer in sockets[fd].answers()]
            except (OSError, EOFError):
                found.append((sockets[fd], None))
        late = time.monotonic() - WALL_S - 30
        heard = {zygote for zygote, _ in found}
        lost = [z for z in self.busy if z not in heard and (z.given < late or z.process.poll() is not None)]
        return found + [(zygote, None) for zygote in lost]

    def _take(self, zygote: Zygote, answer: Answer | None) -> None:
        """Note the time that a program has had; when it has ended, read its report."""
        if answer is not None:
            self.clock.used += answer.cpu + answer.sleep - zygote.seconds
            zygote.seconds = answer.cpu + answer.sleep
            if answer.stop == BEAT:
                return
        submission = self.busy.pop(zygote)
        report = None
        if answer is None:
            error = f"the sandbox died under this program {zygote.close()[-200:]}".strip()
        else:
            try:
                report = parse_report(submission.job, submission.judge, *answer)
                if submission.first is None:
                    self.pool.idle.append(zygote)
                else:
                    zygote.close()
            except SandboxError as failed:  # its child could not be locked down
                zygote.close()
                error = str(failed)
        self._settle(submission, report or ExecutionReport(stop=LOST, error=error))

    def _settle(self, submission: Submission, report: ExecutionReport) -> None:
        """Deliver a report, or have its program run again in a later round."""
        undone = report.stop in (LOOK, TOLD) and not (report.loaded and report.wrong)
        self.informed = self.informed or report.stop in (LOOK, TOLD)
        if self.round == "looks" and undone and not self.over:
            self.later["right" if report.tested else "rest"].append(submission)
        elif self.round != "alone" and report.blameless and not self.over:
            submission.first = report
            self.later["alone"].append(submission)
        else:
            if undone:
                report = report._replace(stop=CUT)
            if submission.first is not None:
                report = report._replace(retried=True)
            self.lost = self.lost or report.stop == LOST
            submission.deliver(report)

    def _cut(self) -> None:
        """The batch's time is up: stop what runs, and deliver what there is."""
        self._tell(list(self.busy))
        waiting = [*self.queue, *(submission for queue in self.later.values() for submission in queue)]
        for queue in (self.queue, *self.later.values()):
            queue.clear()
        self.over = True
        for submission in waiting:
            submission.deliver(submission.first or ExecutionReport(stop=CUT))


def is_scarcity(said: str) -> bool:
    """Whether bubblewrap could not start for want of processes or memory."""
    return "Resource temporarily unavailable" in said or "Cannot allocate memory" in said
