"""Attention of completions to a prompt that stands in the sequence once, exact and without a square mask.

    sequence  [prompt 1 | ... | prompt n | completions of 1 | ... | completions of n]
    a prompt's token       attends to its prompt up to itself
    a completion's token   attends to all of its prompt, and to its completion up to itself

With S1, S2 the scores of a completion's query against its prompt and itself, one softmax over both is two attentions
merged by their log-sum-exp (l = log(e^l1 + e^l2), o = e^(l1-l) o1 + e^(l2-l) o2), and the backward pass of each, given
the merged o and l, is its exact share of the gradient: P = exp(S - l), dS = P * (dP - rowsum(dO * O)).

On a GPU in half precision both are flash attention over ragged segments; elsewhere the prompt's keys are gathered for
each row and scaled_dot_product_attention has a [T, P + T] mask a row. `enable` registers it with transformers, beside
the attention that a model was loaded with, which other inputs keep. docs/method.md has the equations at length.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lib.agreement import agrees
from lib.families import other_architecture
from lib.fused import HALF, training_kernels
from lib.shared_delta import take_layouts

NAME = "shared_prefix"


def unshareable(model: nn.Module) -> str | None:
    """Why completions cannot share their prompt in `model`, or None where they can."""
    if reason := other_architecture(model.config):
        return reason
    if getattr(model.config, "attention_dropout", 0):
        return "its attention has dropout"
    return None


def share_prefix(model: nn.Module) -> bool:
    """`enable` the model where that can be, else say why not; whether it was done."""
    if reason := unshareable(model):
        logger.info(f"every completion runs with its own prompt: {reason}")
        return False
    enable(model)
    return True


def enable(model: nn.Module) -> None:
    """Have `model` take `Layout.inputs`; whatever else it is given goes through the attention that it had."""
    before, weight = model.config._attn_implementation, model.get_input_embeddings().weight
    if before.startswith(NAME):
        return
    if weight.is_cuda and weight.dtype in HALF:
        flash_works(weight.device)  # here, and not in a forward whose tensors are being counted
    name = f"{NAME}:{before}"
    plain = ALL_ATTENTION_FUNCTIONS[before]

    def attention(module, query, key, value, attention_mask, layout: Layout | None = None, **kwargs):
        if layout is None:
            return plain(module, query, key, value, attention_mask, **kwargs)
        out = layout.attend(query[0], key[0], value[0], kwargs["scaling"])
        return out.transpose(0, 1)[None], None

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
    model.config._attn_implementation = name
    for layer in model.model.layers:
        if hasattr(layer, "linear_attn"):
            take_layouts(layer.linear_attn)


class Layout:
    """Where the prompts and completions of one sequence lie, as the attention needs it."""

    def __init__(self, prompts: Sequence[int], completions: Sequence[Sequence[int]], device):
        """prompts: length of each; completions: lengths of those of each prompt."""
        self.prompts = list(prompts)
        self.completions = [list(lengths) for lengths in completions]
        self.device = torch.device(device)
        # Tokens of all prompts: the completions begin here.
        self.start = sum(self.prompts)
        self._sources: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}

    def inputs(self, positions: Tensor) -> dict:
        """Arguments of the model's forward beside the ids; positions [L] int64."""
        # transformers returns a mask of four dimensions as it is, and so builds none; the attention reads the layout.
        nothing = torch.empty((1, 1, 0, 0), device=self.device)
        return {"position_ids": positions[None], "attention_mask": nothing, "layout": self}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """q [H, L, D], k, v [Hkv, L, D] -> [H, L, D]."""
        if q.is_cuda and q.dtype in HALF and flash_works(q.device):
            q, k, v = (t.transpose(0, 1) for t in (q, k, v))
            return SharedFlash.apply(q, k, v, self, scale).transpose(0, 1)
        return self._attend_gathered(q, k, v, scale)

    # --- ragged segments, for flash attention

    @functools.cached_property
    def own(self) -> tuple[Tensor, int]:
        """Every prompt and completion as a segment of its own: (cumulated lengths [S + 1] int32, the longest or 2)."""
        return self._segments([*self.prompts, *(n for lengths in self.completions for n in lengths)])

    @functools.cached_property
    def queries(self) -> tuple[Tensor, int]:
        """The completions of each prompt as one segment."""
        return self._segments([sum(lengths) for lengths in self.completions])

    @functools.cached_property
    def keys(self) -> tuple[Tensor, int]:
        """The prompts as segments."""
        return self._segments(self.prompts)

    @functools.cached_property
    def rows(self) -> tuple[Tensor, int]:
        """Every completion as a segment of its own, counted from where they begin."""
        return self._segments([n for lengths in self.completions for n in lengths])

    @functools.cached_property
    def prompt_of_row(self) -> Tensor:
        """[B] int64, in the order of the sequence."""
        counts = torch.tensor([len(lengths) for lengths in self.completions])
        return torch.arange(len(counts)).repeat_interleave(counts).to(self.device)

    def sources(self, K: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What a causal convolution of K taps reads, made once: (positions [L, K] int32, tap K - 1 the token itself, L
        where that is before the prompt; token, tap and position [m] int64 of what completions read of their prompt)."""
        if K not in self._sources:
            self._sources[K] = self._sources_of(K)
        return self._sources[K]

    def _sources_of(self, K: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        prompts, counts = torch.tensor(self.prompts), torch.tensor([len(part) for part in self.completions])
        lengths = torch.cat([prompts, torch.tensor([n for part in self.completions for n in part])])
        firsts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        t = torch.arange(len(firsts))

        # Of each token: where its prompt ends and how long that is, nothing for the prompts' own.
        nothing = torch.zeros_like(prompts)
        end, size = (
            torch.cat([nothing, of.repeat_interleave(counts)]).repeat_interleave(lengths)
            for of in (prompts.cumsum(0), prompts)
        )

        # Within the row, else as far back in the prompt.
        lag = torch.arange(K - 1, -1, -1)
        back = lag - (t - firsts)[:, None]
        in_prompt = (back > 0) & (back <= size[:, None])
        source = torch.where(back <= 0, t[:, None] - lag, torch.where(in_prompt, end[:, None] - back, len(t)))
        token, tap = in_prompt.nonzero().T
        carried = (token, tap, source[token, tap])
        return source.int().to(self.device), tuple(x.to(self.device) for x in carried)

    def _segments(self, lengths: list[int]) -> tuple[Tensor, int]:
        ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        # An upper bound will do, and at 1 the kernel would take a layout of its own.
        return ends.to(self.device), max(2, *lengths)

    # --- padded rows, for everything else

    @functools.cached_property
    def padded(self) -> tuple[Tensor, ...]:
        """Positions of prompts [n, P] and completions [B, T], where those are real, each row's prompt [B], and for each
        position its place among the padded ones [L]."""
        lengths = torch.tensor([n for part in self.completions for n in part])
        prompts = torch.tensor(self.prompts)
        slot, step = torch.arange(int(prompts.max())), torch.arange(int(lengths.max()))

        # Padding repeats a row's first token, which is never seen and whose output is dropped.
        in_prompt, in_row = slot < prompts[:, None], step < lengths[:, None]
        prompt_at = (prompts.cumsum(0) - prompts)[:, None] + slot * in_prompt
        row_at = (self.start + lengths.cumsum(0) - lengths)[:, None] + step * in_row
        place = torch.cat([in_prompt.flatten(), in_row.flatten()]).nonzero()[:, 0]
        found = (prompt_at, row_at, in_prompt, in_row, place)
        return tuple(t.to(self.device) for t in found)

    @functools.cached_property
    def sees(self) -> Tensor:
        """What each padded completion sees, [B, 1, T, P + T] bool."""
        _, row_at, in_prompt, _, _ = self.padded
        B, T = row_at.shape
        step = torch.arange(T, device=self.device)
        sees_prompt = in_prompt[self.prompt_of_row][:, None, None].expand(-1, -1, T, -1)
        return torch.cat([sees_prompt, (step[:, None] >= step).expand(B, 1, T, T)], -1)

    def _attend_gathered(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        prompt_at, row_at, _, _, place = self.padded
        group, sees = self.prompt_of_row, self.sees
        gqa = {"enable_gqa": True} if len(q) != len(k) else {}

        # Prompts: plainly causal, padded on the right.
        pq, pk, pv = (_rows_of(t, prompt_at) for t in (q, k, v))
        prompts = F.scaled_dot_product_attention(pq, pk, pv, is_causal=True, scale=scale, **gqa)

        # Completions: the keys of a row are its prompt's, then its own.
        rq, rk, rv = (_rows_of(t, row_at) for t in (q, k, v))
        rk = torch.cat([pk.index_select(0, group), rk], 2)
        rv = torch.cat([pv.index_select(0, group), rv], 2)
        rows = F.scaled_dot_product_attention(rq, rk, rv, attn_mask=sees, scale=scale, **gqa)

        both = torch.cat([t.transpose(0, 1).flatten(1, 2) for t in (prompts, rows)], 1)
        return both.index_select(1, place)


def _rows_of(x: Tensor, at: Tensor) -> Tensor:
    """x [H, L, D] at positions [R, W] -> [R, H, W, D]."""
    return x.index_select(1, at.flatten()).unflatten(1, at.shape).transpose(0, 1)


# --- flash attention ---


class SharedFlash(torch.autograd.Function):
    """q [L, H, D], k, v [L, Hkv, D] -> [L, H, D] in half precision on a GPU."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:
        start, (own, longest) = layout.start, layout.own
        (queries, most), (keys, widest) = layout.queries, layout.keys

        # Every segment to itself, then the completions to their prompts.
        out, lse, *state = _flash(q, k, v, own, own, longest, longest, True, scale)
        out2, lse2, *state2 = _flash(q[start:], k[:start], v[:start], queries, keys, most, widest, False, scale)

        # One softmax over both: lse [H, L] fp32.
        _merge(out, lse, out2, lse2)
        ctx.save_for_backward(q, k, v, out, lse, *state, *state2)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx, g: Tensor):
        q, k, v, out, lse, *states = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        start, (own, longest) = layout.start, layout.own
        (queries, most), (keys, widest) = layout.queries, layout.keys
        g = g.contiguous()

        dq, dk, dv = _flash_backward(
            g, q, k, v, out, lse, own, own, longest, longest, True, states[:2], scale
        )  # fmt: skip
        dq2, dk2, dv2 = _flash_backward(
            g[start:], q[start:], k[:start], v[:start], out[start:], lse[:, start:].contiguous(),
            queries, keys, most, widest, False, states[2:], scale,
        )  # fmt: skip
        dq[start:] += dq2
        dk[:start] += dk2
        dv[:start] += dv2
        return dq, dk, dv, None, None


