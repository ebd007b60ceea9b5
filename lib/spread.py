"""Samples that are not drawn: some of a sequence, evenly spread over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spread, in order."""
    n, k = len(items), min(len(items), most)
    return [items[i * n // k] for i in range(k)]
