"""The book-keeping of a run: resume, evaluations, checkpoints, signals, tripwires, progress, summary.

train.py's loop calls five verbs in this order; what they write is record/folder.py's.

    first = book.resume()
    book.evaluation(...)       rows of an evaluation
    book.between_steps(...)    a checkpoint where one is due; a signal ends the process here
    book.step(...)             the row of a step
    book.finish()              delta_S and summary.json, written last

What must survive a kill is in `Carried`, which travels with the checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor
from tqdm import tqdm

from arms import ARMS
from config import Config
from lib.distributed import Ranks
from lib.errors import UserError
from lib.files import write_json
from lib.memory import peak_gib
from lib.signals import StopLatch
from record import takeoff
from record.columns import STEP_COLUMNS
from record.folder import RunDir
from record.kept import RolloutBudget
from record.stream import Stream, final_line
from record.track import Tracker
from record.tripwires import Trip, Watch

MEANS = ("cos", "fired", "gnorm", "cos_up")
"""Columns of steps.tsv whose means since the last evaluation stand in evals.tsv."""


@dataclass
class Carried:
    """The state of the book that a checkpoint holds, as JSON."""

    since: list[dict] = field(default_factory=list)
    """MEANS of every step since the last evaluation."""
    seconds: float = 0.0
    """Run time so far, over all of its processes."""
    tokens: int = 0
    """Tokens sampled in training so far."""
    eval: dict | None = None
    """The last evaluation's row."""
    watch: dict = field(default_factory=dict)
    """Memory of the tripwires."""
    kept: dict = field(default_factory=dict)
    """What was spent of the rollouts' budget (record/kept.py)."""
    recent: list[dict] = field(default_factory=list)
    """attempt and hack of the last steps, for the rules of record/takeoff.py."""
    branch_points: dict[str, int] = field(default_factory=dict)
    """Rule -> the step that a branch from it makes first."""


