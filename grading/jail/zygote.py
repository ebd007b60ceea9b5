"""The fork server: a Python with its modules loaded that forks a child for every program and watches it.

Every child starts with a copy of this process's memory, so nothing of a job is decoded here, and the buffers that held
it are wiped: no program can read the source or the results of an earlier one.
"""

import contextlib
import ctypes
import gc
import json
import os
import random
import resource
import select
import signal
import time

from child import live
from locks import LIBC, Lockdown, raise_errno
from protocol import (
    ANSWER,
    FAIR_FIRST,
    FAIR_NEXT,
    HEADER,
    JOB,
    MORE,
    OVERTIME,
    PATIENCE,
    SETUP,
    SLOW_S,
    STOP,
    TOTAL,
)

CLONE_NEWPID = 0x20000000
MNT_DETACH = 2
MS_NOSUID_NODEV_NOATIME = 2 | 4 | 1024
MS_REMOUNT_BIND_RDONLY = 32 | 4096 | 1

# Bytes of a buffer, and the most that is shown before a program ends; bytes that a program may report.
CHUNK = 1 << 16
MAX_OUTPUT = 4 << 20

# Imported once, so that programs find them loaded. Each makes every fork slower: keep it short, and keep subprocess,
# socket and dataclasses out.
MODULES = """bisect collections copy datetime enum functools heapq itertools json math operator random re string time
typing types""".split()  # noqa: SIM905


def wipe(buffer: bytearray) -> None:
    """Overwrite a buffer in place."""
    ctypes.memset((ctypes.c_char * len(buffer)).from_buffer(buffer), 0, len(buffer))


class Scratch:
    """The tmpfs that is a child's working directory and the one place it can write to; a fresh one if it did."""

    def __init__(self) -> None:
        self.state = None
        self.renew()

    def renew(self) -> None:
        """Replace the file system unless nothing in it, its root's attributes included, has changed."""
        if self.state is not None and self.fingerprint() == self.state:
            return
        if self.state is not None:
            raise_errno(LIBC.umount2(b"/tmp", MNT_DETACH), "umount /tmp")
        options = b"size=16m,nr_inodes=1k,mode=700"
        raise_errno(LIBC.mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID_NODEV_NOATIME, options), "mount /tmp")
        self.state = self.fingerprint()

    def fingerprint(self) -> tuple:
        """Change time of the root, free blocks and free inodes."""
        space = os.statvfs("/tmp")
        return os.stat("/tmp").st_ctime_ns, space.f_bfree, space.f_ffree


class Output:
    """What a child says, in buffers that can be wiped: later children inherit this process's memory."""

    def __init__(self) -> None:
        self.chunks = [bytearray(CHUNK)]
        self.size = 0

    def read(self, fd: int) -> tuple[int, bool, bool]:
        """Read once: (bytes, whether test results are among them, whether the report is complete)."""
        used = self.size % CHUNK
        if self.size and not used:
            self.chunks.append(bytearray(CHUNK))
        chunk = self.chunks[-1]
        n = os.readv(fd, [memoryview(chunk)[used:]])
        self.size += n

        # Where the last line starts; a line of earlier chunks counts for none.
        end = used + n
        last = chunk.rfind(b"\n", 0, end - 1) + 1
        complete = end > 0 and chunk[end - 1] == 10 and (last > 0 or len(self.chunks) == 1)
        complete = complete and (chunk.startswith(b'["f"', last) or chunk.startswith(b'["e"', last))
        return n, chunk.find(b'["v"', used, end) >= 0, complete

    def send(self, fd: int, stop: str, seconds: float) -> None:
        """Write an answer: all of it, and why and when the child was stopped."""
        os.write(fd, ANSWER.pack(self.size, stop.encode(), seconds))
        for number, chunk in enumerate(self.chunks):
            view = memoryview(chunk)[: self.size - number * CHUNK]
            while view:
                view = view[os.write(fd, view) :]

    def wipe(self) -> None:
        """Overwrite all of it and start again."""
        for chunk in self.chunks:
            wipe(chunk)
        del self.chunks[1:]
        self.size = 0


# --- one child ---


