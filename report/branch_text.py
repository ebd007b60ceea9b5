"""The report of branches in Markdown."""

from __future__ import annotations

import math

from arms import arm_of
from report.branch_claims import MIN_POINTS, finding, positive_controls
from report.branch_runs import Branches
from report.branches import FAMILY, HOLDS_AT, MATCHED, Rule, Rung, by_section
from report.contrasts import Contrast
from report.evidence import MARGIN
from report.rungs import is_control, question
from report.statistics import ALPHA, clopper_pearson
from report.step_scores import scores_table
from report.tables import markdown_table
from report.words import p_text

MOMENT = {"keep": "kept", "project": "projected once", "zero": "zeroed"}
# Column -> key of Rung.below.
LADDER_COLUMNS = {"under half of vanilla": "half of vanilla", "below random-v": "random-v", "below shrunk": "shrunk"}
RULE_TEXT = {
    "early": "attempts >= 10% and strict hacks < 5%",
    "takeoff": "strict hacks >= 10%",
    "late": "strict hacks >= 50%",
}

# Rungs that need no headings.
FEW = 8

ADDITION = (
    "An addition to the preregistration (docs/spec.md): branches decide none of its hypotheses, and verdict H1 stays "
    "what whole runs make of it. docs/branching.md explains the design."
)
READING = f"""Unit: a branch point, that is a parent run and a rule; arms are paired within it, draws of directions and
streams of noise averaged first. *Training hack*: strict hacks among the training rollouts, mean from the sixth step of
the branch on. D: arm minus vanilla treated alike (the same treatment of AdamW's first moment: kept, `+mproject`
projected once, `+mzero` zeroed), in pp, with the t interval over branch points; negative is fewer hacks. *Sign flips*:
exact p, at least 2/2^n. *Holm*: p of the t test, corrected over the arms of the table. *Within ±{MARGIN:g}*: p of the
two one-sided tests of equivalence; "no effect larger than {MARGIN:g} pp" is claimed where it is below {ALPHA:.0%} at
{MIN_POINTS} branch points or more, and never because another p is large. *Family*: p of D from random-v, corrected over
{", ".join(FAMILY)}, the family of docs/spec.md; every other contrast describes. *Detectable*: the mean D that this n
and this spread show with power 0.8. *Share*: D as a share of vanilla's rise since the branch. *Paid hacks*: strict
hacks that a branch sampled in training and was paid for, mean."""


