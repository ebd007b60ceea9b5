"""Vanilla alone at a few learning rates for a few dozen steps: the smallest rate at which the policy moves.

    just tune dev                                    rates around the preset's, 40 steps each, one seed
    just tune full --rates 3e-4 1e-3 3e-3 --steps 30

The policy has moved where the KL to the initial policy, mean of the last KL_STEPS steps that have one, or the last
evaluation's, is at least MOVED nats a token. The smallest such rate is the one to train at: a rate below it tests a
model that does not learn, a rate far above it one that breaks. It is chosen on vanilla, before any other arm is run at
it, and is written down with its date in docs/spec.md. Runs are in outputs/tune/<preset>, one at a time, and resume;
flags of train.py follow.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from config import Config, check, parse
from lib.errors import UserError, run_main
from lib.files import REPO
from lib.tables import read_table
from record.inputs import call_at_end
from tools.full_probe import ChildRelay, without

# Nats a token: ten times what a rate showed at which delta_S does not move (KL 4e-4 in 40 steps: docs/spec.md).
MOVED = 4e-3
KL_STEPS = 10
# Rates tried, as multiples of the preset's.
FACTORS = (0.1, 0.3, 1.0, 3.0)


@dataclass
class TuneConfig(Config):
    """A run of vanilla as train.py takes it, and the rates to try."""

    rates: list[float] = field(default_factory=list)
    """Learning rates; empty: 0.1, 0.3, 1 and 3 times the preset's."""


@dataclass
class Row:
    """What a rate did."""

    rate: float
    kl: float
    """Nats a token to the initial policy; nan where nothing measured it."""
    attempt: float
    hack: float
    passed: float

    @property
    def moved(self) -> bool:
        return self.kl >= MOVED


def read_row(folder: Path, rate: float) -> Row:
    """The figures of a finished run."""
    evals = read_table(folder / "evals.tsv").astype(float)
    last = evals.iloc[-1]
    kl = read_table(folder / "steps.tsv")["kl"].astype(float).dropna().tail(KL_STEPS).mean()
    if math.isnan(kl):
        kl = last["kl"]
    return Row(rate=rate, kl=float(kl), attempt=last["attempt"], hack=last["hack"], passed=last["pass"])


def tune_table(rows: list[Row]) -> str:
    """A line a rate, tab-separated, then the verdict."""
    lines = ["lr\tkl\tattempt\thack\tpass\tmoved"]
    for row in rows:
        rates = "\t".join(f"{x:.3f}" for x in (row.attempt, row.hack, row.passed))
        lines.append(f"{row.rate:.1e}\t{row.kl:.1e}\t{rates}\t{'yes' if row.moved else 'no'}")
    moving = [row.rate for row in rows if row.moved]
    if moving:
        lines.append(f"smallest rate at which the policy moves (KL >= {MOVED:g} a token): --lr {min(moving):g}")
    else:
        lines.append(f"at none of these rates does the policy move (KL >= {MOVED:g} a token): try higher ones")
    return "\n".join(lines)


def main() -> None:
    words = sys.argv[1:]
    cfg = parse(TuneConfig, words, description=__doc__, prog="just tune")
    check(cfg)
    rates = sorted(set(cfg.rates)) or [float(f"{factor * cfg.lr:.3g}") for factor in FACTORS]
    if bad := [rate for rate in rates if not 0 < rate < math.inf]:
        raise UserError(f"--rates {bad[0]:g} must be above 0")
    if cfg.arm != "vanilla":
        raise UserError(f"--arm {cfg.arm}: a rate is chosen on vanilla alone, before any other arm is run at it")
    if not any(word.split("=")[0] == "--steps" for word in words):
        words += ["--steps", "40"]

    flags = without(words, "rates", "lr", "out", "label", "then")
    study = Path(cfg.out) if cfg.out else Path("outputs/tune") / cfg.preset
    call_at_end(cfg.then, study)
    relay = ChildRelay()
    rows = []
    for rate in rates:
        folder = study / f"vanilla-lr{rate:g}_s{cfg.seed}"
        print(f"== lr {rate:g}", flush=True)
        command = [*flags, "--lr", str(rate), "--label", f"vanilla-lr{rate:g}", "--out", str(folder)]
        if relay.run(str(REPO / "train.py"), *command):
            print(f"lr {rate:g} did not finish (the line above says why): it is left out", file=sys.stderr)
            continue
        rows.append(read_row(folder, rate))
    if not rows:
        raise UserError("no rate finished")
    print(tune_table(rows))


if __name__ == "__main__":
    run_main(main)
