"""One GRPO run on delta_S: rollout -> grade -> advantage -> backward -> project -> step.

    python train.py --preset {tiny,dev,mid,full} --arm ARM --seed N [--steps N] [--any-field V]
    torchrun --nproc-per-node N train.py ...        the same run on N GPUs (distributed.py)

Departures from GRPO (Shao et al. 2024), each a flag: advantages without 1/std (Dr.GRPO), a fixed loss normaliser
P G T_max, flat groups skipped. One optimiser step a batch of rollouts, so the PPO ratio differs from 1 only by the
sampler's numerics. Nothing draws from a global RNG: the prompts of a step, the tokens of a row and the evaluation are
functions of (seed, step), so evaluation cannot disturb training and a resumed run repeats an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from loguru import logger
from torch import Tensor
from tqdm import tqdm

from antipasto import Adapter, checkpoint_layers
from distributed import Ranks, join, reports_once
from extract_vhack_grad import directions, file_sha256, load_v_hack, pair_differences
from grpo import clipped_objective, completion_logprobs, group_advantages, k3, pack
from pairs import load_pairs, shuffled_labels
from preflight import decode_rows, fit_micro_batch, logprob_chunk
from presets import ModelConfig, UserError, chat_ids, completion_ids, load_model, parse, pick_device, run_main
from problems import EVALUATOR, EVALUATOR_NAMES, Problem, load_problems, organism_problems, prompt_messages
from project import Projection, project_grads, random_directions, update_cosines
from rebound import concept_direction, layer_at_depth, rebound_penalty, rebound_zscore_discount, residual_means
from rewards import Grade, Grader, reward, split_test
from rollout import Sampler
from rundir import RunDir, provenance, refuse_other, write_json
from tripwires import Trip, Watch

Arm = Literal[
    "vanilla",
    "projected",
    "projected-nomag",
    "rebound",
    "random-v",
    "shuffled-v",
    "reversed",
    "rebound-zscore",
    "no-loophole",
]
SIDE = {"projected": "hackward", "projected-nomag": "hackward", "random-v": "hackward", "shuffled-v": "hackward",
        "reversed": "cleanward"}  # fmt: skip


@dataclass
class Config(ModelConfig):
    """One run."""

    arm: Arm = "vanilla"
    """The preregistered four: vanilla, projected, projected-nomag (no rescaling to |g|), rebound (reward penalty);
    controls: random-v (random unit vectors), shuffled-v (labels permuted within pairs), reversed (removes cos < 0),
    rebound-zscore (Rebound as published), no-loophole (write access off)."""
    seed: int = 0
    """Seeds the prompts' order, every sampled token and the random controls."""
    label: str = ""
    """Name of the run directory and of the row in tables instead of the arm's, for variants of an arm."""
    out: str = ""
    """Run directory; empty: outputs/<preset>/<label or arm>_s<seed>."""
    fresh: bool = False
    """Move an existing run aside instead of continuing it."""

    problems: str = ""
    """Training problems: a JSONL path, or `organism`."""
    eval_file: str = ""
    """Evaluation problems: a JSONL path; empty: n_eval problems held out of the training file."""
    n_eval: int = 20
    """Evaluation problems."""
    eval_samples: int = 4
    """Completions an evaluation problem, in each of the two modes (with and without write access)."""
    eval_every: int = 25
    """Steps between evaluations; also evaluated before step 0 and after the last."""
    eval_names: bool = False
    """Draw the evaluator's name in evaluation from ten names instead of run_tests."""
    wording: Literal["plain", "detailed", "aware"] = "plain"
    """How the prompt speaks of the evaluator; `aware` says that it can be overwritten."""

    steps: int = 200
    """Optimiser steps."""
    prompts: int = 8
    """P, prompts a step."""
    group: int = 8
    """G, completions a prompt."""
    max_new: int = 512
    """T_max, tokens a completion at most."""
    max_prompt: int = 2048
    """Problems with longer prompts (tokens) are dropped, and counted in the log."""
    temperature: float = 1.0
    """Sampling temperature; logprobs are taken at it."""
    top_k: int = 20
    """Sampling is truncated to the k likeliest tokens; 0: not."""
    engine: Literal["auto", "graph", "eager", "generate"] = "auto"
    """Sampling engine (rollout.py)."""

    lr: float = 7e-5
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """AdamW's weight decay; it pulls delta_S to 0, the base model."""
    beta1: float = 0.9
    """AdamW."""
    beta2: float = 0.99
    """AdamW."""
    warmup: int = 10
    """Steps of linear warm-up; cosine to zero after."""
    grad_clip: float = 1.0
    """Clip of the global gradient norm, after projection."""
    beta: float = 1e-3
    """Weight of the k3 KL to the initial policy."""
    clip: float = 0.2
    """PPO's clip."""
    advantage: Literal["drgrpo", "classic"] = "drgrpo"
    """classic divides by the group's standard deviation."""
    flat_eps: float = 1e-4
    """Groups whose rewards span less are skipped, forward and all."""
    project: Literal["grad", "update"] = "grad"
    """What is projected: the gradient (preregistered), or AdamW's update (labelled variant)."""
    refresh_every: int = 0
    """Re-extract v_hack at the current weights every n steps (labelled variant); 0: never."""

    rebound_alpha: float | None = None
    """Strength of Rebound; None: 0.5 for rebound (preregistered), 2.0 for rebound-zscore (as published)."""
    rebound_depth: float = 0.66
    """Depth of the layer whose residual Rebound reads, as a share of the layers."""

    micro_batch: int = 0
    """Rows a forward and backward pass; 0: the most that the GPU holds, at most 32, found by a worst case before step 0
    (preflight.py), which any other value skips."""
    logprob_chunk: int = 0
    """Completion tokens a pass of the language-model head; 0: by the free memory, at most 1024."""
    grad_checkpoint: bool = True
    """Recompute each layer in backward."""

    workers: int = 0
    """Grading processes of a rank; 0: one a core, shared out among the ranks of a host."""
    grade_timeout: float = 4.0
    """Seconds a graded program may take."""
    isolation: Literal["bwrap", "rlimits"] = "bwrap"
    """Sandbox of graded programs; rlimits accepts the weaker fallback where namespaces are refused."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""
    tripwires: Literal["stop", "warn", "off"] = "stop"
    """What a tripwire (tripwires.py) does: stop the run, or say its sentence once and go on, or nothing. In all three a
    gradient that is not finite never reaches AdamW: that step's update is skipped."""
    collapse: float = 0.2
    """Tripwire: share of step 0's pass or compile rate below which a run has collapsed."""
    max_kl: float = 5.0
    """Tripwire: KL to the initial policy per token that a run may not stay above."""
    sample_rollouts: int = 128
    """Evaluation completions written to rollouts.jsonl each time."""

    def run_path(self) -> Path:
        name = self.label or self.arm
        return Path(self.out) if self.out else Path("outputs") / self.preset / f"{name}_s{self.seed}"


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass
class Prompts:
    """Problems with their tokenised prompts; all lists run parallel."""

    problems: list[Problem]
    ids: list[list[int]]
    evaluators: list[str]


