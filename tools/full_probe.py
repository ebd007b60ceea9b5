"""The probe: five gates, each before what costs more, then the plot. Flags are train.py's and reach every gate.

    just full-probe full --seed 41                  as the author's runs
    just full-probe dev --lr 1e-3 --label lr1e-3    another study beside the first, in outputs/dev-lr1e-3

    0 grader    the matrix of hacks and graders is right
    1 v_hack    SVDs, then the pairs' gradient difference in every module
    2 held out  v_hack is positive on unseen pairs in more than half of the modules
    3 vanilla   hacks in more than 30% of completions (H4); if not, the next model of the chain, before anything else
    4 projected the same run with v_hack projected out

What is finished is not run again, so the same command goes on where it stopped. A gate that stops ends with status 1.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from config import Config, check, parse
from lib.errors import UserError, run_main
from lib.files import REPO
from lib.signals import StopLatch
from pairs import load_pairs
from tools.h4_gate import judge
from tools.sweep.task import flag_name, model_flags

# By the exit status of rewards.py.
GRADER = {
    1: "the grader's own matrix failed, so no rate could be trusted",
    2: "the sandbox was refused, so nothing was graded (the line above says why); --isolation rlimits is weaker",
}

# The preregistered steps where extraction or its check fails.
DEBUG = (
    "check, as preregistered, (a) that the adapter sees what enters each Linear, before the residual, (b) that "
    "the pairs differ strongly in some modules (the table above), (c) that completions are tokenised as in training"
)


@dataclass
class FullProbeConfig(Config):
    """A run as train.py takes it; the probe sets the arm."""

    go_on: bool = False
    """Run projected even where vanilla hacks too little."""

    def study(self) -> Path:
        """The folder of the probe's runs."""
        return Path("outputs") / (f"{self.preset}-{self.label}" if self.label else self.preset)


class ChildRelay(StopLatch):
    """Passes SIGINT and SIGTERM on to the command that runs, and leaves it to end by itself."""

    def __init__(self):
        super().__init__(signal.SIGINT, signal.SIGTERM)
        self.child: subprocess.Popen | None = None

    def __call__(self, number: int, frame) -> None:
        super().__call__(number, frame)
        if self.child:
            self.child.send_signal(number)

    def run(self, *words: str) -> int:
        """Exit status of a script of this repository. Exits, as it did, where a signal has come."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.getenv("PYTHONPATH")]))}
        self.child = subprocess.Popen([sys.executable, *words], env=environment)
        status = self.child.wait()
        self.child = None
        if self.received:
            sys.exit(128 + self.received[0])
        return status


def without(words: list[str], *names: str) -> list[str]:
    """`words` less these flags and their values."""
    out = []
    keep = True
    for word in words:
        if word.startswith("--"):
            keep = flag_name(word).removeprefix("no_") not in names
        if keep:
            out.append(word)
    return out


def check_words(words: list[str]) -> FullProbeConfig:
    """Every flag, before any work. Raises UserError, or SystemExit with tyro's sentence."""
    for word in words:
        if flag_name(word) in ("arm", "out"):
            raise UserError(
                f"full-probe runs vanilla and projected, in outputs/PRESET or, with --label NAME, in "
                f"outputs/PRESET-NAME: {word} is for just train"
            )
    cfg = parse(FullProbeConfig, words, description=__doc__, prog="just full-probe")
    check(cfg)
    load_pairs(cfg.pairs)
    return cfg


def stop(gate: int, why: str) -> None:
    """End the probe."""
    print(f"full-probe stopped at gate {gate}: {why}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    words = sys.argv[1:]
    cfg = check_words(words)
    shared = model_flags(words)
    flags = without(words, "go_on", "label")
    study = cfg.study()
    vanilla, projected = (study / f"{arm}_s{cfg.seed}" for arm in ("vanilla", "projected"))
    relay = ChildRelay()

    def run(script: str, *more: str) -> int:
        return relay.run(str(REPO / script), *more)

    print("== gate 0: grader", flush=True)
    if status := run("rewards.py", "--isolation", cfg.isolation):
        stop(0, GRADER.get(status, GRADER[1]))
    print("== gate 1: SVD cache and extraction", flush=True)
    if run("extract_vhack_grad.py", *shared):
        stop(1, "v_hack could not be extracted (the line above says why)")
    print("== gate 2: held-out verification", flush=True)
    if run("verify_vhack_heldout.py", *shared):
        stop(2, f"v_hack does not generalise to held-out pairs: {DEBUG}; the pairs are frozen and not mended")
    print("== gate 3: vanilla", flush=True)
    if run("train.py", *flags, "--arm", "vanilla", "--out", str(vanilla)):
        stop(3, "vanilla did not finish; run again to resume")
    passes, sentence = judge(vanilla)
    if not passes and not cfg.go_on:
        stop(3, f"{sentence}. projected was not run: there is too little to suppress; --go-on runs it all the same")
    print(f"H4's gate: {sentence}", flush=True)
    print("== gate 4: projected", flush=True)
    if run("train.py", *flags, "--arm", "projected", "--out", str(projected)):
        stop(4, "projected did not finish; run again to resume")
    sys.exit(run("plot_pareto.py", str(vanilla), str(projected), "--out", str(study / "report")))


if __name__ == "__main__":
    run_main(main)
