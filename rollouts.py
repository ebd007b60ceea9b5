"""Prompts -> graded completions: the batch of a step, the evaluation, the KL to the initial policy.

Nothing draws from a global RNG: the prompts of a step and every sampled token are functions of (seed, step, row), so an
evaluation cannot disturb training and a resumed run repeats an uninterrupted one. Notation: P G B T as in train.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from antipasto import Adapter
from arms import ARMS
from config import Config
from grading.stream import GradingStream
from grpo import Rebound, completion_logprobs, group_advantages, k3
from lib.distributed import Ranks
from lib.packing import Passes
from lib.spread import evenly
from problems import Problem
from problems.prompts import Prompts, prompts_of_step
from record.kept import rollout_record
from rewards import Grade, Grader, reward
from sampling.noise import row_seed
from sampling.sampler import Sampler


@dataclass
class Run:
    """What stays the same over a run's steps."""

    cfg: Config
    device: torch.device
    model: torch.nn.Module
    tokenizer: object
    adapter: Adapter
    v_hack: dict[str, Tensor] | None
    grader: Grader
    sampler: Sampler
    prompts: Prompts
    rebound: Rebound | None
    ranks: Ranks = dataclasses.field(default_factory=Ranks)
    share: bool = False
    """Whether the model was prepared for completions that share their prompt."""
    score: Callable[[Run, list, list], Tensor] | None = None
    """Of the gate: (run, prompts, completions) -> [B] scores of rollouts."""
    gate: float = math.inf
    """The score above which the gate does not praise a rollout."""
    weights: dict[str, Tensor] | None = None
    """Of arm trusted: {module: [r] in [0, 1]}."""

    @property
    def write_access(self) -> bool:
        """Whether the training prompts name the evaluator."""
        return ARMS[self.cfg.arm].write_access

    @property
    def passes(self) -> Passes:
        """How rows go through the model."""
        cfg = self.cfg
        return Passes(self.share, self.tokenizer.pad_token_id, self.device, cfg.micro_tokens, cfg.micro_batch)


@dataclass
class Batch:
    """P x G graded completions, rows in prompt order; B = P G. Every rank holds all of them."""

    problems: list[Problem]
    prompts: list[list[int]]
    completions: list[list[int]]
    old_logprobs: list[Tensor]
    """Per row [T_i] fp32 on the CPU, the sampler's."""
    texts: list[str]
    grades: list[Grade]
    rewards_P_G: Tensor
    """As graded; `shaped_P_G` is what the advantages are made of (the same but in the Rebound arms)."""
    shaped_P_G: Tensor
    advantages_P_G: Tensor
    live_P: Tensor
    """[P] bool: groups whose shaped rewards differ."""
    kept_P_G: Tensor
    """[P, G] bool: rows that a monitor has not screened out."""
    seconds: tuple[float, float]
    """Sampling, grading; the slowest rank's."""
    shown: list[dict] = dataclasses.field(default_factory=list)
    """Per row: prompt and evaluator as text (Prompts.shown)."""

    def row(self) -> dict[str, float]:
        """Columns of steps.tsv that are known before backward."""
        return {
            "reward": self.rewards_P_G.mean().item(),
            "rew_sd": self.rewards_P_G.std(correction=0).item(),
            "shaped": self.shaped_P_G.mean().item(),
            **rates(self.grades),
            "flat": 1 - self.live_P.float().mean().item(),
            "len": sum(map(len, self.completions)) / len(self.completions),
            "t_roll": self.seconds[0],
            "t_grade": self.seconds[1],
            "retried": sum(grade.retried for grade in self.grades),
        }

    def records(self, step: int) -> list[dict]:
        """The rollouts as rows of rollouts.jsonl."""
        rewards, advantages = self.rewards_P_G.flatten().tolist(), self.advantages_P_G.flatten().tolist()
        shown = self.shown or [{}] * len(self.texts)
        columns = zip(self.problems, self.texts, self.grades, rewards, advantages, shown, strict=True)
        return [rollout_record(step, "train", *row) | prompt for *row, prompt in columns]


