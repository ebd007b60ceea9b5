"""The parts of a study of branches, by their files: what is to be prepared, the parents, the branch points.

    <out>/self_pairs.jsonl, v_hack_*.safetensors     directions, as far as an arm needs them
    <out>/vanilla_s<seed>/                           parents
    <out>/branches/vanilla_s<seed>_<rule>/<label>/   branches
    <out>/vanilla_s<seed>/diagnose_<rule>/           AUROC of directions at a point

A part is done when its last file is there, so that the same command continues a study that stopped anywhere.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from arms import arm_flags, arm_of, branch_label
from config import PRESETS, Config, ModelConfig, Preset, check, parse
from lib.errors import UserError
from record.takeoff import RULES, file_of
from tools.branch_study.studies import STUDIES
from tools.sweep.task import flag, flag_name, model_flags, module, script, share_of

OWN = ("preset", "model", "arm", "seed", "label", "out", "fresh", "artifacts", "stop_after", "schedule", "v_hack",
       "branch_from")  # fmt: skip


StudyName = Literal[("", *STUDIES)]


@dataclass
class BranchStudyConfig:
    """A study of branches from nothing: v_hack, parents, branches, diagnosis, report."""

    preset: Annotated[Preset, tyro.conf.Positional]
    """Preset of every run."""
    model: str = ""
    """Hub id or local directory; empty: the preset's."""
    study: StudyName = ""
    """A named study (tools/branch_study/studies.py): arms, rules, seeds, steps; the flags below override it."""
    arms: list[str] = field(default_factory=list)
    """Branches of each point by label, the most needed first: vanilla projected random-v+draw1 projected+mzero."""
    rules: list[Literal["early", "takeoff", "late"]] = field(default_factory=list)
    """Branch points of a parent."""
    seeds: list[int] = field(default_factory=list)
    """Parents, in the order in which they are begun."""
    steps: int = 0
    """Steps of a branch; 0: the study's, or 20."""
    points: int = 0
    """No parent is begun once so many have reached the last rule; 0: all seeds are run."""
    parent_after: int = 0
    """Steps that a parent makes after its last rule has fired; -1: up to its --steps."""
    out: str = ""
    """Folder of the study; empty: outputs/<study>, or outputs/<preset>-branches."""
    gpus: int = 0
    """GPUs of this host to use; 0: none is assigned, and --jobs processes run side by side."""
    per_gpu: int = 1
    """Processes a GPU. With several, each gets its share of the memory (--memory-share) and, unless it is given,
    --micro-batch 8 stands in for the search."""
    jobs: int = 1
    """Processes side by side without --gpus."""
    workers: int = 0
    """Grading processes a run; 0: the cores, shared out."""
    device: Literal["", "cpu", "cuda"] = ""
    """Of every run; empty: the preset's."""
    most: int = 8
    """Branches that one process makes at most, one after the other: they share the loading."""
    diagnose: Literal["first", "last", "no"] = "last"
    """Diagnosis of a branch point: before its branches, after them, or not."""
    minutes: float = 0
    """End in time: nothing begins and what runs gets SIGTERM --reserve minutes before, then the report; 0: no end."""
    reserve: float = 2.0
    """Minutes kept for the checkpoints of what runs and for the report."""
    report: bool = True
    """Make the report at the end."""
    extra: tyro.conf.Suppress[list[str]] = field(default_factory=list)
    """What follows `--`: flags of train.py for the parents, which branches inherit."""

    @property
    def folder(self) -> Path:
        return Path(self.out or f"outputs/{self.study or f'{self.preset}-branches'}")

    @property
    def slots(self) -> int:
        """Processes side by side."""
        return self.gpus * self.per_gpu if self.gpus else self.jobs


@dataclass
class Part:
    """One command and the files that say that it is done."""

    name: str
    """Unique in the study; its log is <out>/logs/<name>.log."""
    stage: Literal["prepare", "parent", "branch", "diagnose", "report"]
    command: list[str]
    markers: list[Path]
    after: tuple[str, ...] = ()
    """Names of the parts that must be done before."""
    labels: tuple[str, ...] = ()
    """Of branches: what its process makes, a marker each."""

    @property
    def done(self) -> bool:
        return bool(self.markers) and all(path.exists() for path in self.markers)


