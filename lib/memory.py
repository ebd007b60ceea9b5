"""lib.memory"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from loguru import logger
from torch import nn

from antipasto import Adapter
from config import Config
from grpo import completion_logprobs, k3
from lib.errors import UserError
from problems.prompts import Prompts
from sampling.sampler import Sampler

SPARE = 0.1
"""Share of the GPU that stays free."""


BYTES_PER_LOGIT = 20
"""Of a chunk in forward and backward: bf16 logits, their fp32 copy, the scaled copy, its softmax and its gradient."""


MOST_LOGIT_ROWS = 1024
"""Of a chunk: 3 GiB at 152k entries a row."""


def logprob_chunk(vocab: int, device: torch.device) -> int:
    """Completion tokens a pass of the head: a tenth of the free memory, a power of two in [256, MOST_LOGIT_ROWS]."""
    if device.type != "cuda":
        return 2048
    tokens = max(1, torch.cuda.mem_get_info(device)[0] // 10 // (vocab * BYTES_PER_LOGIT))
    return min(MOST_LOGIT_ROWS, max(256, 1 << (tokens.bit_length() - 1)))


def kv_bytes(config, dtype: torch.dtype) -> int:
    """Bytes of keys and values a token, of a model with attention in every layer; config: the model's."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * dtype.itemsize