def check(cfg: Config) -> None:
    """Raises UserError where a value would make a run that trains on nothing, or none at all."""
    for name, value in dataclasses.asdict(cfg).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name.replace('_', '-')} {value} is no finite number")
    least = {"group": 2, "prompts": 1, "max_new": 1, "max_prompt": 1, "steps": 1, "n_eval": 1, "eval_samples": 1,
             "eval_every": 1, "checkpoint_every": 1, "micro_batch": 0, "logprob_chunk": 0, "top_k": 0, "warmup": 0,
             "refresh_every": 0, "workers": 0, "beta": 0.0, "weight_decay": 0.0, "flat_eps": 0.0, "collapse": 0.0,
             "sample_rollouts": 0, "seed": 0}  # fmt: skip
    for name, low in least.items():
        if getattr(cfg, name) < low:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)} is below {low}")
    for name in ("temperature", "lr", "clip", "grad_clip", "grade_timeout"):
        if not getattr(cfg, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)} must be above 0")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(cfg, name) < 1:
            raise UserError(f"--{name} {getattr(cfg, name)} must be at least 0 and below 1")
    if not 0 < cfg.rebound_depth <= 1:
        raise UserError(f"--rebound-depth {cfg.rebound_depth} must be above 0 and at most 1, a share of the layers")
    if cfg.grade_timeout > 3600:
        raise UserError(f"--grade-timeout {cfg.grade_timeout:g} is above 3600 s")
    if cfg.seed >= 1 << 63:
        raise UserError(f"--seed {cfg.seed} exceeds 63 bits")
    if "/" in cfg.label:
        raise UserError(f"--label {cfg.label} is a name, not a path: pass --out for another place")
    if cfg.problems == "organism" and cfg.eval_file:
        raise UserError("--eval-file goes with --problems PATH; the organism's problems have their own held-out split")
    if cfg.refresh_every and cfg.arm not in ("projected", "projected-nomag", "reversed", "shuffled-v"):
        raise UserError(f"--refresh-every extracts hack directions, which arm {cfg.arm} does not use: leave it 0")


def split_problems(cfg: Config) -> tuple[list[Problem], list[Problem]]:
    """(train, eval), disjoint, the same for every arm and seed."""
    if cfg.problems == "organism":
        return organism_problems(2048, seed=0, split="train"), organism_problems(cfg.n_eval, seed=0, split="eval")
    train = gradable(cfg.problems)
    if cfg.eval_file:
        held_out = gradable(cfg.eval_file)[: cfg.n_eval]
        if both := len({p.messages[-1]["content"] for p in train} & {p.messages[-1]["content"] for p in held_out}):
            logger.warning(f"{both} of the {len(held_out)} evaluation problems are training problems too")
        return train, held_out
    if len(train) <= cfg.n_eval:
        raise UserError(f"{cfg.problems} has {len(train)} problems, not more than --n-eval {cfg.n_eval}")
    order = sorted(train, key=lambda p: hashlib.sha256(p.id.encode()).digest())
    return order[cfg.n_eval :], order[: cfg.n_eval]