def starved_seconds(pid: int, proc: int) -> float:
    """Seconds that the process was ready to run and had no core (second field of schedstat); 0 if unknown."""
    try:
        fd = os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 0.0
    try:
        return int(os.read(fd, 100).split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
    finally:
        os.close(fd)


def watch_child(pid: int, pipe: int, trainer: int, limit: float, proc: int, output: Output) -> tuple[str, float]:
    """Read what a child says until it ends or must: (stop, seconds). README.md, section Time, has the rules."""
    start = time.monotonic()
    stop = ""
    # Whether there are results that the trainer has not seen, and when it sees them.
    news, show = False, SLOW_S
    # When the child last spoke, in wall clock and in time with a core; seconds since the start, as the deadline is.
    heard = heard_fair = 0.0
    patience, share = limit, FAIR_FIRST * limit
    deadline = limit
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(trainer, select.POLLIN | select.POLLRDHUP)
    while not stop:
        wake = min(deadline, show) if news else deadline
        events = dict(poll.poll(max(1.0, (wake - time.monotonic() + start) * 1000)))

        # The trainer has gone, or says that the program's results are wrong: it sends nothing else meanwhile.
        if events.get(trainer, 0) & ~select.POLLIN:
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        now = time.monotonic() - start
        if trainer in events:
            receive(trainer)
            stop = "wrong"
            break

        # The child has spoken, and may take its time again.
        if events:
            n, results, complete = output.read(pipe)
            if n == 0 or complete:
                break
            stop = "flood" if output.size > MAX_OUTPUT else ""
            if results:
                news, patience, share = True, PATIENCE * limit, FAIR_NEXT * limit
            heard = now
            heard_fair = 0.0 if now < SLOW_S else now - starved_seconds(pid, proc)
            deadline = min(heard + patience, max(TOTAL * limit, now + 0.05))

        # It has been silent or at work for too long, the wait for a core not counted.
        if now >= deadline:
            fair = now - starved_seconds(pid, proc)
            silent = now - heard >= patience and fair - heard_fair >= share
            stop = "time" if silent or fair >= TOTAL * limit or now >= OVERTIME * limit else stop
            deadline = now + 0.05

        # Show the results so far.
        if news and now >= show and not stop:
            if output.size <= CHUNK:
                output.send(trainer, MORE, now)
            news, show = False, 2 * now
    return stop, time.monotonic() - start


def receive(fd: int) -> tuple[int, bytearray]:
    """One message of the trainer, (kind, body), in a buffer that can be wiped. Ends the process when there is none."""
    header = os.read(fd, HEADER.size)
    if len(header) < HEADER.size:
        os._exit(0)
    size, kind = HEADER.unpack(header)
    body = bytearray(size)
    got = 0
    while got < size:
        n = os.readv(fd, [memoryview(body)[got:]])
        if n == 0:
            os._exit(0)
        got += n
    return kind, body


# --- the server ---


def enter(config: dict, folder: str) -> None:
    """Give up what no program may find: stdin, stdout, /proc, this file's folder; a writable /dev/null."""
    if config["namespaces"]:  # or else root's programs could change the mode of the machine's /dev/null
        keep = os.statvfs("/dev/null").f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
        raise_errno(LIBC.mount(None, b"/dev/null", None, MS_REMOUNT_BIND_RDONLY | keep, None), "remount /dev/null")
        raise_errno(LIBC.umount2(folder.encode(), MNT_DETACH), f"umount {folder}")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 3):  # stderr stays, for this process's own last words
        os.dup2(null, fd)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should memory run out, programs go before the trainer


def serve(folder: str) -> None:
    """Run jobs from the socket on fd 0, one after the other, until it closes. folder: where this file lies."""
    # Take the socket and what of /proc is needed, then close the rest.
    trainer = os.dup2(0, 200)
    config = json.loads(receive(trainer)[1])
    enter(config, folder)
    proc, own_pids = os.open("/proc", os.O_RDONLY), -1
    if config["namespaces"]:
        own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        raise_errno(LIBC.umount2(b"/proc", MNT_DETACH), "umount /proc")
        scratch = Scratch()

    # Load what children inherit.
    for name in MODULES:
        __import__(name)
    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    lockdown = Lockdown(config)
    setups = {}
    output = Output()
    gc.collect()
    gc.freeze()

    while True:
        kind, message = receive(trainer)
        if kind == STOP:  # its child ended meanwhile
            continue
        if kind == SETUP:
            index, text = json.loads(message)
            try:
                setups[index] = compile(text, "<setup>", "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                setups[index] = text  # the child fails on it, and says so
            continue

        # A child in a pid namespace of its own.
        assert kind == JOB
        reader, writer = os.pipe()
        if config["namespaces"]:
            LIBC.setns(own_pids, CLONE_NEWPID)
            raise_errno(LIBC.unshare(CLONE_NEWPID), "unshare pid")
        pid = os.fork()
        if pid == 0:
            try:
                random.seed(0)
                live(message, setups, lockdown, writer)
            finally:
                os._exit(0)
        os.close(writer)
        wipe(message)

        # Its answer; then it dies, and with it, as it is their init, all that it started.
        stop, seconds = watch_child(pid, reader, trainer, config["timeout_s"], proc, output)
        os.close(reader)
        output.send(trainer, stop, seconds)
        output.wipe()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if config["namespaces"]:
            scratch.renew()
