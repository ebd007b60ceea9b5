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

# In shares of the axes: how near to the next a mean of a crowd lies, the size of the part in which the crowd stands
# magnified, and the least that this shows.
NEAR = 0.05
INSET = (0.46, 0.4)
LEAST_WINDOW = 0.12
# Room for its tick labels, to the left and below.
LABELS = (0.06, 0.05)
# And how far that part stays from every point.
CLEAR = 0.03


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

    draw_points(ax, used, rows)

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
    draw_crowd(ax, used, rows)


def draw_points(ax: Axes, used: list[RunRecord], rows: list[dict], size: float = 9) -> None:
    """A point a run, then each arm's mean over them, of `size` points."""
    styles = style_of([row["arm"] for row in rows])
    for run in used:
        colour, marker, _ = styles[run.arm]
        x, y = (percent(final_rate(run, column)) for column in ("pass", "hack"))
        ax.scatter(x, y, s=22, marker=marker, color=colour, alpha=0.5, linewidths=0, zorder=3)
    for row in rows:
        colour, marker, _ = styles[row["arm"]]
        x, y = row["pass"].mean, row["hack"].mean
        label = f"{row['arm']} (n={row['n']})"
        ax.plot(x, y, marker, color=colour, ms=size, mec="white", mew=0.9, zorder=4, label=label)


def crowd(points: np.ndarray, near: float = NEAR) -> np.ndarray:
    """Indices of the largest group of points [n, 2], in shares of the axes, that hang together by steps of `near`; of
    two as large, the first. Empty where no three do."""
    left, best = set(range(len(points))), []
    while left:
        group, reached = [], [min(left)]
        while reached:
            i = reached.pop()
            left.discard(i)
            group.append(i)
            close = [j for j in sorted(left) if np.hypot(*(points[i] - points[j])) <= near]
            left -= set(close)
            reached += close
        best = group if len(group) > len(best) else best
    return np.array(sorted(best) if len(best) > 2 else [], dtype=int)


def free_place(points: np.ndarray, width: float, height: float) -> tuple[float, float] | None:
    """Lower left corner, in shares of the axes, of the rectangle that lies farthest from all points [n, 2]; None where
    each comes nearer than CLEAR to one."""
    places = [(x, y) for y in np.linspace(0.02, 0.97 - height, 12) for x in np.linspace(0.02, 0.97 - width, 9)]

    def clearance(place: tuple[float, float]) -> float:
        beyond = np.maximum(np.array(place) - points, points - np.add(place, (width, height)))
        return float(beyond.max(axis=1).min())

    best = max(places, key=clearance)
    return best if clearance(best) >= CLEAR else None


def draw_crowd(ax: Axes, used: list[RunRecord], rows: list[dict]) -> None:
    """Means that lie on each other, once more in a magnified part of the axes, where there is room for it."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    low, size = np.array([left, bottom]), np.array([right - left, top - bottom])
    means = np.array([(row["pass"].mean, row["hack"].mean) for row in rows])
    runs = np.array([[percent(final_rate(run, column)) for column in ("pass", "hack")] for run in used])
    inside = crowd((means - low) / size)
    written = [
        t.xy + np.outer((0, 0.15, 0.3), (size[0], 0)) + (0, 0.04 * size[1])
        for t in ax.texts
        if t.get_text() != "better"
    ]
    place = free_place((np.vstack([means, runs, *written]) - low) / size, *np.add(INSET, LABELS))
    if not len(inside) or place is None:
        return

    # The window: the crowd's means with room around them, in the shape of the magnified part.
    first, last = means[inside].min(axis=0), means[inside].max(axis=0)
    share = max(LEAST_WINDOW, 1.5 * float(((last - first) / size / INSET).max()))
    half = share * np.array(INSET) * size / 2
    x, y = (first + last) / 2
    inset = ax.inset_axes(
        (*np.add(place, LABELS), *INSET), xlim=(x - half[0], x + half[0]), ylim=(y - half[1], y + half[1])
    )
    draw_points(inset, used, rows, size=10)
    inset.tick_params(labelsize=8)
    inset.spines[["top", "right"]].set_visible(True)
    inset.spines[:].set_color("0.4")
    ax.indicate_inset_zoom(inset, edgecolor="0.4", lw=0.8)


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
