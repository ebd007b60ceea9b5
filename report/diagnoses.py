"""What diagnose_vhack.py found, as figures and tables: one branch point, or several together.

A row: {part, modules, direction, auroc, random_lo, random_hi, share, chance} of one direction in one group of modules.
Several points: mean over points with a t 95% interval, and at how many the AUROC lies above the band of random
directions; the band drawn is the mean of the points' bands.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from lib.files import atomic, write_json
from report.drawing import RC
from report.statistics import paired_t
from report.tables import markdown_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKS = "osD^vP"
COLOURS = ("#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00", "#009E73")


def plot_diagnosis(rows: list[dict], path: Path) -> None:
    """AUROC by part of one branch point, a mark a direction, the band of random directions grey."""
    parts, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("part", "direction"))
    with plt.rc_context(RC):
        fig, ax = plt.subplots(figsize=(8, 0.42 * len(parts) + 1.4), layout="constrained")
        for y, part in enumerate(parts):
            draw_band(ax, y, next(r for r in rows if r["part"] == part))
        for i, name in enumerate(names):
            found = [(r["auroc"], parts.index(r["part"])) for r in rows if r["direction"] == name]
            ax.plot(*zip(*found, strict=True), MARKS[i % 6], color=COLOURS[i % 6], ms=6, label=name, ls="")
        finish(ax, parts)
        ax.legend(frameon=False, loc="lower left", fontsize=8)
        fig.savefig(path)
        plt.close(fig)


def plot_diagnoses(together: list[dict], path: Path) -> None:
    """AUROC over all modules of several branch points: a dot a point, the mean with its interval, the mean band."""
    rows = [row for row in together if row["part"] == "all"]
    with plt.rc_context(RC):
        fig, ax = plt.subplots(figsize=(8, 0.55 * len(rows) + 1.2), layout="constrained")
        for y, row in enumerate(rows):
            colour = COLOURS[y % 6]
            draw_band(ax, y, row)
            spread = y + 0.12 * np.linspace(-1, 1, len(row["aurocs"]))
            ax.plot(row["aurocs"], spread, "o", color=colour, ms=3.5, alpha=0.6)
            ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=2)
            ax.plot(row["auroc"], y, "D", color=colour, ms=7)
        finish(ax, [row["direction"] for row in rows])
        fig.savefig(path)
        plt.close(fig)


def draw_band(ax: Axes, y: float, row: dict) -> None:
    """The 95% of random directions."""
    ax.barh(y, row["random_hi"] - row["random_lo"], left=row["random_lo"], height=0.7, color="0.85")


def finish(ax: Axes, labels: list[str]) -> None:
    ax.axvline(0.5, color="0.5", lw=0.8)
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("AUROC of the score for strict hacks (grey: 95% of random directions)")


def combined(points: list[list[dict]]) -> list[dict]:
    """A row a part and direction over several branch points; directions that a point lacks count where they are."""
    keys = dict.fromkeys((row["part"], row["direction"]) for rows in points for row in rows)
    out = []
    for part, direction in keys:
        found = [row for rows in points for row in rows if (row["part"], row["direction"]) == (part, direction)]
        aurocs = [row["auroc"] for row in found]
        shares = [row["share"] / row["chance"] for row in found]
        shares = [share for share in shares if math.isfinite(share)]
        interval = paired_t(aurocs)
        out.append(
            {
                "part": part,
                "direction": direction,
                "n": len(found),
                "auroc": interval.mean,
                "low": interval.lo,
                "high": interval.hi,
                "random_lo": statistics.mean(row["random_lo"] for row in found),
                "random_hi": statistics.mean(row["random_hi"] for row in found),
                "above": sum(row["auroc"] > row["random_hi"] for row in found),
                "share_of_chance": statistics.mean(shares) if shares else math.nan,
                "aurocs": aurocs,
            }
        )
    return out


def combined_md(together: list[dict], names: list[str], rule: str) -> str:
    """The table of several branch points, as Markdown."""
    header = ["part", "direction", "points", "AUROC", "95% interval", "random directions", "above", "share / chance"]
    body = []
    for row in together:
        interval = f"{row['low']:.3f} to {row['high']:.3f}" if math.isfinite(row["low"]) else "-"
        share = f"{row['share_of_chance']:.2g}" if math.isfinite(row["share_of_chance"]) else "-"
        band, above = f"{row['random_lo']:.3f} to {row['random_hi']:.3f}", f"{row['above']} of {row['n']}"
        cells = [row["part"], row["direction"], str(row["n"]), f"{row['auroc']:.3f}", interval, band, above, share]
        body.append(cells)
    return (
        f"AUROC of rollouts' scores for strict hacks at {rule}: mean over branch points, t interval, the 2.5 and 97.5% "
        "quantiles of random directions (mean of the points'), at how many points it lies above them, and the share of "
        "the step's squared policy gradient along the direction over that of a random one.\n\n"
        f"{markdown_table(header, body)}\n\nBranch points: {', '.join(names)}.\n"
    )


def write_diagnosis(out: Path, rows: list[dict], facts: dict) -> None:
    """diagnose.tsv, diagnose.png and, last, diagnose.json."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / "diagnose.tsv", "w") as f:
        f.write("\t".join(rows[0]) + "\n")
        for row in rows:
            f.write("\t".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()) + "\n")
    plot_diagnosis(rows, out / "diagnose.png")
    write_json(out / "diagnose.json", facts | {"rows": rows})
    print(f"# {facts['run']}: {facts['hacks']} strict hacks among {facts['rollouts']} rollouts at step {facts['step']}")
    for row in rows:
        if row["part"] == "all":
            band = f"random {row['random_lo']:.3f} to {row['random_hi']:.3f}"
            print(f"{row['direction']}\tAUROC {row['auroc']:.3f}\t{band}", flush=True)
