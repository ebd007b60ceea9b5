"""What the report's intervals cover: by simulation on normal data, and where runs take off or do not.

    python bench/coverage.py [--out bench/coverage.tsv]

Normal: n paired differences of standard deviation 20 pp; for the clustered rate, n problems of 8 completions each.
Bimodal: a run ends at 92 +- 3% with the probability of take-off, else at about 1%; n paired differences of vanilla and
an arm. Clopper-Pearson: k of n runs that took off, the least over probabilities of 0.02 to 0.98.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import stats

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from report.statistics import ALPHA, LEVEL, clopper_pearson, clustered_rate, paired_t, tost

STUDIES = 1_000
SIZES = (3, 5, 10)

# (take-off of vanilla, of the arm): as on the organism, a large effect, as on dev, half an effect, none.
TAKE_OFFS = ((0.85, 0.15), (0.75, 0.0), (0.85, 0.5), (0.85, 0.85))


def normal(row: str, n: int) -> tuple[float, float]:
    """(coverage, nominal) of an interval of the report on normal data."""
    rng = np.random.default_rng(0)
    truth = 5.0
    inside = 0
    for _ in range(STUDIES):
        differences = rng.normal(truth, 20, n)
        if row == "t 95%":
            interval = paired_t(differences)
        elif row == "TOST 90%":
            interval = tost(differences, 15)
        else:
            rates = differences[:, None] + rng.normal(0, 20, (n, 8))
            interval = clustered_rate(rates.ravel(), np.repeat(np.arange(n), 8))
        inside += interval.lo <= truth <= interval.hi
    return inside / STUDIES, 1 - 2 * ALPHA if row == "TOST 90%" else LEVEL


def bimodal(n: int, vanilla: float, arm: float) -> float:
    """Coverage of the t interval where runs take off with these probabilities; no interval covers nothing."""
    rng = np.random.default_rng(0)
    truth = 91 * (vanilla - arm)
    inside = 0
    for _ in range(STUDIES):
        rates = [
            np.where(rng.random(n) < p, rng.normal(92, 3, n), np.abs(rng.normal(1, 1, n)).clip(0, 2))
            for p in (vanilla, arm)
        ]
        t = paired_t(rates[0] - rates[1])
        inside += t.lo <= truth <= t.hi
    return inside / STUDIES


def take_offs(n: int) -> dict[float, float]:
    """{probability: exact coverage of Clopper-Pearson}."""
    intervals = [clopper_pearson(k, n) for k in range(n + 1)]
    out = {}
    for p in np.linspace(0.02, 0.98, 49):
        inside = [lo <= p <= hi for lo, hi in intervals]
        out[float(p)] = float(stats.binom.pmf(np.arange(n + 1), n, p) @ inside)
    return out


def main() -> None:
    out = Path(sys.argv[2]) if sys.argv[1:2] == ["--out"] else Path(__file__).with_suffix(".tsv")
    lines = ["interval\tdata\tnominal\t" + "\t".join(f"n{n}" for n in SIZES)]
    for row in ("t 95%", "TOST 90%", "clustered 95%"):
        covered = [normal(row, n) for n in SIZES]
        lines.append(f"{row}\tnormal\t{covered[0][1]:.2f}\t" + "\t".join(f"{c:.3f}" for c, _ in covered))
    least = "\t".join(f"{min(take_offs(n).values()):.3f}" for n in SIZES)
    lines.append(f"Clopper-Pearson 95%\tbinomial, least\t{LEVEL:.2f}\t{least}")
    for vanilla, arm in TAKE_OFFS:
        covered = "\t".join(f"{bimodal(n, vanilla, arm):.3f}" for n in SIZES)
        lines.append(f"t 95%\ttake-off {vanilla} against {arm}\t{LEVEL:.2f}\t{covered}")
    out.write_text("\n".join(lines) + "\n")
    print(out.read_text(), end="")


if __name__ == "__main__":
    main()
