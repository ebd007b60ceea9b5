"""report.figures"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from arms import ARMS, VARIANTS, arm_of, table_order
from report.numbers import WINDOW, final_rate, pp
from report.runs import Run
from report.verdicts import ACTIVE_COS, ACTIVE_FIRED

SPARE_MARKS = (
    ("#009E73", "d"),
    ("#CC79A7", "H"),
    ("#E69F00", "8"),
    ("#56B4E9", "^"),
    ("#D55E00", "D"),
    ("#0072B2", "p"),
)


SPARE = [(colour, marker, line) for line in ("-", "--", ":") for colour, marker in SPARE_MARKS]


FLAVOUR_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000", "#BBBBBB")


HATCHES = ("", "///", "...", "\\\\\\", "xxx", "", "ooo", "", "+++")


RC = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "projected-grpo",
    "figure.dpi": 200,
}


SMOOTH = WINDOW


def style_of(arms: list[str]) -> dict[str, tuple[str, str, str]]:
    """{arm: (colour, marker, line style)}: fixed for the known arms, then the spare ones in table order."""
    known, spare = {**ARMS, **VARIANTS}, iter(SPARE * 10)
    return {arm: tuple(known[arm].mark) if arm in known else next(spare) for arm in sorted(arms, key=table_order)}


def pareto_front(points: dict[str, tuple[float, float]]) -> list[str]:
    """Arms whose (hack, pass) no other arm dominates (hack no higher, pass no lower, one strictly), by hack."""
    front = [a for a, (h, p) in points.items()
             if not any(h2 <= h and p2 >= p and (h2, p2) != (h, p) for h2, p2 in points.values())]  # fmt: skip
    return sorted(front, key=lambda a: (points[a], a))


def save(fig, out: Path, name: str) -> None:
    """PNG and SVG without dates."""
    fig.savefig(out / f"{name}.png", dpi=200, metadata={"Software": None})
    fig.set_layout_engine("none")
    fig.savefig(out / f"{name}.svg", metadata={"Date": None})
    plt.close(fig)


def plot_pareto(used: list[Run], rows: list[dict], out: Path) -> bool:
    """Hack against pass: a small point per seed, a large one with SEM bars per arm, the frontier of the means."""
    styles = style_of([r["arm"] for r in rows])
    fig, ax = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for run in used:
        colour, marker, _ = styles[run.arm]
        ax.scatter(pp(final_rate(run, "hack")), pp(final_rate(run, "pass")), s=18, marker=marker, color=colour,
                   alpha=0.45, linewidths=0, zorder=2)  # fmt: skip
    for row in rows:
        colour, marker, _ = styles[row["arm"]]
        x, y = row["hack"], row["pass"]
        error = [0 if math.isnan(s.sem) else s.sem for s in (x, y)]
        ax.errorbar(x.mean, y.mean, error[1], error[0], fmt="none", color=colour, capsize=3, elinewidth=1.5, zorder=3)
        ax.plot(x.mean, y.mean, marker, color=colour, ms=8.5, mec="white", mew=0.8,
                zorder=4, label=f"{row['arm']} (n={row['n']})")  # fmt: skip
    right = max([pp(final_rate(run, "hack")) for run in used] + [5]) * 1.06
    top = max([pp(final_rate(run, "pass")) for run in used] + [5]) * 1.2
    points = {row["arm"]: (row["hack"].mean, row["pass"].mean) for row in rows}
    remedies = {
        arm: point for arm, point in points.items() if (known := arm_of(arm)) is None or known.write_access
    }  # which has nothing to remedy
    xs, ys = ([points[arm][i] for arm in pareto_front(remedies or points)] for i in (0, 1))
    ax.step([xs[0], *xs, right], [0, *ys, ys[-1]], where="post", color="0.45", lw=1.2, ls=(0, (5, 2)), zorder=1,
            label="Pareto frontier of means")  # fmt: skip
    ax.set(xlabel="strict hack rate, % (with write access)", ylabel="pass rate, % (no write access)",
           xlim=(-0.03 * right, right), ylim=(-0.03 * top, top))  # fmt: skip
    ax.annotate("better", xy=(0.012, 0.985), xytext=(0.075, 0.925), xycoords="axes fraction", color="0.4",
                arrowprops={"arrowstyle": "->", "color": "0.4"})  # fmt: skip
    fig.legend(loc="outside right upper", fontsize=9)
    save(fig, out, "pareto")
    return True


def series(runs: list[Run], table: str, column: str, smooth: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, mean, SEM) over seeds of a TSV column; a NaN is left out at its step, SEM is 0 where one seed is left."""
    values: dict[float, list[float]] = {}
    for run in runs:
        data = getattr(run, table)
        y = rolling(np.asarray(data.get(column, ()), dtype=np.float64), smooth)
        for step, v in zip(data.get("step", ()), y, strict=False):
            if math.isfinite(v):
                values.setdefault(float(step), []).append(float(v))
    steps = np.array(sorted(values))
    mean = np.array([np.mean(values[s]) for s in steps])
    sem = np.array(
        [np.std(values[s], ddof=1) / math.sqrt(len(values[s])) if len(values[s]) > 1 else 0.0 for s in steps]
    )
    return steps, mean, sem


