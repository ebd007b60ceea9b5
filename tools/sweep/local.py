"""The queue of this machine: at most `jobs` tasks at a time, each after those it waits for.

Every command runs in a session of its own with its output in its log. A task that fails takes with it what waits for
it, and nothing else.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from lib.signals import StopLatch
from tools.sweep.task import Task

INTERRUPTING = """
Interrupting --submit local (Ctrl-C, SIGTERM, SIGHUP) sends SIGTERM to the runs and waits for their checkpoints; a
second time kills them. In pueue, `pueue kill --signal sigterm ID` does the first; a plain kill loses what came after
the last checkpoint.
"""


def start_logged(command: list[str], log: Path, **options) -> subprocess.Popen:
    """Start a command with its output appended to `log`; options are Popen's."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as f:
        f.write(f"sweep: {shlex.join(command)}\n")
        f.flush()
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, **options)


def note_end(log: Path, status: int, minutes: float) -> str:
    """Append how the command ended to its log; the last line that it had written itself, of a box the first inside."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    last = lines[-1]
    if last.startswith("╰"):  # a flag that tyro refuses is named behind the box's last corner on the left
        after = next(i for i in reversed(range(len(lines))) if not lines[i].startswith(("│", "╰")))
        last = lines[min(after + 1, len(lines) - 1)].strip("│ ")
    with open(log, "a") as f:
        f.write(f"sweep: exit status {status} after {minutes:.1f} min\n")
    return last


@dataclass
class Running:
    """A task whose command runs."""

    task: Task
    child: subprocess.Popen
    since: float
    """time.perf_counter() at its start."""

    def ended(self) -> bool:
        return self.child.poll() is not None


class Relay(StopLatch):
    """SIGINT, SIGTERM or SIGHUP: SIGTERM to the running commands and nothing new; a second time SIGKILL."""

    def __init__(self):
        super().__init__(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self.passed_on = 0
        """Signals that the commands have been told of."""

    def tell(self, running: list[Running]) -> None:
        """Pass a signal on that has come since; outside the handler, so that no command starts meanwhile."""
        if self.passed_on == len(self.received):
            return
        again = self.passed_on > 0
        self.passed_on = len(self.received)
        for job in running:
            if again:
                os.killpg(job.child.pid, signal.SIGKILL)
            else:
                job.child.terminate()
        what = "killed" if again else "asked for a checkpoint, waiting for it (again: kill)"
        logger.warning(f"{signal.Signals(self.received[-1]).name}: {len(running)} running commands {what}")


class LocalQueue:
    """Tasks waiting, running, done and failed, by name."""

    def __init__(self, tasks: list[Task], jobs: int):
        # Ctrl-C of the terminal must not reach a run beside the SIGTERM from here: a run takes the second signal as an
        # order to end at once. Side by side, no run may spread over all cores.
        self.options = {"start_new_session": True, "env": dict(os.environ)}
        if jobs > 1:
            self.options["env"].setdefault("OMP_NUM_THREADS", "1")
        self.jobs = jobs
        self.total = len(tasks)
        self.done = {task.name for task in tasks if task.done}
        self.waiting = {task.name: task for task in tasks if not task.done}
        self.running: dict[str, Running] = {}
        self.failed: dict[str, str] = {}
        """What went wrong."""
        self.started = time.perf_counter()
        self.done_before = len(self.done)

    def drop_lost(self) -> None:
        """Tasks that wait for one that failed fail too."""
        for name, task in list(self.waiting.items()):
            if lost := [a for a in task.after if a in self.failed]:
                self.failed[name] = f"left out, since {lost[0]} failed"
                del self.waiting[name]

    def start_ready(self, stop: Relay) -> None:
        """Start what waits for nothing, up to the number of jobs, and nothing once a signal has come."""
        for name, task in list(self.waiting.items()):
            ready = self.done.issuperset(task.after) and len(self.running) < self.jobs
            if ready and not stop.received:
                child = start_logged(task.command, task.log, **self.options)
                self.running[name] = Running(task, child, time.perf_counter())
                del self.waiting[name]

    def collect_ended(self, stopping: bool) -> None:
        """Note what has ended; while `stopping`, a task that ended badly has not failed."""
        for name, job in list(self.running.items()):
            if not job.ended():
                continue
            del self.running[name]
            problem = ending(job)
            if not problem:
                self.done.add(name)
                each = (time.perf_counter() - self.started) / (len(self.done) - self.done_before) / 60
                left = each * (len(self.waiting) + len(self.running))
                logger.info(f"{len(self.done)} of {self.total} tasks are complete, about {left:.0f} min left")
            elif not stopping:
                self.failed[name] = problem
                logger.error(f"{name} failed: {problem}")


def run_local(tasks: list[Task], jobs: int, poll: float = 0.2) -> int:
    """Run what is not done, at most `jobs` at a time, each task after those it waits for; the exit status."""
    queue = LocalQueue(tasks, jobs)
    logger.info(f"{len(queue.done)} of {len(tasks)} tasks are complete, {len(queue.waiting)} to run")
    stop = Relay()
    try:
        while queue.running or (queue.waiting and not stop.received):
            queue.drop_lost()
            queue.start_ready(stop)
            stop.tell(list(queue.running.values()))
            queue.collect_ended(stopping=bool(stop.received))
            time.sleep(poll)
    finally:
        stop.restore()
        for job in queue.running.values():
            job.child.terminate()
    if stop.received:
        logger.warning("stopped; the same command continues the sweep")
        return 128 + stop.received[-1]
    if failed := [task.name for task in tasks if task.name in queue.failed]:
        logger.error(f"{len(failed)} of {len(tasks)} tasks failed: {', '.join(failed)}; the same command retries them")
    return 1 if queue.failed else 0


def ending(job: Running) -> str:
    """Note in its log how a task ended; what went wrong, empty where nothing did."""
    task, status = job.task, job.child.returncode
    minutes = (time.perf_counter() - job.since) / 60
    last = note_end(task.log, status, minutes)
    logger.info(f"{task.name}: {minutes:.1f} min, {last if status else 'done'}")
    if status == 0 and (task.marker is None or task.done):
        return ""
    return f"{last} (exit status {status}; {task.log})"
