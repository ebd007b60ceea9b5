"""tools.sweep.local"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

from loguru import logger

from tools.sweep.task import Task


def start(command: list[str], log: Path, **options) -> subprocess.Popen:
    """Start a command with its output appended to `log`; options are Popen's."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as f:
        f.write(f"sweep: {shlex.join(command)}\n")
        f.flush()
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, **options)


def note_end(log: Path, status: int, minutes: float) -> str:
    """Append how the command ended to its log; the last line that it had written itself."""
    last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
    with open(log, "a") as f:
        f.write(f"sweep: exit status {status} after {minutes:.1f} min\n")
    return last


class Stop:
    """SIGINT, SIGTERM or SIGHUP: SIGTERM to the running commands and nothing new; a second time SIGKILL."""

    def __init__(self):
        self.signal, self.times, self.told = 0, 0, 0
        self.before = {n: signal.signal(n, self) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def __call__(self, number: int, frame) -> None:
        self.signal, self.times = number, self.times + 1

    def tell(self, running: dict[str, subprocess.Popen]) -> None:
        """Pass a signal on that has come since; outside the handler, so that no command starts meanwhile."""
        if self.told == self.times:
            return
        again, self.told = self.told > 0, self.times
        for child in running.values():
            if again:
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.terminate()
        what = "killed" if again else "asked for a checkpoint, waiting for it (again: kill)"
        logger.warning(f"{signal.Signals(self.signal).name}: {len(running)} running commands {what}")

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run_local(tasks: list[Task], jobs: int, poll: float = 0.2) -> int:
    """Run what is not done, at most `jobs` at a time, each task after those it waits for; the exit status."""
    # A session of its own keeps the terminal's Ctrl-C from a run: that and the SIGTERM from here would be two signals,
    # and a run takes the second as an order to end at once. Side by side, none may spread over all cores.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if jobs > 1 else {}
    options = {"start_new_session": True, "env": {**os.environ, **threads}}
    done = {task.name for task in tasks if task.done}
    waiting, failed = {task.name: task for task in tasks if task.name not in done}, {}
    logger.info(f"{len(done)} of {len(tasks)} tasks are complete, {len(waiting)} to run")
    running, clocks, stop, begun = {}, {}, Stop(), (time.perf_counter(), len(done))
    try:
        while running or (waiting and not stop.signal):
            for name, task in list(waiting.items()):
                if lost := [a for a in task.after if a in failed]:
                    failed[name] = f"left out, since {lost[0]} failed"
                    del waiting[name]
                elif done.issuperset(task.after) and len(running) < jobs and not stop.signal:
                    running[name], clocks[name] = start(task.command, task.log, **options), (task, time.perf_counter())
                    del waiting[name]
            stop.tell(running)
            for name in [name for name, child in running.items() if child.poll() is not None]:
                problem = ending(*clocks[name], running.pop(name).returncode)
                if not problem:
                    done.add(name)
                    each = (time.perf_counter() - begun[0]) / (len(done) - begun[1]) / 60
                    left = each * (len(waiting) + len(running))
                    logger.info(f"{len(done)} of {len(tasks)} tasks are complete, about {left:.0f} min left")
                elif not stop.signal:
                    failed[name] = problem
                    logger.error(f"{name} failed: {problem}")
            time.sleep(poll)
    finally:
        stop.restore()
        for child in running.values():
            child.terminate()
    if stop.signal:
        logger.warning("stopped; the same command continues the sweep")
        return 128 + stop.signal
    if failed:
        logger.error(f"{len(failed)} of {len(tasks)} tasks failed: {', '.join(failed)}; the same command retries them")
    return 1 if failed else 0


def ending(task: Task, started: float, status: int) -> str:
    """Note in its log how a task ended; what went wrong, empty where nothing did."""
    minutes = (time.perf_counter() - started) / 60
    last = note_end(task.log, status, minutes)
    logger.info(f"{task.name}: {minutes:.1f} min, {last if status else 'done'}")
    return "" if status == 0 and (task.marker is None or task.done) else f"{last} (exit status {status}; {task.log})"