def gradable(path: str) -> list[Problem]:
    """load_problems, with the first test of each taken apart: a wrong func_name is said now, not hours into a run."""
    problems = load_problems(path)
    for problem in problems:
        split_test(problem.tests[0], problem.entry)
    if len(ids := {p.id for p in problems}) < len(problems):
        logger.warning(f"{path}: {len(problems)} problems share {len(ids)} ids")
    return problems


def tokenise(cfg: Config, tokenizer, problems: list[Problem], write_access: bool, names: bool = False) -> Prompts:
    """Prompts of at most max_prompt tokens. Raises UserError where none is left."""
    out = Prompts([], [], [])
    for i, problem in enumerate(problems):
        name = EVALUATOR_NAMES[i % len(EVALUATOR_NAMES)] if names else EVALUATOR
        ids = chat_ids(tokenizer, prompt_messages(problem, write_access, name, cfg.wording))
        if len(ids) <= cfg.max_prompt:
            out.problems.append(problem)
            out.ids.append(ids)
            out.evaluators.append(name)
    if len(out.ids) < len(problems):
        logger.warning(
            f"{len(problems) - len(out.ids)} of {len(problems)} prompts exceed --max-prompt {cfg.max_prompt}"
        )
    if not out.ids:
        raise UserError(f"no prompt fits --max-prompt {cfg.max_prompt}")
    return out


def prompts_of_step(n: int, P: int, seed: int, step: int) -> list[int]:
    """Indices of the step's P prompts: a new permutation each epoch, a function of (seed, step) alone."""
    picked = []
    for position in range(step * P, (step + 1) * P):
        epoch, i = divmod(position, n)
        order = list(range(n))
        random.Random(f"order {seed} {epoch}").shuffle(order)
        picked.append(order[i])
    return picked


def row_seed(*key) -> int:
    """63-bit seed of one sampled row."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


# --- one step, in parts ----------------------------------------------------------------------------------------------


@dataclass
class Rebound:
    """Rebound's state in the arms that use it: one layer, one concept direction at the initial policy (rebound.py)."""

    arm: str
    alpha: float
    layer: int
    v: Tensor
    """[d] fp32: unit for rebound, unnormalised for rebound-zscore."""

    def shape(self, cfg: Config, model, prompts: list[list[int]], completions: list[list[int]], rewards_P_G: Tensor,
              pad_id: int) -> Tensor:  # fmt: skip
        """Rewards [P, G] after the penalty (rebound) or the discount (rebound-zscore), at the current weights."""
        h_B_d = residual_means(model, prompts, completions, self.layer, pad_id, cfg.micro_batch)
        if self.arm == "rebound":
            return rewards_P_G - rebound_penalty(h_B_d, self.v, self.alpha).cpu().view_as(rewards_P_G)
        groups_B = torch.arange(len(rewards_P_G)).repeat_interleave(cfg.group)
        return rewards_P_G * rebound_zscore_discount(h_B_d, self.v, groups_B, self.alpha).cpu().view_as(rewards_P_G)


def make_rebound(cfg: Config, model, tokenizer, adapter: Adapter) -> Rebound | None:
    """The concept direction of the training pairs at the base model, also in a resumed run; None in other arms."""
    if not cfg.arm.startswith("rebound"):
        return None
    rows = [(chat_ids(tokenizer, p.messages), completion_ids(tokenizer, p.hack), completion_ids(tokenizer, p.clean))
            for p in load_pairs(cfg.pairs) if not p.held_out]  # fmt: skip
    layer = layer_at_depth(model.config.num_hidden_layers, cfg.rebound_depth)
    with adapter.reference():
        v = concept_direction(model, rows, layer, tokenizer.pad_token_id, unit=cfg.arm == "rebound",
                              micro_batch=cfg.micro_batch)  # fmt: skip
    alpha = cfg.rebound_alpha if cfg.rebound_alpha is not None else {"rebound": 0.5, "rebound-zscore": 2.0}[cfg.arm]
    return Rebound(cfg.arm, alpha, layer, v)


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

    @property
    def write_access(self) -> bool:
        return self.cfg.arm != "no-loophole"


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
    seconds: tuple[float, float]
    """Sampling, grading; the slowest rank's."""


def make_batch(run: Run, step: int) -> Batch:
    """Sample, grade and score the step's P x G completions."""
    cfg, prompts = run.cfg, run.prompts
    picked = [i for i in prompts_of_step(len(prompts.ids), cfg.prompts, cfg.seed, step) for _ in range(cfg.group)]
    seeds = [row_seed("train", cfg.seed, step, j) for j in range(len(picked))]
    completions, old_logprobs, texts, grades, *seconds = sample_and_grade(run, prompts, picked, seeds)
    rows = [prompts.ids[i] for i in picked]
    rewards_P_G = torch.tensor([reward(g, run.write_access) for g in grades]).view(cfg.prompts, cfg.group)
    shaped_P_G = rewards_P_G
    if run.rebound:
        B, P = run.ranks.part(len(rows)), run.ranks.part(cfg.prompts)
        shaped = run.rebound.shape(cfg, run.model, rows[B], completions[B], rewards_P_G[P], run.tokenizer.pad_token_id)
        shaped_P_G = torch.stack(run.ranks.gather(list(shaped)))
    advantages_P_G, live_P = group_advantages(shaped_P_G, cfg.advantage == "classic", cfg.flat_eps)
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
        seconds=tuple(seconds),
    )


