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
from record.inputs import call_at_end
from report.heldout import DEBUG_STEPS
from tools.h4_gate import judge
from tools.sweep.task import flag_name, model_flags

# By the exit status of rewards.py.
GRADER = {
    1: "the grader's own matrix failed, so no rate could be trusted",
    2: "the sandbox was refused, so nothing was graded (the line above says why); --isolation rlimits is weaker",
}


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
    """End the probe with status 1 and what stopped it."""
    print(f"full-probe stopped at gate {gate}: {why}", file=sys.stderr)
    sys.exit(1)


@dataclass(frozen=True)
class Gate:
    """One command of the probe."""

    name: str
    script: str
    words: list[str]
    stops: str
    """What is said where it ends with a status other than 0."""


def gates(words: list[str], cfg: FullProbeConfig) -> list[Gate]:
    """The commands of gates 0 to 4 in order: the flags of the run for vanilla and projected, those of the model for
    extraction and its check, the sandbox's for the grader."""
    model, run = model_flags(words), without(words, "go_on", "label", "then")
    fresh = ["--fresh"] if cfg.fresh else []
    arms = {
        arm: [*run, "--arm", arm, "--out", str(cfg.study() / f"{arm}_s{cfg.seed}")] for arm in ("vanilla", "projected")
    }
    again = "did not finish (the line above says why); the same command resumes it"
    return [
        Gate("grader", "rewards.py", ["--isolation", cfg.isolation], GRADER[1]),
        Gate(
            name="SVD cache and extraction",
            script="extract_vhack_grad.py",
            words=[*model, *fresh],
            stops="v_hack could not be extracted (the line above says why)",
        ),
        Gate(
            name="held-out verification",
            script="verify_vhack_heldout.py",
            words=model,
            stops=f"v_hack does not generalise to held-out pairs; {DEBUG_STEPS}",
        ),
        Gate("vanilla", "train.py", arms["vanilla"], f"vanilla {again}"),
        Gate("projected", "train.py", arms["projected"], f"projected {again}"),
    ]


def main() -> None:
    words = sys.argv[1:]
    cfg = check_words(words)
    relay, study = ChildRelay(), cfg.study()
    call_at_end(cfg.then, study)
    for number, gate in enumerate(gates(words, cfg)):
        print(f"== gate {number}: {gate.name}", flush=True)
        if status := relay.run(str(REPO / gate.script), *gate.words):
            stop(number, GRADER.get(status, gate.stops) if number == 0 else gate.stops)

        # H4, once vanilla has ended.
        if gate.name == "vanilla":
            passes, sentence = judge(study / f"vanilla_s{cfg.seed}")
            if not passes and not cfg.go_on:
                stop(number, f"{sentence}. projected was not run: --go-on runs it all the same")
            print(f"H4's gate: {sentence}", flush=True)
    runs = [str(study / f"{arm}_s{cfg.seed}") for arm in ("vanilla", "projected")]
    sys.exit(relay.run(str(REPO / "plot_pareto.py"), *runs, "--out", str(study / "report")))


if __name__ == "__main__":
    run_main(main)
