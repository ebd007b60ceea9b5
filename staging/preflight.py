"""How a run's sizes are fitted to the memory that there is, before step 0 (lib/memory.py tries the worst case)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lib.memory import MOST_ROWS, MOST_TOKENS, decode_rows, fit_micro_batch, logprob_chunk
from rollouts import HeldOut, Run


def fit_to_memory(run: Run, held_out: HeldOut, backward_rows: Callable[..., object]) -> None:
    """Set the sizes that are 0 (micro_tokens or micro_batch, logprob_chunk) and sampler.max_batch, by a worst case.

    backward_rows: train.py's, the forward and backward of a micro-batch, which is tried with its rows scored, as a step
    scores them.
    """
    cfg, sampler, model, device = run.cfg, run.sampler, run.model, run.device
    rows = cfg.prompts * cfg.group // run.ranks.world
    samples = max(cfg.eval_samples, cfg.final_samples)
    evaluated = -(-max(len(held_out.open.ids), len(held_out.closed.ids)) * samples // run.ranks.world)
    longest = max(len(ids) for prompts in (run.prompts, held_out.open, held_out.closed) for ids in prompts.ids)
    sampler.max_batch = decode_rows(model.config, longest + cfg.max_new, rows, device, model.dtype, cfg.memory_share)
    cfg.logprob_chunk = cfg.logprob_chunk or logprob_chunk(model.config.vocab_size, device, cfg.memory_share)
    if cfg.micro_batch or (run.share and cfg.micro_tokens):
        return
    sampled = min(sampler.max_batch or rows, max(rows, evaluated))
    distinct = max(cfg.prompts // run.ranks.world, -(-sampled // cfg.eval_samples))
    least, most = (longest + cfg.max_new, longest + rows * cfg.max_new) if run.share else (1, rows)

    def attempt(size: int) -> None:
        n = (size - longest) // cfg.max_new if run.share else size
        one, zeros = torch.ones(()), torch.zeros(cfg.max_new)
        model.train(cfg.grad_checkpoint)
        backward_rows(run, [[1] * longest] * n, [[1] * cfg.max_new] * n, [zeros] * n, [one] * n, scored=[])

    found = fit_micro_batch(
        largest=max(least, min(MOST_TOKENS if run.share else MOST_ROWS, most)),
        smallest=least,
        attempt=attempt,
        fill_cache=lambda: sampler.fill_cache([[i % distinct + 1] * longest for i in range(sampled)], cfg.max_new),
        delta=run.adapter.delta(),
        device=device,
        case=f"{sampled} completions of {longest} + {cfg.max_new} tokens",
        share=cfg.memory_share,
    )
    setattr(cfg, "micro_tokens" if run.share else "micro_batch", found)
    model.eval()
