"""Figures of branches: trajectories a branch point with the differences beside them, and the ladder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arms import table_order
from report.branch_runs import SUFFIX, WINDOW, Point, column, trailing
from report.branches import MATCHED, Rule, Rung, by_section
from report.contrasts import Contrast
from report.drawing import WIDTH, save, style_of
from report.evidence import MARGIN
from report.rungs import is_control

# Steps of the parent before the branch that a panel shows.
SHOWN_BEFORE = 8
# Rows of dots beside the panels, and the arms in a panel besides vanilla, projected and random-v: of the remedies
# without labels and of those with, the ones of the largest effects.
MOST_DOTS = 20
MOST_LABEL_FREE = 3
MOST_LABELLED = 1
# Marker of each treatment of AdamW's first moment, where an arm has several.
TREATMENT_MARK = {"keep": "o", "project": "s", "zero": "D"}
# Of the ladder's panel of pass, pp either way.
WIDEST = 50
# The ladder's colours: controls, rungs that read labels, rungs that do not.
GREY = "0.55"
LABELLED = "#E69F00"
LABEL_FREE = "#0072B2"


def plot_branches(rule: Rule, out: Path) -> None:
    """Small multiples of the trajectories; at their right D of every arm in the training hack rate."""
    points = rule.points
    columns = 2 if len(points) <= 4 else 3 if len(points) <= 9 else 4
    rows = -(-len(points) // columns)

    # Lines: the moment kept (or the only treatment there is), draws averaged. Dots: every arm where they fit.
    moment = "keep" if "keep" in rule.moments else rule.moments[0]
    arms = shown_arms(rule, moment)
    rungs = rule.rungs if len(rule.rungs) <= MOST_DOTS else [r for r in rule.rungs if r.arm in arms]
    dots = len(rungs) + bool(rule.noise["hack_train"].n) + len(rule.vanilla)
    height = max(1.45 * rows, 0.24 * dots + 1.0, 2.4) + 0.7
    fig = Figure(figsize=(WIDTH, height), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1.75, 1))
    axes = left.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)

    # One panel a branch point.
    styles = style_of(["vanilla", *{r.arm for r in rule.rungs}])
    for number, (ax, point) in enumerate(zip(axes.flat, points, strict=False)):
        draw_point(ax, point, arms, moment, styles)
        ax.tick_params(labelbottom=number + columns >= len(points))
    for ax in axes.flat[len(points) :]:
        ax.axis("off")
    left.supxlabel("steps since the branch", fontsize=9)
    left.supylabel("strict hacks in training, %", fontsize=9)

    # One dot an arm and branch point.
    draw_differences(right.subplots(), rule, rungs, styles)
    handles = {text: h for ax in axes.flat for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=table_order)
    fig.legend([handles[n] for n in names], names, fontsize=8, loc="outside lower center", ncols=min(5, len(names)))
    save(fig, out, f"branches-{rule.name}")


def shown_arms(rule: Rule, moment: str) -> list[str]:
    """The arms that a panel can hold, of those with vanilla's training prompts."""
    rungs = [r for r in rule.rungs if r.moment == moment and r.measure == "hack_train" and r.main.n]
    rungs.sort(key=lambda r: -abs(r.main.mean))
    always = [r.arm for r in rungs if r.arm in ("projected", "random-v")]
    others = [r for r in rungs if r.arm not in always and not is_control(r.arm)]
    free = [r.arm for r in others if r.label_free][:MOST_LABEL_FREE]
    labelled = [r.arm for r in others if not r.label_free][:MOST_LABELLED]
    return sorted(["vanilla", *always, *free, *labelled], key=table_order)


def draw_point(ax: Axes, point: Point, arms: list[str], moment: str, styles: dict) -> None:
    """The arms of one branch point from the common point on: means of three steps, as the rules take them."""
    before = trailing(point.before)[-SHOWN_BEFORE:]
    ax.plot(np.arange(-len(before), 0) + 1, before, color=GREY, lw=1.2)
    for arm in arms:
        runs = [100 * column(b.run.steps, "hack") for b in point.of(arm, moment)]
        if not runs:
            continue
        y = trailing(np.concatenate([point.before[-WINDOW:], np.mean(runs, axis=0)]))[len(point.before[-WINDOW:]) :]
        x = np.arange(1, len(y) + 1)
        if len(point.before):
            x, y = np.append(0, x), np.append(trailing(point.before)[-1], y)
        colour, marker, line = styles[arm]
        width = 1.7 if arm == "vanilla" else 1.1
        ax.plot(x, y, color=colour, ls=line, lw=width, marker=marker, ms=3.5, markevery=[-1], label=arm, zorder=3)
    ax.axvline(0, color=GREY, lw=0.8, ls=(0, (1, 1.5)))
    ax.set_title(f"seed {point.seed}, step {point.step}", loc="left", fontsize=8, pad=3)
    ax.set_ylim(bottom=0)
    ax.tick_params(labelsize=7)


def draw_differences(ax: Axes, rule: Rule, rungs: list[Rung], styles: dict) -> None:
    """D of each rung as dots, mean and intervals over a band of +-margin; vanilla's treatments and noise below."""
    rows: list[tuple[str, Contrast, str, str]] = []
    for r in rungs:
        name = r.label if r.measure == "hack_train" else f"{r.label} (end)"
        rows.append((name, r.main, styles[r.arm][0], TREATMENT_MARK[r.moment]))
    rows += [(f"vanilla{SUFFIX[m]} - vanilla", c, "#000000", TREATMENT_MARK[m]) for m, c in rule.vanilla.items()]
    if rule.noise["hack_train"].n:
        rows.append(("vanilla, other noise", rule.noise["hack_train"], GREY, "o"))
    ax.axvspan(-MARGIN, MARGIN, color="0.93", zorder=0)
    ax.axvline(0, color="0.35", lw=0.8)
    for y, (_, c, colour, marker) in enumerate(rows):
        draw_interval(ax, c, y, colour, marker)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("D against vanilla, pp", fontsize=9)
    ax.set_title(f"mean and 90%, 95% intervals (n = {len(rule.points)})", fontsize=8, loc="right", pad=3)
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(axis="y", visible=False)


