"""Branches: every arm from one take-off of a vanilla run.

    python branch.py outputs/tiny/vanilla_s0 --at takeoff --arms vanilla projected random-v --steps 20
    torchrun --nproc-per-node N branch.py ...        the arms shared out among N GPUs

A branch starts from the parent's delta_S and AdamW state at the first step at which a rule fired (record/takeoff.py).
It keeps the step's number, so that prompts, sampling noise and evaluation are the parent's, and trains on with an arm.
The model, its SVDs and the sampler are loaded once; each branch is a run directory of its own, resumed where it was
left and skipped where it is complete. AdamW's second moment and step count are kept; its first moment is kept,
projected once or zeroed (--moment), and vanilla is to be treated alike. docs/branching.md explains why.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from loguru import logger

from arms import BRANCHED
from config import Config
from ladder.branching import Moment, branch_run, going_on, labels_of, parent_config, point_of
from lib.errors import UserError, run_main
from lib.files import file_sha256
from problems.sources import problems_sha256
from record.folder import refuse_other
from record.inputs import check_inputs
from rewards import Grader
from staging.stage import stage_for
from train import run_arm


@dataclass
class BranchConfig:
    """Which arms go on from where."""

    parent: Annotated[str, tyro.conf.Positional]
    """Run directory of a vanilla run."""
    at: Literal["early", "takeoff", "late"] = "takeoff"
    """The rule whose first firing is the branch point."""
    arms: list[str] = field(default_factory=lambda: list(BRANCHED))
    """Arms and variants, each as --moment and --draws say; or single branches by label: projected+mzero,
    random-v+draw1, vanilla+noise1."""
    steps: int = 20
    """Steps of each branch."""
    moment: list[Moment] = field(default_factory=lambda: ["keep"])
    """What becomes of AdamW's first moment, each a branch of every arm: kept, projected once, zeroed."""
    draws: int = 1
    """Random directions, each a branch, of the arms that take one."""
    streams: int = 0
    """Further branches of vanilla (moment kept), each with another stream of sampling noise: the noise floor."""
    schedule: Literal["constant", "parent"] = "constant"
    """Learning rate: constant from the branch on, at the parent's rate there, or the parent's own schedule."""
    out: str = ""
    """Folder of the branches; empty: branches/<parent>_<rule> beside the parent."""
    model: str = ""
    """Where the parent's model lies now; empty: where it was. Its weights are compared."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """None: as the parent."""
    threads: int | None = None
    """None: as the parent."""
    workers: int | None = None
    """Grading processes; None: as the parent."""
    isolation: Literal["bwrap", "rlimits"] | None = None
    """Sandbox of graded programs; None: as the parent."""
    micro_batch: int | None = None
    """Rows a pass; None: as the parent."""
    memory_share: float | None = None
    """Share of the GPU where other runs are beside it, as in train.py; None: as the parent."""
    fresh: bool = False
    """Move existing branches aside instead of continuing them."""


def branches_of(cfg: BranchConfig) -> tuple[list[Config], dict, dict]:
    """(a configuration for each branch, what their config.json says of the branch, the parent's config.json).

    Raises UserError where an arm is unknown or the rule has not fired in the parent.
    """
    path = Path(cfg.parent)
    parent, there = parent_config(path)
    file, point = point_of(path, cfg.at)
    if cfg.steps < 1 or cfg.draws < 1 or cfg.streams < 0:
        raise UserError("--steps and --draws must be at least 1, --streams at least 0")
    asked = {k: getattr(cfg, k) for k in ("device", "threads", "workers", "isolation", "micro_batch", "memory_share")}
    base = dataclasses.replace(
        going_on(parent, point, cfg.steps, cfg.schedule),
        **{k: v for k, v in asked.items() if v is not None},
        model=cfg.model or parent.model,
        branch_from=str(file),
        fresh=cfg.fresh,
    )
    out = Path(cfg.out) if cfg.out else path.parent / "branches" / f"{path.name}_{cfg.at}"
    runs = [branch_run(base, label, out) for label in labels_of(cfg.arms, cfg.moment, cfg.draws, cfg.streams)]
    branch = {"parent": str(path), "rule": point.rule, "step": point.step, "sha256": file_sha256(file)}
    return runs, branch, there


def main() -> None:
    cfg = tyro.cli(BranchConfig, description=__doc__)
    runs, branch, there = branches_of(cfg)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    todo = [run for run in runs[rank::world] if cfg.fresh or not (run.run_path() / "summary.json").exists()]
    for run in runs[rank::world] if not cfg.fresh else []:
        refuse_other(run.run_path(), dataclasses.asdict(run))  # a complete one too: other settings are another branch
    for run in todo:
        check_inputs(run)
    if not todo:
        logger.info(f"all {len(runs)} branches are complete: nothing to do (--fresh runs them again)")
        return
    first = todo[0]
    with Grader(workers=first.workers, timeout_s=first.grade_timeout, isolation=first.isolation) as grader:
        stage = stage_for(first, there, cfg.parent, grader)
        if there.get("problems_sha256", "") not in ("", problems_sha256(*stage.problems)):
            raise UserError(f"the problems are not those that {cfg.parent} was trained on: restore its files")
        for number, run in enumerate(todo, 1):
            logger.info(f"branch {number} of {len(todo)}: {run.label}")
            print(f"# {run.label}: steps {branch['step']} to {run.steps}")
            run_arm(stage, run, branch=branch)
    print(f"done: {len(todo)} branches in {first.run_path().parent}; `just report {first.run_path().parent}`")


if __name__ == "__main__":
    run_main(main)
