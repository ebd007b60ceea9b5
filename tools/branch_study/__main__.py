"""A study of branches by one command: directions, parents, branches, diagnosis, report.

    just branch-study tiny --seeds 0 1 2 --arms vanilla projected random-v --device cpu --jobs 4
    just branch-study tiny --study organism-branches --device cpu --jobs 28
    just branch-study coder --model DIR --study coder --gpus 2 --per-gpu 2 --minutes 28 -- --problems FILE:60,FILE:75

Every part is a process with its log in <out>/logs. A parent is a vanilla run that ends once its last rule has fired;
its branch points are taken up as soon as they are there. Branches of a point go to processes several at a time, which
load the model once, in ever smaller portions towards the end so that no core waits. The same command continues a study.

Written: status.json (how far it is, for polling), minutes.tsv (the cost of every process), report/.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import tyro
from loguru import logger

from lib.errors import run_main
from lib.files import REPO, append, write_json
from tools.branch_study.plan import (
    BranchStudyConfig,
    Part,
    StudyPoint,
    branches,
    diagnosed,
    diagnoses_together,
    diagnosis,
    directions_of,
    extraction_name,
    parents,
    points,
    preparations,
    report_part,
    settle,
)
from tools.sweep.local import Relay, Running, note_end, start_logged

# A branch or a part that has failed so often is left out; one that ran out of memory is tried again with fewer rows.
ATTEMPTS = 2
MICRO_BATCHES = (8, 4, 2)
# Seconds from SIGTERM to SIGKILL: a step and an evaluation of the real models.
GRACE = 60.0
POLL = 0.2


@dataclass
class Busy:
    """A process in a slot; `task`, `child` and `since` are what Relay and note_end know of a run."""

    slot: int
    part: Part
    running: Running


@dataclass
class BranchStudy:
    """What is done, what runs and what is next."""

    cfg: BranchStudyConfig
    workers: int
    preparations: list[Part]
    parents: list[Part]
    diagnosed: dict[str, str]
    """What diagnose_vhack.py is to see, by extraction."""
    busy: list[Busy] = field(default_factory=list)
    attempts: Counter = field(default_factory=Counter)
    """Failures by name of a part, or of a branch as point/label."""
    too_large: Counter = field(default_factory=Counter)
    """How often a part, or the branches of a point, ran out of the GPU's memory."""
    singly: set[str] = field(default_factory=set)
    """Points of which a process of several branches failed: made one by one, the branch whose fault it is shows."""
    said: dict[str, str] = field(default_factory=dict)
    """The last words of what has failed."""
    processes: Counter = field(default_factory=Counter)
    """Branch processes begun, by point."""

    def failed(self, name: str) -> bool:
        return self.attempts[name] >= ATTEMPTS

    def ready(self, part: Part) -> bool:
        """Whether a part can begin: it is not done, does not run, has not failed and waits for nothing."""
        if part.done or self.failed(part.name) or any(job.part.name == part.name for job in self.busy):
            return False
        return self.prepared(part.after)

    def prepared(self, names: tuple[str, ...]) -> bool:
        done = {part.name for part in self.preparations if part.done}
        return done.issuperset(names)

    def labels_left(self, point: StudyPoint) -> list[str]:
        """Branches of a point that could begin now, in their order."""
        taken = {label for job in self.busy if what_of(job.part) == point.name for label in job.part.labels}
        left = []
        for label in self.cfg.arms:
            needs = directions_of(self.cfg, label)
            free = label not in taken and not self.failed(f"{point.name}/{label}")
            if free and not point.marker(label).exists() and (not needs or self.prepared((extraction_name(*needs),))):
                left.append(label)
        return left

    def next_part(self) -> Part | None:
        """What a free slot does: preparations, parents, branches; None where it has to wait."""
        for part in self.preparations:
            if self.ready(part):
                return part
        if (parent := self.next_parent()) is not None:
            return parent
        there = points(self.cfg)
        diagnoses = [d for point in there if self.ready(d := self.diagnosis(point))]
        if diagnoses and self.cfg.diagnose == "first":
            return diagnoses[0]

        # The point that is furthest behind; a share of what is left, so that all slots end together.
        left = {point: labels for point in there if (labels := self.labels_left(point))}
        if left:
            slots = self.cfg.slots
            share = -(-sum(map(len, left.values())) // (2 * slots if slots > 1 else 1))
            point = max(left, key=lambda p: len(left[p]))
            labels = left[point][: 1 if point.name in self.singly else min(share, self.cfg.most)]
            return branches(self.cfg, point, labels, self.workers, self.processes[point.name] + 1)
        return diagnoses[0] if diagnoses and self.cfg.diagnose == "last" else None

    def next_parent(self) -> Part | None:
        """The next seed, while fewer than --points parents have reached the last rule or still may."""
        rule = self.cfg.rules[-1]
        fired = {point.parent.name for point in points(self.cfg) if point.rule == rule}
        may = fired | {job.part.name for job in self.busy if job.part.stage == "parent"}
        for part in self.parents:
            begun = (part.markers[0].parent / "config.json").exists()
            if self.ready(part) and (
                not self.cfg.points or len(may) < self.cfg.points or (begun and part.name in fired)
            ):
                return part
        return None

    def diagnosis(self, point: StudyPoint) -> Part:
        vs = {name: words for name, words in self.diagnosed.items() if not self.failed(name)}
        return diagnosis(self.cfg, point, vs, self.workers)

    # --- processes

    def begin(self, part: Part, slot: int) -> None:
        """Start a part's process in a slot."""
        side_by_side = self.cfg.slots > 1 and part.stage != "prepare"
        log = self.cfg.folder / "logs" / f"{part.name}.log"
        command = part.command
        if tried := self.too_large[what_of(part)]:
            command = [*command, "--micro-batch", str(MICRO_BATCHES[min(tried, len(MICRO_BATCHES) - 1)])]
        child = start_logged(command, log, start_new_session=True, env=environment(self.cfg, slot, side_by_side))
        self.occupy(slot, part, Running(None, child, time.perf_counter()))

    def occupy(self, slot: int, part: Part, running: Running) -> None:
        self.processes[what_of(part)] += bool(part.labels)
        self.busy.append(Busy(slot, part, running))

    def collect(self, stopping: bool) -> None:
        """Note what has ended; while `stopping`, what ended badly has not failed."""
        for job in [job for job in self.busy if job.running.ended()]:
            self.busy.remove(job)
            status, part = job.running.child.returncode, job.part
            minutes = (time.perf_counter() - job.running.since) / 60
            last = note_end(self.cfg.folder / "logs" / f"{part.name}.log", status, minutes)
            self.note_cost(job, status, minutes)
            logger.info(f"{part.name}: {minutes:.1f} min, {'done' if part.done else last}")
            if not part.done and not stopping:
                self.note_failure(part, f"{last} (exit status {status})")

    def note_failure(self, part: Part, what: str) -> None:
        """Count a failure; of a process of several branches it is nobody's yet."""
        name = f"{what_of(part)}/{part.labels[0]}" if part.labels else part.name
        self.said[name] = what
        if "out of memory" in what and self.too_large[what_of(part)] < len(MICRO_BATCHES) - 1:
            self.too_large[what_of(part)] += 1
            return
        if len(part.labels) > 1:
            self.singly.add(what_of(part))
            return
        # What a preparation says of itself it will say again.
        self.attempts[name] += ATTEMPTS if part.stage == "prepare" and what.startswith("error: ") else 1
        if self.failed(name):
            logger.error(f"{name} is left out: {what}")

    def note_cost(self, job: Busy, status: int, minutes: float) -> None:
        """A line of minutes.tsv."""
        path = self.cfg.folder / "minutes.tsv"
        if not path.exists():
            path.write_text("stage\tname\tslot\tminutes\tstatus\tbranches\n")
        made = sum(marker.exists() for marker in job.part.markers) if job.part.labels else 0
        cells = [job.part.stage, job.part.name, job.slot, f"{minutes:.2f}", status, made]
        append(path, ("\t".join(map(str, cells)) + "\n").encode())

    # --- what is said

    def status(self, started: float, state: str) -> dict:
        """status.json: state, minutes, and how far every part is."""
        there = points(self.cfg)
        of_point = {}
        for point in there:
            done = [label for label in self.cfg.arms if point.marker(label).exists()]
            diagnosed = self.diagnosis(point).done
            of_point[point.name] = {"done": len(done), "of": len(self.cfg.arms), "diagnosed": diagnosed,
                                    "missing": [label for label in self.cfg.arms if label not in done]}  # fmt: skip
        return {
            "state": state,
            "minutes": round((time.perf_counter() - started) / 60, 2),
            "preparations": {part.name: self.state_of(part) for part in self.preparations},
            "parents": {part.name: self.state_of(part) for part in self.parents},
            "points": of_point,
            "branches_done": sum(point["done"] for point in of_point.values()),
            "branches_of_points": len(there) * len(self.cfg.arms),
            "running": [
                {"slot": job.slot, "name": job.part.name, "labels": list(job.part.labels)} for job in self.busy
            ],
            "failed": {name: what for name, what in self.said.items() if self.failed(name)},
        }

    def state_of(self, part: Part) -> str:
        if part.done:
            return "done"
        if any(job.part.name == part.name for job in self.busy):
            return "running"
        return "failed" if self.failed(part.name) else "waiting"


def what_of(part: Part) -> str:
    """The point of a process of branches, else the part's own name."""
    return part.name.rpartition("_")[0] if part.labels else part.name


def environment(cfg: BranchStudyConfig, slot: int, side_by_side: bool) -> dict[str, str]:
    """The environment of a process in a slot: its GPU, and one thread where several run."""
    env = dict(os.environ)
    if cfg.gpus:
        visible = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
        gpu = slot % cfg.gpus
        env["CUDA_VISIBLE_DEVICES"] = visible[gpu] if len(visible) >= cfg.gpus and visible[0] else str(gpu)
    if side_by_side:
        env.setdefault("OMP_NUM_THREADS", "1")
    return env


def run_parts(study: BranchStudy, started: float, stop: Relay) -> str:
    """Run what is left until all is done, the time is over or a signal comes; in which state that leaves the study."""
    cfg, told, wrote = study.cfg, 0.0, 0.0
    deadline = started + 60 * (cfg.minutes - cfg.reserve) if cfg.minutes else float("inf")
    while True:
        now = time.perf_counter()
        over = now >= deadline or bool(stop.received)

        # Fill the slots; nothing begins once the time is over.
        free = [slot for slot in range(cfg.slots) if slot not in {job.slot for job in study.busy}]
        for slot in free if not over else []:
            if (part := study.next_part()) is None:
                break
            study.begin(part, slot)

        # End what runs: SIGTERM asks for a checkpoint, and what has not ended after GRACE is killed.
        stop.tell([job.running for job in study.busy])
        if over and not told:
            told = now
            for job in study.busy if not stop.received else []:
                job.running.child.terminate()
        if told and now > told + GRACE:
            for job in study.busy:
                os.killpg(job.running.child.pid, signal.SIGKILL)

        study.collect(stopping=over)
        if now > wrote + 2:
            write_json(cfg.folder / "status.json", study.status(started, "ending" if over else "running"))
            wrote = now
        if not study.busy and (over or study.next_part() is None):
            return "stopped by a signal" if stop.received else "out of time" if over else "complete"
        time.sleep(POLL)


def make_report(study: BranchStudy) -> bool:
    """The report of the branches that are there, and each rule's diagnoses together; whether all could be made."""
    cfg, good = study.cfg, True
    parts = []
    if any(point.marker(label).exists() for point in points(cfg) for label in cfg.arms):
        parts.append(report_part(cfg))
    parts += diagnoses_together(cfg)
    for part in parts:
        log = cfg.folder / "logs" / f"{part.name}.log"
        began = time.perf_counter()
        child = start_logged(part.command, log)
        status = child.wait()
        minutes = (time.perf_counter() - began) / 60
        last = note_end(log, status, minutes)
        study.note_cost(Busy(0, part, Running(None, child, began)), status, minutes)
        logger.info(f"{part.name}: {last}")
        good &= status == 0
    return good


def main() -> int:
    words, extra = sys.argv[1:], []
    if "--" in words:
        split = words.index("--")
        words, extra = words[:split], words[split + 1 :]
    cfg = tyro.cli(BranchStudyConfig, prog="just branch-study", args=words, description=__doc__)
    cfg.extra = extra
    cfg = settle(cfg)

    # One study at a time in a folder; the environment of every process finds this repository.
    started = time.perf_counter()
    (cfg.folder / "logs").mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    workers = cfg.workers or max(1, len(os.sched_getaffinity(0)) // cfg.slots)
    study = BranchStudy(cfg, workers, preparations(cfg), parents(cfg, workers), diagnosed(cfg))

    stop = Relay()
    try:
        state = run_parts(study, started, stop)
    finally:
        stop.restore()
        for job in study.busy:
            job.running.child.terminate()
    good = make_report(study) if cfg.report and not stop.received else True
    status = study.status(started, state)
    write_json(cfg.folder / "status.json", status)
    made, of = status["branches_done"], status["branches_of_points"]
    print(
        f"{state}: {made} of {of} branches of {len(status['points'])} points, {status['minutes']:.1f} min, {cfg.folder}"
    )
    if status["failed"]:
        print(json.dumps(status["failed"], indent=1), file=sys.stderr)
    if stop.received:
        return 128 + stop.received[-1]
    failed = [name for name in status["failed"] if not name.endswith("_diagnose")]  # at `early` few hacks are there
    return 1 if failed or not good else 0


if __name__ == "__main__":
    run_main(main)
