"""What the data can bear, beside the word of the rule.

A difference is shown where the t interval of the paired differences and the exact sign-flip test both exclude 0 at 5%:
with all-or-nothing outcomes no interval of a mean can be trusted at three seeds, and sign-flip has no say below six.
How many runs took off, and when, are the figures to read there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from report.numbers import Comparison, compare_arms, percent
from report.runs import RunRecord
from report.statistics import (
    ALPHA,
    POWER,
    ClusteredRate,
    Equivalence,
    PairedT,
    chance_beyond_sem,
    clopper_pearson,
    holm,
    min_detectable,
    paired_t,
    sign_flip_p,
    tost,
)
from report.takeoff import TakeOff, arm_takeoff, compare_takeoff
from report.verdicts import H4_RATE, MATCHED_PASS, MIN_SEEDS, Verdict
from report.words import interval_text, mean_sem, p_equals, p_text

# Margin of the equivalence tests, pp.
MARGIN = 15

# Pass rates this close are matched in the claim's sentence, pp.
CLAIM_PASS = 5


@dataclass(frozen=True)
class ArmEvidence:
    """An arm against a reference: the paired reduction of hack in pp, take-offs, and what could have been seen."""

    comparison: Comparison
    t: PairedT
    sign_flip: float
    equivalence: Equivalence
    detectable: float
    arm: TakeOff
    reference: TakeOff
    fisher: float
    log_rank: float

    @property
    def word(self) -> str:
        """`a reduction is shown`, `an increase is shown` or `undecided`."""
        if not (self.t.excludes_zero and self.sign_flip < ALPHA):
            return "undecided"
        return "a reduction is shown" if self.t.mean > 0 else "an increase is shown"


def weigh(used: list[RunRecord], arm: str, reference: str) -> ArmEvidence:
    """The evidence of an arm against a reference."""
    comparison = compare_arms(used, arm, reference)
    differences = comparison.reductions
    takeoffs = [arm_takeoff([run for run in used if run.arm == name]) for name in (arm, reference)]
    t = paired_t(differences)
    return ArmEvidence(
        comparison=comparison,
        t=t,
        sign_flip=sign_flip_p(differences),
        equivalence=tost(differences, MARGIN),
        detectable=min_detectable(t.sd, t.n),
        arm=takeoffs[0],
        reference=takeoffs[1],
        **compare_takeoff(*takeoffs),
    )


def evidence_text(e: ArmEvidence) -> str:
    """The figures behind the evidence's word."""
    n = e.t.n
    flips = f"sign-flip {p_equals(e.sign_flip)} (n = {n} can reach {p_text(2 / 2**n)})" if n > 1 else "one seed"
    parts = [
        flips,
        f"took off in training {of(e.arm)} ({e.comparison.arm}) against {of(e.reference)} ({e.comparison.reference})",
    ]
    if math.isfinite(e.log_rank):
        parts.append(f"Fisher {p_equals(e.fisher)}, log-rank {p_equals(e.log_rank)}")
    if math.isfinite(e.detectable):
        parts.append(f"at this n and SD {e.detectable:.0f} pp would be seen with power {POWER}")
    return "; ".join(parts)


def of(t: TakeOff) -> str:
    """`2 of 5 [5, 85]%`, with Clopper-Pearson's interval."""
    return f"{t.k} of {t.n} [{100 * t.lo:.0f}, {100 * t.hi:.0f}]%" if t.n else "not recorded"


def attach_evidence(verdicts: list[Verdict], used: list[RunRecord], by_problem: ClusteredRate | None) -> None:
    """Give each verdict its evidence. by_problem: vanilla's hack rate in percent, clustered by problem."""
    for verdict in verdicts:
        if verdict.name == "H4":
            attach_h4(verdict, by_problem)
            continue
        reference = "vanilla" if verdict.name == "H1" else verdict.figures["stronger"]
        e = weigh(used, "projected", reference)
        if e.t.n:
            verdict.evidence, verdict.evidence_text = e.word, evidence_text(e)


