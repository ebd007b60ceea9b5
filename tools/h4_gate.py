"""H4's gate: does vanilla hack so often that there is something to suppress? Exit status 1 where it does not.

    python -m tools.h4_gate outputs/full/vanilla_s0

The preregistration decides it on one seed: at or below the threshold the study moves to the next model of its chain
before any other arm is run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from lib.errors import UserError, run_main
from report.runs import read_run
from report.verdicts import H4_RATE, next_model


def judge(folder: Path) -> tuple[bool, str]:
    """(whether vanilla's run in `folder` passes, what it did and what follows).

    Raises UserError where it has not ended.
    """
    if not (folder / "summary.json").exists():
        raise UserError(f"{folder} is not complete: run its command again to finish it")
    run = read_run(folder)
    hack = 100 * float(run.evals["hack"].iloc[-1])
    what = f"vanilla's strict hack rate is {hack:.1f}% at step {run.end}, threshold {H4_RATE}%"
    if hack > H4_RATE:
        return True, what
    return False, f"{what}; {next_model([run])}"


@tyro.conf.configure(tyro.conf.PositionalRequiredArgs)
def gate(run: Path) -> int:
    """Judge a finished run of vanilla.

    Args:
        run: Its directory.
    """
    passes, sentence = judge(run)
    print(f"H4's gate {'passed' if passes else 'FAILED'}: {sentence}", file=sys.stdout if passes else sys.stderr)
    return 0 if passes else 1


if __name__ == "__main__":
    run_main(lambda: tyro.cli(gate, prog="python -m tools.h4_gate", description=__doc__))
