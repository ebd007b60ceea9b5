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

from arms import BRANCHED, arm_flags, arm_of, branch_label
from config import Config, check, parse
from grading.asserts import check_gradable
from lib.distributed import Ranks
from lib.errors import UserError, run_main
from lib.files import file_sha256, read_json
from lib.models import pick_device
from problems.sources import problems_sha256, split_problems
from record.folder import refuse_other
from record.inputs import check_inputs
from record.takeoff import file_of, load_branch_point
from rewards import Grader
from stage import set_stage
from train import learning_rate, run_arm

Moment = Literal["keep", "project", "zero"]
SUFFIX = {"keep": "", "project": "+mproject", "zero": "+mzero"}


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


def parent_config(path: Path) -> tuple[Config, dict]:
    """(configuration, whole config.json) of a parent. Raises UserError where it is no vanilla run of this code."""
    there = read_json(path / "config.json")
    if not there:
        raise UserError(f"{path} holds no run (no config.json): pass the directory of a vanilla run")
    if there.get("arm") != "vanilla" or there.get("branch"):
        what = "a branch" if there.get("branch") else f"a run of arm {there.get('arm')}"
        raise UserError(f"{path} is {what}: a parent is a vanilla run")
    known = {f.name for f in dataclasses.fields(Config)}
    return Config(**{k: v for k, v in there.items() if k in known}), there


def labels_of(cfg: BranchConfig) -> list[str]:
    """The label of every branch, each once. Raises UserError where an arm is unknown."""
    labels = []
    try:
        for name in cfg.arms:
            if branch_label(name).arm != name:
                labels.append(name)
                continue
            for moment in cfg.moment:
                for draw in range(cfg.draws if arm_of(name).v == "random" else 1):
                    labels.append(name + SUFFIX[moment] + (f"+draw{draw}" if draw else ""))
    except ValueError as error:
        raise UserError(str(error)) from error
    labels += [f"vanilla+noise{stream}" for stream in range(1, cfg.streams + 1)]
    return list(dict.fromkeys(labels))


def branches_of(cfg: BranchConfig) -> tuple[list[Config], dict, dict]:
    """(a configuration for each branch, what their config.json says of the branch, the parent's config.json).

    Raises UserError where an arm is unknown or the rule has not fired in the parent.
    """
    path = Path(cfg.parent)
    parent, there = parent_config(path)
    file = file_of(path, cfg.at)
    if not file.exists():
        ended = "in it" if (path / "summary.json").exists() else "yet: let it run on"
        raise UserError(f"{path} has no {file.name}: rule {cfg.at} has not fired {ended}")
    if cfg.steps < 1 or cfg.draws < 1 or cfg.streams < 0:
        raise UserError("--steps and --draws must be at least 1, --streams at least 0")

    point = load_branch_point(file)
    asked = {k: getattr(cfg, k) for k in ("device", "threads", "workers", "isolation", "micro_batch", "memory_share")}
    base = dataclasses.replace(
        parent,
        **{k: v for k, v in asked.items() if v is not None},
        model=cfg.model or parent.model,
        steps=point.step + cfg.steps,
        branch_from=str(file),
        stop_after="",
        fresh=cfg.fresh,
    )
    warming = parent.schedule == "constant" and point.step < parent.warmup  # the branch warms up as its parent does
    if cfg.schedule == "constant" and not warming:
        base.lr, base.schedule, base.warmup = learning_rate(parent, point.step), "constant", 0
    else:
        base.anneal = parent.anneal or parent.steps
    out = Path(cfg.out) if cfg.out else path.parent / "branches" / f"{path.name}_{cfg.at}"

    runs = []
    for label in labels_of(cfg):
        name, moment, draw, noise = branch_label(label)
        run = parse(Config, ["--preset", base.preset, *arm_flags(name)], default=base)
        run = dataclasses.replace(run, moment=moment, draw=draw, noise=noise, label=label, out=str(out / label))
        check(run)
        runs.append(run)
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
    device = pick_device(first.device, first.preset, first.threads)
    problems = split_problems(first.problems, first.eval_file, first.n_eval)
    check_gradable(*problems)
    with Grader(workers=first.workers, timeout_s=first.grade_timeout, isolation=first.isolation) as grader:
        stage = set_stage(first, device, Ranks(), grader, problems)
        stage.refuse_other_weights(first.model, there, cfg.parent)
        if there.get("problems_sha256", "") not in ("", problems_sha256(*problems)):
            raise UserError(f"the problems are not those that {cfg.parent} was trained on: restore its files")
        for number, run in enumerate(todo, 1):
            logger.info(f"branch {number} of {len(todo)}: {run.label}")
            print(f"# {run.label}: steps {branch['step']} to {run.steps}")
            run_arm(stage, run, branch=branch)
    print(f"done: {len(todo)} branches in {first.run_path().parent}; `just report {first.run_path().parent}`")


if __name__ == "__main__":
    run_main(main)