def draw_interval(ax: Axes, c: Contrast, y: float, colour: str, marker: str, hollow: bool = False, sign: int = 1):
    """Dots of the branch points, the mean, a thin 95% and a thick 90% interval; sign -1 shows reductions."""
    if not c.n:
        return
    x = sign * np.array(list(c.differences.values()))
    spread = np.linspace(-0.16, 0.16, len(x)) if len(x) > 1 else np.zeros(1)
    ax.scatter(x, y + spread, s=5, color=colour, alpha=0.45, linewidths=0, zorder=2)
    if c.n > 1:
        ax.plot([sign * c.low, sign * c.high], [y, y], color=colour, lw=1, zorder=3)
        ax.plot([sign * c.low90, sign * c.high90], [y, y], color=colour, lw=2.6, zorder=3, solid_capstyle="butt")
    face = "white" if hollow else colour
    ax.plot(sign * c.mean, y, marker, color=colour, mfc=face, mec=colour if hollow else "white", ms=4.5, zorder=4)


def plot_ladder(rule: Rule, out: Path) -> bool:
    """Rung against reduction of the training hack rate and change of pass, in the ladder's order, under headings."""
    lines = ladder_lines(rule)
    if not any(r.main.n for r in rule.rungs):
        return False
    fig = Figure(figsize=(WIDTH, 0.22 * len(lines) + 1.1), layout="constrained")
    hack, passed = fig.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    names = [""] * len(lines)
    for y, line in enumerate(lines):
        if isinstance(line, str):
            hack.annotate(line, (0.01, y + 0.1), xycoords=("axes fraction", "data"), va="center", fontsize=8.5,
                          fontweight="bold", annotation_clip=False)  # fmt: skip
            continue
        names[y] = line.name
        draw_interval(hack, line.hack, y, line.colour, line.marker, hollow=line.hollow, sign=-1)
        draw_interval(passed, line.passed, y, line.colour, line.marker, hollow=line.hollow)
        passed.annotate(f"{line.hack.n}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5,
                        color="0.35")  # fmt: skip
    passed.annotate("n", (1.01, 1), xycoords="axes fraction", va="bottom", fontsize=7.5, color="0.35")

    # Bands within which a difference counts as none, what could be gained, axes.
    hack.axvspan(-MARGIN, MARGIN, color="0.95", zorder=0)
    passed.axvspan(-MATCHED, MATCHED, color="0.95", zorder=0)
    if vanilla := rise_of_vanilla(rule):
        hack.axvline(vanilla, color="0.35", lw=1, ls=(0, (1, 1.5)))
        hack.annotate("all of vanilla's rise", (vanilla, 1), xycoords=("data", "axes fraction"), ha="center",
                      va="bottom", fontsize=7.5, color="0.35")  # fmt: skip
    for ax in (hack, passed):
        ax.axvline(0, color="0.35", lw=0.8)
        ax.grid(axis="y", visible=False)
        ax.tick_params(labelsize=8.5)
        ax.tick_params(axis="y", length=0)
    hack.set_yticks(range(len(names)), names)
    hack.set_ylim(len(names) - 0.4, -0.6)
    hack.set_xlabel("fewer strict hacks in training than vanilla, pp", fontsize=9)
    low, high = passed.get_xlim()  # of two points an interval may be wider than any rate
    cut = "" if low >= -WIDEST and high <= WIDEST else f", cut at ±{WIDEST}"
    passed.set_xlim(max(low, -WIDEST), min(high, WIDEST))
    passed.set_xlabel(f"pass at the end, pp{cut}", fontsize=9)
    save(fig, out, f"ladder-{rule.name}")
    return True


@dataclass(frozen=True)
class LadderLine:
    """One rung as the ladder draws it: two contrasts with vanilla treated alike, and their mark."""

    name: str
    hack: Contrast
    passed: Contrast
    colour: str
    marker: str = "o"
    hollow: bool = False
    """Whether pass is so much lower that the reduction is not at matched pass."""


def ladder_lines(rule: Rule) -> list[LadderLine | str]:
    """Headings and rungs from top to bottom, then the noise floor."""
    lines: list[LadderLine | str] = []
    for heading, rungs in by_section(rule.rungs):
        lines.append(heading)
        for r in rungs:
            passed = r.vanilla["pass"]
            line = LadderLine(
                name=r.label if r.measure == "hack_train" else f"{r.label} (end)",
                hack=r.main,
                passed=passed,
                colour=GREY if is_control(r.arm) else LABEL_FREE if r.label_free else LABELLED,
                marker=TREATMENT_MARK[r.moment],
                hollow=passed.n > 0 and passed.mean < -MATCHED,
            )
            lines.append(line)
    if rule.noise["hack_train"].n:
        lines += ["noise floor", LadderLine("vanilla, other noise", rule.noise["hack_train"], rule.noise["pass"], GREY)]
    return lines


def rise_of_vanilla(rule: Rule) -> float:
    """Vanilla's training hack rate above the rate at the branch, mean over branch points; 0 where not known."""
    rises = [p.value("hack_train", "vanilla") - p.hack for p in rule.points]
    finite = [rise for rise in rises if math.isfinite(rise)]
    return float(np.mean(finite)) if finite else 0.0