def settle(cfg: BranchStudyConfig) -> BranchStudyConfig:
    """Fill in what a named study says. Raises UserError where nothing is named, or wrongly."""
    study = STUDIES.get(cfg.study)
    if study:
        if study.preset != cfg.preset:
            raise UserError(f"--study {cfg.study} is of preset {study.preset}, not {cfg.preset}")
        cfg.arms, cfg.rules = cfg.arms or list(study.arms), cfg.rules or list(study.rules)
        cfg.seeds, cfg.steps = cfg.seeds or list(study.seeds), cfg.steps or study.steps
        cfg.extra = [*study.parent, *cfg.extra]
    cfg.steps = cfg.steps or 20
    cfg.rules = sorted(set(cfg.rules or ["takeoff"]), key=list(RULES).index)
    cfg.arms, cfg.seeds = list(dict.fromkeys(cfg.arms)), list(dict.fromkeys(cfg.seeds))
    if not cfg.arms or not cfg.seeds:
        raise UserError("name a --study, or --arms and --seeds")
    if cfg.slots < 1 or cfg.most < 1 or cfg.minutes < 0 or cfg.parent_after < -1:
        raise UserError("--gpus, --per-gpu, --jobs and --most must be at least 1, --minutes 0, --parent-after -1")
    if 0 < cfg.minutes <= cfg.reserve:
        raise UserError(f"--minutes {cfg.minutes:g} leaves nothing beside --reserve {cfg.reserve:g}")
    if taken := [name for word in cfg.extra if (name := flag_name(word)) in OWN]:
        raise UserError(f"--{taken[0].replace('_', '-')} cannot follow --: the study sets it itself")
    for label in cfg.arms:
        try:
            branch_label(label)
        except ValueError as error:
            raise UserError(str(error)) from error
    if cfg.device:
        cfg.extra += ["--device", cfg.device]
    if cfg.per_gpu > 1 and flag(cfg.extra, "--micro-batch", "") == "":
        cfg.extra += ["--micro-batch", "8"]
    if cfg.per_gpu > 1 and flag(cfg.extra, "--memory-share", "") == "":
        cfg.extra += ["--memory-share", share_of(cfg.per_gpu)]
    check(parse(Config, [*shared(cfg), "--schedule", "constant", "--stop-after", stop_after(cfg), *cfg.extra]))
    return cfg


def shared(cfg: BranchStudyConfig) -> list[str]:
    """Flags of every script that loads the model."""
    model = ["--model", cfg.model] if cfg.model else []
    return ["--preset", cfg.preset, *model, "--artifacts", str(cfg.folder)]


def stop_after(cfg: BranchStudyConfig) -> str:
    """train.py's --stop-after of a parent."""
    return "" if cfg.parent_after < 0 else f"{cfg.rules[-1]}+{cfg.parent_after}"


# --- preparations ---


def base_pairs(cfg: BranchStudyConfig) -> str:
    """The pair set of arms that name none."""
    return flag(cfg.extra, "--pairs", PRESETS[cfg.preset]["pairs"])


def directions_of(cfg: BranchStudyConfig, label: str) -> tuple[str, int] | None:
    """(pair set, directions a module) whose artifact a branch reads; None for those that make theirs from rollouts."""
    name = branch_label(label).arm
    if arm_of(name).v not in ("pairs", "random"):
        return None
    words = arm_flags(name)
    return flag(words, "--pairs", base_pairs(cfg)), int(flag(words, "--n-directions", "1"))


def extraction_name(pairs: str, k: int) -> str:
    return f"extract_{Path(pairs).stem}" + (f"_k{k}" if k > 1 else "")


def preparations(cfg: BranchStudyConfig) -> list[Part]:
    """The base pairs' extraction, which fills the SVD cache; then the model's own pairs and the other extractions."""
    base = (base_pairs(cfg), 1)
    wanted = {base: None} | {found: None for label in cfg.arms if (found := directions_of(cfg, label))}
    first = extraction_name(*base)
    parts = []
    if any(pairs == "self" for pairs, _ in wanted):
        out = cfg.folder / "self_pairs.jsonl"
        command = [*module("tools.self_pairs"), *shared(cfg), "--out", str(out), *cfg.extra]
        parts.append(Part("self_pairs", "prepare", command, [out], (first,)))
    for pairs, k in wanted:
        words = [*shared(cfg), *model_flags(cfg.extra), "--pairs", pairs, "--n-directions", str(k)]
        after = () if (pairs, k) == base else (first, "self_pairs") if pairs == "self" else (first,)
        command = [sys.executable, script("extract_vhack_grad.py"), *words]
        marker = parse(ModelConfig, words).v_hack_path()
        parts.append(Part(extraction_name(pairs, k), "prepare", command, [marker], after))
    return sorted(parts, key=lambda part: len(part.after))


