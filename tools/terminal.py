"""A terminal as a person sees it: a command runs behind a pseudo-terminal, pyte draws its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte


class Terminal:
    """`command` in a window of `columns` x `lines` characters, with `history` lines of scroll-back."""

    def __init__(
        self, command: list, columns: int, lines: int = 40, history: int = 2000, cwd: Path | None = None, **env: str
    ):
        self.screen = pyte.HistoryScreen(columns, lines, history=history, ratio=1.0)
        self.feed = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.child = subprocess.Popen(
            [str(word) for word in command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=take_terminal,
            cwd=cwd,
            env={**environment, "TERM": "xterm-256color", **env},
        )
        os.close(slave)

    def read(self, seconds: float = 0.1) -> bool:
        """Draw what has come within `seconds`; False once the command has closed its side."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:
            return False
        self.raw += data
        self.feed.feed(data)
        return bool(data)

    def until(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Draw until `condition` holds. Raises AssertionError with the screen where it never does."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.read() and time.monotonic() < end, "\n".join(self.text())

    def finish(self, seconds: float = 240) -> int:
        """Draw to the end; the exit status."""
        end = time.monotonic() + seconds
        while self.read() and time.monotonic() < end:
            pass
        return self.child.wait(timeout=max(1, end - time.monotonic()))

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def text(self) -> list[str]:
        """Every line that can be seen, the scrolled ones first, without blanks at its end."""
        width = self.screen.columns
        past = ["".join(line[i].data for i in range(width)).rstrip() for line in self.screen.history.top]
        return past + [line.rstrip() for line in self.screen.display]