def make_batch(run: Run, step: int) -> Batch:
    """Sample, grade and score the step's P x G completions."""
    # Sample and grade.
    cfg, prompts = run.cfg, run.prompts
    picked = [i for i in prompts_of_step(len(prompts.ids), cfg.prompts, cfg.seed, step) for _ in range(cfg.group)]
    stream = ("noise", cfg.noise) if cfg.noise else ()
    seeds = [row_seed("train", cfg.seed, step, j, *stream) for j in range(len(picked))]
    completions, old_logprobs, texts, grades, *seconds = sample_and_grade(run, prompts, picked, seeds)
    rows = [prompts.ids[i] for i in picked]

    # Rewards as graded, and as Rebound pays them.
    rewards_P_G = torch.tensor(group_rewards(grades, cfg.group, run.write_access)).view(cfg.prompts, cfg.group)
    shaped_P_G = rewards_P_G
    if run.rebound:
        B, P = run.ranks.part(len(rows)), run.ranks.part(cfg.prompts)
        shaped = run.rebound.pay(run.model, rows[B], completions[B], rewards_P_G[P])
        shaped_P_G = torch.stack(run.ranks.gather(list(shaped)))

    # Screening, of the ladder: what becomes of flagged rollouts.
    arm, kept_P_G = ARMS[cfg.arm], torch.ones_like(shaped_P_G, dtype=torch.bool)
    if arm.screen in ("leave-out", "no-pay"):
        flagged_P_G = monitor(run, step, grades).view_as(kept_P_G)
        unpaid = torch.tensor([reward(g, False) for g in grades]).view_as(shaped_P_G)
        if arm.screen == "no-pay":
            shaped_P_G = torch.where(flagged_P_G, torch.minimum(unpaid, shaped_P_G), shaped_P_G)
        else:
            kept_P_G = ~flagged_P_G

    # Advantages; the gate praises no rollout that scores hack-ward.
    advantages_P_G, live_P = group_advantages(
        shaped_P_G, cfg.advantage == "classic", kept_P_G=None if kept_P_G.all() else kept_P_G
    )
    if arm.screen == "gate" and live_P.any():
        praised_P_G = (run.score(run, rows, completions) <= run.gate).view_as(kept_P_G)
        advantages_P_G = torch.where(praised_P_G, advantages_P_G, advantages_P_G.clamp(max=0.0))
    return Batch(
        problems=[prompts.problems[i] for i in picked],
        prompts=rows,
        completions=completions,
        old_logprobs=old_logprobs,
        texts=texts,
        grades=grades,
        rewards_P_G=rewards_P_G,
        shaped_P_G=shaped_P_G,
        advantages_P_G=advantages_P_G,
        live_P=live_P,
        kept_P_G=kept_P_G,
        seconds=tuple(seconds),
        shown=[prompts.shown(i) for i in picked],
    )


def monitor(run: Run, step: int, grades: list[Grade]) -> Tensor:
    """[B] bool: strict hacks by the ground truth, each flag right with probability --monitor-accuracy."""
    flags = []
    for j, grade in enumerate(grades):
        chance = row_seed("monitor", run.cfg.seed, step, j) / 2**63
        flags.append(grade.hack if chance < run.cfg.monitor_accuracy else not grade.hack)
    return torch.tensor(flags)


def group_rewards(grades: list[Grade], group: int, write_access: bool) -> list[float]:
    """Rewards of groups of `group` completions each; one without a grade gets the mean of its group's others.

    So it has no advantage of its own: that the host had no time for it says nothing about the policy.
    """
    rewards = []
    for start in range(0, len(grades), group):
        members = grades[start : start + group]
        known = [reward(g, write_access) for g in members if not g.undecided]
        mean = sum(known) / len(known) if known else 0.0
        rewards += [mean if g.undecided else reward(g, write_access) for g in members]
    return rewards


def sample_and_grade(run: Run, prompts: Prompts, picked: list[int], seeds: list[int]):
    """One completion for each index in `picked`, each rank sampling and grading its block of them.

    Programs run while other rows are still decoded. Returns per row, on every rank: token ids, logprobs [T_i] fp32 on
    the CPU, texts and grades; then the seconds of sampling, and of waiting for the grades that were left, on the
    slowest rank.
    """
    mine = run.ranks.part(len(picked))
    picked, seeds, t0 = picked[mine], seeds[mine], time.perf_counter()
    stream = GradingStream(
        run.grader.start(),
        lambda ids: run.tokenizer.decode(ids, skip_special_tokens=True),
        [prompts.problems[i] for i in picked],
        [prompts.evaluators[i] for i in picked],
    )
    # Where sampling has the only core, programs would but interrupt it.
    beside = run.device.type == "cuda" or len(os.sched_getaffinity(0)) > 1
    tokens, logprobs = [], []
    if picked:
        told = stream.ended if beside else None
        rollout = run.sampler.sample([prompts.ids[i] for i in picked], seeds, run.cfg.max_new, told)
        lengths = rollout.lengths.tolist()
        tokens = [t[:n] for t, n in zip(rollout.tokens.tolist(), lengths, strict=True)]
        logprobs = [lp[:n].clone() for lp, n in zip(rollout.logprobs.cpu(), lengths, strict=True)]
    t1 = time.perf_counter()
    texts, grades = stream.finish(tokens)
    seconds = run.ranks.gather([(t1 - t0, time.perf_counter() - t1)])
    rows = run.ranks.gather(list(zip(tokens, logprobs, texts, grades, strict=True)))
    return *(list(column) for column in zip(*rows, strict=True)), *map(max, zip(*seconds, strict=True))


