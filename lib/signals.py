"""Signals that ask a process to stop are noted once, here; what a stop means is the owner's business."""

from __future__ import annotations

import signal


class StopLatch:
    """Takes the given signals instead of their handlers and remembers them in the order in which they came."""

    def __init__(self, *numbers: signal.Signals):
        self.received: list[int] = []
        self.handlers_before = {number: signal.signal(number, self) for number in numbers}

    def __call__(self, number: int, frame) -> None:
        self.received.append(number)

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self.handlers_before.items():
            signal.signal(number, handler)
