"""Kernels are used where they compile and agree with plain torch; this is how they are tried."""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger


def agrees(without: str, error: Callable[[], float], bound: float) -> bool:
    """Whether `error()`, the kernels' largest error against plain torch, can be had and is below `bound`.

    Where not, one warning says why, and what goes `without` them.
    """
    try:
        worst = error()
    except Exception as failure:  # of Triton's compiler, the driver or the launch
        logger.warning(f"{without} ({' '.join(str(failure).split())[:200]}): slower")
        return False
    if not worst < bound:
        logger.warning(f"{without}, which are off by {worst:.2g} here: slower")
        return False
    return True
