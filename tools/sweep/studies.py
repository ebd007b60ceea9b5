"""Named lists of runs: which arms, at which seeds, in which order."""

from __future__ import annotations

from dataclasses import dataclass

# The arm that every other is compared with.
BASELINE = "vanilla"


@dataclass(frozen=True)
class Study:
    """A named list of runs."""

    seeds: dict[str, tuple[int, ...]]
    """The seeds of each arm or variant."""
    h4_gate: bool = False
    """Arm by arm, and nothing before vanilla's first seed has passed H4; other studies go seed by seed, so that one
    that is cut short has every comparison."""


STUDIES: dict[str, Study] = {
    "organism": Study(dict.fromkeys(
        ["vanilla", "projected", "random-v", "projected-same", "projected-far", "reversed", "projected-nomag",
         "projected-update", "rebound", "rebound-zscore", "shuffled-v", "no-loophole"], (0, 1, 2, 3, 4))),
    "preregistered": Study({"vanilla": (0, 1, 2), "projected": (0, 1, 2), "projected-nomag": (0,),
                            "rebound": (0, 1, 2)}, h4_gate=True),
    "controls": Study(dict.fromkeys(
        ["rebound-zscore", "random-v", "shuffled-v", "reversed", "no-loophole", "projected-far-pairs"], (0, 1, 2))),
}  # fmt: skip
