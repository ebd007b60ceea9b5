"""Whom Rebound's discounts fine, and what a hack is still paid: python -m tools.fines FOLDER...

A TSV row for each run that kept all of its training rollouts, read from their rewards and advantages:

    gap            advantage of a group's strict hacks minus that of its other completions, mean over groups with both
    fined_hacks    share of strict hacks that a discount fined, of n_hacks; fined_others: of others that earn anything
    unread         groups whose discounts do not follow from the advantages; these and arms without discounts: -

A discount multiplies a reward R by 1 or by something in (1 - alpha, 1 - alpha / 2] (grpo.rebound_zscore_discount), and
an advantage is what was paid minus the group's mean. At least one row of a group is not fined, and only that row's R
minus its advantage gives every other row a possible pay: so the mean is known, and with it who was fined.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from loguru import logger

from arms import ARMS
from lib.errors import UserError, run_main
from report.runs import find_run_dirs, read_run
from report.samples import read_lines

# Rewards are sums of 0.5 and 3, advantages fp32.
TOLERANCE = 1e-4


@dataclass
class FinesConfig:
    """Runs to read."""

    runs: tyro.conf.Positional[list[Path]]
    """Run directories, or folders of them; their rollouts.jsonl must hold every training rollout."""
    steps: int = 0
    """Only the first so many training steps of each run; 0: all."""


def fined_rows(rewards_G: np.ndarray, advantages_G: np.ndarray, alpha: float) -> np.ndarray | None:
    """[G] bool: rows whose reward was discounted; None where that does not follow. A row of reward 0 counts as not.

    rewards_G, advantages_G: [G] float, as graded and as trained on (without 1/std).
    """
    found = set()
    for i in range(len(rewards_G)):
        paid_G = advantages_G + (rewards_G[i] - advantages_G[i])
        whole_G = np.abs(paid_G - rewards_G) < TOLERANCE
        fined_G = (paid_G > rewards_G * (1 - alpha) - TOLERANCE) & (paid_G < rewards_G * (1 - alpha / 2) + TOLERANCE)
        if (whole_G | fined_G).all():
            found.add(tuple(~whole_G))
    return np.array(found.pop()) if len(found) == 1 else None


def groups_of(rows: list[dict], prompts: int, group: int) -> list[list[dict]]:
    """The groups of a run's training rollouts, step by step; steps of which not all rollouts were kept are left out."""
    steps: dict[int, list[dict]] = {}
    for row in rows:
        steps.setdefault(row["step"], []).append(row)
    whole = [of_step for of_step in steps.values() if len(of_step) == prompts * group]
    return [of_step[start : start + group] for of_step in whole for start in range(0, len(of_step), group)]


def fines(path: Path, steps: int = 0) -> dict | None:
    """A row of the table; None where no training step's rollouts are all there. steps: the first so many; 0: all.

    Raises UserError for a run whose advantages are divided by the group's deviation.
    """
    run = read_run(path)
    if run.config.get("advantage") == "classic":
        raise UserError(f"{path} has --advantage classic: what was paid does not follow from its advantages")
    rows = [row for row in read_lines(path, "rollouts.jsonl") if row.get("split") == "train"]
    if rows and steps:
        first = min(row["step"] for row in rows)
        rows = [row for row in rows if row["step"] < first + steps]
    groups = groups_of(rows, run.config["prompts"], run.config["group"])
    if not groups:
        return None

    arm = ARMS[run.config["arm"]]
    gaps, unread, seen = [], 0, {True: [], False: []}
    for group in groups:
        table = pd.DataFrame(group)[["reward", "advantage", "hack"]]
        means = table.groupby("hack")["advantage"].mean()
        if len(means) == 2:
            gaps.append(means[True] - means[False])
        if arm.pays in ("zscore", "shuffled"):
            fined_G = fined_rows(table["reward"].to_numpy(float), table["advantage"].to_numpy(float), arm.alpha)
            if fined_G is None:
                unread += 1
                continue
            for hack, reward, fined in zip(table["hack"], table["reward"], fined_G, strict=True):
                if reward > 0:
                    seen[bool(hack)].append(fined)
    share = {hack: np.mean(found) if found else np.nan for hack, found in seen.items()}
    return {"run": "/".join(path.parts[-2:]), "arm": run.config["arm"], "groups": len(groups), "unread": unread,
            "gap": np.mean(gaps) if gaps else np.nan, "n_gap": len(gaps),
            "fined_hacks": share[True], "n_hacks": len(seen[True]),
            "fined_others": share[False], "n_others": len(seen[False])}  # fmt: skip


def main() -> None:
    cfg = tyro.cli(FinesConfig, prog="python -m tools.fines", description=__doc__)
    if cfg.steps < 0:
        raise UserError("--steps must be at least 0")
    rows = []
    for path in find_run_dirs(cfg.runs):
        if (row := fines(path, cfg.steps)) is None:
            logger.info(f"left out: {path}: no step with all of its training rollouts in rollouts.jsonl")
        else:
            rows.append(row)
    if not rows:
        raise UserError(
            "none of these runs kept all rollouts of a training step: give --rollouts-mb more when training"
        )
    print(pd.DataFrame(rows).to_csv(sep="\t", index=False, float_format="%.3f", na_rep="-"), end="")


if __name__ == "__main__":
    run_main(main)
