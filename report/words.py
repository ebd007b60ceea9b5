"""Figures in words: a mean with its standard error, an interval, a drop, a count of seeds."""

from __future__ import annotations

import math

from report.numbers import Stat


def mean_sem(s: Stat, digits: int = 1) -> str:
    """`mean ± SEM`; the mean alone where one seed gives no SEM, - where there is no number."""
    if not math.isfinite(s.mean):
        return "-"
    mean = f"{s.mean + 0.0:.{digits}f}"
    return mean if math.isnan(s.sem) else f"{mean} ± {s.sem:.{digits}f}"


def drop_in_words(drop: Stat) -> str:
    """A drop in percentage points: `3.0 ± 1.0 pp lower`, or higher where it is negative."""
    higher = round(drop.mean, 1) < 0
    shown = Stat(-drop.mean, drop.sem, -drop.hi, -drop.lo, drop.n) if higher else drop
    return f"{mean_sem(shown)} pp {'higher' if higher else 'lower'}"


def interval_text(s: Stat) -> str:
    """The interval in brackets."""
    if math.isnan(s.lo):
        return "(no interval from one seed)" if s.n < 2 else "(no interval: the seeds are all alike)"
    return f"(t 95% {s.lo:.1f} to {s.hi:.1f})"


def interval_cell(s: Stat) -> str:
    """The interval as a cell of a table."""
    return "-" if math.isnan(s.lo) else f"{s.lo:.1f} to {s.hi:.1f}"


def seed_word(n: int) -> str:
    """`seed` or `seeds`."""
    return "seed" if n == 1 else "seeds"


def paired_seeds(n: int) -> str:
    """`n = 3 paired seeds`."""
    return f"n = {n} paired {seed_word(n)}"


def p_text(p: float) -> str:
    """`0.048`, `<0.001`, or - where there is none."""
    if math.isnan(p):
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_equals(p: float) -> str:
    """`p = 0.048`, or `p < 0.001`."""
    return f"p < {p_text(p)[1:]}" if p < 0.001 else f"p = {p_text(p)}"
