"""Per-module cosines of a run: what modules.f32 holds, and its picture.

modules.f32 is a raw float32 array [steps, fields, M], modules.json names its axes (record/folder.py); a step without a
gradient is a row of NaN.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arms import table_order
from lib.errors import ReportError
from lib.files import read_json
from report.drawing import axes_grid, save
from report.runs import RunRecord

# Panels, and training steps that a column of a panel averages.
MOST_ARMS = 4
BLOCK = 5


def read_modules(run: RunRecord) -> tuple[list[str], np.ndarray] | None:
    """(module names, cos [steps, M]); None where the run kept none. Raises ReportError where the file is torn."""
    path, axes = run.path / "modules.f32", read_json(run.path / "modules.json")
    if not path.is_file() or "modules" not in axes or "cos" not in axes.get("fields", ()):
        return None
    names, fields = axes["modules"], axes["fields"]
    values = np.fromfile(path, dtype=np.float32)
    if values.size % (len(names) * len(fields)) and run.complete:
        raise ReportError(f"{path} is torn: {values.size} numbers for {len(names)} modules x {len(fields)} fields")
    steps = values.size // (len(names) * len(fields))
    if not steps:
        return None
    whole = values[: steps * len(names) * len(fields)].reshape(steps, len(fields), len(names))
    return names, whole[:, fields.index("cos")]


def by_kind(names: list[str]) -> tuple[list[int], list[tuple[str, int]]]:
    """(order of the modules kind by kind, layers in order; [(kind, how many)])."""
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    groups = {kind: [i for i, name in enumerate(names) if name.rpartition(".")[2] == kind] for kind in kinds}
    return [i for group in groups.values() for i in group], [(kind, len(group)) for kind, group in groups.items()]


def block_means(cos: np.ndarray) -> np.ndarray:
    """[steps, M] -> means over BLOCK steps [blocks, M], NaN passed over; NaN where a block has none."""
    blocks = -(-len(cos) // BLOCK)
    padded = np.full((blocks * BLOCK, cos.shape[1]), np.nan)
    padded[: len(cos)] = cos
    known = np.isfinite(padded).reshape(blocks, BLOCK, -1).sum(1)
    total = np.nansum(padded.reshape(blocks, BLOCK, -1), 1)
    return np.where(known > 0, total / np.maximum(known, 1), np.nan)


def plot_modules(used: list[RunRecord], out: Path) -> bool:
    """cos of every module over training as a map, a panel an arm (its first seed that kept them)."""
    kept: dict[str, tuple[RunRecord, list[str], np.ndarray]] = {}
    for run in used:
        if run.arm not in kept and (modules := read_modules(run)):
            kept[run.arm] = (run, *modules)
    arms = sorted(kept, key=table_order)[:MOST_ARMS]
    if not arms:
        return False
    maps = {arm: block_means(kept[arm][2]) for arm in arms}
    reach = max(0.05, float(np.nanpercentile(np.abs(np.concatenate([m.ravel() for m in maps.values()])), 99)))
    fig, axes = axes_grid(len(arms), min(2, len(arms)), 2.9, 0.4)
    for ax, arm in zip(axes.flat, arms, strict=False):
        run, names, cos = kept[arm]
        order, groups = by_kind(names)
        image = ax.imshow(
            maps[arm][:, order].T, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest",
            extent=(0, BLOCK * len(maps[arm]), len(order), 0),
        )  # fmt: skip
        edges = np.cumsum([0, *(size for _, size in groups)])
        ax.set_yticks((edges[:-1] + edges[1:]) / 2, [kind.removesuffix("_proj") for kind, _ in groups])
        ax.hlines(edges[1:-1], 0, BLOCK * len(maps[arm]), color="0.3", lw=0.5)
        ax.set(xlim=(0, len(cos)), xlabel="training step")
        ax.grid(False)
        ax.set_title(f"{run.arm}, seed {run.seed}", loc="left")
    fig.colorbar(image, ax=axes, label="cos of gradient and v", shrink=0.8)
    save(fig, out, "modules")
    return True
