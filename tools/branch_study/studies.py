"""Named studies of branches: which branches at which points, of which parents. Labels are branch.py's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedStudy:
    """What `--study NAME` sets; any flag overrides it."""

    preset: str
    arms: tuple[str, ...]
    """Labels, the most needed first: what is cut short has these at every branch point."""
    rules: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    """Of a branch."""
    parent: tuple[str, ...] = ()
    """Flags of train.py for the parents; branches inherit them."""


# 256 completions a mode at the end of a branch, none on the way; docs/results/organism-ladder was made so.
ORGANISM = ("--steps", "80", "--eval-every", "1000", "--eval-samples", "1", "--checkpoint-every", "20",
            "--grade-timeout", "4", "--tripwires", "warn")  # fmt: skip

STUDIES: dict[str, NamedStudy] = {
    "organism-branches": NamedStudy(
        preset="tiny",
        arms=("vanilla", "projected", "random-v", "projected-same", "projected-far", "shuffled-v", "no-loophole",
              "vanilla+mzero", "projected+mzero", "random-v+mzero",
              "vanilla+mproject", "projected+mproject", "random-v+mproject", "oracle-v"),
        rules=("early", "takeoff", "late"),
        seeds=tuple(range(10)),
        steps=25,
        parent=ORGANISM,
    ),
    "organism-confirm": NamedStudy(
        preset="tiny",
        arms=("vanilla", "rebound-zscore", "random-v", "shrunk", "rebound", "screen-oracle", "oracle-live-moment"),
        rules=("takeoff",),
        seeds=tuple(range(10, 20)),
        steps=25,
        parent=ORGANISM,
    ),
    "coder": NamedStudy(
        preset="coder",
        arms=("vanilla", "projected", "self-k16-update", "random-k16-update", "oracle-live-moment", "screen-oracle",
              "rebound-zscore", "random-v", "projected-update", "projected-moment", "oracle-v-moment",
              "shuffled-v-update", "rebound"),
        rules=("takeoff",),
        seeds=tuple(range(6)),
        steps=20,
        parent=("--tripwires", "warn", "--eval-every", "1000"),
    ),
}  # fmt: skip
