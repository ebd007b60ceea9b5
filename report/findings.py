"""Everything that a report says, before it is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from report.evidence import arm_samples, find_heldout, heldout_name, read_heldout
from report.numbers import Exclusions, select
from report.runs import RunRecord
from report.tables import arm_rows
from report.verdicts import Verdict, decide


@dataclass
class Findings:
    """Runs as they were read, and what follows from those that count."""

    runs: list[RunRecord]
    used: list[RunRecord]
    left_out: Exclusions
    rows: list[dict]
    """One an arm (tables.arm_rows)."""
    verdicts: list[Verdict]
    samples: dict[str, pd.DataFrame]
    """{arm: sampled completions} (evidence.arm_samples)."""
    heldout: dict[str, tuple[np.ndarray, np.ndarray]]
    """{pair set: (cos, null)} (evidence.read_heldout)."""


def find(runs: list[RunRecord], include_incomplete: bool = False, heldout: tuple[Path, ...] = ()) -> Findings:
    """Decide. Raises ReportError where a held-out table cannot be read."""
    used, left_out = select(runs, include_incomplete)
    tables = {heldout_name(path): read_heldout(path) for path in find_heldout(heldout, runs)}
    return Findings(
        runs=runs,
        used=used,
        left_out=left_out,
        rows=arm_rows(used),
        verdicts=decide(used, left_out),
        samples=arm_samples(used),
        heldout=tables,
    )
