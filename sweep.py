"""Plan a sweep, arms x seeds of one preset, and run it: print the commands, or run them here side by side.

    python sweep.py --preset tiny --study organism                    prints the plan and runs nothing
    python sweep.py --preset tiny --study organism --submit local     runs it, --jobs at a time, skips what is complete
    python sweep.py --preset full --arms vanilla projected --seeds 0 1 -- --steps 100   flags of every run after --

Order: one extraction and one held-out check for each pair set that an arm needs, then the runs. A run that fails does
not stop the others; the exit status is 1 and the last lines name it. Running again continues where this stopped.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from loguru import logger

from presets import PRESETS, Preset, UserError, configure_logging

# A variant is an arm with flags and a label of its own.
VARIANTS: dict[str, list[str]] = {
    "projected-same": ["--arm", "projected", "--pairs", "organism-same"],
    "projected-far": ["--arm", "projected", "--pairs", "organism-far"],
    "projected-update": ["--arm", "projected", "--project", "update"],
}
STUDIES: dict[str, tuple[list[str], list[int]]] = {
    # Order matters where a study is cut short: the comparisons of the headline come first.
    "organism": (
        ["vanilla", "projected", "random-v", "projected-same", "projected-far", "reversed", "projected-nomag",
         "projected-update", "rebound", "rebound-zscore", "shuffled-v", "no-loophole"], [0, 1, 2, 3, 4]),
    "preregistered": (["vanilla", "projected", "projected-nomag", "rebound", "rebound-zscore"], [0, 1, 2]),
}  # fmt: skip


@dataclass
class SweepConfig:
    """What to run, and how."""

    preset: Preset = "tiny"
    """Preset of every run."""
    study: Literal["", "organism", "preregistered"] = ""
    """A named list of arms and seeds; --arms and --seeds override its halves."""
    arms: list[str] = field(default_factory=list)
    """Arms, or the variants projected-same, projected-far, projected-update."""
    seeds: list[int] = field(default_factory=list)
    """Seeds."""
    submit: Literal["plan", "local"] = "plan"
    """plan prints the commands; local runs them here."""
    jobs: int = 2
    """Runs side by side (local)."""
    extra: list[str] = field(default_factory=list)
    """Set by what follows `--`: flags for every run."""


@dataclass
class Task:
    """One command and the folder whose marker says that it is done."""

    name: str
    command: list[str]
    marker: Path

    @property
    def done(self) -> bool:
        return self.marker.exists()


def flag(words: list[str], name: str, default: str) -> str:
    """The value after `name` in a list of flags."""
    return words[words.index(name) + 1] if name in words else default


def plan(cfg: SweepConfig) -> tuple[list[Task], list[Task]]:
    """(preparations, runs). Raises UserError where nothing is named."""
    arms, seeds = STUDIES.get(cfg.study, ([], []))
    arms, seeds = cfg.arms or arms, cfg.seeds or seeds
    if not arms or not seeds:
        raise UserError("nothing to run: name a --study, or --arms and --seeds")
    base = PRESETS[cfg.preset]["pairs"]
    flags = {arm: VARIANTS.get(arm, ["--arm", arm]) for arm in arms}
    preparations = []
    for pairs in sorted({flag(words, "--pairs", base) for words in flags.values()}):
        artifact = Path("outputs") / cfg.preset / f"v_hack_{pairs}.safetensors"
        common = ["--preset", cfg.preset, "--pairs", pairs]
        heldout = artifact.with_name(f"{artifact.stem}_heldout") / "heldout.json"
        preparations.append(Task(f"extract {pairs}", [sys.executable, "extract_vhack_grad.py", *common], artifact))
        preparations.append(Task(f"verify {pairs}", [sys.executable, "verify_vhack_heldout.py", *common, "--override"],
                                 heldout))  # fmt: skip
    runs = []
    for seed in seeds:
        for arm, words in flags.items():
            folder = Path("outputs") / cfg.preset / f"{arm}_s{seed}"
            label = ["--label", arm] if arm in VARIANTS else []
            command = [
                sys.executable,
                "train.py",
                "--preset",
                cfg.preset,
                *words,
                *label,
                "--seed",
                str(seed),
                *cfg.extra,
            ]
            runs.append(Task(f"{arm}_s{seed}", command, folder / "summary.json"))
    return preparations, runs


def execute(task: Task, logs: Path, jobs: int) -> bool:
    """Run one task, its output in logs/<name>.log; whether it left its marker."""
    if task.done:
        logger.info(f"{task.name}: complete, skipped")
        return True
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{task.name.replace(' ', '_')}.log"
    # Runs side by side must not each spread over all cores; --threads does it for torch, this for the libraries below.
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if jobs > 1 else None
    started = time.perf_counter()
    with open(log, "w") as f:
        status = subprocess.run(task.command, stdout=f, stderr=subprocess.STDOUT, env=environment).returncode
    minutes = (time.perf_counter() - started) / 60
    if status or not task.done:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        logger.error(f"{task.name}: failed ({last}); see {log}")
        return False
    logger.info(f"{task.name}: {minutes:.1f} min")
    return True


def run_local(cfg: SweepConfig, preparations: list[Task], runs: list[Task]) -> int:
    """Preparations in order, then the runs, `jobs` at a time; the number of failures."""
    logs = Path("outputs") / cfg.preset / "logs"
    if not all(execute(task, logs, 1) for task in preparations):
        return 1
    started = time.perf_counter()
    left = [task for task in runs if not task.done]
    with ThreadPoolExecutor(cfg.jobs) as pool:
        outcomes = []
        for n, (task, ok) in enumerate(zip(left, pool.map(lambda t: execute(t, logs, cfg.jobs), left), strict=True), 1):
            eta = (time.perf_counter() - started) / n * (len(left) - n) / 60
            logger.info(f"{n} of {len(left)} runs, about {eta:.0f} min left")
            outcomes.append((task.name, ok))
    failed = [name for name, ok in outcomes if not ok]
    if failed:
        logger.error(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same command retries them")
    return len(failed)


def main() -> int:
    argv = sys.argv[1:]
    split = argv.index("--") if "--" in argv else len(argv)
    cfg = tyro.cli(SweepConfig, args=argv[:split], description=__doc__)
    cfg.extra += argv[split + 1 :]
    preparations, runs = plan(cfg)
    if cfg.submit == "local":
        return 1 if run_local(cfg, preparations, runs) else 0
    for task in preparations + runs:
        print(f"{'# done: ' if task.done else ''}{shlex.join(['python', *task.command[1:]])}")
    return 0


if __name__ == "__main__":
    configure_logging()
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
