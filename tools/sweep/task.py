"""What a sweep is made of: its settings, its tasks, and the flags that the scripts share.

A task is one command with the names of those it waits for and the file (`marker`) that says that it is done. Its log
is outputs/<preset>/logs/<what>.log; its label in a queue is "why: ...; resolve: <marker>".
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from config import ModelConfig, Preset
from lib.files import REPO, read_json
from record.identity import differing
from tools.sweep.studies import STUDIES

# Flags of train.py that differ between the runs of a sweep, so that they cannot follow --.
OWN_FLAGS = ("preset", "arm", "seed", "label", "out", "fresh")


@dataclass
class Slurm:
    """What each job asks the cluster for."""

    partition: str = ""
    """Partition; empty: the cluster's default."""
    minutes: int = 1440
    """Time limit. A job that meets it writes its checkpoint and queues again."""
    gpus: int | None = None
    """GPUs a job; None: 1, and 0 in preset tiny."""
    cpus: int = 8
    """CPU cores a job, for grading."""
    mem_gb: int = 0
    """Memory a job in GiB; 0: the cluster's default."""
    grace: int = 180
    """Seconds before the time limit at which a job is told to stop; longer than a step and an evaluation."""
    requeues: int = 10
    """Times that a job may meet its time limit."""
    options: list[str] = field(default_factory=list)
    """Further sbatch options as name=value, such as account=lab qos=long."""


@dataclass
class SweepConfig:
    """What to run, and how."""

    preset: list[Preset] = field(default_factory=lambda: ["tiny"])
    """Presets of the runs."""
    study: Literal["", *STUDIES] = ""
    """A named list of arms and seeds; --arms and --seeds override its halves. In `preregistered` everything waits for
    vanilla's first seed to pass H4, if --gate is not False."""
    arms: list[str] = field(default_factory=list)
    """Arms, or the variants projected-same, projected-far, projected-update."""
    seeds: list[int] = field(default_factory=list)
    """Seeds."""
    submit: Literal["plan", "local", "pueue", "slurm"] = "plan"
    """plan prints the commands; local runs them here; pueue and slurm queue them."""
    dry_run: bool = False
    """With --submit pueue: print the pueue commands, as a shell script, and run none."""
    status: bool = False
    """Print how far the sweep is, and run nothing."""
    gate: bool | None = None
    """Whether a failed held-out check stops the runs of its pairs; None: yes, but in preset tiny, which studies it."""
    jobs: int = 2
    """Runs side by side (local); on a GPU each is told to plan for its share of it (--memory-share)."""
    groups: list[str] = field(default_factory=lambda: ["default"])
    """pueue groups, one a GPU: the number that a name ends in becomes CUDA_VISIBLE_DEVICES. Missing ones are made."""
    slurm: Slurm = field(default_factory=Slurm)
    """What each job asks the cluster for (slurm)."""
    extra: tyro.conf.Suppress[list[str]] = field(default_factory=list)
    """What follows `--`: flags for every run; those of the model go to extraction and verification too."""


@dataclass
class Task:
    """One command, what it waits for, and the file that says that it is done."""

    name: str
    """<preset>/<what>, unique in the sweep."""
    command: list[str]
    marker: Path | None
    """None: done only in that its command ended well."""
    after: list[str] = field(default_factory=list)
    """Names of the tasks that must have ended well before it."""
    why: str = ""
    """Why it exists, for the queue's label."""
    config: dict | None = None
    """The configuration of a run, by which another one in its folder is known."""

    @property
    def done(self) -> bool:
        return self.marker is not None and self.marker.exists() and not self.others

    @property
    def others(self) -> list[str]:
        """The fields in which the run that lies in the folder is another one than this."""
        before = read_json(self.marker.parent / "config.json") if self.config and self.marker else {}
        return differing(before, self.config) if before else []

    @property
    def is_run(self) -> bool:
        """Whether it is a training run, and not one of the preparations."""
        return self.marker is not None and self.marker.name == "summary.json"

    @property
    def preset(self) -> str:
        return self.name.partition("/")[0]

    @property
    def log(self) -> Path:
        preset, _, leaf = self.name.partition("/")
        return Path("outputs") / preset / "logs" / f"{leaf}.log"

    @property
    def label(self) -> str:
        """Why the task exists and what resolves it."""
        return f"why: {self.why}; resolve: {self.marker or 'exit status 0'}"


def flag(words: list[str], name: str, default: str) -> str:
    """The last value of `name` in a list of flags, written `--name V` or `--name=V`."""
    for i in reversed(range(len(words))):
        if words[i] == name and i + 1 < len(words):
            return words[i + 1]
        if words[i].startswith(f"{name}="):
            return words[i].partition("=")[2]
    return default


def memory_share(cfg: SweepConfig, preset: str) -> list[str]:
    """The flag by which runs of the sweep that share a GPU do not each plan for all of it; [] where each has its own.

    Side by side on a GPU are the --jobs of --submit local, and the groups of --submit pueue that end in one number.
    """
    if preset == "tiny" or flag(cfg.extra, "--memory-share", ""):
        return []
    beside = cfg.jobs if cfg.submit == "local" else 1
    if cfg.submit == "pueue":
        beside = max(Counter(gpu.group() if (gpu := re.search(r"\d+$", g)) else "" for g in cfg.groups).values())
    return ["--memory-share", share_of(beside)] if beside > 1 else []


def share_of(processes: int) -> str:
    """The share of a GPU that each of so many may plan for, rounded down."""
    return f"{1000 // processes / 1000:g}"


def flag_name(word: str) -> str:
    """Field name of `--a-field` or `--a-field=V`; empty for a value."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""


def model_flags(words: list[str]) -> list[str]:
    """Those flags, with their values, that extraction and verification share with a run."""
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    out = []
    keep = False
    for word in words:
        if word.startswith("--"):
            keep = flag_name(word) in known
        if keep:
            out.append(word)
    return out


def script(name: str) -> str:
    """A script's path as a command from here names it."""
    return name if Path.cwd() == REPO else str(REPO / name)


def module(name: str) -> list[str]:
    """The command that runs one of the repository's modules from here."""
    if Path.cwd() == REPO:
        return [sys.executable, "-m", name]
    return ["env", f"PYTHONPATH={REPO}", sys.executable, "-m", name]
