"""What of a rollout a run keeps in rollouts.jsonl, and which rollouts, within a budget of bytes.

    an evaluation   its sample, at most (budget / 2 - spent on evaluations) / evaluations left
    a step          (budget - spent - evaluations left x what the last one took) / steps left

Rows are taken evenly spread over a batch, whatever they say. What is spent travels with the checkpoint and is counted
by the completions alone (a grade's fields as FIELDS), so that a resumed run keeps what an uninterrupted one does.
"""

from __future__ import annotations

import dataclasses
import math

from lib.spread import evenly
from problems import Problem

# Bytes that the fields of a row take beside its completion.
FIELDS = 450


def rollout_record(
    step: int, split: str, problem: Problem, text: str, grade, paid: float, advantage: float | None
) -> dict:
    """One line of rollouts.jsonl; grade: a rewards.Grade, paid: its reward."""
    return {
        "step": step,
        "split": split,
        "problem": problem.id,
        "stratum": problem.stratum,
        "completion": text,
        "reward": paid,
        "advantage": advantage,
        "hack": grade.hack,
        **dataclasses.asdict(grade),
    }


def cost(record: dict) -> int:
    """Bytes of a row in rollouts.jsonl, about; a function of the completion's text alone."""
    return FIELDS + len(record["completion"].encode(errors="replace"))


def fitting(records: list[dict], allowance: float) -> list[dict]:
    """As many of the records as cost no more than `allowance`, evenly spread."""
    costs = [cost(record) for record in records]
    k, total = len(costs), sum(costs)
    if total > allowance:
        k = max(0, math.floor(allowance * k / total))
    while k and sum(evenly(costs, k)) > allowance:
        k -= 1
    return evenly(records, k)


class RolloutBudget:
    """What is left of a run's budget.

    total: bytes. steps: of the whole run. evaluations: still to come. memory: what was spent, empty at the start of a
    run, which the caller keeps with the checkpoint (book.Carried).
    """

    def __init__(self, total: float, steps: int, evaluations: int, memory: dict[str, int]):
        self.total, self.steps, self.evaluations, self.memory = total, steps, evaluations, memory
        for name in ("evaluations", "last", "steps"):
            memory.setdefault(name, 0)

    @property
    def spent(self) -> int:
        return self.memory["evaluations"] + self.memory["steps"]

    def of_evaluation(self, records: list[dict]) -> list[dict]:
        """What is kept of an evaluation's sample."""
        share = (self.total / 2 - self.memory["evaluations"]) / max(1, self.evaluations)
        kept = fitting(records, min(share, self.total - self.spent))
        self.memory["last"] = sum(map(cost, kept))
        self.memory["evaluations"] += self.memory["last"]
        self.evaluations -= 1
        return kept

    def of_step(self, step: int, records: list[dict]) -> list[dict]:
        """What is kept of a step's batch."""
        reserved = self.evaluations * self.memory["last"]
        kept = fitting(records, (self.total - self.spent - reserved) / max(1, self.steps - step))
        self.memory["steps"] += sum(map(cost, kept))
        return kept

    def prompts(self, size: int) -> None:
        """Count the bytes of prompts that were written."""
        self.memory["steps"] += size
