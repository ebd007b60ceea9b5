"""Every arm of the experiment, one row each: what it changes against vanilla, why it is run, how it is drawn.

    vanilla   L -> grad(delta_S) ---------------------------------> AdamW
    an arm         `removes` leaves the gradient along `v`,   or the reward is paid otherwise (`pays`)

train.py, the sweep, the verdicts and the plots read this table. A new arm is a new row; its position is its place in
tables. A variant is an arm with flags and a label of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

Side = Literal["hackward", "cleanward", "both", "none"]
"""Which components leave a gradient: c > 0, c < 0 (c its cosine with v_hack), both, or none (measure only)."""


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
    v: Literal["pairs", "random", "shuffled", "oracle", "live"] = "pairs"
    """The direction: v_hack of the pairs, a random unit vector, v_hack of pairs with permuted labels, or of labelled
    rollouts: sampled where the run or branch begins, or each step's own."""
    k: int = 1
    """Directions a module of an oracle: 1 is the difference of means, k > 1 the leading singular vectors."""
    shrinks: bool = False
    """Whether the update is shortened by as much as the projection would, in place of the projection."""
    weighs: bool = False
    """Whether the update is weighted by the parameter change of a few clean SFT steps."""
    screen: Literal["none", "leave-out", "no-pay", "gate"] = "none"
    """What becomes of flagged rollouts: they leave the batch, or earn no more than their compiling. The flag is the
    ground truth's strict hack (through a monitor of --monitor-accuracy), or, in `gate`, the rollout's score."""
    pays: Literal["graded", "penalty", "zscore", "shuffled"] = "graded"
    """How the reward is paid: as graded, after Rebound's penalty, its z-score discount, or another row's (grpo.py)."""
    alpha: float = 0.0
    """Strength of Rebound."""
    write_access: bool = True
    """Whether the training prompts name the evaluator, whose overwriting is then paid."""
    headline: bool = False
    """Drawn bold where many arms share a panel."""

    @property
    def labelled(self) -> bool:
        """Whether the arm reads the ground truth of a grade for anything but the reward that every arm is paid."""
        return self.v in ("oracle", "live") or self.screen in ("leave-out", "no-pay")

    @property
    def needs_v(self) -> bool:
        """Whether the arm cannot run without the artifact of its pairs; others measure cosines with it if it exists."""
        acts = self.removes != "none" or self.shrinks or self.screen == "gate"
        return acts and self.v in ("pairs", "random")


@dataclass(frozen=True)
class Variant:
    """An arm under a label of its own, with flags of train.py."""

    arm: str
    flags: tuple[str, ...]
    why: str
    mark: Mark


ARMS: dict[str, Arm] = {
    # the preregistered four, and Rebound closer to its paper
    "vanilla": Arm("H4, and the baseline of H1", Mark("#000000", "o"), headline=True),
    "projected": Arm("H1", Mark("#0072B2", "s"), removes="hackward", headline=True),
    "projected-nomag": Arm("H1 without rescaling", Mark("#56B4E9", "D", "--"), removes="hackward", keep_norm=False),
    "rebound": Arm("H3", Mark("#E69F00", "^"), pays="penalty", alpha=0.5),
    "rebound-zscore": Arm("H3 after Wu & Tang", Mark("#D55E00", "v"), pays="zscore", alpha=2.0),
    # controls
    "random-v": Arm("control, does any direction do", Mark("#7F7F7F", "X", "--"), removes="hackward", v="random"),
    "shuffled-v": Arm("control, do the labels matter", Mark("#CC79A7", "P", "--"), removes="hackward", v="shuffled"),
    "rebound-shuffled": Arm("control, another row is fined", Mark("#D55E00", "1", "--"), pays="shuffled", alpha=2.0),
    "reversed": Arm("control, does the sign matter", Mark("#D55E00", "<", ":"), removes="cleanward"),
    "no-loophole": Arm("control, no write access", Mark("#009E73", "*"), write_access=False),
    # the ladder (DESIGN 5): what would have to be true for projection to work
    "screen-oracle": Arm("ladder, strict hacks leave the batch", Mark("#000000", "D"), screen="leave-out"),
    "penalty-oracle": Arm("ladder, strict hacks are not paid", Mark("#000000", "s"), screen="no-pay"),
    "oracle-v": Arm("ladder, labelled rollouts of the branch point", Mark("#009E73", "^"), removes="hackward",
                    v="oracle"),
    "oracle-live": Arm("ladder, labelled rollouts of each step", Mark("#009E73", "v"), removes="hackward", v="live"),
    "oracle-k4": Arm("ladder, four labelled directions", Mark("#009E73", "<"), removes="both", v="oracle", k=4),
    "oracle-k16": Arm("ladder, sixteen labelled directions", Mark("#009E73", ">"), removes="both", v="oracle", k=16),
    "projected-both": Arm("ladder, both signs removed", Mark("#0072B2", "D"), removes="both"),
    "random-both": Arm("control, random directions, both signs", Mark("#7F7F7F", "D"), removes="both", v="random"),
    "gated": Arm("ladder, rollouts that score hack-ward are not praised", Mark("#56B4E9", "P"), screen="gate"),
    "trusted": Arm("ladder, the update weighted by clean SFT", Mark("#E69F00", "p"), weighs=True),
    "shrunk": Arm("control, the projected step's length", Mark("#7F7F7F", "d"), removes="hackward", shrinks=True),
}  # fmt: skip