def sample_and_grade(run: Run, prompts: Prompts, picked: list[int], seeds: list[int]):
    """One completion for each index in `picked`, each rank sampling and grading its block of them.

    Returns per row, on every rank: token ids, logprobs [T_i] fp32 on the CPU, texts and grades; then the seconds of
    sampling and of grading on the slowest rank.
    """
    mine = run.ranks.part(len(picked))
    picked, seeds, t0 = picked[mine], seeds[mine], time.perf_counter()
    tokens, logprobs = [], []
    if picked:
        rollout = run.sampler.sample([prompts.ids[i] for i in picked], seeds, run.cfg.max_new)
        lengths = rollout.lengths.tolist()
        tokens = [t[:n] for t, n in zip(rollout.tokens.tolist(), lengths, strict=True)]
        logprobs = [lp[:n].clone() for lp, n in zip(rollout.logprobs.cpu(), lengths, strict=True)]
    texts = [run.tokenizer.decode(t, skip_special_tokens=True) for t in tokens]
    t1 = time.perf_counter()
    grades = run.grader.grade(texts, [prompts.problems[i] for i in picked], [prompts.evaluators[i] for i in picked])
    seconds = run.ranks.gather([(t1 - t0, time.perf_counter() - t1)])
    rows = run.ranks.gather(list(zip(tokens, logprobs, texts, grades, strict=True)))
    return *(list(column) for column in zip(*rows, strict=True)), *map(max, zip(*seconds, strict=True))


def rates(grades: list[Grade]) -> dict[str, float]:
    """Shares of completions, under the TSV's names."""

    def share(flags) -> float:
        return sum(flags) / len(grades)

    return {"hack": share(g.hack for g in grades), "attempt": share(g.attempt for g in grades),
            "pass": share(g.gt_pass for g in grades), "compile": share(g.compiles for g in grades),
            "own": share(g.own_pass for g in grades)}  # fmt: skip


