"""What a run needs that is not there, found before a model is loaded; and what follows a run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from arms import ARMS
from config import Config, ModelConfig
from lib.errors import AT_END, UserError
from pairs import load_pairs
from record.track import check_tracker


def missing_v_hack(cfg: ModelConfig) -> str:
    """What to do about a v_hack that is not there."""
    return f"no v_hack at {cfg.v_hack_path()}: run `just extract-vhack {cfg.preset}` first, or pass --v-hack F"


def check_inputs(cfg: Config) -> None:
    """Raises UserError where the pair set, the v_hack that the arm cannot do without, or the tracker is not there."""
    check_tracker(cfg.track)
    load_pairs(cfg.pairs)
    if ARMS[cfg.arm].needs_v and not cfg.v_hack_path().exists():
        raise UserError(missing_v_hack(cfg))


def call_at_end(command: str, out: Path) -> None:
    """Run a shell command once when this script has ended, in rank 0 and unless a signal stopped it."""

    def call(status: int) -> None:
        if status < 128 and int(os.environ.get("RANK", 0)) == 0:
            subprocess.run(command, shell=True, env={**os.environ, "STATUS": str(status), "OUT": str(out)})

    if command:
        AT_END.append(call)
