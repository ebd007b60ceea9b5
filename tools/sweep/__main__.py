"""tools.sweep.__main__"""

from __future__ import annotations

import shlex
import sys

import tyro

from lib.errors import run_main
from tools.sweep.local import run_local
from tools.sweep.plan import plan
from tools.sweep.pueue import pueue_script, submit_pueue
from tools.sweep.slurm import submit_slurm
from tools.sweep.status import status
from tools.sweep.task import SweepConfig


def main() -> int:
    argv = sys.argv[1:]
    split = argv.index("--") if "--" in argv else len(argv)
    cfg = tyro.cli(SweepConfig, args=argv[:split], description=__doc__)
    cfg.extra = argv[split + 1 :]
    tasks = plan(cfg)
    if cfg.status:
        status(cfg, tasks)
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
            print(f"{'# done: ' if task.done else ''}{shlex.join(['python', *task.command[1:]])}")
    return 0


if __name__ == "__main__":
    run_main(main)
