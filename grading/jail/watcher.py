"""The process that the trainer talks to: it has children forked, watches each, and answers for it.

trainer --- jobs ---> child             the body of a job: neither this process nor the zygote reads it
trainer <-- answers -- watcher          what the child has said, why it ended, its own time
watcher --- orders --> zygote           the head of a message, or REAP
zygote ---- news ----> watcher          (what, number): a child's id, the signal it died of, a setup is done
child ----- results -> watcher
"""

import contextlib
import os
import select
import signal
import struct

from meter import Meter
from protocol import ANSWER, BEAT, BEAT_S, FLOOD, HEADER, JOB, KILLED, LIMITS, LOOK, SETUP, STARVED, TIME, TOLD, WALL_S

NEWS = struct.Struct("<ii")
BORN, DIED, DONE = range(3)
# An order beside the kinds of messages: the child has been killed, or may be forgotten.
REAP = 100

# Bytes that a program may report, that are read at a time, and that are shown of a report that is too long.
MAX_OUTPUT = 1 << 20
CHUNK = 1 << 16


def receive(fd: int, size: int) -> bytes:
    """So many bytes. Raises EOFError where the other side has gone."""
    found = bytearray()
    while len(found) < size:
        part = os.read(fd, size - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def answer(trainer: int, stop: str, meter: Meter, output: bytes = b"") -> None:
    """Write why the child was stopped, its own time, and what it said; of a flood the start."""
    if stop == FLOOD:
        output = output[:CHUNK]
    view = memoryview(ANSWER.pack(len(output), stop.encode(), meter.cpu, meter.sleep) + output)
    while view:
        view = view[os.write(trainer, view) :]


def watch(trainer: int, orders: int, news: int, results: int, proc: int) -> None:
    """Pass messages on, one after the other. Raises EOFError where the trainer or the zygote has gone."""
    os.set_blocking(results, False)
    while True:
        head = receive(trainer, HEADER.size)
        kind = HEADER.unpack(head)[1]
        if kind == SETUP:
            os.write(orders, head)
            receive(news, NEWS.size)
        elif kind == JOB:
            limits = LIMITS.unpack(receive(trainer, LIMITS.size))
            os.write(orders, head)
            _, pid = NEWS.unpack(receive(news, NEWS.size))
            child = Child(Meter(pid, proc), trainer, news, results)
            try:
                stop = child.watch(limits)
                answer(trainer, stop, child.meter, child.output)
            finally:  # it dies, and with it, as it is their init, all that it started
                os.kill(pid, signal.SIGKILL)
            child.bury()
            os.write(orders, HEADER.pack(0, REAP))
            receive(news, NEWS.size)
            receive(results, 1)
        # What is left is STOP, of a child that ended meanwhile.


class Child:
    """One program, from its birth to its end."""

    def __init__(self, meter: Meter, trainer: int, news: int, results: int) -> None:
        self.meter = meter
        self.trainer = trainer
        self.news = news
        self.results = results
        self.output = bytearray()
        self.tested = False
        """It has reported results of a test."""
        self.died_of = None
        """The signal that killed it, 0 if none did; known once it is dead."""

    def read(self) -> bool:
        """Read what it has said, once; whether there was something."""
        try:
            said = os.read(self.results, CHUNK)
        except BlockingIOError:
            return False
        self.tested = self.tested or b'["v"' in self.output[-3:] + said
        self.output += said
        return True

    def is_complete(self) -> bool:
        """Whether the last line of its report says that it is the last."""
        last = self.output.rfind(b"\n", 0, max(0, len(self.output) - 1)) + 1
        return self.output.endswith(b"\n") and self.output.startswith((b'["f"', b'["e"'), last)

    def watch(self, limits: tuple) -> str:
        """Read what it says until it ends or must: why it was stopped. README.md, section Time, has the rules."""
        look, first, each, total = limits
        meter = self.meter
        # Own time at which it last spoke, and wall clock of the next beat.
        heard = 0.0
        beat = BEAT_S
        poll = select.poll()
        poll.register(self.results, select.POLLIN)
        poll.register(self.news, select.POLLIN)
        while True:
            # No limit can be reached sooner than this, as own time goes no faster than the clock.
            due = min(heard + (each if self.tested else first), total, look or total) - meter.own
            events = dict(poll.poll(max(5.0, min(due, beat - meter.wall) * 1000)))
            meter.read()

            # The trainer has gone, or wants it to end: it sends nothing else meanwhile.
            if events.get(self.trainer, 0) & ~select.POLLIN:
                raise EOFError
            if self.trainer in events:
                receive(self.trainer, HEADER.size)
                return TOLD

            # It has spoken: from then on, what the trainer sends is not its job any more.
            if self.results in events and self.read():
                if not heard:  # until now it may have waited for its job
                    meter.sleep = 0.0
                    poll.register(self.trainer, select.POLLIN | select.POLLRDHUP)
                heard = max(meter.own, 1e-9)
                if self.is_complete():
                    return ""
                if len(self.output) > MAX_OUTPUT:
                    return FLOOD
            elif self.news in events:
                self.died_of = NEWS.unpack(receive(self.news, NEWS.size))[1]
                while len(self.output) <= MAX_OUTPUT and self.read():
                    pass
                if not self.output:  # it has not read its job
                    raise EOFError
                return KILLED if self.died_of == signal.SIGKILL else ""

            # It has been silent or at work for too long, or long enough for a look at its results.
            if meter.own - heard >= (each if self.tested else first) or meter.own >= total:
                return TIME
            if look and meter.own >= look:
                if self.tested:
                    return LOOK
                look = 0.0
            if meter.wall >= WALL_S:
                return STARVED
            if meter.wall >= beat:
                beat = meter.wall + BEAT_S
                if select.select([], [self.trainer], [], 0)[1]:  # one that does not listen must not hold up the limits
                    answer(self.trainer, BEAT, meter)

    def bury(self) -> None:
        """Wait until it is dead, and drop what it said since."""
        if self.died_of is None:
            self.died_of = NEWS.unpack(receive(self.news, NEWS.size))[1]
        with contextlib.suppress(BlockingIOError):
            while os.read(self.results, CHUNK):
                pass
