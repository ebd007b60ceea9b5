"""What a tracker (--track) adds to a step: its calls, its thread, its process, beside the step that they are part of.

    python -m bench.track --out bench/track.tsv

Each row is `train.py --preset tiny` itself with that tracker, after the first steps, evaluations included. step_ms:
wall-clock time a step; call_ms: that part of it that the loop spends in the tracker's verbs. cpu_ms: CPU time of the
run's process a step; thread_ms: of the thread that hands over, process_ms: of the tracker's own process, start left
out, which has a core of its own where there is one. A step without the tracker is step_ms less call_ms: both sides are
of one run, since a run beside it would differ by more than the tracker costs. call_ms counts what the calls wait for a
core as well, as step_ms does; ccpu_ms is their CPU time.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

import train
from lib.errors import configure_logging
from record import book
from record.provenance import provenance
from record.track import Tracker

VERBS = ("step", "evaluation", "rollouts")
# Steps before the figures begin: the tracker's process is importing.
WARM_UP = 5


@dataclass
class BenchConfig:
    """What to time."""

    kinds: tuple[str, ...] = ("tensorboard", "trackio")
    """Trackers, each a row."""
    steps: int = 30
    """Steps of a run."""
    out: str = ""
    """Also write the TSV here."""


class Timed(Tracker):
    """A tracker that notes what it takes."""

    calls: list[float]
    """Seconds in the verbs, by call."""

    def __init__(self, *words):
        self.calls, self.call_cpu, self.at_warm = [], 0.0, [0.0] * 4
        super().__init__(*words)
        for verb in VERBS:
            setattr(self, verb, self.timed(getattr(self, verb)))
        Timed.last = self

    def timed(self, verb):
        def call(*words) -> None:
            began, used = time.perf_counter(), time.thread_time()
            verb(*words)
            self.calls.append(time.perf_counter() - began)
            self.call_cpu += time.thread_time() - used
            if verb.__name__ == "step" and words[0]["step"] == WARM_UP:
                self.calls, self.call_cpu, self.at_warm = [], 0.0, self.clocks()

        return call

    def clocks(self) -> list[float]:
        """Seconds so far: on the wall, and of CPU of this process, its thread, the tracker's process."""
        tick = os.sysconf("SC_CLK_TCK")
        used = []
        for stat in (f"/proc/self/task/{self.thread.native_id}/stat", f"/proc/{self.child.pid}/stat"):
            fields = Path(stat).read_text().rpartition(")")[2].split()
            used.append((int(fields[11]) + int(fields[12])) / tick)
        return [time.perf_counter(), time.process_time(), *used]

    def finish(self) -> None:
        if not self.over:
            self.at_end = self.clocks()
        super().finish()


def measure(kind: str, steps: int, work: Path) -> list[str]:
    """One row."""
    out = work / kind
    flags = ["--preset", "tiny", "--steps", steps, "--eval-every", 10, "--svd-cache", work / "svd", "--out", out,
             "--n-eval", 32, "--track", kind, "--workers", 1, "--tripwires", "off"]  # fmt: skip
    sys.argv = ["train.py", *map(str, flags)]
    book.Tracker = Timed
    train.main()
    tracker, counted = Timed.last, steps - WARM_UP - 1
    spent = zip(tracker.at_warm, tracker.at_end, strict=True)
    step, cpu, thread, process = (1e3 * (b - a) / counted for a, b in spent)
    call, call_cpu = (1e3 * x / counted for x in (sum(tracker.calls), tracker.call_cpu))
    figures = [f"{step:.0f}", f"{call:.3f}", f"{cpu:.0f}", *(f"{x:.3f}" for x in (call_cpu, thread, process))]
    shares = [f"{100 * x:.3f}" for x in (call / step, (call_cpu + thread) / cpu, process / cpu)]
    return [kind, str(counted), *figures, *shares, str(tracker.dropped)]


def main() -> None:
    bench = tyro.cli(BenchConfig, description=__doc__)
    configure_logging()
    versions = provenance()["packages"]
    lines = [
        f"# tiny, P 8 x G 8, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.0f}, "
        f"torch {versions['torch']}; call_%: of the step; run_% and proc_%: of its CPU time, in the run and beside it",
        "tracker\tsteps\tstep_ms\tcall_ms\tcpu_ms\tccpu_ms\tthr_ms\tproc_ms\tcall_%\trun_%\tproc_%\tdropped",
    ]
    with tempfile.TemporaryDirectory() as work:
        os.environ["TRACKIO_DIR"] = f"{work}/trackio"
        lines += ["\t".join(measure(kind, bench.steps, Path(work))) for kind in bench.kinds]
    print("\n".join(lines), file=sys.stderr)
    if bench.out:
        Path(bench.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
