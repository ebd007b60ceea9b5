"""What the branches of one rule show: contrasts paired within branch points.

    D = arm - vanilla treated alike, and arm - random-v treated alike, in percentage points, one a branch point

Mean with t 95% interval, exact sign-flip p, equivalence within +-15 pp (TOST; 90% interval), Holm; measures, families
and what makes a rung hold are those of docs/spec.md. report/branch_claims.py says what may be claimed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from arms import arm_of
from report.branch_runs import END, MOMENTS, SUFFIX, Branches, Point, rules_fired
from report.contrasts import Contrast, contrast, difference, random_reference
from report.rungs import SECTIONS, is_control, rung_order, section
from report.statistics import ALPHA, clopper_pearson, holm

# A pass rate counts as matched at most this many pp below vanilla's.
MATCHED = 5.0
# Mean cosine of the updates with v up to which nothing hack-ward counts as left.
HACKWARD_LEFT = 0.01
# Arms whose contrast with random directions is one family, a treatment of the moment at a time (docs/spec.md).
FAMILY = ("projected", "oracle-v", "shuffled-v")
# Share of the branch points at which a rung has to be under half of vanilla and below its controls, to hold.
HOLDS_AT = 0.8
# Vanilla's rise after the branch in pp below which an effect is not expressed as a share of it.
LEAST_RISE = 5.0
MEASURES = ("hack_train", *END, "names")


@dataclass
class Rung:
    """One arm with one treatment of AdamW's moment: a row of the tables."""

    arm: str
    moment: str
    exposure: float
    """Strict hacks sampled and paid a branch, mean over branch points."""
    levels: dict[str, float]
    """Mean of each measure over branch points, percent."""
    vanilla: dict[str, Contrast]
    """Measure -> arm minus vanilla treated alike."""
    random: dict[str, Contrast]
    """Measure -> arm minus random directions treated alike."""
    share: float
    """The effect on the main measure as a share of vanilla's rise since the branch."""
    below: dict[str, tuple[int, int]]
    """(branch points at which the main measure is below, of how many): half of vanilla's, random-v's, shrunk's."""
    drift: Contrast
    """Cosine of the arm's updates with its v: minus vanilla's where that is measured with the same v, else itself."""
    half: tuple[int, int, float]
    """(branch points at which training gets to 50% hacks, of how many, median steps to it, inf beyond the end)."""
    assay: bool | None = None
    """Whether oracle-v, which must work, lowers hacking against random directions; None where it was not run."""
    holm: float = math.nan
    """Of the contrast with vanilla, over all arms of the rule."""
    holm_family: float = math.nan
    """Of the contrast with random directions, over FAMILY; nan outside of it."""

    @property
    def label(self) -> str:
        return self.arm + SUFFIX[self.moment]

    @property
    def measure(self) -> str:
        """What a claim is made of: training rollouts, but for arms whose training prompts are others."""
        return "hack_train" if (known := arm_of(self.arm)) is None or known.write_access else "hack"

    @property
    def label_free(self) -> bool:
        """Whether the arm is a remedy without labels: no oracle, no control, and the loophole is there."""
        known = arm_of(self.arm)
        return known is not None and not known.labelled and known.write_access and not is_control(self.arm)

    @property
    def acted(self) -> bool | None:
        """Whether the updates show that the projection acted: nothing hack-ward is left, or less than in vanilla; None
        for arms that project nothing and where the runs do not say."""
        known = arm_of(self.arm)
        if known is None or known.removes == "none" or known.shrinks or self.drift.n < 2:
            return None
        return self.drift.high < HACKWARD_LEFT

    @property
    def holds(self) -> bool:
        """Whether a label-free rung holds: docs/spec.md, the ladder."""
        enough = all(n and k >= HOLDS_AT * n for k, n in self.below.values())
        return self.label_free and enough and self.vanilla["pass"].mean >= -MATCHED

    @property
    def main(self) -> Contrast:
        return self.vanilla[self.measure]


