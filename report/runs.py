"""Run directories: which folders are runs, and what each left behind, read once.

A run is a folder with config.json, steps.tsv, evals.tsv and, once it is complete, summary.json (record/folder.py).
A complete run must be whole: what is torn or out of range raises ReportError. Of an incomplete one, what can be read is
read, and the rest becomes a note.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from arms import table_order
from lib.archives import packed_in, unpacked
from lib.errors import ReportError
from lib.files import read_json
from lib.tables import read_table

# Fractions in [0, 1], and every column that must hold a number.
RATES = ("hack", "attempt", "pass", "compile", "own", "passw")
NUMERIC = {*RATES, "step", "kl", "cos", "fired", "gnorm", "cos_up", "n_hack", "n_pass"}
NO_NUMBER = ("", "-", "na", "n/a", "none", "null", "nan")

# A folder with one of these is a run, or with a run's config.json; so is an empty one by the name of a run that has
# just begun.
RUN_TABLES = ("steps.tsv", "evals.tsv")
RUN_NAME = re.compile(r"(?P<arm>.+)_s(?P<seed>\d+)")

# A run that train.py --fresh moved aside.
ASIDE = re.compile(r".*\.old\d+")


@dataclass(frozen=True)
class RunRecord:
    """One run directory as it was read. `steps` and `evals` hold float64 columns, rows sorted by step."""

    path: Path
    arm: str
    seed: int
    config: dict
    complete: bool
    steps: pd.DataFrame
    evals: pd.DataFrame
    notes: tuple[str, ...] = ()
    stopped: str = ""
    """The tripwire that ended the run, `pass-collapse at step 57`; empty where none did."""

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def preset(self) -> str:
        return self.config.get("preset") or self.path.parent.name

    @property
    def end(self) -> int:
        """Step of the last evaluation, -1 where there is none."""
        return int(self.evals["step"].iloc[-1]) if len(self.evals) else -1

    @property
    def hacks_sampled(self) -> int | None:
        """Strict hacks among all training completions; None where steps.tsv or config.json does not say."""
        prompts, group = self.config.get("prompts"), self.config.get("group")
        if "hack" not in self.steps or not len(self.steps) or not prompts or not group:
            return None
        # Rounded row by row, which undoes the three decimals of a rate; a sum of rates would add up their errors.
        return int(np.nansum(np.rint(self.steps["hack"] * prompts * group)))


# --- which folders are runs ---


def find_run_dirs(paths: list[Path]) -> list[Path]:
    """Run directories among `paths` and below them, each once, sorted. Raises ReportError where there is none.

    A .tar.xz stands for the folder that it holds (lib/archives.py). Other files, and folders without a run, are passed
    over, so that `outputs/tiny/*` can be given; so are, below a folder, runs that
    train.py --fresh moved aside (`NAME.oldN`) and hidden folders.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise ReportError(f"{path} does not exist: pass run directories, or a folder of them such as outputs/tiny")
        path = unpacked(path)
        if path.is_file():
            continue
        for run in [path] if is_run(path) else runs_below(path):
            found.setdefault(run.resolve(), run)
    if not found:
        where = ", ".join(str(p) for p in paths[:3]) + (" ..." if len(paths) > 3 else "")
        raise ReportError(f"no run directory at or below {where}: make one with train.py, or pass another path")
    return sorted(found.values(), key=lambda p: p.as_posix())


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    if any((path / name).is_file() for name in RUN_TABLES):
        return True
    if (path / "config.json").is_file():
        # So has a model, and an export; a run's names its arm, or is torn.
        config = read_json(path / "config.json")
        return "arm" in config or (not config and bool(RUN_NAME.fullmatch(path.name)))
    return bool(RUN_NAME.fullmatch(path.name)) and not any(p.is_dir() for p in path.iterdir())


def runs_below(path: Path, depth: int = 4) -> list[Path]:
    """Runs in the folders below `path`, `depth` levels down; a run holds no other run."""
    runs = []
    for child in sorted(path.iterdir()):
        if not child.is_dir() or child.name.startswith(".") or ASIDE.fullmatch(child.name):
            continue
        if is_run(child):
            runs.append(child)
        elif depth > 1:
            runs += runs_below(child, depth - 1)
    return runs


def common_folder(runs: list[RunRecord]) -> Path:
    """The folder that holds all runs, or the archives that they are from."""
    parents = [packed_in(run.path) or run.path.parent for run in runs]
    if len({parent.is_absolute() for parent in parents}) > 1:
        parents = [parent.absolute() for parent in parents]
    return Path(os.path.commonpath(parents))


# --- reading them ---


def load_runs(paths: list[Path]) -> list[RunRecord]:
    """All runs under `paths` in table order. Raises ReportError on duplicates, torn files and mixed presets."""
    runs = sorted((read_run(p) for p in find_run_dirs(paths)), key=lambda r: (*table_order(r.arm), r.seed, r.name))
    seen: dict[tuple[str, int], RunRecord] = {}
    for run in runs:
        other = seen.setdefault((run.arm, run.seed), run)
        if other is not run:
            raise ReportError(
                f"arm {run.arm}, seed {run.seed} is in two directories, {other.path} and {run.path}: pass only one"
            )
    presets = sorted({str(run.config["preset"]) for run in runs if run.config.get("preset")})
    if len(presets) > 1:
        raise ReportError(f"runs of presets {', '.join(presets)} cannot share a report: pass the folder of one preset")
    return runs


