"""tools.sweep.plan"""

from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path

from arms import ARMS, STUDIES, VARIANTS, arm_flags, why
from config import PRESETS, Config, ModelConfig, check, parse
from lib.errors import UserError
from lib.files import read_json
from tools.sweep.task import OWN_FLAGS, SweepConfig, Task, flag, flag_name, model_flags, script


def plan(cfg: SweepConfig) -> list[Task]:
    """Every task of the sweep, each after those it waits for. Raises UserError where nothing is named, or wrongly."""
    arms, seeds = STUDIES.get(cfg.study, ([], []))
    arms, seeds = (list(dict.fromkeys(named)) for named in (cfg.arms or arms, cfg.seeds or seeds))
    if not arms or not seeds or not cfg.preset:
        raise UserError("nothing to run: name a --study, or --arms and --seeds")
    if cfg.jobs < 1 or not cfg.groups:
        raise UserError(f"--jobs {cfg.jobs} must be at least 1, and --groups must name one")
    known = {**ARMS, **VARIANTS}
    if unknown := [arm for arm in arms if arm not in known]:
        raise UserError(f"there is no arm {unknown[0]}: the arms are {', '.join(known)}")
    if taken := [name for word in cfg.extra if (name := flag_name(word)) in OWN_FLAGS]:
        raise UserError(f"--{taken[0]} differs between runs and cannot follow --: sweep.py sets it itself")
    presets = list(dict.fromkeys(cfg.preset))
    for preset, arm in itertools.product(presets, arms):
        words = ["--preset", preset, *arm_flags(arm), "--seed", str(min(seeds)), *cfg.extra]
        try:
            check(parse(Config, words))
        except SystemExit:  # tyro has said what is wrong
            raise UserError(f"a run cannot take {shlex.join(cfg.extra)}: `train.py --help` lists its flags") from None
    return [task for preset in presets for task in plan_preset(cfg, preset, arms, seeds)]


def plan_preset(cfg: SweepConfig, preset: str, arms: list[str], seeds: list[int]) -> list[Task]:
    """SVDs, extractions, held-out checks, runs."""
    out = Path("outputs") / preset
    words = {arm: arm_flags(arm) for arm in arms}
    base = PRESETS[preset]["pairs"]
    pairs = {arm: flag([*words[arm], *cfg.extra], "--pairs", base) for arm in arms}
    if flag(cfg.extra, "--v-hack", "") and len(set(pairs.values())) > 1:
        raise UserError("--v-hack after -- is one file, but these arms need a v_hack for each of their pair sets")
    checks = preparations(cfg, preset, sorted(set(pairs.values())))
    runs = []
    for seed in seeds:
        for arm in arms:
            command = [
                sys.executable,
                script("train.py"),
                "--preset",
                preset,
                *words[arm],
                "--seed",
                str(seed),
                *cfg.extra,
            ]
            runs.append(Task(f"{preset}/{arm}_s{seed}", command, out / f"{arm}_s{seed}" / "summary.json",
                             [f"{preset}/verify_{pairs[arm]}"], f"{why(arm)}; {preset} {arm} seed {seed}"))  # fmt: skip
    return checks + runs


def preparations(cfg: SweepConfig, preset: str, pair_sets: list[str]) -> list[Task]:
    """The SVDs once, where an extraction still needs them, then extraction and check of each pair set."""
    gate = cfg.gate if cfg.gate is not None else preset != "tiny"
    extract, verify, svd = script("extract_vhack_grad.py"), script("verify_vhack_heldout.py"), f"{preset}/svd"
    shared = ["--preset", preset, *model_flags(cfg.extra)]
    artifacts = {pairs: ModelConfig(preset=preset, pairs=pairs, v_hack=flag(cfg.extra, "--v-hack", ""),
                                    n_directions=int(flag(cfg.extra, "--n-directions", "1"))).v_hack_path()
                 for pairs in pair_sets}  # fmt: skip
    tasks = []
    if not all(path.exists() for path in artifacts.values()):
        command = [sys.executable, extract, "--svd-only", *shared, "--pairs", pair_sets[0]]
        tasks.append(Task(svd, command, None, [], f"SVD cache for {preset}"))
    first = [task.name for task in tasks]
    for pairs, artifact in artifacts.items():
        name, check = f"{preset}/extract_{pairs}", artifact.with_name(f"{artifact.stem}_heldout") / "heldout.json"
        tasks.append(Task(name, [sys.executable, extract, *shared, "--pairs", pairs], artifact, first,
                          f"v_hack of pairs {pairs} for {preset}"))  # fmt: skip
        command = [sys.executable, verify, *shared, "--pairs", pairs, *(["--override"] * (not gate))]
        tasks.append(Task(f"{preset}/verify_{pairs}", command, None if gate and below_gate(check) else check, [name],
                          f"does v_hack of {pairs} hold on held-out pairs, {preset}"))  # fmt: skip
    return tasks


def below_gate(check: Path) -> bool:
    """Whether an earlier held-out check failed the gate; its file is written all the same."""
    return check.exists() and not read_json(check).get("fraction_positive", 0) > 0.5  # torn: check again
