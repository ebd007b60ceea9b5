"""The own time of a child: its CPU, and the sleep that it asked for; not what it waited for a core.

    own = cpu + sleep        sleep = wall - cpu - run_delay, of intervals in which it gave up its core

cpu is the process's CPU clock, exact to the nanosecond and up to now. run_delay (second field of schedstat) grows when
the child gets a core, so it lacks the wait that is under way. It is exact while the child sleeps, and while it runs,
which its CPU clock shows; in between, the last reading stands. A child that never gave up its core has not slept: what
its time lacks then is the host's own.
"""

import os
import time

# States of /proc/PID/stat in which a process waits for what it asked for: sleeping, stopped, traced.
ASLEEP = b"STt"
# Wall clock without CPU that is not worth a look at /proc.
NEGLIGIBLE_S = 0.005
# Share of the time of a reading from which on a process ran all the while.
RUNS = 0.8
# Line of /proc/PID/status that counts how often a process gave up its core.
GAVE_UP = b"\nvoluntary_ctxt_switches:"


class Meter:
    """Own time of the process `pid`; `proc` is a descriptor of a /proc that shows it."""

    def __init__(self, pid: int, proc: int) -> None:
        self.pid = pid
        self.proc = proc
        self.clock = (~pid << 3) | 2  # the number by which the kernel knows the CPU clock of another process
        self.started = time.monotonic()
        self.wall = 0.0
        self.cpu = 0.0
        self.sleep = 0.0
        # Where run_delay was exact last: wall - cpu - run_delay, how often the core was given up, whether it slept.
        self.rest, self.times, self.slept = 0.0, 0, False

    @property
    def own(self) -> float:
        """Own seconds at the last reading."""
        return self.cpu + self.sleep

    def read(self) -> None:
        """Read the clocks."""
        wall, cpu = self.wall, self.cpu
        try:
            self.cpu = time.clock_gettime(self.clock)
        except OSError:  # it is gone
            return
        self.wall = time.monotonic() - self.started
        if self.wall - self.own < NEGLIGIBLE_S:
            return
        asleep, delay, times = self._state(), self._delay(), self._times()
        if asleep is None:  # without /proc, who has used no CPU sleeps
            asleep = self.cpu - cpu < NEGLIGIBLE_S
        if delay is None or times is None:  # without schedstat, sleep is counted from one reading to the next
            self.sleep += max(0.0, self.wall - wall - (self.cpu - cpu)) if asleep else 0.0
        elif asleep or self._runs():
            rest = self.wall - self.cpu - delay
            if self.slept or times > self.times:
                self.sleep += max(0.0, rest - self.rest)
            self.rest, self.times, self.slept = rest, times, asleep

    def _runs(self) -> bool:
        """Whether the process has run ever since the last reading, a moment ago."""
        try:
            cpu = time.clock_gettime(self.clock) - self.cpu
        except OSError:
            return False
        return cpu > RUNS * (time.monotonic() - self.started - self.wall)

    def _state(self) -> bool | None:
        """Whether the process sleeps or is stopped; None if unknown."""
        text = self._read_file("stat")
        return None if text is None else text.rpartition(b") ")[2][:1] in ASLEEP

    def _delay(self) -> float | None:
        """Seconds that it was ready to run and had no core, up to when it last got one; None if unknown."""
        text = self._read_file("schedstat")
        return None if text is None else int(text.split()[1]) / 1e9

    def _times(self) -> int | None:
        """How often it gave up its core; None if unknown."""
        text = self._read_file("status")
        return int(text.split(GAVE_UP)[1].split()[0]) if text and GAVE_UP in text else None

    def _read_file(self, name: str) -> bytes | None:
        try:
            fd = os.open(f"{self.pid}/{name}", os.O_RDONLY, dir_fd=self.proc)
        except OSError:
            return None
        try:
            return os.read(fd, 4096) or None
        except OSError:
            return None
        finally:
            os.close(fd)
