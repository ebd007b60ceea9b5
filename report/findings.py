"""Everything that a report says, before it is laid out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from report.evidence import ArmLine, attach_evidence, weigh_arms
from report.heldout import HeldOutTable, find_heldout, heldout_name, read_heldout
from report.numbers import Exclusions, select
from report.runs import RunRecord
from report.samples import arm_samples, hack_by_problem
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
    lines: list[ArmLine]
    """The same arms against vanilla (evidence.weigh_arms)."""
    verdicts: list[Verdict]
    samples: dict[str, pd.DataFrame]
    """{arm: sampled completions} (samples.arm_samples)."""
    heldout: dict[str, HeldOutTable]
    """{pair set: its held-out cosines}."""


def find(runs: list[RunRecord], include_incomplete: bool = False, heldout: tuple[Path, ...] = ()) -> Findings:
    """Decide and weigh. Raises ReportError where a held-out table cannot be read."""
    used, left_out = select(runs, include_incomplete)
    tables = {heldout_name(path): read_heldout(path) for path in find_heldout(heldout, runs)}
    samples = arm_samples(used)
    rows = arm_rows(used)
    by_problem = {row["arm"]: hack_by_problem(samples.get(row["arm"])) for row in rows}

    verdicts = decide(used, left_out)
    attach_evidence(verdicts, used, by_problem.get("vanilla"))
    return Findings(
        runs=runs,
        used=used,
        left_out=left_out,
        rows=rows,
        lines=weigh_arms(used, [row["arm"] for row in rows], by_problem),
        verdicts=verdicts,
        samples=samples,
        heldout=tables,
    )
