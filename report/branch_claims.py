"""What may be claimed of branches, a sentence an arm.

A claim needs its own test: an effect, where Holm's p is below 5%; no effect larger than the margin, where the 90%
interval lies within it at six branch points or more, oracle-v lowers hacking against random-v, and the updates show
that the projection acted; else the finding is "undecided", never "no effect". The preregistered verdict H1 is of whole
runs and is not decided here (docs/spec.md: branches are an addition).
"""

from __future__ import annotations

import math

from arms import arm_of
from report.branches import Rule, Rung
from report.evidence import MARGIN
from report.statistics import ALPHA
from report.words import p_equals

# The fewest branch points that may claim equivalence: the first n at which exact sign flips reach 5%.
MIN_POINTS = 6


def finding(rung: Rung) -> str:
    """One sentence on an arm, with its figures; "undecided" where no test bears a claim."""
    c = rung.main
    where = "training hack rate" if rung.measure == "hack_train" else "hack rate at the end"
    if c.n == 0:
        return f"{rung.label}: no branch point has it beside vanilla treated alike."
    if c.n == 1:
        return f"{rung.label}: {c.mean:+.1f} pp in the {where} at the one branch point, which bears no claim."
    if not math.isfinite(c.p):
        return f"{rung.label}: {c.mean:+.1f} pp in the {where} at each of {c.n} branch points, which bears no claim."
    clauses = [superiority(rung, where), equivalence(rung), family_clause(rung), pass_clause(rung)]
    return f"{rung.label} {'; '.join(filter(None, clauses))}."


def superiority(rung: Rung, where: str) -> str:
    """Whether the arm lowers or raises the rate, or nothing is decided."""
    c = rung.main
    if not rung.holm < ALPHA:
        if c.p_tost < ALPHA and not wanting(rung):
            return f"has no effect larger than {MARGIN:g} pp on the {where} ({c.low90:+.1f} to {c.high90:+.1f}, 90%)"
        return (
            f"is undecided: the {where} changes by {c.low:+.1f} to {c.high:+.1f} pp (95%), and {c.n} branch points of "
            f"this spread would show {c.detectable:.0f} pp"
        )
    verb = "lowers" if c.mean < 0 else "raises"
    near, far = sorted([abs(c.low), abs(c.high)])
    text = f"{verb} the {where} by {abs(c.mean):.1f} pp ({near:.1f} to {far:.1f}, 95%; Holm {p_equals(rung.holm)})"
    if math.isfinite(rung.share):
        text += f", {100 * abs(rung.share):.0f}% of vanilla's rise since the branch"
    if c.n >= MIN_POINTS and c.p_flip >= ALPHA:
        text += f", though exact sign flips do not show it ({p_equals(c.p_flip)})"
    return text


def equivalence(rung: Rung) -> str:
    """What the equivalence test adds to the test of an effect."""
    c = rung.main
    if not c.p_tost < ALPHA:
        return ""
    missing = wanting(rung)
    if rung.holm < ALPHA:
        return f"an effect larger than {MARGIN:g} pp is excluded" if c.n >= MIN_POINTS else ""
    if missing:
        return f"its 90% interval lies within {MARGIN:g} pp, which claims nothing, since {missing}"
    return f"a smaller one may be there ({c.mean:+.1f} pp, {p_equals(c.p)} before Holm)" if c.p < ALPHA else ""


def wanting(rung: Rung) -> str:
    """What a claim of no effect lacks besides its test; "" where nothing (docs/spec.md)."""
    if rung.main.n < MIN_POINTS:
        return f"it takes {MIN_POINTS} branch points"
    if rung.assay is None:
        return "oracle-v, which must work, is not among these branches"
    if not rung.assay:
        return "oracle-v, which must work, is not shown to differ from random directions"
    return "the updates do not show that the projection acted" if rung.acted is False else ""


def family_clause(rung: Rung) -> str:
    """The preregistered contrast, for the arms of its family."""
    if not math.isfinite(rung.holm_family):
        return ""
    c = rung.random["hack_train"]
    verb = "differs" if rung.holm_family < ALPHA else "is not shown to differ"
    return (
        f"it {verb} from random directions ({c.mean:+.1f} pp, {c.low:+.1f} to {c.high:+.1f}; Holm of the family "
        f"{p_equals(rung.holm_family)})"
    )


def pass_clause(rung: Rung) -> str:
    c = rung.vanilla["pass"]
    if c.n < 2:
        return ""
    return f"pass at the end {c.mean:+.1f} pp ({c.low:+.1f} to {c.high:+.1f})"


def positive_controls(rule: Rule) -> str:
    """Whether what must work worked: without it, an absence of effect says that nothing could be seen."""
    known = [(r, arm_of(r.arm)) for r in rule.rungs]
    must = [r for r, arm in known if arm is not None and (arm.labelled or not arm.write_access)]
    if not must:
        return (
            "No positive control (an oracle, or no-loophole) is among these branches, so where an arm shows no effect, "
            "it remains open whether anything could."
        )
    worked = [r.label for r in must if r.holm < ALPHA and r.main.mean < 0]
    failed = [r.label for r in must if r.label not in worked]
    parts = []
    if worked:
        parts.append(f"Positive controls that lower hacking here: {', '.join(worked)}.")
    if failed:
        parts.append(f"Positive controls that are not shown to: {', '.join(failed)}.")
    if not worked:
        parts.append("Where an arm shows no effect, it remains open whether anything could.")
    return " ".join(parts)