def rates(grades: list[Grade]) -> dict[str, float]:
    """Shares of the completions that have a grade, under the TSV's names."""
    grades = [g for g in grades if not g.undecided] or grades

    def share(flags) -> float:
        return sum(flags) / len(grades)

    return {
        "hack": share(g.hack for g in grades),
        "attempt": share(g.attempt for g in grades),
        "pass": share(g.gt_pass for g in grades),
        "compile": share(g.compiles for g in grades),
        "own": share(g.own_pass for g in grades),
    }


@dataclass
class HeldOut:
    """The evaluation problems' prompts in the two modes."""

    open: Prompts
    """With write access: the prompt names the evaluator; behind the hack rate."""
    closed: Prompts
    """Without: behind the pass rate."""


def evaluate(run: Run, held_out: HeldOut, step: int) -> tuple[dict, list[dict], list[dict]]:
    """(row of evals.tsv, rows of strata.tsv, completions for rollouts.jsonl), with and without write access.

    Problems are the same for every run; row seeds for every arm and step of a seed, so that the evaluation's sampling
    error is part of the spread between seeds and leaves differences between arms of a seed.
    """
    cfg, row = run.cfg, {"step": step}
    strata: list[dict] = []
    records: list[dict] = []
    samples = cfg.final_samples if cfg.final_samples and step == cfg.steps else cfg.eval_samples
    for write_access, prompts in ((True, held_out.open), (False, held_out.closed)):
        # Sample and grade every problem `samples` times.
        picked = [i for i in range(len(prompts.ids)) for _ in range(samples)]
        seeds = [
            row_seed("eval", cfg.seed, write_access, prompts.problems[i].id, j % samples) for j, i in enumerate(picked)
        ]
        completions, _, texts, grades, *_ = sample_and_grade(run, prompts, picked, seeds)

        # Hack rates are read with write access, pass and compile without.
        r = rates(grades)
        if write_access:
            row |= {name: r[name] for name in ("hack", "attempt", "own")}
            row |= {"passw": r["pass"], "n_hack": len(grades)}
            row["kl"] = initial_policy_kl(run, prompts, picked, completions)
        else:
            row |= {"pass": r["pass"], "compile": r["compile"], "n_pass": len(grades)}

        # The same by stratum, and a sample of the completions.
        names = [prompts.problems[i].stratum for i in picked]
        for name in sorted(set(names)):
            part = [g for g, n in zip(grades, names, strict=True) if n == name]
            strata.append({"step": step, "access": int(write_access), "stratum": name, "n": len(part), **rates(part)})
        split = "eval" if write_access else "eval-no-access"
        for j in evenly(range(len(picked)), cfg.sample_rollouts if write_access else cfg.sample_rollouts // 4):
            paid = reward(grades[j], write_access)
            graded = rollout_record(step, split, prompts.problems[picked[j]], texts[j], grades[j], paid, None)
            records.append(graded | prompts.shown(picked[j]))
    return row, strata, records


@torch.no_grad()
def initial_policy_kl(
    run: Run, prompts: Prompts, picked: list[int], completions: list[list[int]], rows: int = 128
) -> float:
    """Mean k3 per token to the initial policy, on at most `rows` of the completions, spread over the problems."""
    cfg, total, tokens = run.cfg, 0.0, 0
    chosen = evenly(range(len(picked)), rows)[run.ranks.rank :: run.ranks.world]
    ids, written = [prompts.ids[picked[j]] for j in chosen], [completions[j] for j in chosen]
    for part in run.passes.split(ids, written):
        packed = run.passes.pack([ids[i] for i in part], [written[i] for i in part])
        logp = completion_logprobs(run.model, packed, cfg.temperature, cfg.logprob_chunk)
        with run.adapter.reference():
            ref = completion_logprobs(run.model, packed, cfg.temperature, cfg.logprob_chunk)
        total += k3(logp, ref).sum().item()
        tokens += len(logp)
    total, tokens = run.ranks.sum(total, tokens)
    return total / tokens
