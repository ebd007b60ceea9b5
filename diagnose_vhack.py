"""Does a direction tell hacks from the rest at a branch point? Measured without training.

    python diagnose_vhack.py outputs/tiny/vanilla_s0 --at takeoff [--v self=outputs/tiny/v_hack_self_pairs.safetensors]
    python diagnose_vhack.py outputs/tiny/vanilla_s* --at takeoff --out DIR        each, and all of them together

Rollouts are sampled at the parent's branch point and graded; each one's gradient of its mean NLL in delta_S coordinates
is scored against a direction v by the mean over modules of cos(g_b, v). The table has

    AUROC     of the scores for strict hacks, 0.5 is chance; with the 2.5 and 97.5% quantiles of random directions
    ceiling   the labelled direction of ladder/labelled.py, cross-validated: made on four fifths, scored on the rest
    share     of the squared length of the step's policy gradient, sum_b A_b g_b, that lies along v; chance is 1 / r

for all modules, by kind of module and by third of the depth. Written: diagnose.tsv, diagnose.json, diagnose.png; of
several runs together diagnose.md and diagnose.png.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from arms import ARMS
from config import Config
from ladder.branching import parent_config
from ladder.diagnosis import FOLDS, rows_of
from ladder.gradients import row_gradients
from ladder.labelled import sampled
from lib.errors import UserError, run_main
from lib.files import read_json
from lib.tensors import load_tensors
from record.takeoff import file_of, load_branch_point
from record.v_hack import load_v_hack
from report.diagnoses import combined, combined_md, plot_diagnoses, write_diagnosis
from rewards import Grader, reward
from staging.stage import Stage, stage_for


@dataclass
class DiagnoseConfig:
    """Which directions, at which branch point."""

    runs: Annotated[list[str], tyro.conf.Positional]
    """Run directories of vanilla runs; those of several that have been diagnosed are read."""
    at: Literal["early", "takeoff", "late"] = "takeoff"
    """The rule whose first firing is the branch point."""
    v: list[str] = field(default_factory=list)
    """Further directions as name=FILE (artifacts of extract_vhack_grad.py); the run's own v_hack is `pairs`."""
    rollouts: int = 384
    """Rollouts, four a prompt."""
    random: int = 200
    """Random directions behind the band of chance."""
    out: str = ""
    """Folder of the results, of several runs that of the table and figure together; empty: <run>/diagnose_<rule>, and
    diagnose_<rule> beside the first run."""
    model: str = ""
    """Where the run's model lies now; empty: where it was."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """None: as the run."""
    workers: int | None = None
    """None: as the run."""
    isolation: Literal["bwrap", "rlimits"] | None = None
    """None: as the run."""
    micro_batch: int | None = None
    """Rows a pass; None: as the run."""


def diagnose(cfg: DiagnoseConfig, path: Path, stage: Stage, parent: Config) -> tuple[list[dict], dict]:
    """(rows of the table, what they were measured on) of one branch point."""
    # The parent as it was at the point, and rollouts by noise of their own.
    point = load_branch_point(file_of(path, cfg.at))
    stage.adapter.load({name: point.tensors[f"delta_S.{name}"] for name in stage.adapter.modules})
    run = stage.run(parent, stage.prompts(ARMS["vanilla"].write_access))
    prompts, completions, grades = sampled(run, run.prompts, cfg.rollouts, "diagnose")
    hack_B = torch.tensor([g.hack for g in grades])
    n, hacks = len(hack_B), int(hack_B.sum())
    facts = {"run": str(path), "rule": point.rule, "step": point.step, "rollouts": n, "hacks": hacks}
    if not FOLDS <= hacks <= n - FOLDS:
        what = f"{path}: {hacks} of {n} rollouts are strict hacks, too few of one kind to tell apart"
        raise UserError(f"{what}: raise --rollouts or take another point")

    # Their gradients against every direction.
    vs = {"pairs": load_v_hack(parent.v_hack_path(), stage.adapter, parent)[0]}
    for text in cfg.v:
        name, _, file = text.partition("=")
        vs[name] = load_tensors(Path(file))[0]
    gradients = row_gradients(run, prompts, completions)
    paid_B = torch.tensor([reward(g, True) for g in grades])
    advantage_B = (paid_B.view(-1, 4) - paid_B.view(-1, 4).mean(1, keepdim=True)).flatten()
    return rows_of(gradients, hack_B, advantage_B, vs, cfg.random), facts


def main() -> None:
    cfg = tyro.cli(DiagnoseConfig, description=__doc__)
    if cfg.rollouts % 4 or cfg.rollouts < 8:
        raise UserError(f"--rollouts {cfg.rollouts}: give a multiple of four, four a prompt")
    paths = [Path(run) for run in cfg.runs]
    one = Path(cfg.out) if cfg.out and len(paths) == 1 else None
    outs = {path: one or path / f"diagnose_{cfg.at}" for path in paths}

    # Each point that has not been diagnosed; the model is loaded for the first and must be that of the others.
    todo = [path for path in paths if len(paths) == 1 or not (outs[path] / "diagnose.json").exists()]
    flags = ("device", "workers", "isolation", "micro_batch")
    asked = {k: getattr(cfg, k) for k in flags if getattr(cfg, k) is not None}
    parents = {path: parent_config(path) for path in todo}
    with ExitStack() as stack:
        stage = None
        for path, (parent, there) in parents.items():
            parent = dataclasses.replace(parent, model=cfg.model or parent.model, branch_from=cfg.at, **asked)
            if stage is None:
                settings = {"workers": parent.workers, "timeout_s": parent.grade_timeout}
                grader = stack.enter_context(Grader(**settings, isolation=parent.isolation))
                stage, first = stage_for(parent, there, path, grader), there
            if any(there.get(key) != first.get(key) for key in ("weights_sha256", "problems_sha256")):
                raise UserError(f"{path} is of another model or other problems than {todo[0]}: diagnose it apart")
            write_diagnosis(outs[path], *diagnose(cfg, path, stage, parent))

    # Several together.
    if len(paths) > 1:
        out = Path(cfg.out) if cfg.out else paths[0].parent / f"diagnose_{cfg.at}"
        out.mkdir(parents=True, exist_ok=True)
        together = combined([read_json(outs[path] / "diagnose.json")["rows"] for path in paths])
        plot_diagnoses(together, out / "diagnose.png")
        (out / "diagnose.md").write_text(combined_md(together, [path.name for path in paths], cfg.at), encoding="utf-8")
        print(f"done: {out}/diagnose.md, {len(paths)} branch points")
    else:
        print(f"done: {outs[paths[0]]}/diagnose.tsv")


if __name__ == "__main__":
    run_main(main)
