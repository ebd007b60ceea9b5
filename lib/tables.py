"""The one reader of tables: tab-separated text -> pandas.

    read_table(path)     steps.tsv, evals.tsv, heldout.tsv, ...
    read_blocks(path)    a bench table: several runs in one file, each under a comment line and a header of its own

Cells are text, the index is the line number in the file (1 for the first line). Blank lines, lines that begin with #
and repeated headers are passed over. pandas is loaded at the first read, so that `--help` does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

OnTorn = Callable[[int, str], None]


def read_table(path: Path, on_torn: OnTorn | None = None) -> pd.DataFrame:
    """Rows of a TSV; empty where the file is missing or has no line.

    A row with another number of cells than the header is torn, as is one that is still being written: it is left out,
    and `on_torn(line number, what is wrong)` is told, which may raise.
    """
    lines = numbered_lines(path) if path.is_file() else []
    return parse_table([(number, line) for number, line in lines if not line.startswith("#")], on_torn)


def read_blocks(path: Path) -> list[tuple[str, pd.DataFrame]]:
    """[(comment without its #, rows below it)] of a TSV that several runs wrote; "" where the first has no comment."""
    blocks: list[tuple[str, list[tuple[int, str]]]] = [("", [])]
    for number, line in numbered_lines(path):
        if line.startswith("#"):
            blocks.append((line.lstrip("# "), []))
        else:
            blocks[-1][1].append((number, line))
    return [(comment, parse_table(lines)) for comment, lines in blocks if lines]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """[(line number, line)] without blank lines. Only a newline ends one: str.splitlines would also cut at U+2028."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def parse_table(lines: Iterable[tuple[int, str]], on_torn: OnTorn | None = None) -> pd.DataFrame:
    """Numbered lines, the header first -> rows of text."""
    import pandas as pd

    split = [(number, [cell.strip() for cell in line.split("\t")]) for number, line in lines]
    header = split[0][1] if split else []
    rows = {}
    for number, cells in split[1:]:
        # Cells beyond the header that hold nothing come from a trailing tab.
        while len(cells) > len(header) and cells[-1] == "":
            cells.pop()
        if cells == header:
            continue
        if len(cells) == len(header):
            rows[number] = cells
        elif on_torn:
            on_torn(number, f"{len(cells)} cells under {len(header)} columns")
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=header, dtype=str)
