"""Directions: what each arm removes from its gradient, from pairs, at random, or from labelled rollouts.

Of one rollout, g_b [r] is the gradient of its mean NLL per module, read off one backward for a whole batch (per-row
sums, antipasto.Adapter.per_row). With hacks H and the rest R of some rollouts

    oracle         v = unit(mean_H g - mean_R g)                                k = 1
    oracle-k       V = top-k right singular vectors of g_h - mean_R g, h in H    k > 1, without a sign
    score          s_b = mean over modules of cos(g_b, v)                        label-free, where v is
    in training    the same of sign(A_b) times the row's share of the step's own gradient (see `scoring`)
    gate           advantages are capped at zero above the base model's 90% quantile of s_b without write access
    trusted        w = |d| / max |d|, d the change of delta_S over SFT_STEPS of SGD on the clean sides of the pairs

v of pairs is extract_vhack_grad.py's. Sources and departures: docs/method.md, the ladder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from loguru import logger
from torch import Tensor

from antipasto import Adapter
from arms import ARMS
from config import Config
from extract_vhack_grad import directions, load_v_hack, pair_differences
from grpo import completion_logprobs, mean_nll
from lib.errors import UserError
from lib.files import file_sha256
from lib.memory import MOST_ROWS
from lib.models import chat_ids, completion_ids
from lib.packing import Packed, pack
from pairs import load_pairs, shuffled_labels
from problems.prompts import Prompts, tokenise
from project import random_directions
from rollouts import Batch, Run, sample_and_grade
from sampling.noise import row_seed

GATE_QUANTILE = 0.9
GATE_ROLLOUTS = 128
SCORED_LAYERS = 6
SFT_STEPS = 8


def directions_for(cfg: Config, model, tokenizer, adapter: Adapter, refresh: bool = False):
    """(v_hack of the run's arm or None, SHA-256 of its file or ""), on the devices of delta_S.

    From the artifact, at random, or, for shuffled-v and a refresh, extracted here at the current delta_S. Arms that do
    not need an artifact may lack one: their cosines are nan then. {} for an oracle, which `begin` makes.
    """
    arm = ARMS[cfg.arm]
    if arm.v in ("oracle", "live"):
        return {}, ""
    pairs = [p for p in load_pairs(cfg.pairs) if not p.held_out]
    if arm.v == "shuffled":
        pairs = shuffled_labels(pairs, cfg.seed)
    if refresh or arm.v == "shuffled":
        # Permuted labels are those of the base model, whatever delta_S an earlier run of this process has left.
        with nullcontext() if refresh else adapter.at_zero():
            v = directions(pair_differences(model, tokenizer, adapter, pairs, "v_hack"), cfg.n_directions)
        return {n: t.to(p.device) for (n, t), p in zip(v.items(), adapter.delta().values(), strict=True)}, ""
    path = cfg.v_hack_path()
    try:
        v, _ = load_v_hack(path, adapter, cfg)
    except UserError as error:
        if arm.needs_v:
            raise
        logger.warning(f"cos and fired will be nan: {error}")
        return None, ""
    if arm.v == "random":
        v = random_directions(v, cfg.seed + 1_000_003 * cfg.draw)
    return {n: v[n].to(p.device) for n, p in adapter.delta().items()}, file_sha256(path)


def begin(run: Run, at_start: bool) -> None:
    """What an arm makes before its first step: an oracle's direction (where the run or branch starts: a resumed one has
    it in its checkpoint), the gate's threshold, the trusted weights. The last two are functions of the seed alone.
    """
    arm = ARMS[run.cfg.arm]
    if arm.v in ("oracle", "live") and at_start:
        run.v_hack |= oracle_at(run, arm.k)
    if arm.screen == "gate":
        run.gate = gate_threshold(run)
    if arm.weighs:
        run.weights = trusted_weights(run)


# --- rollouts as gradients -------------------------------------------------------------------------------------------


def rows_a_pass(cfg: Config, longest: int) -> int:
    """Rows of at most `longest` tokens in a padded forward: within micro_batch and, where it is set, micro_tokens."""
    size = cfg.micro_batch or (MOST_ROWS if cfg.micro_tokens else 8)
    return min(size, max(1, cfg.micro_tokens // longest)) if cfg.micro_tokens else size


def row_gradients(run: Run, prompts: list[list[int]], completions: list[list[int]]) -> dict[str, Tensor]:
    """{module: [B, r] fp32 on the CPU}: the gradient of each row's mean NLL per token, at the current delta_S.

    One forward and backward a micro-batch: rows do not see one another, so a row's share of the sum is its gradient.
    Each has its own prompt also where the model shares them: a shared token's gradient belongs to several rows and its
    sum does not say how much to which. Layers are recomputed where training recomputes them.
    """
    cfg, parts = run.cfg, []
    run.model.train(cfg.grad_checkpoint)
    size = rows_a_pass(cfg, max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True)))
    for start in range(0, len(prompts), size):
        rows, ends = prompts[start : start + size], completions[start : start + size]
        packed = pack(rows, ends, run.tokenizer.pad_token_id, run.device, share=False)
        B, L = packed.ids.shape
        row_of_token = torch.arange(B, device=run.device).repeat_interleave(L)
        with run.adapter.per_row(row_of_token, B) as sums:
            logp = completion_logprobs(run.model, packed, cfg.temperature, cfg.logprob_chunk or 1024)
            means = torch.stack([part.mean() for part in logp.split(packed.lengths)])
            torch.autograd.grad(-means.sum(), list(run.adapter.delta().values()))
        parts.append({name: t.cpu() for name, t in sums.items()})
    run.model.eval()
    return {name: torch.cat([part[name] for part in parts]) for name in run.adapter.modules}


def scores(gradients: dict[str, Tensor], v_hack: dict[str, Tensor]) -> Tensor:
    """[B] fp32: mean over modules of the cosine of each row's gradient with v (the first direction of a module)."""
    total = 0.0
    for name, g_B_r in gradients.items():
        v = v_hack[name].to(g_B_r.device)
        total = total + torch.nn.functional.cosine_similarity(g_B_r, (v if v.dim() == 1 else v[0])[None], dim=1)
    return total / len(gradients)


