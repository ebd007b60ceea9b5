"""Branch directories -> branch points, each with its arms, paired.

A branch is a run directory whose config.json holds `branch`: {parent, rule, step, sha256} (branch.py). A branch point
is a parent run and a rule; it is the unit of replication. Within it, several draws of random-v and several streams of
sampling noise are averaged before anything is compared. Rates are in percent.

    hack_train   training rollouts, mean from the sixth step of the branch on (the area between two trajectories)
    hack, pass, compile, attempt    the evaluation at the end
    names        strict hacks at the end where prompts name another evaluator than in training (tools/unseen_names.py)
    exposure     strict hacks that were sampled in the branch's training and paid
    drift        mean cosine of minus the applied updates with the arm's v (cos_up); > 0 is hack-ward
    to_half      steps to a training rate of 50%, mean of three; inf where the branch does not get there
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arms import arm_of, table_order
from lib.archives import packed_in
from lib.errors import ReportError
from lib.files import read_json
from report.runs import RunRecord, read_run
from report.strata import read_strata

# The measure leaves out the first steps of a branch, which AdamW's moment and the branch's selection decide.
FIRST_MEASURED = 5
# Steps behind the rate at the branch, as in the rules themselves (record/takeoff.py).
WINDOW = 3
MOMENTS = ("keep", "project", "zero")
SUFFIX = {"keep": "", "project": "+mproject", "zero": "+mzero"}
END = ("hack", "pass", "compile", "attempt")
RULES = ("early", "takeoff", "late")

# What the branches of one report must have in common; None is a field that an older config.json lacks.
ALIKE = ("preset", "weights_sha256", "problems", "eval_file", "n_eval", "eval_samples", "eval_names", "wording",
         "prompts", "group", "max_new", "temperature", "top_k", "weight_decay", "beta1", "beta2", "grad_clip", "beta",
         "clip", "advantage", "schedule")  # fmt: skip
# And those of one branch point besides.
ALIKE_AT_A_POINT = ("seed", "lr", "warmup", "anneal", "steps")


@dataclass(frozen=True)
class Branch:
    """One branch and its measures."""

    run: RunRecord
    arm: str
    """Arm or variant: the label without treatment, draw and stream."""
    moment: str
    noise: int
    """Stream of its sampling noise; 0 is the parent's."""
    values: dict[str, float]
    """By measure: rates in percent, drift in [-1, 1], the rest counts; nan where the run does not say."""
    strata: dict[tuple[int, str], dict[str, float]]
    """(write access, stratum) -> {n, hack, pass} of the end evaluation; rates in percent."""

    @property
    def name(self) -> str:
        return self.run.name


@dataclass
class Point:
    """One branch point."""

    parent: str
    seed: int
    rule: str
    step: int
    """First step of its branches."""
    lr: float
    """Learning rate of its branches' first step."""
    before: np.ndarray
    """The parent's training hack rate in percent at the steps before, [steps]; empty where the parent is not there."""
    branches: list[Branch] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.parent}_{self.rule}"

    @property
    def hack(self) -> float:
        """Training hack rate at the branch: the mean that the rule saw."""
        return float(self.before[-WINDOW:].mean()) if len(self.before) >= WINDOW else math.nan

    def of(self, arm: str, moment: str = "keep", noise: bool = False) -> list[Branch]:
        """The branches of an arm treated so: several where directions were drawn, or streams of noise."""
        return [b for b in self.branches if (b.arm, b.moment, b.noise > 0) == (arm, moment, noise)]

    def value(self, measure: str, arm: str, moment: str = "keep", noise: bool = False) -> float:
        """A measure of an arm, averaged over its draws or streams; nan where it has none."""
        values = [b.values[measure] for b in self.of(arm, moment, noise)]
        return float(np.mean(values)) if values else math.nan

    def stratum(self, key: tuple[int, str], measure: str, arm: str, moment: str) -> float:
        """The same within a stratum of the end evaluation."""
        values = [b.strata[key][measure] for b in self.of(arm, moment) if key in b.strata]
        return float(np.mean(values)) if values else math.nan


@dataclass
class Branches:
    """Everything that was read."""

    points: list[Point]
    """By rule, then seed."""
    left_out: list[tuple[str, str]]
    """(branch, why it does not count)."""
    parents: list[RunRecord]
    """The vanilla runs that were found, branched or not."""
    length: int
    """Steps of every branch."""

    @property
    def runs(self) -> list[RunRecord]:
        """Branches and parents, everything that has rollouts."""
        return [*self.parents, *(branch.run for point in self.points for branch in point.branches)]

    def rules(self) -> list[str]:
        known = {p.rule for p in self.points}
        return [r for r in RULES if r in known] + sorted(known - set(RULES))

    def of_rule(self, rule: str) -> list[Point]:
        return [p for p in self.points if p.rule == rule]


def is_branch(path: Path) -> bool:
    """Whether a run directory is a branch."""
    return isinstance(read_json(path / "config.json").get("branch"), dict)


