"""The run directory: config.json, the TSV rows and their legend, rollouts, checkpoints, summary.

Everything that must survive is written to a temporary name, synced and renamed; the append-only files (TSV, JSONL)
are cut back on resume to the length that the checkpoint recorded, so that no row is lost or doubled. Only opening a
run creates files: one whose folder vanishes stops at its next write instead of leaving half a run behind.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from loguru import logger
from torch import Tensor

from lib.errors import AdapterError, UserError
from lib.files import append, atomic, jsonl, naming, read_json, refuse_unwritable, write_json
from lib.tensors import load_tensors, save_atomic
from record import takeoff
from record.columns import EVAL_COLUMNS, STEP_COLUMNS, STRATUM_COLUMNS, Table
from record.identity import differing


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
                    raise UserError(
                        f"--fresh does not move {self.path} aside, which is the working directory or holds "
                        "no run (no config.json): pass --out elsewhere"
                    )
                self._lock()  # a run that is being written stays where it is
                self._move_aside()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            for torn in self.path.glob(".*.tmp"):  # of a process that was killed while it wrote
                torn.unlink()
            self._claim(config)
        self.steps = Table(self.path / "steps.tsv", STEP_COLUMNS, writes=writes)
        self.evals = Table(self.path / "evals.tsv", EVAL_COLUMNS, writes=writes)
        self.strata = Table(self.path / "strata.tsv", STRATUM_COLUMNS, writes=writes)
        self.rollouts = self.path / "rollouts.jsonl"
        self.prompts = self.path / "prompts.jsonl"
        self.stored: set[tuple[str, str]] = set()
        """(split, problem) of the prompts in prompts.jsonl."""
        self.modules = self.path / "modules.f32"

    @property
    def appended(self) -> list[Path]:
        """The append-only files."""
        return [self.steps.path, self.evals.path, self.strata.path, self.rollouts, self.prompts, self.modules]

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

    def add_rollouts(self, records: list[dict]) -> int:
        """Append rows to rollouts.jsonl without their prompt, and to prompts.jsonl {split, problem, evaluator, prompt}
        where it is the first of its split and problem. Returns the bytes that prompts.jsonl grew by."""
        if not self.writes:
            return 0
        rows, new = [], []
        for record in records:
            rows.append({k: v for k, v in record.items() if k not in ("prompt", "evaluator")})
            key = (record["split"], record["problem"])
            if record.get("prompt") and key not in self.stored:
                self.stored.add(key)
                new.append({name: record[name] for name in ("split", "problem", "evaluator", "prompt")})
        append(self.rollouts, jsonl(rows))
        append(self.prompts, data := jsonl(new))
        return len(data)

    def save_trip(self, name: str, step: int, evidence: dict, records: list[dict]) -> Path:
        """Write tripwire-NAME-STEP.json (row, norms) and .jsonl (the batch); returns the latter's path."""
        path = self.path / f"tripwire-{name}-{step}.jsonl"
        if not self.writes:
            return path
        write_json(path.with_suffix(".json"), evidence)
        with atomic(path) as f:
            f.write(jsonl(records))
        return path

    def save_branch_point(self, tensors: dict[str, Tensor], state: dict) -> None:
        """takeoff-<rule>.safetensors: what branches start from (record/takeoff.py)."""
        if self.writes:
            save_atomic(tensors, takeoff.file_of(self.path, state["rule"]), {"state": json.dumps(state)})

    def checkpoint_step(self) -> int | None:
        """Step of the last checkpoint by checkpoint.json, None where that is missing or torn."""
        return read_json(self.path / "checkpoint.json").get("step")  # torn: load_checkpoint writes it anew

    def add_modules(self, names: list[str], values: Tensor) -> None:
        """Append one step's [3, M] (cos, |g|, cos_up per module): modules.f32 is a raw float32 array [steps, 3, M],
        modules.json names its axes. A step without a gradient is a row of nan, so that row and step agree."""
        if not self.writes:
            return
        if self.modules.stat().st_size == 0:
            axes = {"axes": ["step", "field", "module"], "modules": names, "fields": ["cos", "gnorm", "cos_up"]}
            write_json(self.path / "modules.json", axes)
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
            size = state["sizes"].get(file.name, 0)
            have = file.stat().st_size if file.exists() else 0
            if have < size:
                raise UserError(
                    f"{file} has {have} bytes and its checkpoint counts {size}: rows are lost; pass "
                    "--fresh to move this run aside and start over"
                )
            with naming(file), open(file, "ab") as f:
                f.truncate(size)
        for table in (self.steps, self.evals, self.strata):
            table.ensure_header()
        with open(self.prompts, encoding="utf-8") as lines:
            self.stored = {(p["split"], p["problem"]) for p in map(json.loads, lines)}
        return (tensors, state) if tensors else None


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
    if fields := differing(before, config):
        what = ", ".join(fields)
        raise UserError(
            f"{folder} holds a run with another configuration: {what}; pass --out elsewhere, or --fresh to "
            "move it aside"
        )
    return before
