"""Branch points: the first step at which a rule of a run's own training rollouts fires (docs/spec.md, branching).

    early     attempts >= 10% and strict hacks < 5%
    takeoff   strict hacks >= 10%
    late      strict hacks >= 50%

each of the mean of the last three steps. When a rule fires, takeoff-<rule>.safetensors keeps what a branch starts from:
delta_S and AdamW's moments {delta_S.M, exp_avg.M, exp_avg_sq.M: [r] fp32}, and in its header the next step's number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lib.errors import AdapterError, UserError
from lib.tensors import load_tensors

WINDOW = 3
RULES: dict[str, Callable[[float, float], bool]] = {
    "early": lambda attempt, hack: attempt >= 0.10 and hack < 0.05,
    "takeoff": lambda attempt, hack: hack >= 0.10,
    "late": lambda attempt, hack: hack >= 0.50,
}


def file_of(run: Path, rule: str) -> Path:
    """Where a run keeps the state at which a rule fired."""
    return run / f"takeoff-{rule}.safetensors"


def fired(recent: list[dict]) -> list[str]:
    """The rules that the last WINDOW rows fulfil, none while there are fewer; `attempt` and `hack` are in [0, 1]."""
    if len(recent) < WINDOW:
        return []
    attempt, hack = (sum(row[key] for row in recent[-WINDOW:]) / WINDOW for key in ("attempt", "hack"))
    # A mean such as 0.30000000000000004 / 3 counts as the rate that was counted.
    return [name for name, rule in RULES.items() if rule(round(attempt, 9), round(hack, 9))]


@dataclass
class BranchPoint:
    """What a branch starts from."""

    tensors: dict[str, Tensor]
    """delta_S.M, exp_avg.M, exp_avg_sq.M, each [r] fp32 on the CPU."""
    rule: str
    step: int
    """The first step that the branch makes; the parent has made this many."""
    adam_step: int
    carried: dict
    """The parent's record.book.Carried at that step."""


def load_branch_point(path: Path) -> BranchPoint:
    """Read a takeoff file. Raises UserError where it is missing or torn."""
    try:
        tensors, metadata = load_tensors(path)
        state = json.loads(metadata["state"])
        return BranchPoint(tensors, state["rule"], state["step"], state["adam_step"], state["carried"])
    except (AdapterError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no branch point ({error}): a vanilla run writes it where its rule fires") from error
