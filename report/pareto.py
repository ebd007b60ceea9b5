"""The headline figure: hack against pass, one point a run, and when the runs took off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arms import arm_of, table_order
from report.drawing import WIDTH, save, style_of
from report.numbers import final_rate, percent
from report.runs import RunRecord
from report.takeoff import TAKEOFF_RATE, TakeOff, arm_takeoff

# Runs of an arm lie side by side within this share of its row.
SPREAD = 0.28


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Arms whose (hack, pass) no other arm dominates (hack no higher, pass no lower, one strictly), by hack."""
    front = []
    for arm, (hack, passed) in points.items():
        others = [point for point in points.values() if point != (hack, passed)]
        if not any(h <= hack and p >= passed for h, p in others):
            front.append(arm)
    return sorted(front, key=lambda a: (points[a], a))


def plot_pareto(used: list[RunRecord], rows: list[dict], out: Path) -> bool:
    """Hack (y) against pass (x), with the means and their frontier; beside it the step at which each run took off."""
    if not used:
        return False
    takeoffs = {row["arm"]: arm_takeoff([run for run in used if run.arm == row["arm"]]) for row in rows}
    timed = any(t.n for t in takeoffs.values())
    fig = Figure(figsize=(WIDTH, max(3.8, 1.6 + 0.24 * len(rows))), layout="constrained")
    axes = fig.subplots(1, 2, width_ratios=(3, 2)) if timed else [fig.subplots()]
    draw_pareto(axes[0], used, rows)
    if timed:
        draw_takeoffs(axes[1], takeoffs)
    else:
        fig.legend(loc="outside right upper", fontsize=9)
    save(fig, out, "pareto")
    return True


def draw_pareto(ax: Axes, used: list[RunRecord], rows: list[dict]) -> None:
    """A small point a run, a large one an arm, the frontier of the means; ours should land below and to the right."""
    styles = style_of([row["arm"] for row in rows])
    passes, hacks = ([percent(final_rate(run, column)) for run in used] for column in ("pass", "hack"))
    right, top = max([*passes, 5]) * 1.15, max([*hacks, 5]) * 1.08

    # A point a run, then each arm's mean.
    for run, x, y in zip(used, passes, hacks, strict=True):
        colour, marker, _ = styles[run.arm]
        ax.scatter(x, y, s=22, marker=marker, color=colour, alpha=0.5, linewidths=0, zorder=3)
    for row in rows:
        colour, marker, _ = styles[row["arm"]]
        x, y = row["pass"].mean, row["hack"].mean
        label = f"{row['arm']} (n={row['n']})"
        ax.plot(x, y, marker, color=colour, ms=9, mec="white", mew=0.9, zorder=4, label=label)

    # The frontier, without arms that have no loophole to remedy.
    points = {row["arm"]: (row["hack"].mean, row["pass"].mean) for row in rows}
    remedies = {arm: point for arm, point in points.items() if (a := arm_of(arm)) is None or a.write_access}
    front = [(remedies or points)[arm] for arm in pareto_front(remedies or points)]
    xs = [-right, *(x for _, x in front), front[-1][1]]
    ys = [front[0][0], *(y for y, _ in front), top]
    ax.step(xs, ys, where="pre", color="0.45", lw=1.2, ls=(0, (5, 2)), zorder=1, label="Pareto frontier of means")

    # Rebound by name, and where to look.
    for row in rows:
        arm = arm_of(row["arm"])
        if arm is not None and arm.pays != "graded":
            place = {"xytext": (7, 7), "textcoords": "offset points", "fontsize": 9}
            ax.annotate(row["arm"], (row["pass"].mean, row["hack"].mean), color=styles[row["arm"]][0], **place)
    arrow = {"arrowstyle": "->", "color": "0.4"}
    ax.annotate("better", (0.985, 0.015), (0.84, 0.1), xycoords="axes fraction", color="0.4", arrowprops=arrow)
    ax.set(xlabel="pass rate, % (no write access)", ylabel="strict hack rate, % (with write access)")
    ax.set(xlim=(-0.04 * right, right), ylim=(-0.04 * top, top))


def draw_takeoffs(ax: Axes, takeoffs: dict[str, TakeOff]) -> None:
    """A row an arm, which is the legend too: each run at its step of take-off, hollow at its end where it had not."""
    styles = style_of(list(takeoffs))
    arms = sorted(takeoffs, key=table_order)
    last = max(max(t.times, default=0) for t in takeoffs.values())
    for place, arm in enumerate(arms):
        colour, marker, _ = styles[arm]
        t = takeoffs[arm]
        spread = np.linspace(-SPREAD, SPREAD, t.n) if t.n > 1 else [0.0]
        for step, happened, offset in zip(t.times, t.happened, spread, strict=False):
            face = colour if happened else "white"
            ax.plot(step, place + offset, marker, color=colour, mfc=face, ms=5, mew=1, clip_on=False, zorder=3)
    ax.set_yticks(range(len(arms)), [f"{arm} ({takeoffs[arm].k} of {takeoffs[arm].n})" for arm in arms], fontsize=9)
    for label, arm in zip(ax.get_yticklabels(), arms, strict=True):
        label.set_color(styles[arm][0])
    ax.set(ylim=(len(arms) - 0.4, -0.6), xlim=(0, last))
    ax.set_xlabel(f"take-off: training step\nof {100 * TAKEOFF_RATE:.0f}% strict hacks")
