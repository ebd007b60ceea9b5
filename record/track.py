"""A tracker beside the run's files: trackio, Weights & Biases or TensorBoard (--track).

It is told the configuration, every row of steps.tsv, every evaluation with its table of strata, and a sample of the
rollouts to read. trackio and TensorBoard write to this machine and need no account: trackio to TRACKIO_DIR, TensorBoard
to tensorboard/ in the run directory.

The tracker lives in a process of its own, since what it prints, holds or waits for is then not the run's: this process
puts JSON lines into a bounded queue, a thread hands them over, and what the queue has no room for is dropped. A tracker
that fails or hangs costs one warning, and the rest of what it would have been told.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from loguru import logger

from lib.errors import AT_END, UserError
from lib.files import REPO, read_json
from lib.spread import evenly

PROJECT = "projected-grpo"
# Messages that wait for a slow tracker; what comes beyond them is dropped.
ROOM = 256
# Rollouts of an evaluation, or of a step that keeps some, that are shown as traces.
TRACES = 16
# Seconds that the end of a run waits for its tracker.
PATIENCE = 30.0
LOG = "track.log"


def check_tracker(kind: str) -> None:
    """Raises UserError where the tracker, a package of the same name, is not installed."""
    if kind != "off" and importlib.util.find_spec(kind) is None:
        install = f"uv pip install --python .venv/bin/python {kind}"
        raise UserError(f"--track {kind} needs the package {kind}: `{install}`, or leave the flag out")


class Tracker:
    """The run's side: three verbs that return at once, and `finish`. Of kind "off" all of them do nothing."""

    def __init__(self, kind: str, folder: Path, first: int = 0):
        self.kind, self.log = kind, folder / LOG
        self.waiting: queue.Queue[str | None] = queue.Queue(ROOM)
        self.dropped, self.warned, self.over = 0, False, kind == "off"
        if self.over:
            return
        command = [sys.executable, "-m", "record.track", kind, str(folder.absolute()), str(first)]
        path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
        with open(self.log, "w") as out:
            # A session of its own: Ctrl-C is for the run, which then ends the tracker.
            self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, text=True,
                                          env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
                                          start_new_session=True)  # fmt: skip
        self.thread = threading.Thread(target=self._hand_over, daemon=True)
        self.thread.start()
        AT_END.append(lambda status: self.finish())

    def step(self, row: dict) -> None:
        """A row of steps.tsv."""
        self._tell({"step": row["step"], "train": numbers(row)})

    def evaluation(self, row: dict, strata: list[dict], records: list[dict]) -> None:
        """A row of evals.tsv, its rows of strata.tsv, and its completions."""
        self._tell({"step": row["step"], "eval": numbers(row), "strata": strata, "traces": evenly(records, TRACES)})

    def rollouts(self, step: int, records: list[dict]) -> None:
        """Training completions of a step."""
        self._tell({"step": step, "traces": evenly(records, TRACES)})

    def finish(self) -> None:
        """Let the tracker end, for at most PATIENCE seconds."""
        if self.over:
            return
        self.over, end = True, time.monotonic() + PATIENCE
        try:
            self.waiting.put(None, timeout=PATIENCE)
            self.child.wait(timeout=max(0.1, end - time.monotonic()))
        except (queue.Full, subprocess.TimeoutExpired):
            self.child.kill()
            self.child.wait()
            self._warn(f"did not end within {PATIENCE:.0f} s and was stopped: what it had not written is lost")
        if self.dropped:
            self._warn(f"was too slow: {self.dropped} rows or rollouts were dropped; the run's own files have them")

    def _tell(self, message: dict) -> None:
        if self.over:
            return
        try:
            self.waiting.put_nowait(json.dumps(message, default=str))
        except queue.Full:
            self.dropped += 1

    def _hand_over(self) -> None:
        """The thread: everything in the queue, until the end or the tracker's own."""
        try:
            while (line := self.waiting.get()) is not None:
                self.child.stdin.write(line + "\n")
                self.child.stdin.flush()
            self.child.stdin.close()
        except OSError:  # it is gone
            self.child.wait()
        if self.child.wait() and not self.warned:
            said = (self.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            self._warn(f"failed ({said}): the run goes on without it, {self.log} has the rest")
        self.over = True

    def _warn(self, what: str) -> None:
        """The one warning."""
        if not self.warned:
            self.warned = True
            logger.warning(f"--track {self.kind} {what}")


def numbers(row: dict) -> dict[str, float]:
    """The finite numbers of a row, but its step."""
    return {k: v for k, v in row.items() if k != "step" and isinstance(v, int | float) and math.isfinite(v)}


# --- the tracker's side, in its own process ---


class SharedInterface:
    """trackio, or wandb, whose interface it has."""

    def __init__(self, name: str, folder: Path, config: dict, first: int):
        self.module = importlib.import_module(name)
        more = (
            {"id": f"{folder.parent.name}-{folder.name}"}
            if name == "wandb"
            else {"auto_log_gpu": False, "auto_log_cpu": False}
        )
        title = f"{folder.parent.name}/{folder.name}"
        self.module.init(
            project=PROJECT, name=title, group=config.get("label") or config.get("arm"), config=config, resume="allow",
            **more,
        )  # fmt: skip

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.module.log(values, step=step)

    def table(self, step: int, name: str, rows: list[dict]) -> None:
        columns = list(rows[0])
        self.module.log(
            {name: self.module.Table(columns=columns, data=[[r[c] for c in columns] for r in rows])}, step=step
        )

    def traces(self, step: int, records: list[dict]) -> None:
        """Conversations, where the tracker knows such a thing, else a table."""
        if not hasattr(self.module, "Trace"):
            self.table(step, "rollouts", [{"completion": r["completion"], **facts(r)} for r in records])
            return
        traces = [self.module.Trace(messages=conversation(r), metadata={"step": step, **facts(r)}) for r in records]
        self.module.log({"rollouts": traces}, step=step)

    def finish(self) -> None:
        self.module.finish()


class TensorBoard:
    """torch's writer."""

    def __init__(self, folder: Path, config: dict, first: int):
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier process wrote of steps that are made again is left out by whoever reads.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)
        self.writer.add_text("config", "".join(f"    {k}: {v}\n" for k, v in config.items()), first)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def table(self, step: int, name: str, rows: list[dict]) -> None:
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
        self.writer.add_text(name, "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines), step)

    def traces(self, step: int, records: list[dict]) -> None:
        for i, record in enumerate(records):
            said = "\n\n".join(f"**{m['role']}**\n\n{m['content']}" for m in conversation(record))
            about = ", ".join(f"{k} {v}" for k, v in facts(record).items())
            self.writer.add_text(f"rollouts {record['split']}/{i}", f"{about}\n\n{said}", step)

    def finish(self) -> None:
        self.writer.close()


def conversation(record: dict) -> list[dict]:
    """The messages of a rollout: its prompt where it was kept, its completion."""
    prompt = record.get("prompt") or []
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    return [*messages, {"role": "assistant", "content": record["completion"]}]


def facts(record: dict) -> dict:
    """What a rollout's grade says, in a line."""
    names = ("split", "problem", "stratum", "reward", "hack", "gt_pass", "flavour")
    return {name: record[name] for name in names if record.get(name) not in (None, "")}


def listen(tracker: SharedInterface | TensorBoard) -> None:
    """Pass every line of stdin on."""
    for line in sys.stdin:
        message = json.loads(line)
        step = message["step"]
        for part in ("train", "eval"):
            if message.get(part):
                tracker.scalars(step, {f"{part}/{name}": value for name, value in message[part].items()})
        if message.get("strata"):
            tracker.table(step, "eval/strata", message["strata"])
        if message.get("traces"):
            tracker.traces(step, message["traces"])
    tracker.finish()


def main(kind: str, folder: Path, first: int) -> None:
    """The process of a tracker."""
    config = read_json(folder / "config.json")
    listen(
        TensorBoard(folder, config, first) if kind == "tensorboard" else SharedInterface(kind, folder, config, first)
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
