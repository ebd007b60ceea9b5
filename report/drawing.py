"""What all figures share: the look, the marks of arms, axes and legend at a README's width, files without dates.

Figures are made without pyplot, so that no display, no backend and no state of the process is needed.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from arms import ARMS, VARIANTS, table_order

# Marks of arms that arms.py does not know: six colours and markers in each of three line styles.
SPARE_MARKS = (
    ("#009E73", "d"),
    ("#CC79A7", "H"),
    ("#E69F00", "8"),
    ("#56B4E9", "^"),
    ("#D55E00", "D"),
    ("#0072B2", "p"),
)
SPARE = [(colour, marker, line) for line in ("-", "--", ":") for colour, marker in SPARE_MARKS]

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
    "figure.dpi": 150,
}

# Colours of a PNG's palette.
COLOURS = 128

# Inches: the width of a README's column.
WIDTH = 8


def style_of(arms: list[str]) -> dict[str, tuple[str, str, str]]:
    """{arm: (colour, marker, line style)}: fixed for the known arms, then the spare ones in table order."""
    known, spare = {**ARMS, **VARIANTS}, iter(SPARE * 10)
    return {arm: tuple(known[arm].mark) if arm in known else next(spare) for arm in sorted(arms, key=table_order)}


def save(fig: Figure, out: Path, name: str) -> None:
    """PNG, with a palette so that a committed one is small, and SVG; without dates."""
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", metadata={"Software": None})
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out / f"{name}.png", optimize=True)
    fig.set_layout_engine("none")
    fig.savefig(out / f"{name}.svg", metadata={"Date": None})


def axes_grid(count: int, columns: int, height: float, foot: float, **kwargs) -> tuple[Figure, np.ndarray]:
    """Figure of README width with `count` axes in `columns`; the rest of the last row is blank."""
    rows = -(-count // columns)
    fig = Figure(figsize=(WIDTH, height * rows + foot), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False, **kwargs)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return fig, axes


def legend_below(fig: Figure, axes: np.ndarray, key: Callable, columns: int, free: Axes | None = None) -> None:
    """One legend for all axes, labels sorted by `key`: inside the blank axes `free`, else under the figure."""
    handles = {text: h for ax in axes.flat for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = sorted(handles, key=key)
    shown = [handles[name] for name in order]
    if free is not None:
        free.legend(shown, order, fontsize=9, loc="center", ncols=1 + (len(order) > 6))
    else:
        fig.legend(shown, order, fontsize=9, loc="outside lower center", ncols=min(columns, len(order)))


def figure(drawn: set[str], name: str, captions: dict[str, str]) -> str:
    """A figure in Markdown with its caption, or a sentence where it could not be drawn."""
    if name not in drawn:
        return f"No figure: the runs have no data for {name}."
    return f"![{name}]({name}.png)\n\n*{captions[name]}*"


@contextmanager
def laid_out(out: Path) -> Iterator[Path]:
    """A folder whose files move into `out` when all of them are there, so that a full disk costs no older report."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as work, rc_context(RC):
            yield Path(work)
            for path in Path(work).iterdir():
                os.replace(path, out / path.name)
    finally:
        if not any(out.iterdir()):  # it came to nothing
            out.rmdir()
