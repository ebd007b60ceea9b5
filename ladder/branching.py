"""How a branch goes on from a parent (branch.py): its branch point, the labels, each branch's configuration.

A branch keeps the step's number, and with it the parent's prompts, sampling noise and evaluations. docs/branching.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from arms import arm_flags, arm_of, branch_label
from config import Config, check, parse
from lib.errors import UserError
from lib.files import read_json
from lib.schedule import learning_rate
from record.identity import config_of_run
from record.takeoff import BranchPoint, file_of, load_branch_point

Moment = Literal["keep", "project", "zero"]
"""What becomes of AdamW's first moment at a branch."""
SUFFIX = {"keep": "", "project": "+mproject", "zero": "+mzero"}


def parent_config(path: Path) -> tuple[Config, dict]:
    """(configuration, whole config.json) of a parent. Raises UserError where it is no vanilla run of this code."""
    there = read_json(path / "config.json")
    if not there:
        raise UserError(f"{path} holds no run (no config.json): pass the directory of a vanilla run")
    if there.get("arm") != "vanilla" or there.get("branch"):
        what = "a branch" if there.get("branch") else f"a run of arm {there.get('arm')}"
        raise UserError(f"{path} is {what}: a parent is a vanilla run")
    return config_of_run(there), there


def point_of(parent: Path, rule: str) -> tuple[Path, BranchPoint]:
    """(its file, the state) at which a rule fired in a parent. Raises UserError where it has not fired."""
    file = file_of(parent, rule)
    if not file.exists():
        ended = "in it" if (parent / "summary.json").exists() else "yet: let it run on"
        raise UserError(f"{parent} has no {file.name}: rule {rule} has not fired {ended}")
    return file, load_branch_point(file)


def labels_of(
    arms: Sequence[str], moments: Sequence[Moment] = ("keep",), draws: int = 1, streams: int = 0
) -> list[str]:
    """The label of every branch, each once: arms by treatment of the moment and by draw, single branches by label.

    Raises UserError where an arm is unknown.
    """
    labels = []
    try:
        for name in arms:
            if branch_label(name).arm != name:
                labels.append(name)
                continue
            for moment in moments:
                for draw in range(draws if arm_of(name).v == "random" else 1):
                    labels.append(name + SUFFIX[moment] + (f"+draw{draw}" if draw else ""))
    except ValueError as error:
        raise UserError(str(error)) from error
    labels += [f"vanilla+noise{stream}" for stream in range(1, streams + 1)]
    return list(dict.fromkeys(labels))


def going_on(parent: Config, point: BranchPoint, steps: int, schedule: Literal["constant", "parent"]) -> Config:
    """The parent's configuration for `steps` more steps from a point, at the rate that it had there or would have."""
    base = dataclasses.replace(parent, steps=point.step + steps, stop_after="")
    warming = parent.schedule == "constant" and point.step < parent.warmup  # the branch warms up as its parent does
    if schedule == "constant" and not warming:
        base.lr, base.schedule, base.warmup = learning_rate(parent, point.step), "constant", 0
    else:
        base.anneal = parent.anneal or parent.steps
    return base


def branch_run(base: Config, label: str, out: Path) -> Config:
    """The configuration of one branch, by its label: the arm's flags, the moment, the draw and the noise."""
    name, moment, draw, noise = branch_label(label)
    run = parse(Config, ["--preset", base.preset, *arm_flags(name)], default=base)
    run = dataclasses.replace(run, moment=moment, draw=draw, noise=noise, label=label, out=str(out / label))
    check(run)
    return run