class Book:
    """Keeps the records of one run."""

    def __init__(self, cfg: Config, folder: RunDir, delta: dict[str, torch.nn.Parameter], ranks: Ranks):
        self.cfg, self.folder, self.delta, self.ranks = cfg, folder, delta, ranks
        self.device = next(iter(delta.values())).device
        self.carried = Carried()
        self.first = 0
        self.at_start = False
        """Whether this process begins the run or branch: no checkpoint was there."""
        self.fresh_branch = False
        """Whether this process begins a branch: AdamW's first moment is then still the parent's."""
        self.due = False
        """A checkpoint that a doubtful row has put off."""

    @property
    def end(self) -> int:
        """The step before which the run ends: --steps, or --stop-after's once its rule has fired."""
        rule, _, more = self.cfg.stop_after.partition("+")
        fired = self.carried.branch_points.get(rule)
        return self.cfg.steps if fired is None else min(self.cfg.steps, fired + int(more))

    # --- the five verbs

    def resume(self, optimiser: torch.optim.AdamW, v_hack: dict[str, Tensor] | None) -> int:
        """The step to begin with: 0, or the last checkpoint's with its delta_S, moments and refreshed v_hack restored.

        Raises UserError where the checkpoint does not fit the model.
        """
        if (found := self.folder.load_checkpoint()) is not None:
            tensors, state = found
            self._restore(tensors, state["adam_step"], optimiser, v_hack)
            self.first, self.carried = state["step"], Carried(**state["carried"])
            logger.info(f"resuming {self.folder.path} at step {self.first}")
        self.at_start = found is None
        if found is None and self.cfg.branch_from:
            point = takeoff.load_branch_point(Path(self.cfg.branch_from))
            self._restore(point.tensors, point.adam_step, optimiser, v_hack)
            self.first, self.carried = point.step, Carried(**point.carried | {"seconds": 0.0, "tokens": 0, "kept": {}})
            self.fresh_branch = True
            logger.info(f"branching from {self.cfg.branch_from} ({point.rule}) at step {self.first}")
        self.watch = Watch(self.cfg.max_kl, self.carried.watch)
        evaluations = sum(map(self.evaluation_due, range(self.first, self.cfg.steps + 1)))
        self.budget = RolloutBudget(1e6 * self.cfg.rollouts_mb, self.cfg.steps, evaluations, self.carried.kept)
        self.stop = StopRequest()
        self.started, self.seconds_before = time.perf_counter(), self.carried.seconds
        self.stream = Stream(STEP_COLUMNS, self.cfg.show)
        if self.folder.writes:
            self.stream.begin()
        self.tracker = Tracker(self.cfg.track if self.folder.writes else "off", self.folder.path, self.first)
        self.bar = tqdm(
            total=self.cfg.steps,
            initial=self.first,
            desc=self.folder.path.name,
            file=sys.stderr,
            disable=True if self.ranks.rank or self.stream.terminal else None,  # rows in the same window say as much
        )
        return self.first

    def evaluation_due(self, step: int) -> bool:
        """Whether to evaluate before `step`; a resumed step's evaluation is already on disk."""
        new = step > self.first or step == 0
        return new and (step % self.cfg.eval_every == 0 or step == self.end)

    def evaluation(self, row: dict, strata: list[dict], records: list[dict]) -> None:
        """Write an evaluation's rows. Raises UserError where a tripwire stops the run."""
        row |= means(self.carried.since, MEANS)
        self.folder.evals.write(row)
        for stratum in strata:
            self.folder.strata.write(stratum)
        self._keep(self.budget.of_evaluation(records))
        self.tracker.evaluation(row, strata, records)
        self.carried.since, self.carried.eval = [], row
        if self.folder.writes:
            self.stream.evaluation(row)
        if trip := self.watch.evaluation(row):
            self._tripped(trip, row, records, {})

    def between_steps(self, step: int, optimiser: torch.optim.AdamW, v_hack: dict[str, Tensor] | None) -> None:
        """Write the checkpoint that is due; end the process, with status 128 + signal, where one has asked for it."""
        self.carried.seconds = self.seconds_before + time.perf_counter() - self.started
        stopped = max(self.ranks.gather([self.stop.signal]))  # a signal to any rank stops all of them at the same step
        if step > self.first:
            self.due |= step % self.cfg.checkpoint_every == 0 or step == self.end or bool(stopped)
        if self.due and not (self.watch.doubtful and self.cfg.tripwires == "stop"):
            self._checkpoint(step, optimiser, v_hack)
            self.due = False
        if stopped:
            why = ", the last before a row in doubt (tripwires.py)" if self.due else ""
            kept = self.folder.checkpoint_step() or 0
            logger.info(f"stopped at step {step}; the same command continues at step {kept}{why}; {self._spent()}")
            sys.exit(128 + stopped)

    def step(self, row: dict, measured, batch, optimiser: torch.optim.AdamW) -> None:
        """Write the row of a step, what was `measured` (project.Projection; None in a flat step) per module, and a
        sample of the rollouts of its `batch` (rollouts.Batch).

        Raises UserError where a tripwire stops the run.
        """
        step = row["step"]
        left = self.end - step - 1
        written = row | {"eta": eta(self.started, step + 1 - self.first, left)}
        self.folder.steps.write(written)
        self.tracker.step(written)
        if self.folder.writes:
            self.stream.row(written)
        per_module = torch.full((3, len(self.delta)), math.nan)
        if measured is not None:
            per_module = torch.stack([measured.cos, measured.norm, measured.cos_update])
        self.folder.add_modules(list(self.delta), per_module)
        norms = dict(zip(self.delta, per_module[1].tolist(), strict=True)) if measured is not None else {}
        if trip := self.watch.step(row, norms):
            self._tripped(trip, row, batch.records(step), norms)
        if self.folder.writes:
            records = batch.records(step)
            self._keep(self.budget.of_step(step, records))
            if step % self.cfg.eval_every == 0:
                self.tracker.rollouts(step, records)
        self.carried.since.append({k: row.get(k, math.nan) for k in MEANS})
        self.carried.tokens += sum(map(len, batch.completions))
        self._keep_branch_points(row, optimiser)
        self.bar.update()

    def finish(self) -> None:
        """Write summary.json: the run is complete."""
        self.bar.close()
        self.tracker.finish()
        if not self.folder.writes:
            return
        cfg = self.cfg
        write_json(
            self.folder.path / "summary.json",
            {
                "arm": cfg.arm,
                "label": cfg.label or cfg.arm,
                "seed": cfg.seed,
                "preset": cfg.preset,
                "steps": self.end,
                "final": self.carried.eval,
                "branch_points": self.carried.branch_points,
                "seconds": round(self.carried.seconds, 1),
                "tokens": self.carried.tokens,
                "peak_gib": round(peak_gib(self.device), 2),
            },
        )
        logger.info(self._spent())
        print(final_line(self.carried.eval, self.end, str(self.folder.path)), flush=True)

    # --- what they are made of

    def _keep(self, records: list[dict]) -> None:
        """Add rollouts to the run's files, each prompt once."""
        self.budget.prompts(self.folder.add_rollouts(records))

    def _spent(self) -> str:
        """Time and, where --rate names a price, money of the run so far; tokens sampled in training a second of it."""
        seconds, rate = self.carried.seconds, self.cfg.rate
        money = f", {seconds / 3600 * rate:.2f} USD at {rate:g} an hour" if rate else ""
        each = f"{self.carried.tokens / max(seconds, 1e-9):,.0f} sampled tokens a second, evaluations included"
        return f"{seconds / 3600:.2f} h so far{money}; {each}"

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor], adam_step: int, optimiser, v_hack: dict[str, Tensor] | None) -> None:
        for name, p in self.delta.items():
            if getattr(tensors.get(f"delta_S.{name}"), "shape", None) != p.shape:
                where = self.cfg.branch_from or f"{self.folder.path}/checkpoint.safetensors"
                raise UserError(f"{where} has no delta_S of {name} that fits: pass --fresh")
        for name, p in self.delta.items():
            p.copy_(tensors[f"delta_S.{name}"])
            if f"v_hack.{name}" in tensors:
                v_hack[name] = tensors[f"v_hack.{name}"].to(p.device)
            if f"exp_avg.{name}" in tensors:
                optimiser.state[p] = {
                    "step": torch.tensor(float(adam_step)),
                    "exp_avg": tensors[f"exp_avg.{name}"].to(p.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(p.device),
                }

    def _checkpoint(self, step: int, optimiser: torch.optim.AdamW, v_hack: dict[str, Tensor] | None) -> None:
        """delta_S, AdamW's moments, v_hack where it is refreshed, the data cursor (the step); there is no RNG state."""
        self.ranks.check_equal(self.delta.values(), f"stopped at step {step}: delta_S")
        tensors, adam_step = self._state(optimiser)
        if self.cfg.refresh_every or ARMS[self.cfg.arm].v in ("oracle", "live"):
            tensors |= {f"v_hack.{name}": v_hack[name].cpu() for name in self.delta}
        carried = dataclasses.asdict(self.carried)
        self.folder.save_checkpoint(tensors, {"step": step, "adam_step": adam_step, "carried": carried})
        self.ranks.wait()  # a rank that stops first would have torchrun end the one that is writing

    def _state(self, optimiser: torch.optim.AdamW) -> tuple[dict[str, Tensor], int]:
        """(delta_S and AdamW's moments by name, on the CPU; AdamW's step count)."""
        tensors, adam_step = {}, 0
        for name, p in self.delta.items():
            tensors[f"delta_S.{name}"] = p.detach().cpu()
            if state := optimiser.state.get(p):
                adam_step = int(state["step"])
                tensors[f"exp_avg.{name}"] = state["exp_avg"].cpu()
                tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"].cpu()
        return tensors, adam_step

    def _keep_branch_points(self, row: dict, optimiser: torch.optim.AdamW) -> None:
        """Write takeoff-<rule>.safetensors for each rule that fires for the first time."""
        recent = [*self.carried.recent, {"attempt": row["attempt"], "hack": row["hack"]}]
        self.carried.recent = recent[-takeoff.WINDOW :]
        for rule in takeoff.fired(self.carried.recent):
            if rule not in self.carried.branch_points:
                self.carried.branch_points[rule] = row["step"] + 1
                tensors, adam_step = self._state(optimiser)
                state = {"rule": rule, "step": row["step"] + 1, "adam_step": adam_step}
                self.due = True  # a resumed run must not write this file again
                self.folder.save_branch_point(tensors, state | {"carried": dataclasses.asdict(self.carried)})

    def _tripped(self, trip: Trip, row: dict, records: list[dict], norms: dict[str, float]) -> None:
        """Save the batch behind a tripwire, then stop the run with its sentence (UserError), or log it, once a name."""
        if self.cfg.tripwires == "off" or not self.watch.first_time(trip):
            return
        evidence = {"tripwire": trip.name, "what": trip.what, "row": row, "gnorm": norms}
        batch = self.folder.save_trip(trip.name, trip.step, evidence, records)
        saved = self.folder.checkpoint_step()
        kept = "there is no checkpoint yet" if saved is None else f"the checkpoint is of step {saved}, before it"
        text = f"tripwire {trip.name} at step {trip.step}: {trip.what}; {kept}, and the batch is in {batch}"
        if self.cfg.tripwires == "stop":
            raise UserError(f"{text}: lower --lr and start over with --fresh, or go on with --tripwires warn")
        logger.warning(text)


class StopRequest(StopLatch):
    """SIGTERM or SIGINT asks for a checkpoint at the next step; one more, seconds later, ends the process at once."""

    GRACE = 2.0
    """Seconds in which further signals count as the first: launchers send several."""

    def __init__(self):
        super().__init__(signal.SIGTERM, signal.SIGINT)
        self.since = math.inf

    @property
    def signal(self) -> int:
        """The first that came, 0 where none did."""
        return self.received[0] if self.received else 0

    def __call__(self, number: int, frame) -> None:
        if self.received and time.monotonic() - self.since > self.GRACE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        super().__call__(number, frame)
        if len(self.received) > 1:
            return
        self.since = time.monotonic()
        logger.warning(f"{signal.Signals(number).name}: stopping at the next step, with a checkpoint")


def means(rows: list[dict], keys: tuple[str, ...]) -> dict[str, float]:
    """Mean of each key over the rows that have a number there; nan where none has."""
    out = {}
    for key in keys:
        values = [r[key] for r in rows if not math.isnan(r[key])]
        out[key] = sum(values) / len(values) if values else math.nan
    return out


def eta(started: float, done: int, left: int) -> str:
    """h:mm:ss, or 12.3h, for the steps that are left, at the pace of those done."""
    seconds = int((time.perf_counter() - started) / done * left)
    if seconds >= 36_000:
        return f"{seconds / 3600:.1f}h"
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