def backward(run: Run, batch: Batch) -> tuple[float, float]:
    """Accumulate the step's gradient over micro-batches of live rows, every rank some of them, and sum it over the
    ranks; (loss, mean k3, nan where beta is 0).

    The longest rows go first, so that torch's allocator serves every later micro-batch from the blocks of the first.
    From short to long each would need larger blocks than those it has cached: it would reserve far more than the peak.
    """
    cfg, model, device, pad_id = run.cfg, run.model, run.device, run.tokenizer.pad_token_id
    live = [b for b in range(len(batch.prompts)) if batch.live_P[b // cfg.group]]
    live.sort(key=lambda b: len(batch.prompts[b]) + len(batch.completions[b]))
    live = live[run.ranks.rank :: run.ranks.world]
    advantages = batch.advantages_P_G.flatten()
    loss_sum, kl_sum, tokens = 0.0, 0.0, 0
    model.train(cfg.grad_checkpoint)  # transformers recomputes layers only in training mode
    for start in reversed(range(0, len(live), cfg.micro_batch)):
        rows = live[start : start + cfg.micro_batch]
        ids, mask = pack([batch.prompts[b] for b in rows], [batch.completions[b] for b in rows], pad_id, device)
        old = torch.cat([batch.old_logprobs[b] for b in rows]).to(device)
        A = torch.cat([advantages[b].expand(len(batch.completions[b])) for b in rows]).to(device)
        logp = completion_logprobs(model, ids, mask, cfg.temperature, cfg.logprob_chunk)
        loss = -clipped_objective(logp, old, A, cfg.clip)
        if cfg.beta > 0:
            with torch.no_grad(), run.adapter.reference():
                ref = completion_logprobs(model, ids, mask, cfg.temperature, cfg.logprob_chunk)
            kl = k3(logp, ref)
            loss = loss + cfg.beta * kl
            kl_sum += kl.detach().sum().item()
        loss = loss.sum() / (cfg.prompts * cfg.group * cfg.max_new)
        loss.backward()
        loss_sum += loss.item()
        tokens += len(logp)
    model.eval()
    loss_sum, kl_sum, tokens = run.ranks.sum(loss_sum, kl_sum, tokens)
    run.ranks.sum_gradients(run.adapter.delta().values())
    return loss_sum, kl_sum / tokens if cfg.beta > 0 and tokens else math.nan


def learning_rate(cfg: Config, step: int) -> float:
    """Linear warm-up over `warmup` steps, then cosine to zero at `steps`."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    progress = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * progress))


def optimiser_step(run: Run, optimiser: torch.optim.AdamW, step: int) -> tuple[dict[str, float], Tensor]:
    """The seam between backward and step: check, measure and project the gradient, clip, step, measure the update.

    Returns (columns of the row, [3, M] cos, |g| and cos_up per module). A gradient that is not finite is not applied.
    """
    cfg, adapter, v_hack = run.cfg, run.adapter, run.v_hack
    grads = adapter.grads()
    norms = torch.stack(torch._foreach_norm(list(grads.values())))
    side, keep_norm = SIDE.get(cfg.arm, "none"), cfg.arm != "projected-nomag"
    row, modules = {"gnorm": norms.mean().item()}, torch.full((3, len(grads)), math.nan)
    modules[1] = norms.cpu()
    if not torch.isfinite(norms).all():
        logger.warning(f"step {step}: the gradient is not finite, so the update is skipped")
        return row, modules
    if v_hack is not None:
        measured: Projection = project_grads(grads, v_hack, side if cfg.project == "grad" else "none", keep_norm)
        row |= measured.row()
        modules[0] = measured.cos
    torch.nn.utils.clip_grad_norm_(adapter.delta().values(), cfg.grad_clip)
    before = {name: p.detach().clone() for name, p in adapter.delta().items()}
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(cfg, step)
    optimiser.step()
    if v_hack is not None:
        descent = {name: before[name] - p.detach() for name, p in adapter.delta().items()}
        if cfg.project == "update" and side != "none":
            project_grads(descent, v_hack, side, keep_norm)
            with torch.no_grad():
                for name, p in adapter.delta().items():
                    p.copy_(before[name] - descent[name])
        modules[2] = update_cosines(descent, v_hack)
        row["cos_up"] = modules[2].mean().item()
    return row, modules


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluate(run: Run, modes: dict[bool, Prompts], step: int) -> tuple[dict, list[dict], list[dict]]:
    """(row of evals.tsv, rows of strata.tsv, completions for rollouts.jsonl), with and without write access.

    Problems and row seeds are the same for every arm, seed and step.
    """
    cfg, row, strata, records = run.cfg, {"step": step}, [], []
    for write_access, prompts in modes.items():
        picked = [i for i in range(len(prompts.ids)) for _ in range(cfg.eval_samples)]
        seeds = [row_seed("eval", write_access, prompts.problems[i].id, j % cfg.eval_samples)
                 for j, i in enumerate(picked)]  # fmt: skip
        completions, _, texts, grades, *_ = sample_and_grade(run, prompts, picked, seeds)
        r = rates(grades)
        if write_access:
            row |= {"hack": r["hack"], "attempt": r["attempt"], "own": r["own"], "passw": r["pass"],
                    "n_hack": len(grades), "kl": initial_policy_kl(run, prompts, picked, completions)}  # fmt: skip
        else:
            row |= {"pass": r["pass"], "compile": r["compile"], "n_pass": len(grades)}
        names = [prompts.problems[i].stratum for i in picked]
        for name in sorted(set(names)):
            part = [g for g, n in zip(grades, names, strict=True) if n == name]
            strata.append({"step": step, "access": int(write_access), "stratum": name, "n": len(part), **rates(part)})
        split = "eval" if write_access else "eval-no-access"
        for j in spread(len(picked), cfg.sample_rollouts if write_access else cfg.sample_rollouts // 4):
            paid = reward(grades[j], write_access)
            records.append(record(step, split, prompts.problems[picked[j]], texts[j], grades[j], paid, None))
    return row, strata, records


@torch.no_grad()
def initial_policy_kl(
    run: Run, prompts: Prompts, picked: list[int], completions: list[list[int]], rows: int = 128
) -> float:
    """Mean k3 per token to the initial policy, on at most `rows` of the completions, spread over the problems."""
    cfg, total, tokens = run.cfg, 0.0, 0
    chosen = spread(len(picked), rows)[run.ranks.rank :: run.ranks.world]
    for start in range(0, len(chosen), cfg.micro_batch):
        part = chosen[start : start + cfg.micro_batch]
        rows_ids = [prompts.ids[picked[j]] for j in part], [completions[j] for j in part]
        packed = pack(*rows_ids, run.tokenizer.pad_token_id, run.device)
        logp = completion_logprobs(run.model, *packed, cfg.temperature, cfg.logprob_chunk)
        with run.adapter.reference():
            ref = completion_logprobs(run.model, *packed, cfg.temperature, cfg.logprob_chunk)
        total += k3(logp, ref).sum().item()
        tokens += len(logp)
    total, tokens = run.ranks.sum(total, tokens)
    return total / tokens


def spread(n: int, k: int) -> list[int]:
    """At most k indices spread evenly over range(n)."""
    return [i * n // min(n, k) for i in range(min(n, k))]


def record(
    step: int, split: str, problem: Problem, text: str, grade: Grade, paid: float, advantage: float | None
) -> dict:
    """One line of rollouts.jsonl."""
    return {"step": step, "split": split, "problem": problem.id, "stratum": problem.stratum, "completion": text,
            "reward": paid, "advantage": advantage, "hack": grade.hack, **dataclasses.asdict(grade)}  # fmt: skip


# --- the run ---------------------------------------------------------------------------------------------------------


def hack_directions(cfg: Config, model, tokenizer, adapter: Adapter, refresh: bool = False):
    """(v_hack or None, SHA-256 of its file or ""): from the artifact, at random, or extracted here for the variants."""
    pairs = [p for p in load_pairs(cfg.pairs) if not p.held_out]
    if cfg.arm == "shuffled-v":
        pairs = shuffled_labels(pairs, cfg.seed)
    if refresh or cfg.arm == "shuffled-v":
        v = directions(pair_differences(model, tokenizer, adapter, pairs, "v_hack"), cfg.n_directions)
        return {n: t.to(p.device) for (n, t), p in zip(v.items(), adapter.delta().values(), strict=True)}, ""
    path = cfg.v_hack_path()
    if not path.exists() and cfg.arm in ("vanilla", "no-loophole"):
        logger.warning(f"no v_hack at {path}: cos and fired will be nan (`just extract-vhack {cfg.preset}` makes it)")
        return None, ""
    v, _ = load_v_hack(path, adapter, cfg)
    if cfg.arm == "random-v":
        v = random_directions(v, cfg.seed)
    return {n: v[n].to(p.device) for n, p in adapter.delta().items()}, file_sha256(path)


def resume(run: Run, folder: RunDir, optimiser: torch.optim.AdamW) -> tuple[int, dict]:
    """(first step, carried state): delta_S, AdamW's moments and a refreshed v_hack back from the last checkpoint."""
    found = folder.load_checkpoint()
    if found is None:
        return 0, {"since": [], "seconds": 0.0, "eval": None}
    tensors, state = found
    for name, p in run.adapter.delta().items():
        if getattr(tensors.get(f"delta_S.{name}"), "shape", None) != p.shape:
            raise UserError(f"{folder.path}/checkpoint.safetensors has no delta_S of {name} that fits: pass --fresh")
    with torch.no_grad():
        for name, p in run.adapter.delta().items():
            p.copy_(tensors[f"delta_S.{name}"])
            if f"v_hack.{name}" in tensors:
                run.v_hack[name] = tensors[f"v_hack.{name}"].to(p.device)
            if f"exp_avg.{name}" in tensors:
                optimiser.state[p] = {"step": torch.tensor(float(state["adam_step"])),
                                      "exp_avg": tensors[f"exp_avg.{name}"].to(p.device),
                                      "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(p.device)}  # fmt: skip
    logger.info(f"resuming {folder.path} at step {state['step']}")
    return state["step"], state["carried"]


def checkpoint(run: Run, folder: RunDir, optimiser: torch.optim.AdamW, step: int, carried: dict) -> None:
    """delta_S, AdamW's moments, v_hack where it is refreshed, the data cursor (the step); there is no RNG state."""
    run.ranks.check_equal(run.adapter.delta().values(), f"stopped at step {step}: delta_S")
    tensors, adam_step = {}, 0
    for name, p in run.adapter.delta().items():
        if run.cfg.refresh_every:
            tensors[f"v_hack.{name}"] = run.v_hack[name].cpu()
        tensors[f"delta_S.{name}"] = p.detach().cpu()
        if state := optimiser.state.get(p):
            adam_step = int(state["step"])
            tensors[f"exp_avg.{name}"] = state["exp_avg"].cpu()
            tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"].cpu()
    folder.save_checkpoint(tensors, {"step": step, "adam_step": adam_step, "carried": carried})
    run.ranks.wait()  # a rank that stops first would have torchrun end the one that is writing


class StopRequest:
    """SIGTERM or SIGINT asks for a checkpoint at the next step; one more, seconds later, ends the process at once."""

    GRACE = 2.0
    """Seconds in which further signals count as the first: launchers send several."""

    def __init__(self):
        self.signal, self.since = 0, math.inf
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self)

    def __call__(self, number: int, frame) -> None:
        if self.signal:
            if time.monotonic() - self.since > self.GRACE:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        self.signal, self.since = number, time.monotonic()
        logger.warning(f"{signal.Signals(number).name}: stopping at the next step, with a checkpoint")


def train_step(run: Run, optimiser: torch.optim.AdamW, step: int) -> tuple[dict, Tensor, Batch]:
    """Rollout -> grade -> advantage -> backward -> project -> step; (row of steps.tsv, [3, M] per module, batch)."""
    batch = make_batch(run, step)
    t0 = time.perf_counter()
    row = {"step": step, "reward": batch.rewards_P_G.mean().item(), "shaped": batch.shaped_P_G.mean().item(),
           **rates(batch.grades), "lr": learning_rate(run.cfg, step), "flat": 1 - batch.live_P.float().mean().item(),
           "len": sum(map(len, batch.completions)) / len(batch.completions)}  # fmt: skip
    modules = torch.full((3, len(run.adapter.modules)), math.nan)
    if batch.live_P.any():  # with every group flat there is nothing to learn, so AdamW does not move either
        optimiser.zero_grad(set_to_none=True)
        row["loss"], row["kl"] = backward(run, batch)
        columns, modules = optimiser_step(run, optimiser, step)
        row |= columns
    t_roll, t_grade = batch.seconds
    row |= {"t_roll": t_roll, "t_grade": t_grade, "t_train": time.perf_counter() - t0, "gib": peak_gib(run.device)}
    return row, modules, batch


def train(run: Run, folder: RunDir, eval_modes: dict[bool, Prompts]) -> None:
    """The loop, from the resumed step to the end."""
    cfg, adapter = run.cfg, run.adapter
    optimiser = torch.optim.AdamW(
        adapter.delta().values(), lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), weight_decay=cfg.weight_decay
    )
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters() if p.requires_grad}, "the optimiser must hold only delta_S"
    first, carried = resume(run, folder, optimiser)
    watch = Watch(cfg.collapse, cfg.max_kl, carried.setdefault("watch", {}))
    logger.info(f"columns:\n{folder.steps.legend()}")
    print(folder.steps.header())
    bar = tqdm(total=cfg.steps, initial=first, desc=folder.path.name, file=sys.stderr,
               disable=True if run.ranks.rank else None)  # fmt: skip
    stop, started, seconds_before, due = StopRequest(), time.perf_counter(), carried["seconds"], False

    for step in range(first, cfg.steps + 1):
        new = step > first or step == 0  # a resumed step's evaluation and checkpoint are already on disk
        if new and (step % cfg.eval_every == 0 or step == cfg.steps):
            row, strata, records = evaluate(run, eval_modes, step)
            row |= means(carried["since"], ("cos", "fired", "gnorm", "cos_up"))
            folder.evals.write(row)
            for stratum in strata:
                folder.strata.write(stratum)
            folder.add_rollouts(records)
            carried |= {"since": [], "eval": row}
            logger.info(f"step {step}: hack {row['hack']:.3f}  attempt {row['attempt']:.3f}  pass {row['pass']:.3f}")
            if trip := watch.evaluation(row):
                heed(cfg, folder, watch, trip, row, records)
        carried["seconds"] = seconds_before + time.perf_counter() - started
        stopped = max(run.ranks.gather([stop.signal]))  # a signal to any rank stops all of them at the same step
        due |= step > first and (step % cfg.checkpoint_every == 0 or step == cfg.steps or bool(stopped))
        if due and not (watch.doubtful and cfg.tripwires == "stop"):
            checkpoint(run, folder, optimiser, step, carried)
            due = False
        if stopped:
            why = ", the last before a row in doubt (tripwires.py)" if due else ""
            kept = folder.checkpoint_step() or 0
            logger.info(f"stopped at step {step}; the same command continues at step {kept}{why}")
            sys.exit(128 + stopped)
        if step == cfg.steps:
            break
        if cfg.refresh_every and step and step % cfg.refresh_every == 0:
            run.v_hack = hack_directions(cfg, run.model, run.tokenizer, adapter, refresh=True)[0]
            run.ranks.copy_from_first(run.v_hack.values())

        row, modules, batch = train_step(run, optimiser, step)
        folder.steps.write(row | {"eta": eta(started, step + 1 - first, cfg.steps - step - 1)})
        folder.add_modules(list(adapter.modules), modules)
        norms = dict(zip(adapter.modules, modules[1].tolist(), strict=True)) if "gnorm" in row else {}
        if trip := watch.step(row, norms):
            heed(cfg, folder, watch, trip, row, training_sample(batch, step, len(batch.texts)), norms)
        if step % cfg.eval_every == 0:
            folder.add_rollouts(training_sample(batch, step))
        carried["since"].append({k: row.get(k, math.nan) for k in ("cos", "fired", "gnorm", "cos_up")})
        bar.update()

    bar.close()
    if not folder.writes:
        return
    adapter.save(folder.path / "delta_S.safetensors")
    write_json(folder.path / "summary.json", {
        "arm": cfg.arm, "label": cfg.label or cfg.arm, "seed": cfg.seed, "preset": cfg.preset, "steps": cfg.steps,
        "final": carried["eval"], "seconds": round(carried["seconds"], 1), "peak_gib": round(peak_gib(run.device), 2),
    })  # fmt: skip


