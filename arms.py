"""Every arm of the experiment, one row each: what it changes against vanilla, why it is run, how it is drawn.

    vanilla   L -> grad(delta_S) ---------------------------------> AdamW
    an arm         `removes` leaves the gradient along `v`,   or the reward is paid otherwise (`pays`)

train.py, the sweep, the verdicts and the plots read this table. A new arm is a new row; its position is its place in
tables. A variant is an arm with flags and a label of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Side = Literal["hackward", "cleanward", "none"]
"""Which components leave a gradient: c > 0, c < 0 (c its cosine with v_hack), or none (measure only)."""


class Mark(NamedTuple):
    """How plots show an arm: a colour (Okabe & Ito's, safe for the colour-blind), a marker, a line style."""

    colour: str
    marker: str
    line: str = "-"


@dataclass(frozen=True)
class Arm:
    """One intervention."""

    why: str
    """The hypothesis or question that the arm is run for."""
    mark: Mark
    removes: Side = "none"
    """What leaves the gradient."""
    keep_norm: bool = True
    """Whether the projected gradient is rescaled to its length before."""
    v: Literal["pairs", "random", "shuffled"] = "pairs"
    """The direction: v_hack of the pairs, a random unit vector, or v_hack of pairs with permuted labels."""
    pays: Literal["graded", "penalty", "zscore"] = "graded"
    """How the reward is paid: as graded, or after Rebound's penalty or its z-score discount (rebound.py)."""
    alpha: float = 0.0
    """Strength of Rebound."""
    write_access: bool = True
    """Whether the training prompts name the evaluator, whose overwriting is then paid."""
    headline: bool = False
    """Drawn bold where many arms share a panel."""

    @property
    def needs_v(self) -> bool:
        """Whether the arm cannot run without a v_hack; the others measure cosines with it where there is one."""
        return self.removes != "none" and self.v != "shuffled"


@dataclass(frozen=True)
class Variant:
    """An arm under a label of its own, with flags of train.py."""

    arm: str
    flags: tuple[str, ...]
    why: str
    mark: Mark


ARMS: dict[str, Arm] = {
    # the preregistered four, with the published form of Rebound
    "vanilla": Arm("H4, and the baseline of H1", Mark("#000000", "o"), headline=True),
    "projected": Arm("H1", Mark("#0072B2", "s"), removes="hackward", headline=True),
    "projected-nomag": Arm("H1 without rescaling", Mark("#56B4E9", "D", "--"), removes="hackward", keep_norm=False),
    "rebound": Arm("H3", Mark("#E69F00", "^"), pays="penalty", alpha=0.5),
    "rebound-zscore": Arm("H3 as published", Mark("#D55E00", "v"), pays="zscore", alpha=2.0),
    # controls
    "random-v": Arm("control, does any direction do", Mark("#7F7F7F", "X", "--"), removes="hackward", v="random"),
    "shuffled-v": Arm("control, do the labels matter", Mark("#CC79A7", "P", "--"), removes="hackward", v="shuffled"),
    "reversed": Arm("control, does the sign matter", Mark("#D55E00", "<", ":"), removes="cleanward"),
    "no-loophole": Arm("control, no write access", Mark("#009E73", "*"), write_access=False),
}

VARIANTS: dict[str, Variant] = {
    "projected-same": Variant("projected", ("--pairs", "organism-same"), "easy case, flavours shared with the pairs",
                              Mark("#009E73", "p", "-.")),
    "projected-far": Variant("projected", ("--pairs", "organism-far"), "hard case, flavours far from the pairs",
                             Mark("#CC79A7", "h", "-.")),
    "projected-update": Variant("projected", ("--project", "update"), "variant, AdamW's update projected",
                                Mark("#E69F00", ">", "-.")),
}  # fmt: skip


def arm_of(label: str) -> Arm | None:
    """The arm behind an arm's name, a variant's, or a label made from one (`projected-k4`); None for any other."""
    base = VARIANTS[label].arm if label in VARIANTS else label
    if base not in ARMS:
        base = max((a for a in ARMS if label.startswith((f"{a}-", f"{a}+"))), key=len, default=None)
    return ARMS.get(base)


def why(label: str) -> str:
    """The reason of an arm or variant. Raises KeyError for any other name."""
    return (ARMS.get(label) or VARIANTS[label]).why


def arm_flags(label: str) -> list[str]:
    """What train.py is told of an arm or variant."""
    if label in VARIANTS:
        variant = VARIANTS[label]
        return ["--arm", variant.arm, *variant.flags, "--label", label]
    return ["--arm", label]


def table_order(label: str) -> tuple[int, str]:
    """Sort key of tables: the arms as listed here, a label made from one after it and its own kind, then others."""
    names = list(ARMS)
    if label in names:
        return names.index(label), ""
    base = max((a for a in names if label.startswith((f"{a}-", f"{a}+"))), key=len, default=None)
    if base == "projected":
        base = "projected-nomag"
    return (len(names) if base is None else names.index(base)), label
