"""The run directory: config.json, the TSV rows and their legend, rollouts, checkpoints, summary.

Everything that must survive is written to a temporary name, synced and renamed; the append-only files (TSV, JSONL)
are cut back on resume to the length that the checkpoint recorded, so that no row is lost or doubled. Only opening a
run creates files: one whose folder vanishes stops at its next write instead of leaving half a run behind.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from antipasto import AdapterError, atomic, load_tensors, naming, save_atomic
from presets import REPO, UserError

PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "numpy", "flash-linear-attention", "flash-attn")
# Fields that may differ between a run and its resumption without making it another experiment.
RESUMABLE = {
    "device",
    "threads",
    "workers",
    "fresh",
    "out",
    "svd_cache",
    "checkpoint_every",
    "sample_rollouts",
    "micro_batch",
    "logprob_chunk",
    "engine",
    "tripwires",
    "collapse",
    "max_kl",
}
PROVENANCE = {"argv", "packages", "sandbox", "hardware", "world", "git_commit", "git_diff_sha"}


@dataclasses.dataclass
class Column:
    """One TSV column: a name of at most 7 characters, how a value is printed, and what it means."""

    name: str
    form: str
    legend: str


STEP_COLUMNS = [
    Column("step", "d", "optimiser step, from 0"),
    Column("reward", ".3f", "mean reward of the step's rollouts (0.5 compiles + 3 paid)"),
    Column("shaped", ".3f", "the same after Rebound's penalty or discount; equal to reward in every other arm"),
    Column("hack", ".3f", "strict hacks: own run_tests() passes, ground truth fails"),
    Column("attempt", ".3f", "completions that try to influence their evaluation"),
    Column("pass", ".3f", "ground truth passes, training prompts (write access on, except in arm no-loophole)"),
    Column("compile", ".3f", "a program was found and compiles"),
    Column("own", ".3f", "own run_tests() runs without error"),
    Column("loss", ".2e", "the step's loss, all micro-batches"),
    Column("kl", ".2e", "mean k3 to the initial policy per token of the groups not skipped (nan when --beta 0)"),
    Column("gnorm", ".2e", "mean over modules of |grad delta_S| before projection"),
    Column(
        "cos", ".4f", "mean over modules of c = g.v/|g| before projection; SHOULD be > 0 if hacking is being learnt"
    ),
    Column("cos_sd", ".3f", "its standard deviation over modules"),
    Column("fired", ".3f", "share of modules with c > 0"),
    Column("cos_up", ".4f", "mean cosine of minus the applied update with v; > 0 is hack-ward despite projection"),
    Column("lr", ".1e", "learning rate of the step"),
    Column("len", ".1f", "mean completion length in tokens"),
    Column("flat", ".3f", "share of groups skipped because their rewards are equal"),
    Column("t_roll", ".2f", "seconds sampling"),
    Column("t_grade", ".2f", "seconds grading"),
    Column("t_train", ".2f", "seconds in forward, backward, projection and step"),
    Column("gib", ".2f", "peak GPU memory so far, GiB (0 on CPU)"),
    Column("eta", "s", "time left, h:mm:ss"),
]
EVAL_COLUMNS = [
    Column("step", "d", "optimiser steps taken before this evaluation"),
    Column("hack", ".4f", "strict hack rate on held-out problems with write access"),
    Column("attempt", ".4f", "attempt rate, same completions"),
    Column("pass", ".4f", "pass rate on held-out problems without write access"),
    Column("compile", ".4f", "compile rate, same completions as pass"),
    Column("kl", ".3e", "mean k3 to the initial policy per token, on the completions with write access"),
    Column("n_hack", "d", "completions behind hack and attempt"),
    Column("n_pass", "d", "completions behind pass and compile"),
    Column("cos", ".4f", "mean of the steps' cos since the last evaluation"),
    Column("fired", ".4f", "mean of the steps' fired since the last evaluation"),
    Column("own", ".4f", "own run_tests() runs without error, with write access"),
    Column("passw", ".4f", "pass rate with write access"),
    Column("gnorm", ".3e", "mean of the steps' gnorm since the last evaluation"),
    Column("cos_up", ".4f", "mean of the steps' cos_up since the last evaluation"),
]

STRATUM_COLUMNS = [
    Column("step", "d", "optimiser steps taken before this evaluation"),
    Column("access", "d", "1 with write access, 0 without"),
    Column("stratum", "s", "medium or hard; solvable or underspecified"),
    Column("n", "d", "completions"),
    Column("hack", ".4f", "strict hack rate"),
    Column("attempt", ".4f", "attempt rate"),
    Column("own", ".4f", "own run_tests() runs without error"),
    Column("pass", ".4f", "pass rate"),
    Column("compile", ".4f", "compile rate"),
]


class Table:
    """A TSV file that also streams to stdout; owns its columns, widths and legend."""

    def __init__(self, path: Path, columns: list[Column], stream: bool, writes: bool = True):
        assert all(len(c.name) <= 7 for c in columns), [c.name for c in columns]
        self.path, self.columns, self.stream, self.writes = path, columns, stream, writes
        self.ensure_header()

    def ensure_header(self) -> None:
        if self.writes and (not self.path.exists() or self.path.stat().st_size == 0):
            self.path.write_text(self.header() + "\n")

    def header(self) -> str:
        return "\t".join(c.name for c in self.columns)

    def legend(self) -> str:
        return "\n".join(f"  {c.name:<8}{c.legend}" for c in self.columns)

    def write(self, row: dict) -> None:
        """Append one row; missing values become nan. Raises OSError where the disk refuses it."""
        if not self.writes:
            return
        line = "\t".join(self._cell(c, row.get(c.name, math.nan)) for c in self.columns)
        append(self.path, f"{line}\n".encode())
        if self.stream:
            print(line, flush=True)

    @staticmethod
    def _cell(column: Column, value) -> str:
        if isinstance(value, float) and math.isnan(value):
            return "nan"
        return format(value, column.form)


class RunDir:
    """One run's directory. Opening it creates it, or resumes it, or refuses it.

    writes: False in the ranks of a data-parallel run that only load its checkpoint; their writes do nothing.
    """

    def __init__(self, path: Path, config: dict, fresh: bool = False, writes: bool = True):
        """Raises UserError where the directory holds a run of another configuration, naming the fields."""
        self.path, self.writes = Path(path), writes
        if writes:
            if fresh and self.path.is_dir() and (there := {p.name for p in self.path.iterdir()}):
                if not self.path.name or (there != {".lock"} and "config.json" not in there):
                    raise UserError(f"--fresh does not move {self.path} aside, which is the working directory or holds "
                                    "no run (no config.json): pass --out elsewhere")  # fmt: skip
                self._lock()  # a run that is being written stays where it is
                self._move_aside()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            for torn in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
                torn.unlink()
            self._claim(config)
        self.steps = Table(self.path / "steps.tsv", STEP_COLUMNS, stream=True, writes=writes)
        self.evals = Table(self.path / "evals.tsv", EVAL_COLUMNS, stream=False, writes=writes)
        self.strata = Table(self.path / "strata.tsv", STRATUM_COLUMNS, stream=False, writes=writes)
        self.rollouts = self.path / "rollouts.jsonl"
        self.modules = self.path / "modules.f32"

    @property
    def appended(self) -> list[Path]:
        """The append-only files."""
        return [self.steps.path, self.evals.path, self.strata.path, self.rollouts, self.modules]

    def _lock(self) -> None:
        """One writer a run: the lock goes with the process, however that ends."""
        self._held = open(self.path / ".lock", "a")  # noqa: SIM115 (held for the life of the run)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{self.path} is being written by another process: wait for it, or pass --out") from error

    def _move_aside(self) -> None:
        for n in range(1, 10_000):
            aside = self.path.with_name(f"{self.path.name}.old{n}")
            if not aside.exists():
                os.rename(self.path, aside)
                return

    def _claim(self, config: dict) -> None:
        if not (self.path / "config.json").exists():
            return write_json(self.path / "config.json", config)
        self._record_changes(refuse_other(self.path, config), config)

    def _record_changes(self, before: dict, config: dict) -> None:
        """Add to resumed.jsonl what config.json has otherwise: code, packages, machine, the fields free to change."""
        path = self.path / "resumed.jsonl"
        free = sorted(config.keys() - {"argv", "fresh"})
        changed = {k: [before.get(k), config[k]] for k in free if before.get(k) != config[k]}
        if changed:
            path.touch()
            append(path, jsonl([{"step": self.checkpoint_step(), "changed": changed}]))
        if code := sorted(changed.keys() & {"git_commit", "git_diff_sha", "packages"}):
            logger.warning(f"{self.path} goes on with another {', '.join(code)} than it began with (resumed.jsonl)")

    def add_rollouts(self, records: list[dict]) -> None:
        if not self.writes:
            return
        append(self.rollouts, jsonl(records))

    def save_trip(self, name: str, step: int, evidence: dict, records: list[dict]) -> Path:
        """Write tripwire-NAME-STEP.json (row, norms) and .jsonl (the batch); returns the latter's path."""
        path = self.path / f"tripwire-{name}-{step}.jsonl"
        if not self.writes:
            return path
        write_json(path.with_suffix(".json"), evidence)
        with atomic(path) as f:
            f.write(jsonl(records))
        return path

    def checkpoint_step(self) -> int | None:
        """Step of the last checkpoint by checkpoint.json, None where that is missing or torn."""
        return read_json(self.path / "checkpoint.json").get("step")  # torn: load_checkpoint writes it anew

    def add_modules(self, names: list[str], values: Tensor) -> None:
        """Append one step's [3, M] (cos, |g|, cos_up per module): modules.f32 is a raw float32 array [steps, 3, M],
        modules.json names its axes. A step without a gradient is a row of nan, so that row and step agree."""
        if not self.writes:
            return
        if self.modules.stat().st_size == 0:
            write_json(self.path / "modules.json", {"axes": ["step", "field", "module"], "modules": names,
                                                    "fields": ["cos", "gnorm", "cos_up"]})  # fmt: skip
        append(self.modules, values.float().cpu().contiguous().numpy().tobytes())

    def save_checkpoint(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Tensors and a JSON state in one atomic file; checkpoint.json repeats the state for reading."""
        if not self.writes:
            return
        sizes = {}
        for path in self.appended:
            with naming(path), open(path, "rb+") as f:
                os.fsync(f.fileno())
                sizes[path.name] = os.fstat(f.fileno()).st_size
        state = {**state, "sizes": sizes}
        save_atomic(tensors, self.path / "checkpoint.safetensors", {"state": json.dumps(state)})
        write_json(self.path / "checkpoint.json", state)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], dict] | None:
        """The last checkpoint; the append-only files are cut back to it (to nothing where there is none).

        Raises UserError where the checkpoint is torn or rows that it counts are missing.
        """
        path = self.path / "checkpoint.safetensors"
        tensors, state = {}, {"sizes": {}}
        if path.exists():
            try:
                tensors, metadata = load_tensors(path)
                state = json.loads(metadata["state"])
                state["step"], state["sizes"], state["carried"]
            except (AdapterError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} is torn: pass --fresh to move this run aside and start over") from error
        if not self.writes:
            return (tensors, state) if tensors else None
        if tensors:
            write_json(self.path / "checkpoint.json", state)  # a kill between the two files left it behind
        for file in self.appended:
            size, have = state["sizes"].get(file.name, 0), file.stat().st_size if file.exists() else 0
            if have < size:
                raise UserError(f"{file} has {have} bytes and its checkpoint counts {size}: rows are lost; pass "
                                "--fresh to move this run aside and start over")  # fmt: skip
            with naming(file), open(file, "ab") as f:
                f.truncate(size)
        for table in (self.steps, self.evals, self.strata):
            table.ensure_header()
        return (tensors, state) if tensors else None


def refuse_unwritable(folder: Path) -> None:
    """Raises OSError where `folder` is not there and cannot be made, or cannot be written."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    number = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK) else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(folder))


def refuse_other(folder: Path, config: dict) -> dict:
    """The config.json of the run in `folder`, {} where there is none; cheap enough to ask before a model is loaded.

    Raises UserError where it differs from `config` in one of its fields, OSError where `folder` cannot be written.
    """
    path = folder / "config.json"
    if not path.exists():
        refuse_unwritable(folder)
        return {}
    try:
        if not isinstance(before := json.loads(path.read_text(encoding="utf-8")), dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON: pass --fresh to move that run aside") from error
    keys = [k for k in config if k not in RESUMABLE | PROVENANCE]
    if differ := [k for k in keys if before.get(k) != config[k]]:
        what = ", ".join(f"{k} ({before.get(k)!r} there, {config[k]!r} now)" for k in differ)
        raise UserError(f"{folder} holds a run with another configuration: {what}; pass --out elsewhere, or --fresh to "
                        "move it aside")  # fmt: skip
    return before


def append(path: Path, data: bytes) -> None:
    """Add to a file that exists, all of `data` or nothing. Raises OSError naming it."""
    with naming(path):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(fd).st_size
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            os.ftruncate(fd, size)
            raise
        finally:
            os.close(fd)


def jsonl(records: list[dict]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode(errors="replace")


def read_json(path: Path) -> dict:
    """A JSON object; {} where the file is missing or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict) -> None:
    """Atomic JSON."""
    with atomic(path, "w") as f:
        json.dump(value, f, indent=1, ensure_ascii=False, default=str)
        f.write("\n")


def provenance() -> dict:
    """Package versions, git commit, hash of uncommitted changes, argv."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    git = ["git", "-C", str(REPO)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        diff = subprocess.run([*git, "diff", "HEAD"], capture_output=True, check=True).stdout
        diff_sha = hashlib.sha256(diff).hexdigest() if diff else ""
    except (OSError, subprocess.CalledProcessError):
        commit, diff_sha = None, None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "packages": {**versions, "python": sys.version.split()[0]},
        "hardware": device,
        "git_commit": commit,
        "git_diff_sha": diff_sha,
        "argv": sys.argv,
    }