def read_run(path: Path) -> RunRecord:
    """Read one run directory. Raises ReportError where a complete run is not whole."""
    complete = (path / "summary.json").is_file()
    notes: list[str] = []
    config = read_config(path / "config.json", complete, notes)
    arm, seed = arm_and_seed(path, config)
    steps = read_columns(path / "steps.tsv", complete, notes)
    evals = read_columns(path / "evals.tsv", complete, notes)

    # What is odd about the run without making it unusable.
    planned = None if config.get("stop_after") else config.get("steps")
    if complete and isinstance(planned, int) and len(evals) and evals["step"].iloc[-1] != planned:
        notes.append(f"its last evaluation is at step {evals['step'].iloc[-1]:g}, config.json says {planned} steps")
    rates = [column for column in ("hack", "pass") if column in evals]
    missing = sorted({f"{column} at step {s:g}" for column in rates for s in evals["step"][evals[column].isna()]})
    if missing:
        notes.append(f"NaN in evals.tsv: {', '.join(missing)}")
    trips = tripwires(path)
    notes += [f"tripwire {rule} fired at step {step}" for step, rule in trips]
    ended = trips and not complete and config.get("tripwires", "stop") == "stop"
    return RunRecord(
        path=path,
        arm=arm,
        seed=seed,
        config=config,
        complete=complete,
        steps=steps,
        evals=evals,
        notes=tuple(notes),
        stopped=f"{trips[-1][1]} at step {trips[-1][0]}" if ended else "",
    )


def tripwires(path: Path) -> list[tuple[int, str]]:
    """[(step, rule)] of the tripwires that fired in a run, by step, from the names of the batches that they saved."""
    found = []
    for trip in path.glob("tripwire-*.json"):
        rule, _, step = trip.stem.removeprefix("tripwire-").rpartition("-")
        if step.isdigit():
            found.append((int(step), rule))
    return sorted(found)


def read_config(path: Path, complete: bool, notes: list[str]) -> dict:
    """config.json, {} where an incomplete run has none that can be read."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append("no config.json; arm and seed are the directory name's")
        return {}
    except ValueError as error:
        if complete:
            raise ReportError(f"{path} is not readable JSON: restore it or remove the run") from error
        notes.append("config.json is torn")
        return {}
    return config if isinstance(config, dict) else {}


def arm_and_seed(path: Path, config: dict) -> tuple[str, int]:
    """The config's label or arm, or the directory's where that is a variant (`projected-far_s0` of arm projected)."""
    named = RUN_NAME.fullmatch(path.name)
    arm, seed = config.get("label") or config.get("arm"), config.get("seed")
    if named and (arm is None or named["arm"].startswith((f"{arm}-", f"{arm}+"))):
        arm = named["arm"]
    if seed is None and named:
        seed = named["seed"]
    if not isinstance(arm, str) or not re.fullmatch(r"-?\d+", str(seed)):
        raise ReportError(f"{path} does not say its arm and seed: name it <arm>_s<seed> or restore its config.json")
    return str(arm), int(seed)


def read_columns(path: Path, complete: bool, notes: list[str]) -> pd.DataFrame:
    """A table of numbers by column, float64, NaN where a cell says that there is none.

    Raises ReportError where a complete run's file is torn, or a rate lies outside [0, 1].
    """
    if not path.is_file():
        notes.append(f"no {path.name}")
        return pd.DataFrame()

    def torn(line: int, reason: str) -> None:
        if complete:
            raise ReportError(f"{path} line {line} is torn ({reason}): restore the file or rerun that seed")
        notes.append(f"{path.name} line {line} is torn and left out")

    cells = read_table(path, torn)
    if len(cells.columns) and "step" not in cells:
        raise ReportError(f"{path} has no step column in its first line: it is not a {path.name} of train.py")
    numbers = cells.apply(pd.to_numeric, errors="coerce").astype(float)

    # A number that cannot be read tears its row.
    for name in numbers.columns.intersection(list(NUMERIC)):
        absent = numbers.index[numbers[name].isna()]
        if absent.empty:
            continue
        said_none = cells.loc[absent, name].str.lower().isin(NO_NUMBER)
        for line in absent[~said_none | (name == "step")]:
            torn(line, "no step number" if said_none[line] else f"{name} is {cells[name][line]!r}")
            numbers = numbers.drop(line)

    # A resumed run may have written a step again.
    if len(numbers):
        for step in numbers["step"][numbers.duplicated("step")]:
            notes.append(f"{path.name} has step {step:g} twice; the later row counts")
        numbers = numbers.drop_duplicates("step", keep="last").sort_values("step").reset_index(drop=True)
    rates = numbers[numbers.columns.intersection(RATES, sort=False)]
    wrong = (rates < 0) | (rates > 1)
    for name in rates.columns[wrong.any()]:
        first = rates[name][wrong[name]].iloc[0]
        raise ReportError(f"{path} has {name} = {first:g}: rates are fractions in [0, 1]; is it in percent?")
    return numbers
