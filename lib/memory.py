"""Memory preflight: the largest micro-batch that fits, found by running the worst case once before step 0.

    worst case = the sampler's cache of its rows x (longest prompt + max_new), the adapter's delta switched on, then
                 forward and backward of a full micro-batch of rows of that length, the KL reference included

The figure is what is in use of the GPU (torch's reserved memory and what lies beside it, such as the CUDA context), and
a tenth of the GPU must stay free, since fragmentation grows over a run. Where runs share a GPU, each plans for its
`share` of it (--memory-share) and counts only what it holds itself, so that nothing hangs on what another has taken by
then. Nothing draws from an RNG; the gradients are dropped and delta_S has its values back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from loguru import logger

from lib.errors import UserError
from lib.shapes import DeltaNet, kv_bytes, state_bytes

# Share of the GPU that stays free.
SPARE = 0.1
# Of a chunk of logits in plain torch: bf16, their fp32 copy, the scaled copy; in backward the gradient is written over
# it. With Triton (lib/kernels.py) the bf16 ones alone.
BYTES_PER_LOGIT = 10
# Completion tokens of a chunk at most: 152k entries a row are 0.15 GiB, 0.7 in plain torch.
MOST_LOGIT_ROWS = 512
# Bytes that a process holds of a GPU beside torch's memory: the CUDA context, loaded kernels.
CONTEXT = 1 << 30
# Of a micro-batch, with shared prefixes and without: larger ones are no faster.
MOST_TOKENS = 16384
MOST_ROWS = 32


def planned(total: int, free: int, held: int, share: float) -> tuple[int, int]:
    """(bytes that may still be taken, bytes of the GPU that are this run's) for --memory-share `share`.

    total, free: the GPU's; held: this process's, by torch. A run that has the GPU to itself goes by what is free now.
    """
    if share == 1:
        return free, total
    own = int(share * total)
    return max(0, own - CONTEXT - held), own


def claim_share(device: torch.device, share: float) -> None:
    """Let torch take no more of the GPU than this run's share, less what lies beside torch's memory.

    Raises UserError where the share is too small for the context alone.
    """
    if device.type != "cuda" or share == 1:
        return
    total = torch.cuda.mem_get_info(device)[1]
    if share * total < 2 * CONTEXT:
        gib = total / 2**30
        raise UserError(f"--memory-share {share:g} of {gib:.0f} GiB is less than 2 GiB: let fewer runs share the GPU")
    torch.cuda.set_per_process_memory_fraction(share - CONTEXT / total, device)


def free_memory(device: torch.device, share: float) -> int:
    """Bytes of the GPU that this run may still take."""
    free, total = torch.cuda.mem_get_info(device)
    return planned(total, free, torch.cuda.memory_reserved(device), share)[0]


def logprob_chunk(vocab: int, device: torch.device, share: float = 1.0) -> int:
    """Completion tokens a pass of the head: a tenth of the free memory, a power of two in [256, MOST_LOGIT_ROWS]."""
    if device.type != "cuda":
        return 2048
    tokens = max(1, free_memory(device, share) // 10 // (vocab * BYTES_PER_LOGIT))
    return min(MOST_LOGIT_ROWS, max(256, 1 << (tokens.bit_length() - 1)))


def decode_rows(
    config, tokens: int, at_least: int, device: torch.device, dtype: torch.dtype, share: float = 1.0
) -> int | None:
    """Rows of `tokens` decoded together: their cache in a fifth of the free memory, but at_least; None on a CPU.

    config: the model's. Training decodes its P G rows at once; an evaluation has more and may take several turns.
    """
    if device.type != "cuda":
        return None
    a_row = tokens * cache_bytes(config, dtype) + row_bytes(config, dtype)
    return max(at_least, free_memory(device, share) // 5 // a_row)


def layers_of(config, kind: str) -> int:
    """Layers of a kind that transformers names: full_attention, linear_attention."""
    kinds = getattr(config, "layer_types", None)
    return kinds.count(kind) if kinds else config.num_hidden_layers * (kind == "full_attention")


def cache_bytes(config, dtype: torch.dtype) -> int:
    """Bytes of keys and values a token; config: the transformers model's."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers - layers_of(config, "linear_attention")
    return kv_bytes(layers, config.num_key_value_heads, head_dim, dtype.itemsize)


def row_bytes(config, dtype: torch.dtype) -> int:
    """Bytes of the cache a row of any length: the states of gated delta nets, 0 without them."""
    if not (layers := layers_of(config, "linear_attention")):
        return 0
    net = DeltaNet(
        config.linear_num_key_heads,
        config.linear_num_value_heads,
        config.linear_key_head_dim,
        config.linear_value_head_dim,
        config.linear_conv_kernel_dim,
    )
    return state_bytes(layers, net, dtype.itemsize)


def fit_micro_batch(
    largest: int,
    smallest: int,
    attempt: Callable[[int], None],
    fill_cache: Callable[[], object],
    delta: dict[str, torch.nn.Parameter],
    device: torch.device,
    case: str,
    share: float = 1.0,
) -> int:
    """The largest of `largest`, its half, ..., `smallest` whose worst case leaves a tenth of the GPU free.

    attempt(size): forward and backward of so many rows or tokens; fill_cache(): takes the sampler's memory; delta: the
    adapter's; case: what is tried, in words; share: of the GPU that is this run's. On a CPU nothing is tried and
    `largest` returned. Raises UserError where the smallest is too much.
    """
    if device.type != "cuda":
        return largest
    total = planned(torch.cuda.mem_get_info(device)[1], 0, 0, share)[1]
    with switched_on(delta):
        # The sampler's memory is held through a step.
        try:
            _reset(device)
            fill_cache()
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(_too_large(case, _peak(device, share), total, "sampling alone")) from error

        # The largest micro-batch beside it.
        def used_by(size: int) -> int | None:
            return _used_by(lambda: attempt(size), delta, device, share)

        fits, used = largest_that_fits(largest, smallest, (1 - SPARE) * total, used_by)
    if not fits:
        raise UserError(_too_large(case, used or _peak(device, share), total, "one row a micro-batch"))
    logger.info(f"micro-batch {fits}: {case} need {used / 2**30:.1f} of {total / 2**30:.1f} GiB")
    return fits


def largest_that_fits(
    size: int, smallest: int, limit: float, used_by: Callable[[int], int | None]
) -> tuple[int, int | None]:
    """(size halved until used_by(size) <= limit, what it used); 0 where the smallest is too much, None: ran out."""
    while True:
        used = used_by(size)
        if used is not None and used <= limit:
            return size, used
        if size == smallest:
            return 0, used
        size = max(size // 2, smallest)


def _too_large(case: str, used: int, total: int, where: str) -> str:
    return (
        f"{case} need at least {used / 2**30:.1f} GiB of this GPU's {total / 2**30:.1f} GiB "
        f"({SPARE:.0%} must stay free) even with {where}: lower --max-new, --group or --prompts"
    )


@contextmanager
def switched_on(delta: dict[str, torch.nn.Parameter]) -> Iterator[None]:
    """Within the context no delta_S is zero, since a zero delta skips products and memory; then its values are back."""
    before = [p.detach().clone() for p in delta.values()]
    try:
        with torch.no_grad():
            for p in delta.values():
                p.add_(1e-6)
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(delta.values(), before, strict=True):
                p.copy_(value)
                p.grad = None


def _used_by(
    attempt: Callable[[], None], delta: dict[str, torch.nn.Parameter], device: torch.device, share: float
) -> int | None:
    """Bytes of the GPU in use at the peak of an attempt; None where it ran out."""
    fits = True
    _reset(device)
    try:
        attempt()
    except torch.cuda.OutOfMemoryError:
        fits = False  # the exception's frames hold the activations until this block is left
    used = _peak(device, share)
    for p in delta.values():
        p.grad = None
    torch.cuda.empty_cache()
    return used if fits else None


def _reset(device: torch.device) -> None:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device, share: float) -> int:
    """Bytes of the GPU in use at the peak since `_reset`, by torch and beside it; of a share, this process's alone."""
    if share < 1:
        return CONTEXT + torch.cuda.max_memory_reserved(device)
    free, total = torch.cuda.mem_get_info(device)
    beside = total - free - torch.cuda.memory_reserved(device)
    return beside + torch.cuda.max_memory_reserved(device)


def peak_gib(device: torch.device) -> float:
    """GiB of torch's allocations at the peak since the last reset; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
