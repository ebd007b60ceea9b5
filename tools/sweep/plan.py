"""A sweep's settings -> its tasks: SVDs once, extraction and held-out check a pair set, then the runs, seed by seed.

Every run's flags are parsed here as train.py would, so that a wrong one is found before anything is queued.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
from pathlib import Path

from arms import ARMS, VARIANTS, arm_flags, why
from config import PRESETS, Config, ModelConfig, check, parse
from lib.errors import UserError
from lib.files import read_json
from tools.sweep.studies import BASELINE, STUDIES
from tools.sweep.task import OWN_FLAGS, SweepConfig, Task, flag, flag_name, memory_share, model_flags, module, script


def named_runs(cfg: SweepConfig) -> list[tuple[str, int]]:
    """(arm or variant, seed) of every run, each once, in the order in which they run."""
    study = STUDIES.get(cfg.study)
    arms = list(dict.fromkeys(cfg.arms or (study.seeds if study else [])))
    of_study = study.seeds if study else {}
    every = max(of_study.values(), key=len, default=())
    seeds = {arm: tuple(dict.fromkeys(cfg.seeds)) or of_study.get(arm, every) for arm in arms}
    if study and study.h4_gate:
        return [(arm, seed) for arm in arms for seed in seeds[arm]]
    longest = max(seeds.values(), key=len, default=())
    return [(arm, seed) for seed in longest for arm in arms if seed in seeds[arm]]


def plan(cfg: SweepConfig) -> list[Task]:
    """Every task of the sweep, each after those it waits for. Raises UserError where nothing is named, or wrongly."""
    runs = named_runs(cfg)
    presets = list(dict.fromkeys(cfg.preset))

    # What no sweep can be.
    if not runs or not presets:
        raise UserError("nothing to run: name a --study, or --arms and --seeds")
    if cfg.jobs < 1 or not cfg.groups:
        raise UserError(f"--jobs {cfg.jobs} must be at least 1, and --groups must name one")
    known = {**ARMS, **VARIANTS}
    if unknown := [arm for arm, _ in runs if arm not in known]:
        raise UserError(f"there is no arm {unknown[0]}: the arms are {', '.join(known)}")
    if taken := [name for word in cfg.extra if (name := flag_name(word)) in OWN_FLAGS]:
        raise UserError(f"--{taken[0]} differs between runs and cannot follow --: the sweep sets it itself")

    # What no run can be.
    lowest = {arm: min(seed for other, seed in runs if other == arm) for arm, _ in runs}
    for preset, (arm, seed) in itertools.product(presets, lowest.items()):
        check(run_config(cfg, preset, arm, seed))
    return [task for preset in presets for task in plan_preset(cfg, preset, runs)]


def run_config(cfg: SweepConfig, preset: str, arm: str, seed: int) -> Config:
    """What train.py makes of a run's flags. Raises UserError where it refuses one."""
    words = ["--preset", preset, *arm_flags(arm), "--seed", str(seed), *cfg.extra]
    try:
        return parse(Config, words)
    except SystemExit:  # tyro has said what is wrong
        raise UserError(f"a run cannot take {shlex.join(cfg.extra)}: `train.py --help` lists its flags") from None


def plan_preset(cfg: SweepConfig, preset: str, runs: list[tuple[str, int]]) -> list[Task]:
    """SVDs, extractions, held-out checks, runs."""
    # The pair set of each arm: what follows -- wins over the arm's own flags, and both over the preset.
    flags = {arm: arm_flags(arm) for arm, _ in runs}
    base = PRESETS[preset]["pairs"]
    pairs = {arm: flag([*words, *cfg.extra], "--pairs", base) for arm, words in flags.items()}
    if flag(cfg.extra, "--v-hack", "") and len(set(pairs.values())) > 1:
        raise UserError("--v-hack after -- is one file, but these arms need a v_hack for each of their pair sets")

    tasks = preparations(cfg, preset, sorted(set(pairs.values())))
    train = [sys.executable, script("train.py"), "--preset", preset]
    gate = None
    configs = {arm: dataclasses.asdict(run_config(cfg, preset, arm, 0)) for arm in flags}
    for arm, seed in runs:
        run = f"{arm}_s{seed}"
        task = Task(
            name=f"{preset}/{run}",
            command=[*train, *flags[arm], "--seed", str(seed), *memory_share(cfg, preset), *cfg.extra],
            marker=Path("outputs") / preset / run / "summary.json",
            after=[f"{preset}/verify_{pairs[arm]}"],
            why=f"{why(arm)}; {preset} {arm} seed {seed}",
            config=configs[arm] | {"seed": seed},
        )
        if gate:
            task.after.append(gate.name)
        tasks.append(task)
        # The first run of the baseline decides whether there is anything to suppress.
        if not gate and arm == BASELINE and cfg.gate is not False and cfg.study and STUDIES[cfg.study].h4_gate:
            gate = Task(
                name=f"{preset}/h4_gate",
                command=[*module("tools.h4_gate"), str(task.marker.parent)],
                marker=None,
                after=[task.name],
                why=f"H4, does {run} hack enough; {preset}",
            )
            tasks.append(gate)
    return tasks


def preparations(cfg: SweepConfig, preset: str, pair_sets: list[str]) -> list[Task]:
    """The SVDs once, where an extraction still needs them, then extraction and check of each pair set."""
    extract, verify = script("extract_vhack_grad.py"), script("verify_vhack_heldout.py")
    shared = ["--preset", preset, *model_flags(cfg.extra)]
    gate = cfg.gate if cfg.gate is not None else preset != "tiny"
    v_hack = flag(cfg.extra, "--v-hack", "")
    k = int(flag(cfg.extra, "--n-directions", "1"))
    artifacts = {
        pairs: ModelConfig(preset=preset, pairs=pairs, v_hack=v_hack, n_directions=k).v_hack_path()
        for pairs in pair_sets
    }

    tasks = []
    if not all(path.exists() for path in artifacts.values()):
        command = [sys.executable, extract, "--svd-only", *shared, "--pairs", pair_sets[0]]
        tasks.append(Task(f"{preset}/svd", command, marker=None, why=f"SVD cache for {preset}"))
    svd = [task.name for task in tasks]
    for pairs, artifact in artifacts.items():
        extraction = Task(
            name=f"{preset}/extract_{pairs}",
            command=[sys.executable, extract, *shared, "--pairs", pairs],
            marker=artifact,
            after=svd,
            why=f"v_hack of pairs {pairs} for {preset}",
        )
        heldout = artifact.with_name(f"{artifact.stem}_heldout") / "heldout.json"
        override = [] if gate else ["--override"]
        verification = Task(
            name=f"{preset}/verify_{pairs}",
            command=[sys.executable, verify, *shared, "--pairs", pairs, *override],
            marker=None if gate and below_gate(heldout) else heldout,
            after=[extraction.name],
            why=f"does v_hack of {pairs} hold on held-out pairs, {preset}",
        )
        tasks += [extraction, verification]
    return tasks


def below_gate(heldout: Path) -> bool:
    """Whether an earlier held-out check failed the gate; its file is written all the same."""
    return heldout.exists() and not read_json(heldout).get("fraction_positive", 0) > 0.5  # torn: check again