# --- parents, branches, diagnosis, report ---


def parents(cfg: BranchStudyConfig, workers: int) -> list[Part]:
    """A vanilla run a seed."""
    parts = []
    for seed in cfg.seeds:
        folder = cfg.folder / f"vanilla_s{seed}"
        words = ["--arm", "vanilla", "--seed", str(seed), "--schedule", "constant", "--stop-after", stop_after(cfg),
                 "--out", str(folder), "--workers", str(workers), *cfg.extra]  # fmt: skip
        command = [sys.executable, script("train.py"), *shared(cfg), *words]
        after = (extraction_name(base_pairs(cfg), 1),)
        parts.append(Part(folder.name, "parent", command, [folder / "summary.json"], after))
    return parts


@dataclass(frozen=True)
class StudyPoint:
    """A rule that has fired in a parent."""

    parent: Path
    rule: str

    @property
    def name(self) -> str:
        return f"{self.parent.name}_{self.rule}"

    def marker(self, label: str) -> Path:
        """The file that says that a branch is complete."""
        return self.parent.parent / "branches" / self.name / label / "summary.json"


def points(cfg: BranchStudyConfig) -> list[StudyPoint]:
    """The branch points that there are by now, seed by seed."""
    found = [StudyPoint(cfg.folder / f"vanilla_s{seed}", rule) for seed in cfg.seeds for rule in cfg.rules]
    return [point for point in found if file_of(point.parent, point.rule).exists()]


def branches(cfg: BranchStudyConfig, point: StudyPoint, labels: list[str], workers: int, number: int) -> Part:
    """The process that makes these branches of a point, one after the other; number: how many processes came before."""
    words = [str(point.parent), "--at", point.rule, "--steps", str(cfg.steps), "--workers", str(workers)]
    command = [sys.executable, script("branch.py"), *words, "--arms", *labels]
    after = tuple(sorted({extraction_name(*d) for label in labels if (d := directions_of(cfg, label))}))
    markers = [point.marker(label) for label in labels]
    return Part(f"{point.name}_{number}", "branch", command, markers, after, tuple(labels))


def diagnosed(cfg: BranchStudyConfig) -> dict[str, str]:
    """{extraction: name=FILE} of the directions that diagnose_vhack.py is to see beside the base pairs'."""
    found = {}
    for label in cfg.arms:
        needs = directions_of(cfg, label)
        if needs and needs[0] != base_pairs(cfg) and extraction_name(*needs) not in found:
            pairs, k = needs
            path = parse(ModelConfig, [*shared(cfg), "--pairs", pairs, "--n-directions", str(k)]).v_hack_path()
            found[extraction_name(pairs, k)] = f"{pairs}{f'-k{k}' if k > 1 else ''}={path}"
    return found


def diagnosis(cfg: BranchStudyConfig, point: StudyPoint, vs: dict[str, str], workers: int) -> Part:
    """AUROC at a point of the base pairs' direction and of the directions `vs` of `diagnosed`."""
    words = [str(point.parent), "--at", point.rule, "--workers", str(workers)]
    command = [sys.executable, script("diagnose_vhack.py"), *words, *(["--v", *vs.values()] if vs else [])]
    marker = point.parent / f"diagnose_{point.rule}" / "diagnose.json"
    return Part(f"{point.name}_diagnose", "diagnose", command, [marker], (extraction_name(base_pairs(cfg), 1), *vs))


def diagnoses_together(cfg: BranchStudyConfig) -> list[Part]:
    """For each rule with several diagnosed points their table and figure."""
    parts = []
    for rule in cfg.rules:
        parents_of_rule = [point.parent for point in points(cfg) if point.rule == rule]
        found = [path for path in parents_of_rule if (path / f"diagnose_{rule}/diagnose.json").exists()]
        if len(found) > 1:
            out = cfg.folder / f"diagnose_{rule}"
            command = [sys.executable, script("diagnose_vhack.py"), *map(str, found), "--at", rule, "--out", str(out)]
            parts.append(Part(f"diagnose_{rule}", "report", command, [out / "diagnose.md"]))
    return parts


def report_part(cfg: BranchStudyConfig) -> Part:
    """The report of what is there."""
    command = [sys.executable, script("plot_pareto.py"), str(cfg.folder), "--out", str(cfg.folder / "report")]
    return Part("report", "report", command, [])
