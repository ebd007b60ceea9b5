"""The rungs of the ladder in their order (docs/spec.md): from labels, which must work, to controls, which must not."""

from __future__ import annotations

import re

from arms import Arm, arm_flags, arm_of, table_order, why

# In order; the number of a section is its place here.
SECTIONS = (
    "ground truth: hacks leave the batch or are not paid",
    "a labelled direction, made anew at each step",
    "a labelled direction, made once",
    "several labelled directions, made once",
    "the model's own pairs",
    "authored pairs, the preregistered arm first",
    "other remedies without labels",
    "Rebound: what is paid",
    "controls",
)


def is_control(label: str) -> bool:
    """Whether an arm is a control of drift, shrinkage, labels or the loophole."""
    known = arm_of(label)
    return question(label).startswith("control") or (known is not None and known.v in ("random", "shuffled"))


def question(label: str) -> str:
    """Why an arm is run; "" for a label of no arm or variant."""
    try:
        return why(label)
    except KeyError:
        return ""


def section(label: str) -> int:
    """The place in SECTIONS of an arm or variant; a label of neither stands with the remedies without labels."""
    arm = arm_of(label)
    if arm is None:
        return 6
    if is_control(label):
        return 8
    if arm.screen in ("leave-out", "no-pay"):
        return 0
    if arm.v in ("live", "oracle"):
        return labelled_section(arm)
    if arm.pays != "graded":
        return 7
    if arm.removes == "none" or arm.weighs:
        return 6
    return 4 if "self" in known_flags(label) else 5


def labelled_section(arm: Arm) -> int:
    """1 to 3, for directions of labelled rollouts."""
    if arm.v == "live":
        return 1
    return 2 if arm.k == 1 else 3


def known_flags(label: str) -> list[str]:
    """Flags of a variant; none of a label that is made from one."""
    return arm_flags(label.partition("+")[0])


def rung_order(label: str) -> tuple:
    """Sort key of the ladder: its section, its arm, the fewest flags first, numbers by size."""
    by_number = re.sub(r"\d+", lambda digits: digits[0].zfill(3), label)
    return section(label), table_order(label)[0], len(known_flags(label)), by_number
