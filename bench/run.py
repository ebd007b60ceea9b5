"""Steps of train.py itself, the same command on 1, 2, ... GPUs of one host (torchrun) or with other sampling engines.

    python -m bench.run --ranks 1,2 --out bench/scaling.tsv --model PATH --problems FILE --eval-file FILE ...
    python -m bench.run --engines auto,generate --out bench/engine.tsv --model PATH ...

Flags that are not its own go to train.py, after `--preset dev --arm vanilla` and a two-row evaluation; each run is
stopped after the step counted last. One TSV row each case: means of steps.tsv over the steps after the first --skip, in
which graphs are captured and kernels compiled; tok_s: sampled tokens a second of t_roll; ratio: seconds of the first
case over this one's. The same prompts and seeds are sampled, yet on a GPU a row's tokens depend on the batch that it
shares (bf16), so len and flat say how much work the steps held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.common import Report
from lib.files import REPO
from lib.tables import read_table

MEANS = ["t_roll", "t_grade", "t_train", "len", "flat"]
COLUMNS = ["ranks", "engine", "steps", "step_s", "tok_s", *MEANS, "gib", "ratio"]


def steps_of(
    ranks: int, engine: str, steps: int, flags: list[str], out: Path, preset: str = "dev", tree: Path = REPO
) -> tuple[list[dict[str, float]], int]:
    """(first `steps` rows of steps.tsv, completions a step) of a run of the checkout `tree` that is stopped there.

    Raises RuntimeError with the run's last words where it ends before.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    python = sys.executable if tree == REPO else str(tree.resolve() / ".venv/bin/python")
    command = [python, *torchrun, str(tree.resolve() / "train.py"), "--preset", preset, "--arm", "vanilla"]
    command += ["--n-eval", "2", "--eval-samples", "1", *flags, "--engine", engine, "--out", str(out)]
    with tempfile.TemporaryFile("w+") as log:
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=tree)
        try:
            while run.poll() is None and len(rows_of(out)) < steps:
                time.sleep(0.2)
        finally:
            with contextlib.suppress(ProcessLookupError):
                # torchrun's ranks are not in its group, but it ends them on SIGTERM
                os.killpg(run.pid, signal.SIGTERM if ranks > 1 else signal.SIGKILL)
            run.wait()
        log.seek(0)
        said = log.read()
    print(said, file=sys.stderr, flush=True)
    rows = rows_of(out)[:steps]
    if len(rows) < steps:
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        raise RuntimeError((errors or said.splitlines() or ["no output"])[-1])
    config = json.loads((out / "config.json").read_text())
    return rows, config["prompts"] * config["group"]


def rows_of(out: Path) -> list[dict[str, float]]:
    """Numbers of a run's steps.tsv, which may still be growing."""
    rows = read_table(out / "steps.tsv").to_dict("records")
    return [{k: float(v) for k, v in row.items() if k != "eta"} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1", help="world sizes, each a divisor of --prompts (8)")
    parser.add_argument("--engines", default="auto", help="of auto, graph, eager, generate")
    parser.add_argument("--steps", type=int, default=8, help="steps after which a run is stopped")
    parser.add_argument("--skip", type=int, default=2, help="first steps that are not counted")
    parser.add_argument("--out", type=Path, help="write the TSV here too, row by row")
    args, flags = parser.parse_known_args()
    if not 0 <= args.skip < args.steps or not all(r.isdigit() and int(r) for r in args.ranks.split(",")):
        parser.error(f"--skip {args.skip} must be below --steps {args.steps}, and --ranks numbers from 1, as in 1,2")
    device, seconds = "cuda" if torch.cuda.is_available() else "cpu", []
    report = Report(COLUMNS, device, args.out, append=False, gpus=f"{torch.cuda.device_count()} x ",
                    more=f"train.py {' '.join(Path(word).name for word in flags)}")  # fmt: skip

    def row(ranks: int, engine: str) -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
            rows, completions = steps_of(ranks, engine, args.steps, flags, Path(work) / "run")
        rows = rows[args.skip :]
        mean = {k: sum(r[k] for r in rows) / len(rows) for k in MEANS}
        seconds.append(mean["t_roll"] + mean["t_grade"] + mean["t_train"])
        tok_s = completions * mean["len"] / mean["t_roll"]
        cells = [f"{c:.2f}" for c in (*mean.values(), rows[-1]["gib"], seconds[0] / seconds[-1])]
        report.emit("\t".join([str(ranks), engine, str(len(rows)), f"{seconds[-1]:.2f}", f"{tok_s:.0f}", *cells]))

    for ranks in map(int, args.ranks.split(",")):
        for engine in args.engines.split(","):
            report.guarded(f"{ranks}\t{engine}", lambda ranks=ranks, engine=engine: row(ranks, engine))


if __name__ == "__main__":
    main()