@contextmanager
def scoring(run: Run, packed: Packed, advantages: list[Tensor], out: list[float]) -> Iterator[None]:
    """Within the context the backward of a step's loss adds to `out` a score of each of its rows, as `in training`.

    No second backward: the row's loss is -A_b sum log p up to the KL term and clipped tokens, so that the sign of A_b
    turns its gradient into that of an NLL. Completion tokens alone count, since rows may share their prompt's, and for
    the cost some SCORED_LAYERS layers stand for all. nan where A_b is 0.
    """
    if not run.cfg.score_rollouts or not run.v_hack:
        out += [float("nan")] * len(advantages)
        yield
        return
    rows = torch.arange(len(advantages), device=run.device).repeat_interleave(
        torch.tensor(packed.lengths, device=run.device), output_size=len(packed.completion)
    )
    row_of_token = torch.full((packed.ids.numel(),), -1, device=run.device).index_put_((packed.completion,), rows)
    every = max(2, run.model.config.num_hidden_layers // SCORED_LAYERS)
    with run.adapter.per_row(row_of_token, len(advantages), every) as sums:
        yield
    signs = torch.stack(advantages).sign().to(run.device)
    out += (scores(sums, run.v_hack) * signs / signs.abs()).tolist()


def auroc(scores_B: Tensor, hack_B: Tensor) -> float:
    """Area under the ROC curve, ties counted half (Mann-Whitney U over n m); nan where one class is empty."""
    a, b = scores_B[hack_B].double(), scores_B[~hack_B].double()
    above = (a[:, None] > b[None]).double() + 0.5 * (a[:, None] == b[None]).double()
    return above.mean().item()


def labelled_direction(gradients: dict[str, Tensor], hack_B: Tensor, k: int = 1) -> dict[str, Tensor]:
    """{module: [r], or [k, r] orthonormal}: see `oracle` and `oracle-k` above. hack_B [B] bool, both classes there."""
    out = {}
    for name, g_B_r in gradients.items():
        differences = g_B_r[hack_B] - g_B_r[~hack_B].mean(0)
        if k == 1:
            mean = differences.mean(0)
            out[name] = mean / mean.norm().clamp_min(1e-30)
        else:
            unit = differences / differences.norm(dim=1, keepdim=True).clamp_min(1e-30)
            out[name] = torch.linalg.svd(unit, full_matrices=False).Vh[:k].contiguous()
    return out


def sampled(run: Run, prompts: Prompts, n: int, key: str, per_prompt: int = 4):
    """(prompts, completions, grades) of n rollouts at the current delta_S, by noise of their own."""
    picked = [i // per_prompt % len(prompts.ids) for i in range(n)]
    seeds = [row_seed(key, run.cfg.seed, run.cfg.branch_from != "", j) for j in range(n)]
    completions, _, _, grades, *_ = sample_and_grade(run, prompts, picked, seeds)
    return [prompts.ids[i] for i in picked], completions, grades


def oracle_at(run: Run, k: int) -> dict[str, Tensor]:
    """The labelled direction of oracle_rollouts rollouts at the current delta_S, of prompts in an order of their own.

    Raises UserError where they hold no hack, or nothing else.
    """
    prompts, completions, grades = sampled(run, run.prompts, run.cfg.oracle_rollouts, "oracle")
    hack_B = torch.tensor([g.hack for g in grades])
    if not 0 < hack_B.sum() < len(hack_B):
        raise UserError(
            f"{int(hack_B.sum())} of {len(hack_B)} labelled rollouts are strict hacks, so an oracle has no direction: "
            "branch from a later point, or raise --oracle-rollouts"
        )
    logger.info(f"oracle: {int(hack_B.sum())} strict hacks among {len(hack_B)} labelled rollouts")
    v = labelled_direction(row_gradients(run, prompts, completions), hack_B, k)
    return {name: t.to(run.device) for name, t in v.items()}


def live_direction(run: Run, batch: Batch) -> dict[str, Tensor]:
    """The labelled direction of this step's rollouts; the one in force where they are all of one class."""
    hack_B = torch.tensor([g.hack for g in batch.grades])
    if not 0 < hack_B.sum() < len(hack_B):
        return run.v_hack
    v = labelled_direction(row_gradients(run, batch.prompts, batch.completions), hack_B)
    return {name: t.to(run.device) for name, t in v.items()}


def gate_threshold(run: Run) -> float:
    """GATE_QUANTILE of the scores of the base model's rollouts on prompts without write access; no grade is read."""
    prompts = tokenise(
        run.tokenizer,
        run.prompts.problems,
        write_access=False,
        wording=run.cfg.wording,
        max_prompt=run.cfg.max_prompt,
    )
    with run.adapter.at_zero():
        rows, completions, _ = sampled(run, prompts, GATE_ROLLOUTS, "gate", per_prompt=1)
        s_B = scores(row_gradients(run, rows, completions), run.v_hack)
    threshold = s_B.quantile(GATE_QUANTILE).item()
    logger.info(f"gate: advantages of rollouts that score above {threshold:.4f} are capped at zero")
    return threshold


def trusted_weights(run: Run) -> dict[str, Tensor]:
    """{module: [r] in [0, 1]}: how far each singular value moves in SFT_STEPS of SGD on the pairs' clean sides."""
    delta = run.adapter.delta()
    rows = [
        (chat_ids(run.tokenizer, p.messages), completion_ids(run.tokenizer, p.clean))
        for p in load_pairs(run.cfg.pairs)
        if not p.held_out
    ]
    with run.adapter.at_zero():
        for _ in range(SFT_STEPS):
            total = [torch.zeros_like(p) for p in delta.values()]
            for prompt, clean in rows:
                nll = mean_nll(run.model, prompt, clean, run.tokenizer.pad_token_id, run.device)
                for sum_, g in zip(total, torch.autograd.grad(nll, list(delta.values())), strict=True):
                    sum_ += g / len(rows)
            with torch.no_grad():
                for p, g in zip(delta.values(), total, strict=True):
                    p.sub_(run.cfg.lr * g / g.norm().clamp_min(1e-30))
        return {name: (p.detach().abs() / p.detach().abs().max()).clone() for name, p in delta.items()}