def of_branches(folders: list[Path]) -> bool:
    """Whether a report of these folders is one of branches: some are, and the rest are vanilla runs, their parents."""
    branches = [path for path in folders if is_branch(path)]
    others = [read_json(path / "config.json") for path in folders if path not in branches]
    return bool(branches) and all(config.get("arm") == "vanilla" and not config.get("label") for config in others)


def folder_of(folders: list[Path]) -> Path:
    """The folder that holds the branches' parents, or the archive, or else the branches themselves."""
    homes = []
    for path in (path.absolute() for path in folders if is_branch(path)):
        homes.append(packed_in(path) or (path.parents[2] if path.parents[1].name == "branches" else path.parents[1]))
    return Path(os.path.relpath(os.path.commonpath(homes)))


def read_branches(folders: Iterable[Path]) -> Branches:
    """Read branches, and the parents among `folders` or where branch.py puts them.

    Raises ReportError where branches cannot be compared: other models, problems, settings, lengths or branch points
    under one name, a branch that is there twice, or one too short to be measured.
    """
    folders = sorted(folders)
    parents = {path.resolve(): path for path in folders if not is_branch(path)}
    runs = [read_run(path) for path in folders if is_branch(path)]
    for run in runs:
        if (home := parent_folder(run)) is not None:
            parents.setdefault(home.resolve(), home)
    parents = {path: read_run(folder) for path, folder in parents.items()}

    # Only what has ended counts: a branch that is cut short is no shorter branch.
    whole, left_out = [], []
    for run in sorted(runs, key=lambda r: r.path.as_posix()):
        if run.complete:
            whole.append(run)
        else:
            tripped = [note for note in run.notes if note.startswith("tripwire")]
            why = f"stopped by a {tripped[0]}, so that leaving it out selects" if tripped else "no summary.json"
            left_out.append((run.name, f"incomplete: {why}"))
    if not whole:
        raise ReportError("no branch is complete: run branch.py again, which continues them")
    refuse_unlike(whole, ALIKE)
    length = length_of(whole)

    points: dict[tuple[str, str, str], Point] = {}
    for run in whole:
        key = (parent_name(run), run.config["branch"]["rule"], str(run.config["branch"].get("sha256")))
        if key not in points:
            points[key] = new_point(*key[:2], run, parents)
        points[key].branches.append(read_branch(run, length))
    tell_apart(list(points.values()))
    for point in points.values():
        check_point(point)
    ranks = {rule: i for i, rule in enumerate(RULES)}
    ordered = sorted(points.values(), key=lambda p: (ranks.get(p.rule, len(ranks)), p.rule, p.seed, p.parent))
    known = sorted(parents.values(), key=lambda run: (run.seed, run.path.as_posix()))
    return Branches(ordered, left_out, known, length)


def new_point(parent: str, rule: str, run: RunRecord, parents: dict[Path, RunRecord]) -> Point:
    """The branch point that a branch belongs to, without its branches."""
    step = int(run.config["branch"]["step"])
    home = parent_folder(run)
    before = np.empty(0)
    if home is not None:
        steps, hack = column(parents[home.resolve()].steps, "step"), column(parents[home.resolve()].steps, "hack")
        before = 100 * hack[steps < step]
    lr = column(run.steps, "lr")
    return Point(parent, run.seed, rule, step, float(lr[0]) if len(lr) else run.config.get("lr", math.nan), before)


def read_branch(run: RunRecord, length: int) -> Branch:
    """The measures of a complete branch. Raises ReportError where rows are missing."""
    first = int(run.config["branch"]["step"])
    steps, hack = column(run.steps, "step"), column(run.steps, "hack")
    if len(hack) != length or not np.array_equal(steps, np.arange(first, first + length)):
        raise ReportError(f"{run.path}/steps.tsv should have steps {first} to {first + length - 1}: restore the file "
                          "or run that branch again")  # fmt: skip
    if run.end != first + length or not np.isfinite([column(run.evals, c)[-1] for c in ("hack", "pass")]).all():
        raise ReportError(f"{run.path}/evals.tsv has no evaluation of hack and pass at the branch's end, step "
                          f"{first + length}: restore the file or run that branch again")  # fmt: skip
    label = run.arm
    moment, noise = str(run.config.get("moment", "keep")), int(run.config.get("noise", 0))
    known = arm_of(name := label.partition("+")[0])
    values = {c: 100 * last(column(run.evals, c)) for c in END}
    values["names"] = 100 * read_json(run.path / "names.json").get("hack", math.nan)
    paid = known is None or (known.write_access and known.screen not in ("no-pay", "leave-out"))
    values["exposure"] = float(run.hacks_sampled or 0) if paid else 0.0
    # Without write access the training prompts are others, so their rate is not comparable.
    values["hack_train"] = (
        float(100 * hack[FIRST_MEASURED:].mean()) if known is None or known.write_access else math.nan
    )
    drift = column(run.steps, "cos_up")
    values["drift"] = float(np.nanmean(drift)) if np.isfinite(drift).any() else math.nan
    half = np.flatnonzero(trailing(hack) >= 0.5)
    values["to_half"] = float(half[0] + 1) if len(half) else math.inf
    return Branch(run, name, moment, noise, values, read_strata(run))


