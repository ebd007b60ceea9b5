"""Figures of the appendix: trajectories, cosines, flavours, held-out histogram; each a PNG and an SVG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arms import ARMS, table_order
from report.activity import ACTIVE_COS, ACTIVE_FIRED, CHANCE_FIRED
from report.drawing import RC, axes_grid, legend_below, save, style_of
from report.heldout import HEALTHY_MEDIAN, HeldOutTable
from report.numbers import WINDOW
from report.runs import RunRecord
from report.samples import ranked_counts

FLAVOUR_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000", "#BBBBBB")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "", "ooo", "", "+++")

# Training steps of the rolling mean.
SMOOTH = WINDOW

# Percentage points that an axis of rates spans at least.
LEAST_PERCENT = 10


def series(runs: list[RunRecord], table: str, column: str, smooth: int = 1) -> pd.DataFrame:
    """Mean and SEM over seeds of a TSV column by step; a NaN is left out at its step, SEM is 0 where one seed is left.

    smooth: width of a centred rolling mean, odd, that passes over NaN and shrinks at the ends.
    """
    parts = []
    for run in runs:
        data = getattr(run, table)
        if column in data:
            y = data.set_index("step")[column]
            parts.append(y.rolling(smooth, center=True, min_periods=1).mean() if smooth > 1 else y)
    if not parts:
        return pd.DataFrame(columns=["mean", "sem"], dtype=float)
    by_step = pd.concat(parts).dropna().groupby(level=0)
    return pd.DataFrame({"mean": by_step.mean(), "sem": by_step.sem().fillna(0.0)})


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

    def has_data(self, used: list[RunRecord]) -> bool:
        """Whether any run has a number for it."""
        tables = [getattr(run, self.table) for run in used]
        return any(self.column in table and table[self.column].notna().any() for table in tables)


def draw_series(ax: Axes, used: list[RunRecord], panel: Panel) -> None:
    """One line per arm, the mean as far as all its runs go, with a ±SEM band or with its runs as thin lines."""
    scale = panel.scale
    for arm, (colour, marker, line) in style_of([run.arm for run in used]).items():
        runs = [run for run in used if run.arm == arm]
        arm_series = series(runs, panel.table, panel.column, panel.smooth)
        if not len(arm_series):
            continue
        for run in runs if panel.seeds else []:
            own = scale * series([run], panel.table, panel.column, panel.smooth)["mean"]
            ax.plot(own.index.to_numpy(), own.to_numpy(), color=colour, ls=line, lw=0.8, alpha=0.5)

        # A mean beyond the shortest run would be of other runs than before it.
        last = min(max(getattr(run, panel.table).get("step", ()), default=-1) for run in runs)
        whole = scale * arm_series[arm_series.index <= last]
        x, mean, sem = whole.index.to_numpy(), whole["mean"].to_numpy(), whole["sem"].to_numpy()
        every = 1 if len(x) <= 12 else max(1, len(x) // 8)
        bold = arm in ARMS and ARMS[arm].headline
        size, width, above = (5, 2.1, 3) if bold else (4, 1.3, 2)
        ax.plot(x, mean, color=colour, ls=line, marker=marker, ms=size, markevery=every, lw=width, zorder=above,
                label=arm)  # fmt: skip
        if not panel.seeds:
            ax.fill_between(x, mean - sem, mean + sem, color=colour, alpha=0.12, lw=0)
    ax.set_xlabel("training step")


def draw_panels(used: list[RunRecord], wanted: list[Panel], out: Path, name: str) -> bool:
    """Two columns of panels, those without data left out; the legend fills a free place, else the foot."""
    wanted = [panel for panel in wanted if panel.has_data(used)]
    if not wanted:
        return False
    fig, axes = axes_grid(len(wanted), min(2, len(wanted)), 2.7, 0.8)
    for ax, panel in zip(axes.flat, wanted, strict=False):
        draw_series(ax, used, panel)
        ax.set_title(panel.title, loc="left")
        for y, text in panel.marks:
            ax.axhline(y, color="0.35", lw=1, ls=(0, (1, 1.5)))
            place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            ground = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1}
            ax.annotate(text, (1, y), **place, fontsize=8, color="0.35", bbox=ground, zorder=5)
        if panel.scale == 100:
            from_zero(ax)
    legend_below(fig, axes, table_order, 4, free=axes.flat[-1] if len(wanted) < axes.size else None)
    save(fig, out, name)
    return True


def from_zero(ax: Axes) -> None:
    """A percent axis from 0 to LEAST_PERCENT or more, so that one completion of few fills no panel."""
    ax.set_ylim(0, max(LEAST_PERCENT, ax.get_ylim()[1]))


def plot_cosine(used: list[RunRecord], out: Path) -> bool:
    """cos, fired and cos_up over training; the evaluations' means where steps.tsv does not log them."""
    logged = Panel("steps", "cos", "").has_data(used)
    table, smooth = ("steps", SMOOTH) if logged else ("evals", 1)
    fired_marks = ((ACTIVE_FIRED, f"active above {ACTIVE_FIRED}"), (CHANCE_FIRED, f"chance {CHANCE_FIRED}"))
    wanted = [
        Panel(
            table, "cos", "mean cosine of the gradient with v", 1, smooth, ((ACTIVE_COS, f"active above {ACTIVE_COS}"),)
        ),
        Panel(table, "fired", "fraction of modules with cosine > 0", 1, smooth, fired_marks),
        Panel(table, "cos_up", "mean cosine of the applied update with v", 1, smooth, ((0, "hack-ward above 0"),)),
    ]
    return draw_panels(used, wanted, out, "cosine")