def rolling(y: np.ndarray, width: int) -> np.ndarray:
    """Centred rolling mean that passes over NaN and shrinks at the ends."""
    if width <= 1:
        return y
    half = width // 2
    out = np.full(len(y), np.nan)
    for i in range(len(y)):
        part = y[max(0, i - half) : i + half + 1]
        part = part[np.isfinite(part)]
        if len(part):
            out[i] = part.mean()
    return out


@dataclass(frozen=True)
class Panel:
    """One set of axes: a TSV column of every arm over training, each run or a band, with marks at (value, text)."""

    table: str
    column: str
    title: str
    scale: float = 1.0
    smooth: int = 1
    marks: tuple[tuple[float, str], ...] = ()
    seeds: bool = False

    def has_data(self, used: list[Run]) -> bool:
        return any(np.isfinite(getattr(run, self.table).get(self.column, np.empty(0))).any() for run in used)


def draw_series(ax, used: list[Run], panel: Panel) -> None:
    """One line per arm, the mean as far as all its runs go, with a ±SEM band or with its runs as thin lines."""
    scale = panel.scale
    for arm, (colour, marker, line) in style_of([run.arm for run in used]).items():
        runs = [run for run in used if run.arm == arm]
        x, mean, sem = series(runs, panel.table, panel.column, panel.smooth)
        if not len(x):
            continue
        whole = x <= min(max(getattr(run, panel.table).get("step", ()), default=-1) for run in runs)
        for run in runs if panel.seeds else []:
            steps, y, _ = series([run], panel.table, panel.column, panel.smooth)
            ax.plot(steps, scale * y, color=colour, ls=line, lw=0.8, alpha=0.5)
        x, mean, sem = x[whole], mean[whole], sem[whole]
        every = 1 if len(x) <= 12 else max(1, len(x) // 8)
        bold = arm in ARMS and ARMS[arm].headline
        ax.plot(x, scale * mean, color=colour, ls=line, marker=marker, ms=5 if bold else 4, markevery=every,
                lw=2.1 if bold else 1.3, zorder=3 if bold else 2, label=arm)  # fmt: skip
        if not panel.seeds:
            ax.fill_between(x, scale * (mean - sem), scale * (mean + sem), color=colour, alpha=0.12, lw=0)
    ax.set_xlabel("training step")


def panels(used: list[Run], wanted: list[Panel], out: Path, name: str) -> bool:
    """Two columns of panels, those without data left out; the legend fills a free place, else the foot."""
    wanted = [panel for panel in wanted if panel.has_data(used)]
    if not wanted:
        return False
    fig, axes = grid(len(wanted), min(2, len(wanted)), 2.7, 0.8)
    for ax, panel in zip(axes.flat, wanted, strict=False):
        draw_series(ax, used, panel)
        ax.set_title(panel.title, loc="left")
        for y, text in panel.marks:
            ax.axhline(y, color="0.35", lw=1, ls=(0, (1, 1.5)))
            ax.annotate(text, (1, y), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8,
                        color="0.35")  # fmt: skip
        if panel.scale == 100:
            ax.set_ylim(bottom=0)
    legend_below(fig, axes, table_order, 4, free=axes.flat[-1] if len(wanted) < axes.size else None)
    save(fig, out, name)
    return True


def grid(count: int, columns: int, height: float, foot: float, **kwargs):
    """Figure of README width with `count` axes in `columns`; the rest of the last row is blank."""
    rows = -(-count // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(8, height * rows + foot), layout="constrained", squeeze=False, **kwargs
    )
    for ax in axes.flat[count:]:
        ax.axis("off")
    return fig, axes


def legend_below(fig, axes, key, columns: int, free=None) -> None:
    """One legend for all axes, labels sorted by `key`: inside the blank axes `free`, else under the figure."""
    handles = {text: h for ax in axes.flat for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = sorted(handles, key=key)
    place = {"loc": "center", "ncols": 1 + (len(order) > 6)} if free is not None else {
        "loc": "outside lower center", "ncols": min(columns, len(order))}  # fmt: skip
    (fig if free is None else free).legend([handles[n] for n in order], order, fontsize=9, **place)


def plot_trajectories(used: list[Run], out: Path) -> bool:
    """Hack, attempt, pass and KL at every evaluation."""
    wanted = [
        Panel("evals", "hack", "strict hack rate, %", 100, seeds=True),
        Panel("evals", "attempt", "attempt rate, %", 100, seeds=True),
        Panel("evals", "pass", "pass rate, % (no write access)", 100, seeds=True),
        Panel("evals", "kl", "KL to the initial policy", seeds=True),
    ]
    return panels(used, wanted, out, "trajectories")


def plot_cosine(used: list[Run], out: Path) -> bool:
    """cos, fired and cos_up over training; the evaluations' means where steps.tsv does not log them."""
    logged = any(np.isfinite(r.steps.get("cos", np.empty(0))).any() for r in used)
    table, smooth = ("steps", SMOOTH) if logged else ("evals", 1)
    wanted = [
        Panel(table, "cos", "mean cosine of the gradient with v", 1, smooth, ((ACTIVE_COS, "active above 0.2"),)),
        Panel(table, "fired", "fraction of modules with cosine > 0", 1, smooth, ((ACTIVE_FIRED, "active above 0.4"),)),
        Panel(table, "cos_up", "mean cosine of the applied update with v", 1, smooth, ((0, "hack-ward above 0"),)),
    ]
    return panels(used, wanted, out, "cosine")


def plot_flavours(flavours: dict[str, dict[int, dict]], out: Path) -> bool:
    """Attempts by flavour in the sampled evaluation completions, stacked, a panel per arm; strict hacks as dashes."""
    if not flavours:
        return False
    total = sum((at["attempt"] for steps in flavours.values() for at in steps.values()), Counter())
    names = [name for name, _ in sorted(total.items(), key=lambda kv: (-kv[1], kv[0]))][:8]
    arms = sorted(flavours, key=table_order)
    fig, axes = grid(len(arms), min(len(arms), 4 if len(arms) > 3 else 3), 2.1, 0.9, sharey=True)
    for ax, arm in zip(axes.flat, arms, strict=False):
        draw_flavours(ax, flavours[arm], names)
        ax.set_title(arm, loc="left")
    for ax in axes[:, 0]:
        ax.set_ylabel("% of sample")
    for ax in axes[-1]:
        ax.set_xlabel("training step")
    order = [*names, "rarer", "strict hacks"]
    legend_below(fig, axes, order.index, 5)
    save(fig, out, "flavours")
    return True


def draw_flavours(ax, by_step: dict[int, dict], names: list[str]) -> None:
    """Stacked bars at each evaluation, in percent of the sampled completions."""
    steps = sorted(by_step)
    at = [by_step[s] for s in steps]
    shares = {name: [100 * a["attempt"][name] / a["n"] for a in at] for name in names}
    shares["rarer"] = [100 * sum(k for f, k in a["attempt"].items() if f not in names) / a["n"] for a in at]
    width = 0.8 * min(np.diff(steps), default=1)
    bottom = np.zeros(len(steps))
    for (name, share), colour, hatch in zip(shares.items(), FLAVOUR_COLOURS, HATCHES, strict=False):
        if any(share):
            ax.bar(steps, share, width, bottom, color=colour, hatch=hatch, edgecolor="white", lw=0.3, label=name)
        bottom += share
    hacks = [100 * sum(a["hack"].values()) / a["n"] for a in at]
    ax.plot(steps, hacks, color="black", marker="_", ms=9, lw=0, mew=1.6, label="strict hacks")
    ax.set_xticks(steps[:: max(1, -(-len(steps) // 5))])


def plot_heldout(tables: dict[str, tuple[np.ndarray, np.ndarray]], out: Path) -> bool:
    """Histograms over modules of the held-out cosine, with the random-direction null behind."""
    if not tables:
        return False
    fig, axes = grid(len(tables), min(3, len(tables)), 2.4, 0.5)
    bins = np.linspace(-1, 1, 41)
    for ax, (name, (cos, null)) in zip(axes.flat, tables.items(), strict=False):
        if len(null):
            ax.hist(null, bins, color="0.8", label="random direction")
        ax.hist(cos, bins, histtype="stepfilled", facecolor="#0072B280", edgecolor="#0072B2", lw=1.3, label="v_hack")
        ax.axvline(float(np.median(cos)), color="#D55E00", lw=1.5, label="median of v_hack")
        ax.set(xlabel="held-out cosine", ylabel="modules", xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))
        ax.set_title(f"{name}: median {np.median(cos):.2f}", loc="left")
    legend_below(fig, axes, str, 3)
    save(fig, out, "heldout")
    return True
