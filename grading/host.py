"""What the machine leaves to programs: memory, and how fast a batch's own time goes."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def free_memory_mb() -> float:
    """MiB that programs could take: of the machine, or of the control group where that has less."""
    free = 1e9
    with contextlib.suppress(OSError, ValueError, IndexError):
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(meminfo["MemAvailable"].split()[0]) / 1024
    group = Path("/sys/fs/cgroup")
    for most, used in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
        folder = group / "memory" if most != "max" else group
        with contextlib.suppress(OSError, ValueError):
            limit, usage = (int((folder / f"memory.{name}").read_text()) for name in (most, used))
            free = min(free, (limit - usage) / 2**20)
    return free


class OwnClock:
    """A batch's own time: wall clock while programs run, slowed by the share of its cores that others took.

    `used` gets the CPU and sleep of programs; what this process uses meanwhile counts too, from `own` on.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seconds = 0.0
        self.last = time.monotonic()
        # Since the clock was last moved: wall clock, core seconds that the batch could have used, and did.
        self.wall = self.capacity = self.used = 0.0
        self.cpu: float | None = None

    def own(self) -> None:
        """From now on this process does nothing but grade."""
        self.cpu = time.process_time()

    def tick(self, live: int) -> None:
        """Let the time pass in which so many programs ran."""
        now = time.monotonic()
        if live:
            self.wall += now - self.last
            self.capacity += (now - self.last) * min(live, self.workers)
        self.last = now
        if self.cpu is not None:
            cpu = time.process_time()
            self.used += cpu - self.cpu
            self.cpu = cpu
        if self.wall > 1.0:
            share = min(1.0, self.used / self.capacity)
            self.seconds += share * self.wall
            self.used -= share * self.capacity
            self.wall = self.capacity = 0.0