def plot_flavours(samples: dict[str, pd.DataFrame], out: Path) -> bool:
    """Attempts by flavour in the sampled evaluation completions, stacked, a panel per arm; strict hacks as dashes."""
    if not samples:
        return False
    every = pd.concat(samples.values())
    names = list(ranked_counts(every["flavour"][every["attempt"]]).index[:8])
    arms = sorted(samples, key=table_order)
    fig, axes = axes_grid(len(arms), min(len(arms), 4 if len(arms) > 3 else 3), 2.1, 0.9, sharey=True)
    for ax, arm in zip(axes.flat, arms, strict=False):
        draw_flavours(ax, samples[arm], names)
        ax.set_title(arm, loc="left")
    for ax in axes[:, 0]:
        ax.set_ylabel("% of sample")
    for ax in axes[-1]:
        ax.set_xlabel("training step")
    order = [*names, "rarer", "strict hacks"]
    legend_below(fig, axes, order.index, 5)
    save(fig, out, "flavours")
    return True


def draw_flavours(ax: Axes, samples: pd.DataFrame, names: list[str]) -> None:
    """Stacked bars at each evaluation, in percent of the sampled completions."""
    sizes = samples.groupby("step").size()
    steps = list(sizes.index)
    attempts = samples[samples["attempt"]]
    shown = attempts["flavour"].where(attempts["flavour"].isin(names), "rarer")
    counts = pd.crosstab(attempts["step"], shown).reindex(index=steps, columns=[*names, "rarer"], fill_value=0)
    shares = 100 * counts.div(sizes, axis=0)

    width = 0.8 * min(np.diff(steps), default=1)
    bottom = np.zeros(len(steps))
    for name, colour, hatch in zip(shares, FLAVOUR_COLOURS, HATCHES, strict=False):
        share = shares[name].to_numpy()
        if share.any():
            ax.bar(steps, share, width, bottom, color=colour, hatch=hatch, edgecolor="white", lw=0.3, label=name)
        bottom += share
    hacks = 100 * samples["hack"].groupby(samples["step"]).mean()
    ax.plot(steps, hacks.to_numpy(), color="black", marker="_", ms=9, lw=0, mew=1.6, label="strict hacks")
    ax.set_xticks(steps[:: max(1, -(-len(steps) // 5))])


def plot_heldout(tables: dict[str, HeldOutTable], out: Path) -> bool:
    """Histograms over modules of the held-out cosine, a panel a pair set."""
    if not tables:
        return False
    fig, axes = axes_grid(len(tables), min(3, len(tables)), 2.4, 0.5)
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=False):
        draw_heldout(ax, table)
        ax.set_title(f"{name}: median {table.median:.2f}", loc="left")
    legend_below(fig, axes, str, 4)
    save(fig, out, "heldout")
    return True


def draw_heldout(ax: Axes, table: HeldOutTable) -> None:
    """Held-out cosines of the modules, with those of random directions behind."""
    bins = np.linspace(-1, 1, 41)
    if len(table.null):
        ax.hist(table.null, bins, color="0.8", label="random direction")
    ax.hist(table.cos, bins, histtype="stepfilled", facecolor="#0072B280", edgecolor="#0072B2", lw=1.3, label="v_hack")
    ax.axvline(table.median, color="#D55E00", lw=1.5, label="median of v_hack")
    ax.axvline(HEALTHY_MEDIAN, color="0.35", lw=1, ls=(0, (1, 1.5)), label=f"healthy above {HEALTHY_MEDIAN}")
    ax.set(xlabel="held-out cosine", ylabel="modules", xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))


def save_heldout(table: HeldOutTable, path: Path) -> None:
    """The histogram of one v_hack as a PNG at `path`."""
    with rc_context(RC):
        fig = Figure(figsize=(6.4, 3.6), layout="constrained")
        ax = fig.subplots()
        draw_heldout(ax, table)
        ax.set_title(f"median {table.median:.2f}", loc="left")
        ax.legend(fontsize=9)
        fig.savefig(path, metadata={"Software": None})
