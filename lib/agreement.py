"""Kernels are used where they compile and agree with plain torch; this is how they are tried."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from loguru import logger


@functools.cache
def kernels_for(device: torch.device, module: str) -> ModuleType | None:
    """The module of Triton kernels (lib.kernels, lib.delta_kernels) where its `usable(device)` says so, asked once.

    None on a CPU and without Triton.
    """
    if device.type != "cuda":
        return None
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    return found if found.usable(device) else None


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
