"""record.tripwires"""

from __future__ import annotations

import math
from typing import NamedTuple

COMPILE_STEPS, KL_STEPS, EVALS = 10, 3, 2
"""Rows behind a verdict."""


COLLAPSE = 0.2
"""Share of step 0's pass or compile rate below which a run has collapsed."""
FLOOR = 0.05
"""Rates of step 0 below this are too small to measure a share of."""


class Trip(NamedTuple):
    """A rule that fired."""

    name: str
    step: int
    what: str
    """What happened, with figures."""


class Watch:
    """Judges the rows of a run. `seen`, its memory, is plain JSON and travels with the checkpoint."""

    def __init__(self, max_kl: float, seen: dict):
        self.max_kl, self.seen = max_kl, seen
        self.first: dict[str, float] = seen.setdefault("first", {})
        self.doubts: dict[str, bool] = seen.setdefault("doubts", {})

    @property
    def doubtful(self) -> bool:
        """Whether the last step or evaluation was beyond a threshold."""
        return any(self.doubts.values())

    def first_time(self, trip: Trip) -> bool:
        """Whether this name fires for the first time; a run that goes on is not told at every step."""
        told = self.seen.setdefault("told", [])
        new = trip.name not in told
        if new:
            told.append(trip.name)
        return new

    def step(self, row: dict, norms: dict[str, float]) -> Trip | None:
        """The rule that a row of steps.tsv breaks; `norms` is |grad delta_S| by module, empty in a flat step."""
        step = row["step"]
        if not math.isfinite(row.get("loss", 0.0)):
            return Trip("non-finite-loss", step, f"the loss is {row['loss']}")
        bad = [name for name, norm in norms.items() if not math.isfinite(norm)]
        if bad:
            return Trip("non-finite-gradient", step, f"|grad delta_S| of {bad[0]} is {norms[bad[0]]} "
                        f"({len(bad)} of {len(norms)} modules)")  # fmt: skip
        compiles = self._remember("compile", row["compile"], COMPILE_STEPS)
        kls = self._kls("step_kl", row.get("kl", math.nan), KL_STEPS)
        self.doubts["step"] = self._collapsed("compile", compiles[-1:]) or self._beyond(kls[-1:])
        mean = sum(compiles) / len(compiles)
        if len(compiles) == COMPILE_STEPS and self._collapsed("compile", [mean]):
            return Trip("compile-collapse", step, f"of the last {COMPILE_STEPS} steps' completions {mean:.1%} compile, "
                        f"{self.first['compile']:.1%} did at step 0")  # fmt: skip
        if len(kls) == KL_STEPS and self._beyond(kls):
            return Trip("kl-blow-up", step, f"the KL to the initial policy was {_listed(kls)} a token in the last "
                        f"{KL_STEPS} steps, above --max-kl {self.max_kl:g}")  # fmt: skip
        return None

    def evaluation(self, row: dict) -> Trip | None:
        """The rule that a row of evals.tsv breaks."""
        self.first.update({k: row[k] for k in ("pass", "compile") if k not in self.first})
        passes = self._remember("pass", row["pass"], EVALS)
        kls = self._kls("eval_kl", math.inf if math.isnan(row["kl"]) else row["kl"], EVALS)
        self.doubts["evaluation"] = self._collapsed("pass", passes[-1:]) or self._beyond(kls[-1:])
        if len(passes) == EVALS and self._collapsed("pass", passes):
            return Trip("pass-collapse", row["step"], f"pass was {_listed(passes)} in the last {EVALS} evaluations, "
                        f"{self.first['pass']:.3g} at step 0")  # fmt: skip
        if len(kls) == EVALS and self._beyond(kls):
            return Trip("kl-blow-up", row["step"], f"the KL to the initial policy was {_listed(kls)} a token in the "
                        f"last {EVALS} evaluations, above --max-kl {self.max_kl:g}")  # fmt: skip
        return None

    def _remember(self, key: str, value: float, n: int) -> list[float]:
        self.seen[key] = [*self.seen.get(key, []), value][-n:]
        return self.seen[key]

    def _kls(self, key: str, kl: float, n: int) -> list[float]:
        """The last n that were measured."""
        return self.seen.get(key, []) if math.isnan(kl) else self._remember(key, kl, n)

    def _collapsed(self, rate: str, values: list[float]) -> bool:
        first = self.first.get(rate, 0.0)
        return first >= FLOOR and all(v < COLLAPSE * first for v in values)

    def _beyond(self, kls: list[float]) -> bool:
        return bool(kls) and all(kl > self.max_kl for kl in kls)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in values)
