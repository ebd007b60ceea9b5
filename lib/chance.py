"""What chance makes of a cosine, and which modules a mean of cosines is over.

A random direction of r singular values has E|cos| = sqrt(2 / (pi r)): 0.20 at r = 16 (in_proj_a and in_proj_b of
Qwen3.5-2B), as much as the thresholds that a mean cosine is read against; 0.04 or less in that model's other modules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# A module of fewer singular values has a chance |cos| above 0.14.
SMALL_RANK = 32


def counted(ranks: Sequence[int]) -> list[bool]:
    """Whether each module counts in a mean of cosines: r of at least SMALL_RANK; all where none has as many."""
    large = [int(r) >= SMALL_RANK for r in ranks]
    return large if any(large) else [True] * len(large)


def null_abs_cos(r: int) -> float:
    """E|cos| of a random unit vector with any fixed one in r dimensions, about sqrt(2 / (pi r))."""
    return (2 / (math.pi * r)) ** 0.5