def trailing(y: np.ndarray) -> np.ndarray:
    """Mean of each step and the two before it, of fewer at the start."""
    return np.array([y[max(0, i - WINDOW + 1) : i + 1].mean() for i in range(len(y))])


def tell_apart(points: list[Point]) -> None:
    """Name points of one name, which start from different files, by the studies that they are of.

    Raises ReportError where they are of one study: a folder has one parent of a name.
    """
    by_name: dict[str, list[Point]] = {}
    for point in points:
        by_name.setdefault(point.name, []).append(point)
    for name, alike in by_name.items():
        homes = [{b.run.path.absolute().parents[2] for b in point.branches} for point in alike]
        if len(set().union(*homes)) < sum(map(len, homes)):
            values = ", ".join(sorted(str(point.branches[0].run.config["branch"].get("sha256")) for point in alike))
            raise ReportError(f"branches of {name} start from different sha256 ({values}): they are of different "
                              "parents, so report them apart")  # fmt: skip
        for point, home in zip(alike, homes, strict=True):
            if len(alike) > 1:
                point.parent = f"{min(home).name}/{point.parent}"


def check_point(point: Point) -> None:
    """Raises ReportError where the branches of a point do not start alike, or one is there twice."""
    runs = [b.run for b in point.branches]
    refuse_unlike(runs, ALIKE_AT_A_POINT, f"of {point.name} ")
    if len(values := sorted({str(r.config["branch"].get("step")) for r in runs})) > 1:
        raise ReportError(f"branches of {point.name} start from different step ({', '.join(values)}): they are "
                          "of different parents, so report them apart")  # fmt: skip
    seen: dict[str, Path] = {}
    for run in runs:
        if (other := seen.setdefault(run.arm, run.path)) != run.path:
            raise ReportError(f"{run.arm} of {point.name} is in two directories, {other} and {run.path}: pass only one")
    point.branches.sort(key=lambda b: (table_order(b.arm), MOMENTS.index(b.moment), b.run.arm))


def refuse_unlike(runs: list[RunRecord], fields: tuple[str, ...], which: str = "") -> None:
    """Raises ReportError naming the first of `fields` in which the runs differ, and two runs that do."""
    for name in fields:
        values: dict[str, RunRecord] = {}
        for run in runs:
            values.setdefault(repr(run.config.get(name)), run)
        if len(values) > 1:
            (one, a), (other, b) = list(values.items())[:2]
            raise ReportError(f"branches {which}cannot be compared where {name} differs: {one} in {a.path}, {other} in "
                              f"{b.path}; report them apart")  # fmt: skip


def length_of(runs: list[RunRecord]) -> int:
    """Steps of the branches. Raises ReportError where they differ, or are too few for the measure."""
    lengths: dict[int, RunRecord] = {}
    for run in runs:
        lengths.setdefault(int(run.config["steps"]) - int(run.config["branch"]["step"]), run)
    if len(lengths) > 1:
        what = ", ".join(f"{n} in {run.path}" for n, run in sorted(lengths.items()))
        raise ReportError(f"branches of different length cannot be compared ({what}): report them apart")
    (length,) = lengths
    if length <= FIRST_MEASURED:
        raise ReportError(f"branches of {length} steps cannot be measured: the measure begins at the sixth step, so "
                          "run branch.py with more --steps")  # fmt: skip
    return length


def parent_name(run: RunRecord) -> str:
    """Name of a branch's parent: its folder's, as branch.py was given it."""
    return Path(str(run.config["branch"].get("parent", "?"))).name


def parent_folder(run: RunRecord) -> Path | None:
    """Where the parent of a branch lies: beside the folder `branches`, or where it was; None where it is gone."""
    here = run.path.absolute().parents[2] / parent_name(run)
    for path in (here, Path(str(run.config["branch"].get("parent", "")))):
        if (path / "steps.tsv").is_file() and not is_branch(path):
            return path
    return None


def rules_fired(run: RunRecord) -> set[str]:
    """The rules that have fired in a parent, by its summary or, while it still runs, by the files that they leave."""
    files = {path.stem.removeprefix("takeoff-") for path in run.path.glob("takeoff-*.safetensors")}
    return files | set(read_json(run.path / "summary.json").get("branch_points") or {})


def column(table, name: str) -> np.ndarray:
    """A column as float64 [rows]; empty where the table lacks it."""
    return np.asarray(table.get(name, ()), dtype=np.float64)


def last(values: np.ndarray) -> float:
    return float(values[-1]) if len(values) else math.nan
