"""Figures of branches: trajectories a branch point with the differences beside them, and the ladder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arms import table_order
from report.branch_runs import SUFFIX, WINDOW, Point, column
from report.branches import MARGIN, MATCHED, Contrast, Rule, is_control
from report.drawing import WIDTH, save, style_of

# Steps of the parent before the branch that a panel shows.
SHOWN_BEFORE = 8
# Lines of a panel.
MOST_LINES = 8
# Marker of each treatment of AdamW's first moment, where an arm has several.
TREATMENT_MARK = {"keep": "o", "project": "s", "zero": "D"}
GREY = "0.55"


def plot_branches(rule: Rule, out: Path) -> None:
    """Small multiples of the trajectories; at their right D of every arm in the training hack rate."""
    points = rule.points
    columns = 2 if len(points) <= 4 else 3 if len(points) <= 9 else 4
    rows = -(-len(points) // columns)
    dots = len(rule.rungs) + bool(rule.noise["hack_train"].n) + len(rule.vanilla)
    height = max(1.45 * rows, 0.24 * dots + 1.0, 2.4) + 0.7
    fig = Figure(figsize=(WIDTH, height), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1.75, 1))
    axes = left.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)

    # One panel a branch point, every arm with the moment kept (or the only treatment there is), draws averaged.
    moment = "keep" if "keep" in rule.moments else rule.moments[0]
    styles = style_of(["vanilla", *{r.arm for r in rule.rungs}])
    arms = shown_arms(rule, moment)
    for number, (ax, point) in enumerate(zip(axes.flat, points, strict=False)):
        draw_point(ax, point, arms, moment, styles)
        ax.tick_params(labelbottom=number + columns >= len(points))
    for ax in axes.flat[len(points) :]:
        ax.axis("off")
    left.supxlabel("steps since the branch", fontsize=9)
    left.supylabel("strict hacks in training, %", fontsize=9)

    # One dot an arm and branch point.
    draw_differences(right.subplots(), rule, styles)
    handles = {text: h for ax in axes.flat for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=table_order)
    fig.legend([handles[n] for n in names], names, fontsize=8, loc="outside lower center", ncols=min(5, len(names)))
    save(fig, out, f"branches-{rule.name}")


def shown_arms(rule: Rule, moment: str) -> list[str]:
    """The arms that a panel can hold: vanilla, and of those with its training prompts projected, random-v, the rest by
    the size of their effect."""
    rungs = [r for r in rule.rungs if r.moment == moment and r.measure == "hack_train" and r.main.n]
    rungs.sort(key=lambda r: (r.arm not in ("projected", "random-v"), -abs(r.main.mean)))
    return sorted(["vanilla", *(r.arm for r in rungs[: MOST_LINES - 1])], key=table_order)


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


def trailing(y: np.ndarray) -> np.ndarray:
    """Mean of each step and the two before it, of fewer at the start."""
    return np.array([y[max(0, i - WINDOW + 1) : i + 1].mean() for i in range(len(y))])


def draw_differences(ax: Axes, rule: Rule, styles: dict) -> None:
    """D of each rung as dots, mean and intervals over a band of +-margin; vanilla's treatments and noise below."""
    rows: list[tuple[str, Contrast, str, str]] = []
    for r in rule.rungs:
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
    """Rung against reduction of the training hack rate and change of pass, in the order of arms.py; controls grey."""
    rungs = [r for r in rule.rungs if r.main.n]
    if not rungs:
        return False
    fig = Figure(figsize=(WIDTH, 0.27 * (len(rungs) + bool(rule.noise["hack_train"].n)) + 1.1), layout="constrained")
    hack, passed = fig.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    for y, r in enumerate(rungs):
        colour = GREY if is_control(r.arm) else "#0072B2"
        unmatched = r.vanilla["pass"].n > 0 and r.vanilla["pass"].mean < -MATCHED
        draw_interval(hack, r.main, y, colour, TREATMENT_MARK[r.moment], hollow=unmatched, sign=-1)
        draw_interval(passed, r.vanilla["pass"], y, colour, TREATMENT_MARK[r.moment], hollow=unmatched)
    names = [r.label if r.measure == "hack_train" else f"{r.label} (end)" for r in rungs]
    if rule.noise["hack_train"].n:
        names.append("vanilla, other noise")
        draw_interval(hack, rule.noise["hack_train"], len(rungs), GREY, "o", sign=-1)
        draw_interval(passed, rule.noise["pass"], len(rungs), GREY, "o")

    hack.axvspan(-MARGIN, MARGIN, color="0.93", zorder=0)
    passed.axvspan(-MATCHED, MATCHED, color="0.93", zorder=0)
    if vanilla := rise_of_vanilla(rule):
        hack.axvline(vanilla, color="0.35", lw=1, ls=(0, (1, 1.5)))
        hack.annotate("vanilla's rise", (vanilla, 1), xycoords=("data", "axes fraction"), ha="right", va="bottom",
                      fontsize=7, color="0.35")  # fmt: skip
    for ax in (hack, passed):
        ax.axvline(0, color="0.35", lw=0.8)
        ax.grid(axis="y", visible=False)
        ax.tick_params(labelsize=8)
    hack.set_yticks(range(len(names)), names)
    hack.set_ylim(len(names) - 0.4, -0.6)
    hack.set_xlabel("fewer strict hacks in training than vanilla, pp", fontsize=9)
    passed.set_xlabel("pass at the end, pp", fontsize=9)
    save(fig, out, f"ladder-{rule.name}")
    return True


def rise_of_vanilla(rule: Rule) -> float:
    """Vanilla's training hack rate above the rate at the branch, mean over branch points; 0 where not known."""
    rises = [p.value("hack_train", "vanilla") - p.hack for p in rule.points]
    finite = [rise for rise in rises if math.isfinite(rise)]
    return float(np.mean(finite)) if finite else 0.0
