"""report.runs"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arms import table_order
from lib.errors import ReportError

RATES = ("hack", "attempt", "pass", "compile", "own", "passw")


NUMERIC = {*RATES, "step", "kl", "cos", "fired", "gnorm", "cos_up", "n_hack", "n_pass"}


RUN_FILES = ("config.json", "steps.tsv", "evals.tsv", "summary.json")


RUN_NAME = re.compile(r"(?P<arm>.+)_s(?P<seed>\d+)")


ASIDE = re.compile(r".*\.old\d+")


@dataclass(frozen=True)
class Run:
    """One run directory, read once. `steps` and `evals` map a column name to float64 [rows], sorted by step."""

    path: Path
    arm: str
    seed: int
    config: dict
    complete: bool
    steps: dict[str, np.ndarray]
    evals: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def preset(self) -> str:
        return self.config.get("preset") or self.path.parent.name

    @property
    def end(self) -> int:
        """Step of the last evaluation, -1 where there is none."""
        return int(self.evals["step"][-1]) if len(self.evals.get("step", ())) else -1

    @property
    def hacks_sampled(self) -> int | None:
        """Strict hacks among all training completions; None where steps.tsv or config.json does not say."""
        rates, rows = self.steps.get("hack", ()), (self.config.get("prompts"), self.config.get("group"))
        # Rounded row by row, which undoes the three decimals of a rate; a sum of rates would add up their errors.
        return int(np.nansum(np.rint(rates * rows[0] * rows[1]))) if len(rates) and all(rows) else None


def find_run_dirs(paths: list[Path]) -> list[Path]:
    """Run directories among `paths` and below them, each once, sorted. Raises ReportError where there is none.

    Files and folders without a run are passed over, so that `outputs/tiny/*` can be given; so are, below a folder,
    runs that train.py --fresh moved aside (`NAME.oldN`) and hidden folders.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise ReportError(f"{path} does not exist: pass run directories, or a folder of them such as outputs/tiny")
        here = [] if path.is_file() else [path] if _is_run(path) else _runs_below(path)
        for run in here:
            found.setdefault(run.resolve(), run)
    if not found:
        where = ", ".join(str(p) for p in paths[:3]) + (" ..." if len(paths) > 3 else "")
        raise ReportError(f"no run directory at or below {where}: make one with train.py, or pass another path")
    return sorted(found.values(), key=lambda p: p.as_posix())


def _is_run(path: Path) -> bool:
    empty_run = RUN_NAME.fullmatch(path.name) and not any(p.is_dir() for p in path.iterdir())
    return any((path / name).is_file() for name in RUN_FILES[:3]) or bool(empty_run)


def _runs_below(path: Path, depth: int = 4) -> list[Path]:
    runs = []
    for child in sorted(path.iterdir()):
        if not child.is_dir() or child.name.startswith(".") or ASIDE.fullmatch(child.name):
            continue
        if _is_run(child):
            runs.append(child)
        elif depth > 1:
            runs += _runs_below(child, depth - 1)
    return runs


def load_runs(paths: list[Path]) -> list[Run]:
    """All runs under `paths` in table order. Raises ReportError on duplicates, torn files and mixed presets."""
    runs = sorted((read_run(p) for p in find_run_dirs(paths)), key=lambda r: (*table_order(r.arm), r.seed, r.name))
    seen: dict[tuple[str, int], Run] = {}
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


def read_run(path: Path) -> Run:
    """Read one run directory. A complete run must be whole; of an incomplete one, what can be read is read."""
    complete = (path / "summary.json").is_file()
    notes: list[str] = []
    config = _read_config(path, complete, notes)
    arm, seed = _arm_and_seed(path, config)
    steps = _read_table(path / "steps.tsv", complete, notes)
    evals = _read_table(path / "evals.tsv", complete, notes)
    planned = config.get("steps")
    if complete and isinstance(planned, int) and len(evals.get("step", ())) and evals["step"][-1] != planned:
        notes.append(f"its last evaluation is at step {evals['step'][-1]:g}, config.json says {planned} steps")
    bad = sorted({f"{c} at step {s:g}" for c in ("hack", "pass") for s in _nan_steps(evals, c)})
    if bad:
        notes.append(f"NaN in evals.tsv: {', '.join(bad)}")
    for trip in sorted(path.glob("tripwire-*.json")):
        name, _, step = trip.stem.removeprefix("tripwire-").rpartition("-")
        notes.append(f"tripwire {name} fired at step {step}")
    return Run(path, arm, seed, config, complete, steps, evals, tuple(notes))


def _nan_steps(evals: dict, column: str) -> list[float]:
    return [s for s, v in zip(evals.get("step", ()), evals.get(column, ()), strict=False) if math.isnan(v)]


def _read_config(path: Path, complete: bool, notes: list[str]) -> dict:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append("no config.json; arm and seed are the directory name's")
        return {}
    except ValueError as error:
        if complete:
            raise ReportError(f"{path / 'config.json'} is not readable JSON: restore it or remove the run") from error
        notes.append("config.json is torn")
        return {}
    return config if isinstance(config, dict) else {}


def _arm_and_seed(path: Path, config: dict) -> tuple[str, int]:
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


def _read_table(path: Path, complete: bool, notes: list[str]) -> dict[str, np.ndarray]:
    """TSV -> column -> float64 [rows]. Raises ReportError where a complete run's file is torn or out of range."""
    if not path.is_file():
        notes.append(f"no {path.name}")
        return {}
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    header = [cell.strip() for cell in lines[0].split("\t")] if lines else []
    if lines and "step" not in header:
        raise ReportError(f"{path} has no step column in its first line: it is not a {path.name} of train.py")
    rows: dict[float, list[float]] = {}
    for number, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line.split("\t")]
        if cells == header:
            continue
        try:
            row = _parse_row(header, cells)
        except ValueError as error:
            if complete:
                raise ReportError(
                    f"{path} line {number} is torn ({error}): restore the file or rerun that seed"
                ) from error
            notes.append(f"{path.name} line {number} is torn and left out")
            continue
        step = row[header.index("step")]
        if step in rows:
            notes.append(f"{path.name} has step {step:g} twice; the later row counts")
        rows[step] = row
    table = np.array([rows[s] for s in sorted(rows)], dtype=np.float64).reshape(len(rows), len(header))
    columns = {name: table[:, i] for i, name in enumerate(header)}
    _check_rates(path, columns)
    return columns


def _parse_row(header: list[str], cells: list[str]) -> list[float]:
    while len(cells) > len(header) and cells[-1] == "":
        cells.pop()
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells under {len(header)} columns")
    row = []
    for name, cell in zip(header, cells, strict=True):
        try:
            row.append(float(cell))
        except ValueError:
            if name in NUMERIC and cell.lower() not in ("", "-", "na", "n/a", "none", "null"):
                raise ValueError(f"{name} is {cell!r}") from None
            row.append(math.nan)
    if math.isnan(row[header.index("step")]):
        raise ValueError("no step number")
    return row


def _check_rates(path: Path, columns: dict[str, np.ndarray]) -> None:
    for name in RATES:
        values = columns.get(name, np.empty(0))
        if bad := [v for v in values if math.isinf(v) or v < 0 or v > 1]:
            raise ReportError(f"{path} has {name} = {bad[0]:g}: rates are fractions in [0, 1]; is it in percent?")