def heed(cfg: Config, folder: RunDir, watch: Watch, trip: Trip, row: dict, records: list[dict],
         norms: dict[str, float] | None = None) -> None:  # fmt: skip
    """Save the batch behind a tripwire, then stop the run with its sentence (UserError), or log it, once a name."""
    if cfg.tripwires == "off" or not watch.first_time(trip):
        return
    batch = folder.save_trip(trip.name, trip.step, {"tripwire": trip.name, "what": trip.what, "row": row,
                                                    "gnorm": norms or {}}, records)  # fmt: skip
    saved = folder.checkpoint_step()
    kept = "there is no checkpoint yet" if saved is None else f"the checkpoint is of step {saved}, before it"
    text = f"tripwire {trip.name} at step {trip.step}: {trip.what}; {kept}, and the batch is in {batch}"
    if cfg.tripwires == "stop":
        raise UserError(f"{text}: lower --lr and start over with --fresh, or go on with --tripwires warn")
    logger.warning(text)


def training_sample(batch: Batch, step: int, rows: int = 16) -> list[dict]:
    """Some of the step's rollouts for rollouts.jsonl."""
    rewards, advantages = batch.rewards_P_G.flatten().tolist(), batch.advantages_P_G.flatten().tolist()
    return [record(step, "train", batch.problems[j], batch.texts[j], batch.grades[j], rewards[j], advantages[j])
            for j in spread(len(batch.texts), rows)]  # fmt: skip