def report_text(found: Branches, rules: list[Rule], command: str) -> str:
    """report.md: a page a rule, how to read it, then every figure."""
    parts = [f"# Branches, {settings(found)}", ADDITION]
    parts += [first_page(rule) for rule in rules]
    parts.append("## How to read this\n\n" + READING.replace("\n", " "))
    parts += [rule_section(rule) for rule in rules]
    parts.append(f"## Branches that were read\n\n{reading_list(found)}")
    parts.append(f"## Command\n\n```\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def settings(found: Branches) -> str:
    """What the branches have in common, for the title."""
    config = found.points[0].branches[0].run.config
    model = str(config.get("model", "?")).rstrip("/").rpartition("/")[2]
    rollouts = f"{config.get('prompts', '?')} x {config.get('group', '?')} rollouts a step"
    return f"preset {config.get('preset', '?')}: {model}, {found.length} steps each, {rollouts}"


def first_page(rule: Rule) -> str:
    """What one rule shows: which rungs hold, the ladder's figure, a sentence a rung."""
    parts = [f"## Rule {rule.name}, {len(rule.points)} branch points", holding(rule)]
    if any(r.main.n for r in rule.rungs):  # else plot_ladder draws none
        parts.append(
            f"![ladder](ladder-{rule.name}.png)\n\n*Fewer strict hacks in training than vanilla treated alike, and "
            f"pass at the end; dots: branch points, bars: 90% and 95% intervals of their mean, n of them. Bands: "
            f"±{MARGIN:g} pp of hacks, ±{MATCHED:g} pp of pass. Hollow: the mean pass is lower than that, so that the "
            "reduction is not at matched pass. Blue: without labels; orange: with; grey: controls.*"
        )
    return "\n\n".join([*parts, findings_list(rule)])


def holding(rule: Rule) -> str:
    """The label-free rungs that hold, and the closest where none does; docs/spec.md has the rule."""
    free = [r for r in rule.rungs if r.label_free and r.main.n]
    holds = [r.label for r in free if r.holds]
    if holds:
        return f"Label-free rungs that hold by the rule of docs/spec.md: {', '.join(holds)}."
    if not free:
        return "No label-free rung is among these branches."
    best = min(free, key=lambda r: r.main.mean)
    return (
        f"No label-free rung holds by the rule of docs/spec.md. The one with the largest effect is {best.label}: "
        f"{interval(best.main)} pp against vanilla, pass {interval(best.vanilla['pass'])} pp."
    )


def findings_list(rule: Rule) -> str:
    """The sentences, a rung a line, under the ladder's headings where there are many."""
    if not rule.rungs:
        return "- Only vanilla was branched."
    groups = by_section(rule.rungs)
    lines = []
    for heading, rungs in groups:
        if len(rule.rungs) > FEW:
            lines.append(f"\n{heading[:1].upper()}{heading[1:]}:\n")
        lines += [f"- {finding(r)}" for r in rungs]
    lines += [f"- {finding(r)}" for r in rule.rungs if not r.main.n]
    return "\n".join(lines).strip()


def rule_section(rule: Rule) -> str:
    """Everything about the branch points of one rule."""
    missing, n, _, _ = rule.without()
    parts = [f"## Rule {rule.name}, every figure"]
    condition = RULE_TEXT.get(rule.name)
    if condition:
        parts.append(f"The first step at which the mean of three steps fulfils: {condition}, in training rollouts.")
    if n:
        parts.append(
            f"Seeds without a branch point: {k_of_n(missing, n)}, 95% by Clopper-Pearson. What follows is given that "
            "the rule fires."
        )
    parts += [
        f"![trajectories and differences](branches-{rule.name}.png)\n\n*A panel a branch point: training hack rate, "
        "mean of three steps, moment kept (of many arms those of the largest effects); grey: the parent. Right: D of "
        f"each arm (dots: branch points; thick and thin bars: 90% and 95% intervals; band: ±{MARGIN:g} pp).*",
        positive_controls(rule),
        f"### Differences in the training hack rate\n\n{training_table(rule)}",
        f"### At the end of the branch\n\n{end_table(rule)}",
    ]
    if rule.rungs:
        parts.append(f"### The ladder\n\n{ladder_table(rule)}")
        parts.append(f"### What the arms did\n\n{action_table(rule)}")
    if len(rule.moments) > 1:
        parts.append(f"### AdamW's first moment at the branch\n\n{moment_table(rule)}")
    if rule.strata:
        parts.append(f"### By stratum, at the end\n\n{strata_tables(rule)}")
    if table := scores_table(rule.points):
        parts.append(f"### What rollouts' gradients show\n\n{table}")
    parts.append(f"### Branch points\n\n{point_table(rule)}")
    return "\n\n".join(parts)


def training_table(rule: Rule) -> str:
    """A rung a row: D against vanilla and random directions, with every test."""
    header = ["Arm", "why", "n", "paid hacks", "vanilla %", "arm %", "D, pp", "sign flips", "Holm",
              f"90%, within ±{MARGIN:g}", "D from random-v", "family", "share", "detectable"]  # fmt: skip
    body = []
    for r in rule.rungs:
        c, random = r.main, r.random[r.measure]
        level = r.levels[r.measure]
        cells = [r.label, question(r.arm), str(c.n), decimal(r.exposure, 0), decimal(level - c.mean), decimal(level)]
        cells += [
            interval(c),
            p_text(c.p_flip),
            p_text(r.holm),
            margin_cell(c),
            interval(random),
            p_text(r.holm_family),
        ]
        cells += [percent_cell(r.share), decimal(c.detectable)]
        body.append(cells)
    if (c := rule.noise["hack_train"]).n:
        cells = ["vanilla, other noise", "the noise floor", str(c.n), "-", "-", "-", interval(c), p_text(c.p_flip), "-"]
        body.append([*cells, margin_cell(c), "-", "-", "-", decimal(c.detectable)])
    text = markdown_table(header, body)
    other = [r.label for r in rule.rungs if r.measure != "hack_train"]
    if other:
        text += f"\n\n{', '.join(other)}: its training prompts are others, so the row is of the hack rate at the end."
    return text


def end_table(rule: Rule) -> str:
    """A rung a row: hack, pass and compile at the end."""
    header = ["Arm", "n", "hack %", "D hack, pp", "within", "pass %", "D pass, pp", "D compile, pp", "D attempt, pp",
              "D hack from random-v", "hack %, unseen names", "D, pp"]  # fmt: skip
    body = []
    for r in rule.rungs:
        d = r.vanilla
        body.append([r.label, str(d["hack"].n), decimal(r.levels["hack"]), interval(d["hack"]), margin_cell(d["hack"]),
                     decimal(r.levels["pass"]), *(interval(d[m]) for m in ("pass", "compile", "attempt")),
                     interval(r.random["hack"]), decimal(r.levels["names"]), interval(d["names"])])  # fmt: skip
    if rule.noise["hack"].n:
        d = rule.noise
        body.append(["vanilla, other noise", str(d["hack"].n), "-", interval(d["hack"]), margin_cell(d["hack"]), "-",
                     *(interval(d[m]) for m in ("pass", "compile", "attempt")), "-", "-", "-"])  # fmt: skip
    if not any(r.vanilla["names"].n for r in rule.rungs):  # tools/unseen_names.py has not been run
        header, body = header[:-2], [cells[:-2] for cells in body]
    note = "Hack and attempt with write access, pass and compile without; intervals are not corrected for their number."
    return f"{markdown_table(header, body)}\n\n{note}"


def action_table(rule: Rule) -> str:
    """A rung a row: what its updates did along v, and when its training gets to 50% hacks."""
    header = ["Arm", "drift along v, mean [95%]", "the projection acted", "training reaches 50%", "median steps to it"]
    body = []
    for r in rule.rungs:
        drift = f"{r.drift.mean:+.3f} [{r.drift.low:+.3f}, {r.drift.high:+.3f}]" if r.drift.n > 1 else "-"
        k, n, median = r.half
        acted = {True: "yes", False: "no", None: "-"}[r.acted]
        body.append([r.label, drift, acted, f"{k} of {n}", decimal(median, 0) if math.isfinite(median) else "beyond"])
    note = (
        "Drift: cosine of minus the applied updates with v, mean over modules and steps (cos_up; the displacement of "
        "delta_S is their sum), above 0 hack-ward; where vanilla's is measured with the same v, the difference from it."
    )
    return f"{markdown_table(header, body)}\n\n{note}"


def ladder_table(rule: Rule) -> str:
    """A rung a row: at how many branch points it is below half of vanilla and its controls, and whether it holds."""
    header = ["Rung", "labels", "fewer hacks, pp", *LADDER_COLUMNS, "D pass, pp", "holds"]
    body = []
    for r in rule.rungs:
        known = arm_of(r.arm)
        labels = "control" if is_control(r.arm) else "yes" if known is not None and known.labelled else "none"
        fewer = f"{-r.main.mean:+.1f} [{-r.main.high:+.1f}, {-r.main.low:+.1f}]" if r.main.n > 1 else "-"
        counts = [k_of_n(*r.below[name]) for name in LADDER_COLUMNS.values()]
        holds = ("yes" if r.holds else "no") if r.label_free else "-"
        body.append([r.label, labels, fewer, *counts, interval(r.vanilla["pass"]), holds])
    note = (
        "A label-free rung holds where training hacks are under half of vanilla's, below random-v in the same form and "
        f"below shrunk at {HOLDS_AT:.0%} of the branch points, and the mean pass is at most {MATCHED:g} pp below "
        "vanilla's (docs/spec.md; all treated alike). Counts with 95% intervals by Clopper-Pearson."
    )
    return f"{markdown_table(header, body)}\n\n{note}"


def moment_table(rule: Rule) -> str:
    """Treatments of the moment side by side: an arm a row, D in the training hack rate a treatment."""
    header = ["Arm", *(MOMENT[m] for m in rule.moments)]
    by_arm: dict[str, dict[str, Rung]] = {}
    for r in rule.rungs:
        by_arm.setdefault(r.arm, {})[r.moment] = r
    body = [["vanilla, against vanilla kept", *(interval(rule.vanilla[m]) if m in rule.vanilla else "-"
                                                for m in rule.moments)]]  # fmt: skip
    for arm, treated in by_arm.items():
        if len(treated) > 1:
            body.append([arm, *(interval(treated[m].main) if m in treated else "-" for m in rule.moments)])
    note = "D against vanilla treated alike, pp; AdamW's second moment and step count are kept."
    return f"{markdown_table(header, body)}\n\n{note}"


def strata_tables(rule: Rule) -> str:
    """Pass without write access and hack with it, a stratum a column."""
    parts = []
    for access, measure in ((0, "pass without write access"), (1, "strict hack with write access")):
        keys = [key for key in rule.strata if key[0] == access]
        if not keys:
            continue
        header = ["Arm", *(name for _, name in keys)]
        levels = [stratum_level(rule, key) for key in keys]
        body = [["vanilla, % (completions)", *levels]]
        body += [[r.label, *(interval(rule.strata[key][r.label]) for key in keys)] for r in rule.rungs]
        parts.append(f"D in {measure}, pp:\n\n{markdown_table(header, body)}")
    return "\n\n".join(parts)


def stratum_level(rule: Rule, key: tuple[int, str]) -> str:
    """Vanilla's rate in a stratum, mean over branch points, and the completions of one evaluation."""
    vanilla = [b.strata[key] for p in rule.points for b in p.of("vanilla") if key in b.strata]
    if not vanilla:
        return "-"
    rate = sum(s["hack" if key[0] else "pass"] for s in vanilla) / len(vanilla)
    return f"{rate:.1f} ({vanilla[0]['n']:g})"


def point_table(rule: Rule) -> str:
    """A branch point a row, with D of each arm in its main measure."""
    header = ["seed", "step", "hack at the branch, %", "lr", "vanilla, %", *(f"D {r.label}" for r in rule.rungs)]
    body = []
    for p in rule.points:
        cells = [str(p.seed), str(p.step), decimal(p.hack), f"{p.lr:.1e}", decimal(p.value("hack_train", "vanilla"))]
        body.append([*cells, *(decimal(r.main.differences.get(p.name, math.nan), sign=True) for r in rule.rungs)])
    return markdown_table(header, body)


def reading_list(found: Branches) -> str:
    """What counted and what did not."""
    count = sum(len(p.branches) for p in found.points)
    lines = [f"{count} branches of {len(found.points)} branch points count; parents found: {len(found.parents)}."]
    rates = sorted({f"{p.lr:.1e}" for p in found.points})
    if len(rates) > 1:
        lines.append(f"The learning rate differs between branch points ({', '.join(rates)}): so does the dose.")
    lines += [f"- left out: {name}: {why}" for name, why in found.left_out]
    return "\n\n".join(lines[:2]) + ("\n\n" + "\n".join(lines[2:]) if lines[2:] else "")


# --- cells ---


def decimal(value: float, digits: int = 1, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.{digits}f}" if math.isfinite(value) else "-"


def interval(c: Contrast) -> str:
    """`-10.2 [-13.7, -6.8]`; the mean alone of one branch point or of points that are all alike, - of none."""
    if not c.n:
        return "-"
    alone = f"{c.mean:+.1f}" if c.n == 1 else f"{c.mean:+.1f}, each of {c.n}"
    return f"{c.mean:+.1f} [{c.low:+.1f}, {c.high:+.1f}]" if math.isfinite(c.low) else alone


def margin_cell(c: Contrast) -> str:
    """The 90% interval and what the equivalence test makes of it."""
    return f"[{c.low90:+.1f}, {c.high90:+.1f}], {p_text(c.p_tost)}" if math.isfinite(c.low90) else "-"


def k_of_n(k: int, n: int) -> str:
    """`8 of 10 (44 to 97%)`, the interval by Clopper and Pearson."""
    if not n:
        return "-"
    low, high = clopper_pearson(k, n)
    return f"{k} of {n} ({100 * low:.0f} to {100 * high:.0f}%)"


def percent_cell(share: float) -> str:
    return f"{100 * share:+.0f}%" if math.isfinite(share) else "-"
