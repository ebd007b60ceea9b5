"""Is the learnt hack tied to the evaluator's name? Finished runs on held-out prompts that name another one.

    python -m tools.unseen_names outputs/tiny/branches/vanilla_s0_takeoff/* [--samples 4]

Training names run_tests(); here every problem names one of the other nine (problems.EVALUATOR_NAMES), and a program
that defines that name is judged by it. Written into each run: names.json, {step, n, hack, attempt, own}. The report of
branches shows it beside the hack rate at the end. Runs of one model and one set of problems; it is loaded once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from loguru import logger

from config import Config
from lib.errors import UserError, run_main
from lib.files import read_json, write_json
from lib.tensors import load_tensors
from problems import EVALUATOR
from record.identity import config_of_run
from rewards import Grader
from rollouts import rates, sample_and_grade
from sampling.noise import row_seed
from staging.stage import Stage, stage_for

ALIKE = ("weights_sha256", "problems_sha256")


@dataclass
class NamesConfig:
    """Which runs."""

    runs: Annotated[list[Path], tyro.conf.Positional]
    """Run directories; what is no finished run is passed over, and so is one that has its names.json."""
    samples: int = 0
    """Completions a problem; 0: as the run's last evaluation."""
    model: str = ""
    """Where the runs' model lies now; empty: where it was."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """None: as the run."""
    workers: int | None = None
    """None: as the run."""


def config_of(there: dict, cfg: NamesConfig) -> Config:
    """The configuration of a run, where its model lies now."""
    asked = {k: v for k in ("device", "workers") if (v := getattr(cfg, k)) is not None}
    run = config_of_run(there)
    return dataclasses.replace(run, model=cfg.model or run.model, **asked)


def with_unseen_names(stage: Stage, cfg: Config, path: Path, samples: int) -> dict:
    """Rates of a run's delta_S on held-out prompts that name another evaluator."""
    stage.adapter.load(load_tensors(path / "delta_S.safetensors")[0])
    prompts = stage.held_out(names=True).open
    run = stage.run(cfg, prompts)
    samples = samples or cfg.final_samples or cfg.eval_samples
    other = [i for i, name in enumerate(prompts.evaluators) if name != EVALUATOR]
    picked = [i for i in other for _ in range(samples)]
    seeds = [row_seed("names", cfg.seed, prompts.problems[i].id, j % samples) for j, i in enumerate(picked)]
    _, _, _, grades, *_ = sample_and_grade(run, prompts, picked, seeds)
    found = rates(grades)
    return {"step": cfg.steps, "n": len(grades), **{key: found[key] for key in ("hack", "attempt", "own")}}


def main() -> None:
    cfg = tyro.cli(NamesConfig, prog="python -m tools.unseen_names", description=__doc__)
    finished = [
        path for path in cfg.runs if (path / "summary.json").exists() and (path / "delta_S.safetensors").exists()
    ]
    if not finished:
        raise UserError("none of these is a finished run with its delta_S.safetensors")
    todo = [path for path in finished if not (path / "names.json").exists()]
    if not todo:
        logger.info(f"all {len(finished)} runs have their names.json: nothing to do")
        return

    # The model of the first, which must be that of all.
    there = {path: read_json(path / "config.json") for path in todo}
    first = config_of(there[todo[0]], cfg)
    for path, config in there.items():
        if any(config.get(key) != there[todo[0]].get(key) for key in ALIKE):
            raise UserError(f"{path} is of another model or other problems than {todo[0]}: evaluate it apart")
    with Grader(workers=first.workers, timeout_s=first.grade_timeout, isolation=first.isolation) as grader:
        stage = stage_for(first, there[todo[0]], todo[0], grader)
        for path in todo:
            found = with_unseen_names(stage, config_of(there[path], cfg), path, cfg.samples)
            write_json(path / "names.json", found)
            print(f"{path.name}\thack {found['hack']:.3f}\tattempt {found['attempt']:.3f}\tn {found['n']}", flush=True)


if __name__ == "__main__":
    run_main(main)