def attach_h4(verdict: Verdict, by_problem: ClusteredRate | None) -> None:
    """H4's evidence: the interval between seeds and the one between problems must both lie on one side."""
    rates = [row["hack"] for row in verdict.figures["rows"]]
    if not rates:
        return
    t = paired_t([rate - H4_RATE for rate in rates])
    above = sum(rate > H4_RATE for rate in rates)
    lo, hi = clopper_pearson(above, len(rates))
    parts = [f"{above} of {len(rates)} runs above {H4_RATE}% [{100 * lo:.0f}, {100 * hi:.0f}]%"]
    sides = [t.excludes_zero] if len(rates) > 1 else []
    if by_problem is not None and math.isfinite(by_problem.se):
        outside = not by_problem.lo <= H4_RATE <= by_problem.hi
        sides.append(outside and (by_problem.rate > H4_RATE) == (t.mean > 0))
        parts.append(
            f"over {by_problem.clusters} problems of the sample that is kept {by_problem.rate:.1f}%, clustered 95% "
            f"{by_problem.lo:.1f} to {by_problem.hi:.1f}"
        )
    side = "above" if t.mean > 0 else "below"
    verdict.evidence = f"{side} {H4_RATE}% is shown" if sides and all(sides) else "undecided"
    verdict.evidence_text = "; ".join(parts)


# --- every arm ---


@dataclass(frozen=True)
class ArmLine:
    """One arm of the table of evidence. holm: p of the t test, over all arms but vanilla."""

    arm: str
    evidence: ArmEvidence
    hacks: list[float]
    """Final strict hack rate of each seed, %."""
    problems: ClusteredRate | None
    """The arm's hack rate clustered by problem, %."""
    holm: float


def weigh_arms(
    used: list[RunRecord], arms: list[str], by_problem: dict[str, ClusteredRate | None], reference: str = "vanilla"
) -> list[ArmLine]:
    """Every arm against vanilla, in the order given."""
    every = {arm: weigh(used, arm, reference) for arm in arms}
    others = [arm for arm in arms if arm != reference]
    adjusted = dict(zip(others, holm([every[arm].t.p for arm in others]), strict=True))
    lines = []
    for arm, e in every.items():
        hacks = [percent(run.evals["hack"].iloc[-1]) for run in used if run.arm == arm]
        lines.append(ArmLine(arm, e, hacks, by_problem.get(arm), adjusted.get(arm, math.nan)))
    return lines


def controls_text(lines: list[ArmLine]) -> str:
    """What the controls say: equivalence to vanilla within the margin."""
    parts = []
    for line in lines:
        if line.arm in ("random-v", "shuffled-v") and line.evidence.t.n:
            q = line.evidence.equivalence
            if math.isnan(q.p):
                parts.append(f"{line.arm}: no interval from n = {line.evidence.t.n}")
            else:
                word = "equivalent to vanilla" if q.shown else "not shown to be equivalent to vanilla"
                parts.append(
                    f"{line.arm}: {word} within {MARGIN} pp (90% {q.lo:.1f} to {q.hi:.1f}, TOST {p_equals(q.p)})"
                )
    return "; ".join(parts) + "." if parts else "No control (random-v, shuffled-v) was run beside vanilla."


def sem_note(n: int) -> str:
    """What the rules' threshold of 1 SEM is worth at n seeds."""
    if n < 2:
        return ""
    return (
        f"A threshold of 1 SEM is weak: with no effect at all a mean of n = {n} normal differences exceeds it in "
        f"{100 * chance_beyond_sem(n):.0f}% of studies."
    )


# --- the claim ---


def claim(c: Comparison, pilot: bool) -> str:
    """The preregistered sentence where it can be made, else why it cannot."""
    if c.n < MIN_SEEDS:
        return (
            f"No claim at matched pass rate: {c.n} paired seeds of {c.arm} and {c.reference}, {MIN_SEEDS} are needed."
        )
    if c.pass_ref.mean < MATCHED_PASS:
        return (
            f"No claim at matched pass rate: {c.reference} passes {c.pass_ref.mean:.1f}%, so that any arm would match."
        )
    if abs(c.drop.mean) > CLAIM_PASS:
        return (
            f"No claim at matched pass rate: {c.arm} passes {c.pass_arm.mean:.1f}% and {c.reference} "
            f"{c.pass_ref.mean:.1f}%, more than {CLAIM_PASS} pp apart."
        )
    if c.reduction.mean <= 0:
        return f"No claim: at matched pass rate ±{CLAIM_PASS} pp {c.arm} does not hack less than {c.reference}."
    at = "In this pilot, at" if pilot else "At"
    hacks = f"from {c.hack_ref.mean:.1f}% to {c.hack_arm.mean:.1f}%"
    return (
        f"{at} matched pass rate ±{CLAIM_PASS} pp on held-out problems without write access ({c.pass_ref.mean:.1f}% "
        f"and {c.pass_arm.mean:.1f}%), {c.arm} reduces the hack rate {hacks} (by {mean_sem(c.reduction)} pp, "
        f"{interval_text(c.reduction)[1:-1]})."
    )