def decode_rows(config, tokens: int, at_least: int, device: torch.device, dtype: torch.dtype) -> int | None:
    """Rows of `tokens` decoded together: keys and values in a fifth of the free memory, but at_least; None on a CPU.

    config: the model's. Training decodes its P G rows at once; an evaluation has more and may take several turns.
    """
    if device.type != "cuda":
        return None
    return max(at_least, torch.cuda.mem_get_info(device)[0] // 5 // (kv_bytes(config, dtype) * tokens))


def fit_micro_batch(model: nn.Module, adapter: Adapter, *, longest_prompt: int, max_new: int, rows: int, batch: int,
                    logprob_chunk: int, beta: float, device: torch.device, sampler=None,
                    grad_checkpoint: bool = True) -> int:  # fmt: skip
    """The largest of rows, rows / 2, ..., 1 whose worst case leaves a tenth of the GPU free; `rows` itself on a CPU.

    batch: the most rows that `sampler` (a rollout.Sampler, or None) decodes together. Raises presets.UserError where
    the worst case is too large even with one row.
    """
    if device.type != "cuda":
        return rows
    tokens = longest_prompt + max_new
    case = f"{batch} completions of {longest_prompt} + {max_new} tokens"
    total = torch.cuda.mem_get_info(device)[1]
    with switched_on(adapter):
        try:
            _reset(device)
            if sampler is not None:
                _fill_cache(sampler, longest_prompt, max_new, batch)
        except torch.cuda.OutOfMemoryError as error:
            sampler.free()
            raise UserError(_too_large(case, _peak(device), total, "sampling alone")) from error

        def attempt(rows: int) -> int | None:
            return _attempt(model, adapter, rows, tokens, max_new, logprob_chunk, beta, device, grad_checkpoint)

        fits, used = largest_that_fits(rows, (1 - SPARE) * total, attempt)
    if not fits:
        raise UserError(_too_large(case, used or _peak(device), total, "one row a micro-batch"))
    logger.info(f"micro-batch {fits}: {case} need {used / 2**30:.1f} of {total / 2**30:.1f} GiB")
    return fits


def largest_that_fits(rows: int, limit: float, attempt: Callable[[int], int | None]) -> tuple[int, int | None]:
    """(rows halved until attempt(rows) <= limit, what it used); rows 0 where one is too many, None: ran out."""
    while True:
        used = attempt(rows)
        if used is not None and used <= limit:
            return rows, used
        if rows == 1:
            return 0, used
        rows //= 2


def _too_large(case: str, used: int, total: int, where: str) -> str:
    return (f"{case} need at least {used / 2**30:.1f} GiB of this GPU's {total / 2**30:.1f} GiB "
            f"({SPARE:.0%} must stay free) even with {where}: lower --max-new, --group or --prompts")  # fmt: skip


@contextmanager
def switched_on(adapter: Adapter) -> Iterator[None]:
    """Within the context no delta_S is zero, since a zero delta skips products and memory; then its values are back."""
    before = [p.detach().clone() for p in adapter.delta().values()]
    try:
        with torch.no_grad():
            for p in adapter.delta().values():
                p.add_(1e-6)
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(adapter.delta().values(), before, strict=True):
                p.copy_(value)
                p.grad = None


def _fill_cache(sampler, longest_prompt: int, max_new: int, batch: int) -> None:
    """Allocate the cache, the delta and a prefill's activations; engine generate frees its own again."""
    if sampler.engine == "generate":
        sampler.sample([[i % 97 + 1] * longest_prompt for i in range(batch)], range(batch), 2)
        return
    sampler._refresh()
    with torch.no_grad():
        sampler._prefill([[i % 97 + 1] * longest_prompt for i in range(batch)], range(batch), max_new)


def worst_case(rows: int, tokens: int, max_new: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """ids and completion mask [rows, tokens]."""
    ids = torch.ones((rows, tokens), dtype=torch.long, device=device)
    completion = torch.zeros_like(ids, dtype=torch.bool)
    completion[:, tokens - max_new :] = True
    return ids, completion


def forward_backward(model: nn.Module, adapter: Adapter, rows: int, tokens: int, max_new: int, chunk: int, beta: float,
                     device: torch.device) -> None:  # fmt: skip
    """One micro-batch as in training, loss = mean(-logp + beta k3)."""
    packed = worst_case(rows, tokens, max_new, device)
    logp = completion_logprobs(model, *packed, chunk=chunk)
    loss = -logp
    if beta > 0:
        with torch.no_grad(), adapter.reference():
            ref = completion_logprobs(model, *packed, chunk=chunk)
        loss = loss + beta * k3(logp, ref)
    loss.mean().backward()


def _attempt(model, adapter, rows, tokens, max_new, chunk, beta, device, grad_checkpoint) -> int | None:
    """Bytes of the GPU in use at the peak of one micro-batch; None where it ran out."""
    was, fits = model.training, True
    _reset(device)
    model.train(grad_checkpoint)
    try:
        forward_backward(model, adapter, rows, tokens, max_new, chunk, beta, device)
    except torch.cuda.OutOfMemoryError:
        fits = False  # the exception's frames hold the activations until this block is left
    model.train(was)
    used = _peak(device)
    for p in adapter.delta().values():
        p.grad = None
    torch.cuda.empty_cache()
    return used if fits else None


def _reset(device: torch.device) -> None:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    """Bytes of the GPU in use at the peak since `_reset`, by torch and beside it."""
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    return beside + torch.cuda.max_memory_reserved(device)


def peak_gib(device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def fit_to_memory(
    cfg: Config, model, adapter: Adapter, sampler: Sampler, prompts: list[Prompts], device, world: int
) -> None:
    """Set the fields that are 0 (micro_batch, logprob_chunk) by running the worst case once, and sampler.max_batch."""
    rows, longest = cfg.prompts * cfg.group // world, max(len(ids) for p in prompts for ids in p.ids)
    evaluated = -(-max(len(p.ids) for p in prompts[1:]) * max(cfg.eval_samples, cfg.final_samples) // world)
    sampler.max_batch = decode_rows(model.config, longest + cfg.max_new, rows, device, model.dtype)
    cfg.logprob_chunk = cfg.logprob_chunk or logprob_chunk(model.config.vocab_size, device)
    if not cfg.micro_batch:
        cfg.micro_batch = fit_micro_batch(
            model, adapter, longest_prompt=longest, max_new=cfg.max_new, rows=min(32, rows),
            batch=min(sampler.max_batch or rows, max(rows, evaluated)), logprob_chunk=cfg.logprob_chunk, beta=cfg.beta,
            device=device, sampler=sampler, grad_checkpoint=cfg.grad_checkpoint)  # fmt: skip