@dataclass
class Rule:
    """Everything about the branch points of one rule."""

    name: str
    points: list[Point]
    rungs: list[Rung]
    """In the ladder's order (rungs.py); vanilla's treatments are not among them."""
    moments: list[str]
    """Treatments of AdamW's first moment that occur."""
    vanilla: dict[str, Contrast]
    """Treatment -> vanilla so treated minus vanilla kept, training rollouts."""
    noise: dict[str, Contrast]
    """Measure -> vanilla with another stream of sampling noise minus vanilla: the noise floor."""
    took_off: tuple[int, int]
    """(parents in which the rule fired, parents known)."""
    strata: dict[tuple[int, str], dict[str, Contrast]] = field(default_factory=dict)
    """(write access, stratum) -> label -> contrast with vanilla at the end, of pass without and of hack with access."""

    def without(self) -> tuple[int, int, float, float]:
        """(parents in which the rule did not fire, parents, their share's 95% interval by Clopper and Pearson)."""
        fired, n = self.took_off
        return n - fired, n, *(clopper_pearson(n - fired, n) if n else (math.nan, math.nan))


def decide_branches(found: Branches) -> list[Rule]:
    """A Rule for each rule that has branch points."""
    return [decide_rule(found, name) for name in found.rules()]


def decide_rule(found: Branches, name: str) -> Rule:
    """Contrasts, corrected for their number, and findings of the branch points of one rule."""
    points = found.of_rule(name)
    kinds = sorted(
        {(b.arm, b.moment) for p in points for b in p.branches if not b.noise},
        key=lambda kind: (rung_order(kind[0]), MOMENTS.index(kind[1])),
    )
    rungs = [make_rung(points, arm, moment) for arm, moment in kinds if arm != "vanilla"]

    # Holm: over all arms for the claims against vanilla, over the family of docs/spec.md against random directions.
    for rung, p in zip(rungs, holm([r.main.p for r in rungs]), strict=True):
        rung.holm = p
    for moment in MOMENTS:
        family = [r for r in rungs if r.arm in FAMILY and r.moment == moment]
        for rung, p in zip(family, holm([r.random["hack_train"].p for r in family]), strict=True):
            rung.holm_family = p

    set_assay(rungs)
    treated = [moment for arm, moment in kinds if arm == "vanilla" and moment != "keep"]
    return Rule(
        name=name,
        points=points,
        rungs=rungs,
        moments=[m for m in MOMENTS if m in {moment for _, moment in kinds}],
        vanilla={m: vanilla_treated(points, m) for m in treated},
        noise={m: difference(points, m, "vanilla", "vanilla", "keep", noise=True) for m in MEASURES},
        took_off=took_off(found, name),
        strata=by_stratum(points, rungs),
    )


def make_rung(points: list[Point], arm: str, moment: str) -> Rung:
    """One row, before Holm's correction."""
    control = random_reference(points, arm, moment)
    of_random = arm_of(arm) is not None and arm_of(arm).v == "random"
    paired = [p for p in points if p.of(arm, moment)]
    exposure = [p.value("exposure", arm, moment) for p in paired]
    rung = Rung(
        arm=arm,
        moment=moment,
        exposure=float(np.mean(exposure)),
        levels={m: mean_of([p.value(m, arm, moment) for p in paired]) for m in MEASURES},
        vanilla={m: difference(points, m, arm, "vanilla", moment) for m in MEASURES},
        random={m: Contrast({}) if of_random else difference(points, m, arm, control, moment) for m in MEASURES},
        share=math.nan,
        below={},
        drift=drift_of(points, arm, moment),
        half=half_reached(paired, arm, moment),
    )
    rung.share = share_of_rise(points, rung)
    rung.below = {
        "half of vanilla": times_below(points, rung, "vanilla", 0.5),
        "random-v": times_below(points, rung, control, 1),
        "shrunk": times_below(points, rung, "shrunk", 1),
    }
    return rung


def set_assay(rungs: list[Rung]) -> None:
    """Tell each rung whether oracle-v, treated alike or else with the moment kept, lowers hacking against random-v."""
    oracles = [r for r in rungs if r.arm == "oracle-v"]
    won = {r.moment: r.holm_family < ALPHA and r.random["hack_train"].mean < 0 for r in oracles}
    for rung in rungs:
        rung.assay = won.get(rung.moment, won.get("keep"))