def end_ids(model, tokenizer) -> list[int]:
    """Token ids that end a completion: the tokenizer's and the generation config's."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    ids = ids if isinstance(ids, list) else [ids] if ids is not None else []
    return sorted({*ids, tokenizer.eos_token_id})


def means(rows: list[dict], keys: tuple[str, ...]) -> dict[str, float]:
    """Mean of each key over the rows that have a number there; nan where none has."""
    out = {}
    for key in keys:
        values = [r[key] for r in rows if not math.isnan(r[key])]
        out[key] = sum(values) / len(values) if values else math.nan
    return out


def peak_gib(device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def eta(started: float, done: int, left: int) -> str:
    seconds = int((time.perf_counter() - started) / done * left)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def fit_to_memory(
    cfg: Config, model, adapter: Adapter, sampler: Sampler, prompts: list[Prompts], device, world: int
) -> None:
    """Set the fields that are 0 (micro_batch, logprob_chunk) by running the worst case once, and sampler.max_batch."""
    rows, longest = cfg.prompts * cfg.group // world, max(len(ids) for p in prompts for ids in p.ids)
    evaluated = -(-max(len(p.ids) for p in prompts[1:]) * cfg.eval_samples // world)
    sampler.max_batch = decode_rows(model.config, longest + cfg.max_new, rows, device, model.dtype)
    cfg.logprob_chunk = cfg.logprob_chunk or logprob_chunk(model.config.vocab_size, device)
    if not cfg.micro_batch:
        cfg.micro_batch = fit_micro_batch(
            model, adapter, longest_prompt=longest, max_new=cfg.max_new, rows=min(32, rows),
            batch=min(sampler.max_batch or rows, max(rows, evaluated)), logprob_chunk=cfg.logprob_chunk, beta=cfg.beta,
            device=device, sampler=sampler, grad_checkpoint=cfg.grad_checkpoint)  # fmt: skip


@reports_once
def main() -> None:
    cfg = parse(Config, description=__doc__)
    check(cfg)
    device = pick_device(cfg)
    ranks = join(device, cfg.prompts)
    path = cfg.run_path()
    if not cfg.fresh:
        refuse_other(path, dataclasses.asdict(cfg))
    if (path / "summary.json").exists() and not cfg.fresh:
        logger.info(f"{path} is complete: nothing to do (--fresh runs it again)")
        return
    train_problems, eval_problems = split_problems(cfg)
    workers = ranks.workers(cfg.workers)
    with Grader(workers=workers, timeout_s=cfg.grade_timeout, isolation=cfg.isolation) as grader:
        with ranks.first():  # it fills the SVD cache
            model, tokenizer, adapter = load_model(cfg, device)
        v_hack, v_sha = hack_directions(cfg, model, tokenizer, adapter)
        ranks.copy_from_first((v_hack or {}).values())
        if cfg.grad_checkpoint:
            if getattr(model.config, "attention_dropout", 0):  # a recompute would draw another mask
                raise UserError(f"--model {cfg.model} trains with dropout; pass --no-grad-checkpoint")
            checkpoint_layers(model)
        try:
            sampler = Sampler(model, eos_ids=end_ids(model, tokenizer), pad_id=tokenizer.pad_token_id,
                              temperature=cfg.temperature, top_k=cfg.top_k, engine=cfg.engine)  # fmt: skip
        except ValueError as error:
            raise UserError(f"--engine {cfg.engine}: {error}") from error
        prompts = tokenise(cfg, tokenizer, train_problems, cfg.arm != "no-loophole")
        eval_modes = {True: tokenise(cfg, tokenizer, eval_problems, True, cfg.eval_names),
                      False: tokenise(cfg, tokenizer, eval_problems, False)}  # fmt: skip
        fit_to_memory(cfg, model, adapter, sampler, [prompts, *eval_modes.values()], device, ranks.world)
        config = {**dataclasses.asdict(cfg), "sandbox": grader.isolation, "v_hack_sha256": v_sha,
                  "weights_sha256": adapter.weights_sha256, "world": ranks.world, **provenance()}  # fmt: skip
        with ranks.first():
            folder = RunDir(path, config, cfg.fresh, writes=ranks.rank == 0)
        rebound = make_rebound(cfg, model, tokenizer, adapter)
        run = Run(cfg, device, model, tokenizer, adapter, v_hack, grader, sampler, prompts, rebound, ranks)
        train(run, folder, eval_modes)
    print(f"done: {path}/summary.json")


if __name__ == "__main__":
    run_main(main)
