"""A python whose imports are done: command lines, and those that they start, as forks of one warm process.

    stand-in WORDS -- words, folder, environment, stdin, stdout, stderr --> listen() -- fork --> runs WORDS

The stand-in is an executable file that takes the words of python's own command line: `file.py ...`, `-m module ...` and
`-c code ...`; with any other option it becomes the interpreter itself. It waits for the fork, hands signals on to it
and ends as it does; where the stand-in is killed, so is the fork. In a fork sys.executable is the stand-in, so that
what a script starts is warm as well. Libraries of the warm process are imported already, files of this repository are
not. Where an import is what a test is about, it takes the interpreter.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from pathlib import Path

STAND_IN = """#!{python} -SE
import json, os, signal, socket, sys
words = [word for i, word in enumerate(sys.argv[1:]) if i or word != "-u"]
if not words or (words[0].startswith("-") and words[0] not in ("-m", "-c")):
    os.execv({python!r}, [{python!r}, *words])
child, early = 0, []
def hand_on(number, frame):
    os.kill(child, number) if child else early.append(number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, hand_on)
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
socket.send_fds(line, [b"."], [0, 1, 2])
order = {{"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}}
line.sendall(json.dumps(order).encode() + b"\\n")
answers = line.makefile()
child = int(answers.readline())
for number in early:
    os.kill(child, number)
status = int(answers.readline())
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def make_stand_in(folder: Path) -> tuple[str, socket.socket]:
    """(path of the stand-in, socket of its listener); `folder` has a short path, a socket's may have 107 characters."""
    program, address = folder / "python", str(folder / "socket")
    program.write_text(STAND_IN.format(python=sys.executable, address=address))
    program.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    return str(program), listener


def listen(program: str, listener: socket.socket, until: int) -> None:
    """Answer stand-ins until the process `until` has ended, which is a child of this one."""
    end, handlers = os.pidfd_open(until), set()
    while True:
        ready, _, _ = select.select([listener, end], [], [])
        if end in ready:
            os.waitpid(until, 0)
            return
        import_libraries()
        handlers = {pid for pid in handlers if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        line, _ = listener.accept()
        pid = os.fork()
        if pid == 0:
            listener.close()
            try:
                handle(program, line)
            finally:
                os._exit(0)
        handlers.add(pid)
        line.close()


def import_libraries() -> None:
    """What scripts take seconds to import, but for torch and transformers."""
    for name in ("tyro", "pandas", "scipy.stats", "statsmodels.stats.power", "matplotlib.pyplot"):
        importlib.import_module(name)


def handle(program: str, line: socket.socket) -> None:
    """One command line, from its words to its status."""
    _, fds, _, _ = socket.recv_fds(line, 1, 3)
    order = json.loads(line.makefile().readline())
    child = os.fork()
    if child == 0:
        line.close()
        run(program, order, fds)
    for fd in fds:
        os.close(fd)
    line.sendall(f"{child}\n".encode())
    end = os.pidfd_open(child)
    ready, _, _ = select.select([line, end], [], [])
    if end not in ready:  # the stand-in is gone
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if end in ready:
        line.sendall(f"{status}\n".encode())


def run(program: str, order: dict, fds: list[int]) -> None:
    """The whole life of a fork: what an interpreter does with `words`. Does not return."""
    status = 1
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        begin(program, order)
        status = ended(lambda: execute(order["words"]))
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    finally:
        os._exit(status)


def begin(program: str, order: dict) -> None:
    """Folder, environment, streams and import path of a new interpreter."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.stdin = os.fdopen(0, encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    sys.executable = program
    here = {str(Path(__file__).resolve().parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))}
    sys.path[:] = [p for p in sys.path if p not in here]
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))


def execute(words: list[str]) -> None:
    """What python does with these words."""
    first, *rest = words
    if first == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


def ended(body) -> int:
    """Exit status of an interpreter in which `body` runs."""
    try:
        body()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0
