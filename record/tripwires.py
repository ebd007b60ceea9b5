"""Tripwires: named stops for a run that has gone wrong, while a good checkpoint is left.

    non-finite-loss       the loss of a step is nan or infinite
    non-finite-gradient   |grad delta_S| of a module is; AdamW never sees such a gradient, whatever --tripwires says
    kl-blow-up            kl > --max-kl in 3 steps running, or in 2 evaluations running; with --beta 0, steps have none
    compile-collapse      mean compile of the last 10 steps < COLLAPSE x compile of the evaluation at step 0
    pass-collapse         pass < COLLAPSE x pass of the evaluation at step 0, in 2 evaluations running

kl is the mean k3 to the initial policy per token, whose single outliers are large: hence several running. A share of
step 0's rate is judged only where that rate is at least FLOOR, since a model that passes nothing cannot collapse.

While a row is beyond a threshold and the rule has not fired yet (`doubtful`), no checkpoint is written, so that the
one on disk stays good. The defaults are far from every run of docs/results/organism.
"""

from __future__ import annotations

import math
from typing import NamedTuple

# Rows behind a verdict.
COMPILE_STEPS, KL_STEPS, EVALS = 10, 3, 2
# Share of step 0's pass or compile rate below which a run has collapsed.
COLLAPSE = 0.2
# Rates of step 0 below this are too small to measure a share of.
FLOOR = 0.05


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
            what = f"|grad delta_S| of {bad[0]} is {norms[bad[0]]} ({len(bad)} of {len(norms)} modules)"
            return Trip("non-finite-gradient", step, what)

        compiles = self._remember("compile", row["compile"], COMPILE_STEPS)
        kls = self._kls("step_kl", row.get("kl", math.nan), KL_STEPS)
        self.doubts["step"] = self._collapsed("compile", compiles[-1:]) or self._beyond(kls[-1:])
        mean = sum(compiles) / len(compiles)
        if len(compiles) == COMPILE_STEPS and self._collapsed("compile", [mean]):
            what = (
                f"of the last {COMPILE_STEPS} steps' completions {mean:.1%} compile, "
                f"{self.first['compile']:.1%} did at step 0"
            )
            return Trip("compile-collapse", step, what)
        if len(kls) == KL_STEPS and self._beyond(kls):
            return Trip("kl-blow-up", step, self._kl_sentence(kls, f"{KL_STEPS} steps"))
        return None

    def evaluation(self, row: dict) -> Trip | None:
        """The rule that a row of evals.tsv breaks."""
        self.first.update({k: row[k] for k in ("pass", "compile") if k not in self.first})
        passes = self._remember("pass", row["pass"], EVALS)
        kls = self._kls("eval_kl", math.inf if math.isnan(row["kl"]) else row["kl"], EVALS)
        self.doubts["evaluation"] = self._collapsed("pass", passes[-1:]) or self._beyond(kls[-1:])
        if len(passes) == EVALS and self._collapsed("pass", passes):
            what = f"pass was {_listed(passes)} in the last {EVALS} evaluations, {self.first['pass']:.3g} at step 0"
            return Trip("pass-collapse", row["step"], what)
        if len(kls) == EVALS and self._beyond(kls):
            return Trip("kl-blow-up", row["step"], self._kl_sentence(kls, f"{EVALS} evaluations"))
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

    def _kl_sentence(self, kls: list[float], window: str) -> str:
        return (
            f"the KL to the initial policy was {_listed(kls)} a token in the last {window}, above --max-kl "
            f"{self.max_kl:g}"
        )

    def _beyond(self, kls: list[float]) -> bool:
        return bool(kls) and all(kl > self.max_kl for kl in kls)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{v:.3g}" for v in values)
