"""Plan a sweep, presets x arms x seeds, and run it: here, in a pueue queue, or on a Slurm cluster.

    just sweep --preset tiny --study organism                    prints the plan and runs nothing
    just sweep --preset tiny --study organism --submit local     runs it here, --jobs at a time
    just sweep --preset full --study preregistered --submit pueue --groups gpu0 gpu1    queues it, a group a GPU
    just sweep --preset full --study preregistered --submit slurm --slurm.partition gpu
    just sweep --preset tiny --study organism --status           rates so far, time left, failures
    just sweep --preset full --arms vanilla projected --seeds 0 1 -- --steps 100        flags of every run after --

Order: SVDs -> extraction -> held-out check, once for each pair set that an arm needs, then the runs that need it. What
is complete is skipped, and train.py resumes, so the same command continues a sweep that stopped anywhere. A run that
fails does not stop the others; what depends on it is left out.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import shlex
import sys
from pathlib import Path

import tyro

from lib.errors import UserError, run_main
from lib.files import REPO
from lib.recipes import RECIPES, as_recipe
from tools.sweep.local import INTERRUPTING, run_local
from tools.sweep.plan import plan
from tools.sweep.pueue import pueue_script, submit_pueue
from tools.sweep.slurm import submit_slurm
from tools.sweep.status import found_tasks, print_status
from tools.sweep.task import SweepConfig


def main() -> int:
    # What follows -- is for every run, and not for the sweep.
    words, extra = sys.argv[1:], []
    if "--" in words:
        split = words.index("--")
        words, extra = words[:split], words[split + 1 :]
    cfg = tyro.cli(SweepConfig, prog="just sweep", args=words, description=__doc__ + INTERRUPTING)
    cfg.extra = extra

    if cfg.status and not (cfg.study or cfg.arms or cfg.seeds):
        if not (tasks := found_tasks(Path("outputs"))):
            raise UserError("outputs/ holds no run yet: name a --study, or --arms and --seeds, to see what is planned")
    else:
        tasks = plan(cfg)
    if cfg.status:
        print_status(cfg, tasks)
    elif cfg.submit == "local":
        return run_local(tasks, cfg.jobs)
    elif cfg.submit == "pueue" and cfg.dry_run:
        print(pueue_script(tasks, cfg.groups))
    elif cfg.submit == "pueue":
        submit_pueue(tasks, cfg.groups)
    elif cfg.submit == "slurm" and not cfg.dry_run:
        submit_slurm(tasks, cfg.slurm)
    else:
        for task in tasks:
            print(("# done: " if task.done else "") + shlex.join(shown(task.command)))
    return 0


def shown(command: list[str]) -> list[str]:
    """A task's command as its recipe; elsewhere than in the repository, where a recipe would run, as it is."""
    if Path.cwd() == REPO and command[1] in RECIPES:
        return as_recipe(command[1], command[2:])
    return [word.replace(f"{REPO}/.venv/", ".venv/") for word in command]


if __name__ == "__main__":
    run_main(main)