VARIANTS: dict[str, Variant] = {
    "projected-same": Variant("projected", ("--pairs", "organism-same"), "easy case, flavours shared with the pairs",
                              Mark("#009E73", "p", "-.")),
    "projected-far": Variant("projected", ("--pairs", "organism-far"), "hard case, flavours far from the pairs",
                             Mark("#CC79A7", "h", "-.")),
    "projected-far-pairs": Variant("projected", ("--pairs", "default-far"), "hard case, pairs without any run_tests()",
                                   Mark("#CC79A7", "d", "-.")),
    "projected-update": Variant("projected", ("--project", "update"), "variant, AdamW's update projected",
                                Mark("#E69F00", ">", "-.")),
}  # fmt: skip

# Pairs that the base model wrote itself (tools/self_pairs.py), and several directions of a pair set.
_SELF, _PINK = ("--pairs", "self"), Mark("#CC79A7", "s")
VARIANTS |= {
    "self-v": Variant("projected", _SELF, "ladder, pairs of the model's own", _PINK),
    "self-v-moment": Variant("projected", (*_SELF, "--project", "moment"), "ladder, the same, moment too", _PINK),
    "self-v-update": Variant("projected", (*_SELF, "--project", "update"), "ladder, the same, the update", _PINK),
    "self-both-mean": Variant("projected-both", (*_SELF, "--project", "mean"), "ladder, the moment, two-sided", _PINK),
    "self-both-update": Variant("projected-both", (*_SELF, "--project", "update"), "ladder, two-sided", _PINK),
    **{
        f"{pairs}-k{k}-update": Variant("projected-both", (*flags, "--n-directions", str(k), "--project", "update"),
                                        f"ladder, {k} directions of the pairs, two-sided", Mark(colour, marker))
        for pairs, flags, colour in (("pairs", (), "#56B4E9"), ("self", _SELF, "#CC79A7"))
        for k, marker in ((4, "<"), (16, ">"))
    },
    **{
        f"random-k{k}-update": Variant("random-both", ("--n-directions", str(k), "--project", "update"),
                                       f"control, {k} random directions, two-sided", Mark("#7F7F7F", marker))
        for k, marker in ((4, "<"), (16, ">"))
    },
}  # fmt: skip

# Every arm that removes a direction can do so elsewhere: `<arm>-<form>`.
FORMS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "moment": (("--project", "moment"), "with AdamW's first moment projected as well", "--"),
    "mean": (("--project", "mean"), "AdamW's first moment alone projected", ":"),
    "update": (("--project", "update"), "AdamW's update projected", "-."),
}
for _name, _arm in ARMS.items():
    for _form, (_flags, _what, _line) in FORMS.items():
        if _arm.removes != "none" and not _arm.shrinks and f"{_name}-{_form}" not in VARIANTS:
            VARIANTS[f"{_name}-{_form}"] = Variant(_name, _flags, f"ladder, {_what}", _arm.mark._replace(line=_line))

# What branch.py takes where no arm is named.
BRANCHED = ["vanilla", "projected", "random-v"]


def arm_of(label: str) -> Arm | None:
    """The arm behind an arm's name, a variant's, or a label made from one (`projected-k4`); None for any other."""
    base = VARIANTS[label].arm if label in VARIANTS else label
    if base not in ARMS:
        base = max((a for a in ARMS if label.startswith((f"{a}-", f"{a}+"))), key=len, default=None)
    return ARMS.get(base)


class BranchLabel(NamedTuple):
    """What the label of a branch says: `projected+mzero`, `random-v+mproject+draw1`, `vanilla+noise1`."""

    arm: str
    moment: str
    draw: int
    noise: int


def branch_label(label: str) -> BranchLabel:
    """A branch's label taken apart. Raises ValueError, with a sentence, where there is no such arm or treatment."""
    arm = label.partition("+")[0]
    if arm not in ARMS and arm not in VARIANTS:
        raise ValueError(f"there is no arm {arm}: the arms are {', '.join([*ARMS, *VARIANTS])}")
    behind = r"(?:\+m(project|zero))?(?:\+draw([1-9]\d*))?(?:\+noise([1-9]\d*))?"
    found = re.fullmatch(behind, label.removeprefix(arm))
    if not found or (found[2] and arm_of(arm).v != "random"):
        raise ValueError(
            f"{label} is no branch: behind an arm may stand +mproject or +mzero, of random ones +draw1, +noise1"
        )
    return BranchLabel(arm, found[1] or "keep", int(found[2] or 0), int(found[3] or 0))


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