def drift_of(points: list[Point], arm: str, moment: str) -> Contrast:
    """Rung.drift. random-v names the artifact whose shapes it took, so its v is another all the same."""
    of_pairs = (known := arm_of(arm)) is not None and known.v == "pairs"
    differences = {}
    for p in points:
        sha = {b.run.config.get("v_hack_sha256") for b in [*p.of(arm, moment), *p.of("vanilla", moment)]}
        same_v = of_pairs and len(sha) == 1 and None not in sha
        differences[p.name] = p.value("drift", arm, moment) - (p.value("drift", "vanilla", moment) if same_v else 0)
    return contrast(differences)


def half_reached(points: list[Point], arm: str, moment: str) -> tuple[int, int, float]:
    """Rung.half; the median of several draws at a branch point is their mean."""
    steps = [p.value("to_half", arm, moment) for p in points]
    return sum(math.isfinite(s) for s in steps), len(steps), float(np.median(steps)) if steps else math.nan


def mean_of(values: list[float]) -> float:
    """Mean of the finite values, nan where there is none."""
    finite = [v for v in values if math.isfinite(v)]
    return float(np.mean(finite)) if finite else math.nan


def share_of_rise(points: list[Point], rung: Rung) -> float:
    """Mean effect over mean rise of vanilla, treated alike, above the training rate at the branch; nan where it hardly
    rises, or the arm is not measured in training."""
    if rung.measure != "hack_train":
        return math.nan
    rise = mean_of(
        [p.value(rung.measure, "vanilla", rung.moment) - p.hack for p in points if p.name in rung.main.differences]
    )
    return rung.main.mean / rise if rise > LEAST_RISE else math.nan


def times_below(points: list[Point], rung: Rung, other: str, share: float) -> tuple[int, int]:
    """(branch points at which the arm's main measure is below a share of another's, treated alike, of how many)."""
    both = [(p.value(rung.measure, rung.arm, rung.moment), p.value(rung.measure, other, rung.moment)) for p in points]
    both = [(ours, theirs) for ours, theirs in both if math.isfinite(ours) and math.isfinite(theirs)]
    return sum(ours < share * theirs for ours, theirs in both), len(both)


def vanilla_treated(points: list[Point], moment: str) -> Contrast:
    """What the treatment of the moment alone does: vanilla so treated minus vanilla kept."""
    return contrast(
        {p.name: p.value("hack_train", "vanilla", moment) - p.value("hack_train", "vanilla") for p in points}
    )


def by_stratum(points: list[Point], rungs: list[Rung]) -> dict[tuple[int, str], dict[str, Contrast]]:
    """Pass without write access and hack with it, a stratum at a time, against vanilla treated alike."""
    keys = sorted({key for p in points for b in p.branches for key in b.strata})
    out = {}
    for key in keys:
        measure = "hack" if key[0] else "pass"
        out[key] = {}
        for r in rungs:
            differences = {
                p.name: p.stratum(key, measure, r.arm, r.moment) - p.stratum(key, measure, "vanilla", r.moment)
                for p in points
            }
            out[key][r.label] = contrast(differences)
    return out


def took_off(found: Branches, rule: str) -> tuple[int, int]:
    """(parents in which the rule fired, parents whose end or firing is known)."""
    fired, known = 0, 0
    branched = {p.parent for p in found.of_rule(rule)}
    for parent in found.parents:
        did = parent.path.name in branched or rule in rules_fired(parent)
        fired += did
        known += did or parent.complete
    return fired, known


def by_section(rungs: list[Rung]) -> list[tuple[str, list[Rung]]]:
    """(heading, its rungs) of those that have a contrast, in the ladder's order."""
    groups: dict[str, list[Rung]] = {}
    for r in rungs:
        if r.main.n:
            groups.setdefault(SECTIONS[section(r.arm)], []).append(r)
    return list(groups.items())
