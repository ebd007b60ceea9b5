"""Runs the scripts' command lines as real processes without paying for the imports each time.

    Trainer (in pytest) -- JSON lines --> this file as a script, imports done -- fork --> the script's main()
    Trainer.python (warm_python.py), a stand-in for the interpreter --> the same process -- fork --> any command line

A command may plant a fault (source run in the child before main) or be killed with SIGKILL from outside. The warm
process adopts orphans, so that it can tell which processes outlive a killed trainer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from warm_python import listen, make_stand_in

REPO = Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Done:
    """How a command ended."""

    status: int
    """Exit status; minus the signal's number where one ended it."""
    out: str
    err: str
    strays: int
    """Processes of the command that were alive seconds after it."""

    @property
    def sentence(self) -> str:
        """The error that a user reads, after checking that it is one line of a command that failed as it should."""
        assert self.status == 2 and "Traceback" not in self.err, self.err
        last = self.err.strip().splitlines()[-1]
        assert last.startswith("error: "), self.err
        return last


class Trainer:
    """The warm process, from pytest's side."""

    def __init__(self):
        env = os.environ | {"PYTHONPATH": str(REPO), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self.folder = Path(tempfile.mkdtemp(prefix="warm"))  # a short path, since a socket's may have 107 characters
        self.python, listener = make_stand_in(self.folder)
        with listener:
            command = [sys.executable, __file__, self.python, str(listener.fileno())]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
                                            cwd=REPO, pass_fds=[listener.fileno()])  # fmt: skip

    def __call__(self, *flags, script: str = "train", plant: str = "", kill: dict | None = None) -> Done:
        """Run one command line; kill {"file": path, "delay": s}: s seconds after the command has made that file."""
        words = [str(flag) for flag in flags]
        order = {"script": script, "argv": [f"{script}.py", *words], "plant": plant, "kill": kill}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Done(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder)


def die_at(call: str, name: str, k: int = 1, after: bool = False) -> None:
    """SIGKILL this process at its k-th os.CALL (write, fsync, replace) on a file whose name ends in `name`.

    A write is half done by then, and so is a temporary file that is about to be synced.
    """
    real, left = getattr(os, call), [k]

    def dies(*args):
        path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else os.fspath(args[-1])
        left[0] -= Path(path).name.endswith(name) or (f".{name}." in path and path.endswith(".tmp"))
        if left[0] == 0:
            if call == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            if call == "fsync" and path.endswith(".tmp"):
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            if after:
                real(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    setattr(os, call, dies)


def child(order: dict, out: int, err: int) -> None:
    """The forked child's whole life."""
    from lib import errors

    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.argv = order["argv"]
    module = __import__(order["script"])
    exec(order["plant"], {"die_at": die_at, order["script"]: module})
    errors.run_main(module.main)


def wait(pid: int, kill: dict | None) -> int:
    """Exit status of the child, killed when `kill` says so."""
    due = float("inf")
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if kill and due == float("inf") and os.path.exists(kill["file"]):
            due = time.monotonic() + kill["delay"]
        if time.monotonic() >= due:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def strays(patience: float = 5.0) -> int:
    """Orphans that are still alive after `patience` seconds; they are ended then."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return 0
    alive = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in alive:
        os.kill(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)
    return len(alive)


def main(program: str, listener: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    AutoModelForCausalLM.from_pretrained(REPO / "organism")  # what transformers imports and builds for it, once
    gc.freeze()  # forks need not look through what is there
    server = os.fork()
    if server == 0:
        os.close(listener)
        serve()
    else:
        listen(program, socket.socket(fileno=listener), until=server)
    os._exit(0)  # taking torch apart takes seconds


def serve() -> None:
    """Answer a Trainer until it closes."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                try:
                    child(order, out.fileno(), err.fileno())
                except SystemExit as stop:
                    sys.stdout.flush()
                    os._exit(stop.code or 0)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
            status, left = wait(pid, order["kill"]), strays()
            texts = [(f.seek(0), f.read().decode(errors="replace"))[1] for f in (out, err)]
        print(json.dumps({"status": status, "out": texts[0], "err": texts[1], "strays": left}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
