"""Rates and KL at every evaluation: few arms in four panels, many as small multiples, a row an arm."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arms import table_order
from report.drawing import WIDTH, save, style_of
from report.figures import Panel, draw_panels, from_zero, series
from report.runs import RunRecord

# Arms that four common panels can hold.
MOST_ARMS = 6

PANELS = (
    Panel("evals", "hack", "strict hack rate, %", 100, seeds=True),
    Panel("evals", "attempt", "attempt rate, %", 100, seeds=True),
    Panel("evals", "pass", "pass rate, % (no write access)", 100, seeds=True),
    Panel("evals", "kl", "KL to the initial policy", seeds=True),
)


def plot_trajectories(used: list[RunRecord], out: Path) -> bool:
    """Hack, attempt, pass and KL at every evaluation."""
    if len({run.arm for run in used}) <= MOST_ARMS:
        return draw_panels(used, list(PANELS), out, "trajectories")
    wanted = [panel for panel in PANELS if panel.has_data(used)]
    if not wanted:
        return False
    save(small_multiples(used, wanted), out, "trajectories")
    return True


def small_multiples(used: list[RunRecord], panels: list[Panel]) -> Figure:
    """A row an arm, a column a panel, the axes of a column alike; vanilla's mean in grey behind every other arm."""
    arms = sorted({run.arm for run in used}, key=table_order)
    styles = style_of(arms)
    fig = Figure(figsize=(WIDTH, 0.95 * len(arms) + 0.7), layout="constrained")
    axes = fig.subplots(len(arms), len(panels), sharex=True, sharey="col", squeeze=False)
    vanilla = [run for run in used if run.arm == "vanilla"]

    for row, arm in zip(axes, arms, strict=True):
        runs = [run for run in used if run.arm == arm]
        for ax, panel in zip(row, panels, strict=True):
            if arm != "vanilla":
                draw_mean(ax, vanilla, panel, "0.8", 2.6)
            for run in runs:
                draw_mean(ax, [run], panel, styles[arm][0], 0.7)
            draw_mean(ax, runs, panel, styles[arm][0], 1.8)
        row[0].set_title(arm, loc="left", fontsize=9, color=styles[arm][0], fontweight="bold", pad=2)

    # Columns say what they are once, at the top; steps stand once, at the foot.
    for column, panel in zip(axes.T, panels, strict=True):
        column[0].annotate(panel.title.removesuffix(" (no write access)"), (0, 1), (0, 18), "axes fraction",
                           textcoords="offset points", fontsize=10)  # fmt: skip
        column[-1].set_xlabel("training step", fontsize=9)
        if panel.scale == 100:
            from_zero(column[0])
    for ax in axes.flat:
        ax.tick_params(labelsize=8)
        ax.locator_params(axis="y", nbins=3)
    return fig


def draw_mean(ax: Axes, runs: list[RunRecord], panel: Panel, colour: str, width: float) -> None:
    """Mean over the runs as far as all of them go."""
    mean = panel.scale * series(runs, panel.table, panel.column)["mean"]
    if len(mean):
        last = min(max(run.evals.get("step", ()), default=-1) for run in runs)
        mean = mean[mean.index <= last]
        ax.plot(mean.index.to_numpy(), mean.to_numpy(), color=colour, lw=width, alpha=0.55 if width < 1 else 1)