def _merge(out: Tensor, lse: Tensor, out2: Tensor, lse2: Tensor) -> None:
    """Into the last N tokens of out [L, H, D], lse [H, L]: their softmax joined with that of out2 [N, H, D], lse2."""
    N, _, D = out2.shape
    kernels = training_kernels(out)
    if kernels and out2.is_contiguous() and lse.is_contiguous() and lse2.is_contiguous() and D & (D - 1) == 0:
        return kernels.merge(out, lse, out2, lse2)
    lse1 = lse[:, -N:]
    total = torch.logaddexp(lse1, lse2)
    share1, share2 = ((part - total).exp().T[..., None] for part in (lse1, lse2))
    out[-N:] = (out[-N:] * share1 + out2 * share2).to(out.dtype)
    lse[:, -N:] = total


def _flash(q, k, v, cu_q, cu_k, most_q, most_k, causal: bool, scale: float) -> tuple[Tensor, ...]:
    """(out, lse [H, L] fp32, two tensors for the backward pass)."""
    found = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_q, cu_k, most_q, most_k, 0.0, causal, False, scale=scale
    )
    return found[:4]


def _flash_backward(g, q, k, v, out, lse, cu_q, cu_k, most_q, most_k, causal: bool, state, scale: float):
    return torch.ops.aten._flash_attention_backward(
        g, q, k, v, out, lse, cu_q, cu_k, most_q, most_k, 0.0, causal, *state, scale=scale
    )


@functools.cache
def flash_works(device: torch.device) -> bool:
    """Whether the flash kernels of this torch agree with the gathered attention on a small case, in both passes."""
    g = torch.Generator(device).manual_seed(0)
    layout = Layout([5, 70], [[3, 1], [40, 9, 17]], device)
    shapes = [(4, 145, 64), (2, 145, 64), (2, 145, 64), (4, 145, 64)]
    q, k, v, up = (torch.randn(shape, generator=g, device=device) for shape in shapes)

    def error() -> float:
        with torch.enable_grad():
            exact = [t.clone().requires_grad_() for t in (q, k, v)]
            want = layout._attend_gathered(*exact, 0.125)
            wants = (want, *torch.autograd.grad(want, exact, up))
            half = [t.bfloat16().transpose(0, 1).requires_grad_() for t in (q, k, v)]
            got = SharedFlash.apply(*half, layout, 0.125)
            gots = (got, *torch.autograd.grad(got, half, up.bfloat16().transpose(0, 1)))
        pairs = ((a.detach().transpose(0, 1).float(), b.detach()) for a, b in zip(gots, wants, strict=True))
        return max(float((a - b).norm() / b.norm()) for a, b in pairs)

    return agrees("shared prompts without flash attention", error, 0.03)
