"""Open what --track has written: trackio's dashboard, or TensorBoard on the runs that have a tensorboard/ folder.

    just dashboard                        the tracker that these runs were told to; trackio where there is none
    just dashboard outputs/dev --kind tensorboard

Both serve on this machine alone; over ssh, forward the port that they print. Ctrl-C ends them.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from lib.errors import UserError, run_main
from record.track import PROJECT, check_tracker


@dataclass
class DashboardConfig:
    """What to open."""

    folder: tyro.conf.Positional[Path] = Path("outputs")
    """Where the runs are (tensorboard); trackio keeps all runs in TRACKIO_DIR."""
    kind: Literal["", "trackio", "tensorboard"] = ""
    """Which; empty: tensorboard where runs below the folder were tracked with it, else trackio."""


def command(cfg: DashboardConfig) -> list[str]:
    """The tracker's own command. Raises UserError where it is not installed or the folder is not there."""
    if not cfg.folder.is_dir():
        raise UserError(f"{cfg.folder} is no folder: pass one that holds runs, such as outputs/tiny")
    written = any(cfg.folder.rglob("tensorboard/events.*"))
    kind = cfg.kind or ("tensorboard" if written else "trackio")
    check_tracker(kind)
    if kind == "trackio":
        return [sys.executable, "-m", "trackio.cli", "show", "--project", PROJECT]
    if not written:
        raise UserError(
            f"no run below {cfg.folder} was tracked with tensorboard: `just train tiny --track tensorboard`"
        )
    return [sys.executable, "-m", "tensorboard.main", "--logdir", str(cfg.folder)]


def main() -> None:
    words = command(tyro.cli(DashboardConfig, prog="just dashboard", description=__doc__))
    sys.stdout.flush()
    os.execv(words[0], words)


if __name__ == "__main__":
    run_main(main)
