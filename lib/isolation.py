"""The sandbox of graded programs where no flag names one: of the environment variable ISOLATION, else bubblewrap."""

from __future__ import annotations

import os

from lib.errors import UserError

KINDS = ("bwrap", "rlimits")


def usual_isolation() -> str:
    """bwrap, or what ISOLATION says. Raises UserError where it says something else."""
    kind = os.environ.get("ISOLATION") or KINDS[0]
    if kind not in KINDS:
        raise UserError(f"ISOLATION={kind} in the environment is no sandbox: bwrap, or rlimits where it is refused")
    return kind
