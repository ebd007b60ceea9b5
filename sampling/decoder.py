"""sampling.decoder"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

LEAN_TYPES = ("qwen2", "qwen3", "llama")


STATIC_ROPE = ("default", "linear", "llama3", "yarn")


def _load_kernels(layer: _Layer):
    """rollout_kernels, or None where Triton is missing or a shape is none of its."""
    if layer.head_dim & (layer.head_dim - 1) or type(layer.act).__name__ not in ("SiLU", "SiLUActivation"):
        return None
    try:
        import rollout_kernels
    except ImportError as error:
        logger.warning(f"decoding without Triton kernels ({error}): slower")
        return None
    return rollout_kernels


def lean_reason(model: nn.Module) -> str | None:
    """Why the written-out decoder cannot run `model`, or None where it can."""
    config = model.config
    if config.model_type not in LEAN_TYPES:
        return f"{config.model_type} is not one of {', '.join(LEAN_TYPES)}"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "some layers are not full attention"
    if (config.rope_parameters or {}).get("rope_type", "default") not in STATIC_ROPE:
        return "its rotary frequencies depend on the length"
    return None


class _Linear:
    """Linears of one input as one product, x W^T + b + x D^T; D [sum d_out, d_in] is the adapter's delta, if any.

    fp32: W + D is one matrix, which still holds D to a part in a thousand. bf16: D apart, in bf16 or, with kernels
    given, as int8 with a scale per output (error 0.9% of D x, a random one; half the bytes, read in W's pass).
    """

    def __init__(self, *modules: nn.Module):
        self.modules = modules
        self.sizes = [len(m.weight) for m in modules]
        self.d_in = modules[0].weight.shape[1]
        self.release()

    def release(self) -> None:
        self.parts: list[Tensor] = []
        """W, or W + D, as few matrices of consecutive outputs."""
        self.bias = self.delta = self.scale = self.kernels = None

    @torch.no_grad()
    def refresh(self, kernels=None) -> tuple[int, ...]:
        """Take over the current weights and delta_S. Returns the addresses, which change only with the weights."""
        self.parts, self.kernels = _stacked(self.modules), kernels
        if any(m.bias is not None for m in self.modules) and self.bias is None:
            self.bias = torch.cat(
                [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in self.modules]
            )
        adapted = [m for m in self.modules if hasattr(m, "delta_S") and m.enabled]
        if adapted and self.delta is None:
            weight, rows = self.parts[0], sum(self.sizes)
            int8 = kernels is not None and weight.dtype != torch.float32
            self.delta = weight.new_empty((rows, self.d_in), dtype=torch.int8 if int8 else None)
            self.scale = weight.new_empty(rows, dtype=torch.float32) if int8 else None
        if self.delta is not None:
            self._refresh_delta(adapted)
        self.merged = self.delta is not None and self.delta.dtype == torch.float32
        if self.merged:
            for rows, weight in zip(self.delta.split([len(p) for p in self.parts]), self.parts, strict=True):
                rows += weight
            self.parts = [self.delta]
        return tuple(t.data_ptr() for t in (*self.parts, self.bias, self.delta) if t is not None)

    def _refresh_delta(self, adapted: list[nn.Module]) -> None:
        at = 0
        for module, size in zip(self.modules, self.sizes, strict=True):
            rows = slice(at, at := at + size)
            delta = module.delta_weight() if module in adapted else torch.zeros_like(module.weight)
            if self.scale is not None:
                self.scale[rows] = delta.abs().amax(1).float().clamp_min(1e-30) / 127
                delta = (delta / self.scale[rows, None]).round_()
            self.delta[rows].copy_(delta)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, d_in] -> [N, sum d_out]."""
        return self._apply(x, x.new_empty((len(x), sum(self.sizes))), add=False)

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y [N, d_out] += self(x), without a kernel of its own for the sum."""
        self._apply(x, y, add=True)

    def _apply(self, x: Tensor, y: Tensor, add: bool) -> Tensor:
        fused, at = self.scale is not None and len(x) <= 128, 0
        if not fused and self.delta is not None and not self.merged:
            return self._apply_rounded_once(x, y, add)
        for weight in self.parts:
            rows = slice(at, at := at + len(weight))
            bias, out = None if self.bias is None else self.bias[rows], y[:, rows]
            if fused:
                self.kernels.linear(x, weight, bias, self.delta[rows], self.scale[rows], out, add)
            elif add:
                out.addmm_(x, weight.t())
                if bias is not None:
                    out += bias
            elif bias is None:
                torch.mm(x, weight.t(), out=out)
            else:
                torch.addmm(bias, x, weight.t(), out=out)
        return y

    def _apply_rounded_once(self, x: Tensor, y: Tensor, add: bool) -> Tensor:
        """The same with D apart, in fp32 up to the end: x W^T rounded to bf16 would swallow a small x D^T."""
        delta = self.delta if self.scale is None else (self.delta * self.scale[:, None]).to(x.dtype)
        total = torch.cat([_product(x, weight) for weight in self.parts], dim=1) + _product(x, delta)
        if self.bias is not None:
            total += self.bias
        return y.copy_(total + y if add else total)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T in fp32, [N, d_out], of operands in any dtype."""
    if x.is_cuda:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return x.float() @ weight.t().float()


def _stacked(modules: Sequence[nn.Module]) -> list[Tensor]:
    """The modules' weights [d_out, d_in] as few matrices, without a second copy: their own become views of a stack.

    Neighbours are stacked where their storage has the same width; the adapter's [W | U] may not.
    """
    owner = "weight_U" if all(hasattr(m, "weight_U") for m in modules) else "weight"
    stacks: list[list[nn.Module]] = []
    for module in modules:
        if stacks and getattr(stacks[-1][0], owner).shape[1] == getattr(module, owner).shape[1]:
            stacks[-1].append(module)
        else:
            stacks.append([module])
    return [_stack([getattr(m, owner) for m in stack])[:, : stack[0].weight.shape[1]] for stack in stacks]


def _stack(tensors: list[Tensor]) -> Tensor:
    first, at = tensors[0].data, tensors[0].data_ptr()
    storage, adjacent = first.untyped_storage().data_ptr(), True
    for t in tensors:
        adjacent &= t.data_ptr() == at and t.is_contiguous() and t.untyped_storage().data_ptr() == storage
        at += t.nbytes
    if adjacent:
        return first.as_strided((sum(map(len, tensors)), first.shape[1]), first.stride())
    stack = torch.cat([t.data for t in tensors])
    for t, rows in zip(tensors, stack.split([len(t) for t in tensors]), strict=True):
        t.data = rows
    return stack


class _Layer:
    """One decoder layer: pre-norm attention with grouped heads and rotary positions, then a gated MLP."""

    def __init__(self, layer: nn.Module):
        attn, mlp = layer.self_attn, layer.mlp
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.head_norm = None
        if hasattr(attn, "q_norm"):
            self.head_norm = (
                torch.stack([attn.q_norm.weight.data, attn.k_norm.weight.data]),
                attn.q_norm.variance_epsilon,
            )
        self.qkv, self.o = _Linear(attn.q_proj, attn.k_proj, attn.v_proj), _Linear(attn.o_proj)
        self.gate_up, self.down = _Linear(mlp.gate_proj, mlp.up_proj), _Linear(mlp.down_proj)
        self.linears = (self.qkv, self.o, self.gate_up, self.down)
        self.act, self.head_dim = mlp.act_fn, attn.head_dim
        self.heads, self.kv_heads = (p.weight.shape[0] // attn.head_dim for p in (attn.q_proj, attn.k_proj))

    def __call__(self, x: Tensor, rotary: tuple[Tensor, Tensor], attend) -> Tensor:
        """x [N, d], changed in place; rotary: cos, sin [N, D]; attend(q [N, H, D], k, v [N, Hkv, D]) -> [N, H D]."""
        qkv = self.qkv(_norm(x, self.norms[0])).unflatten(-1, (-1, self.head_dim))
        qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 1)
        if self.head_norm is not None:
            weights, eps = self.head_norm
            qk = F.rms_norm(qk, (self.head_dim,), None, eps).split([self.heads, self.kv_heads], 1)
            qk = torch.cat([qk[0] * weights[0], qk[1] * weights[1]], 1)
        q, k = _rotate(qk, *rotary).split([self.heads, self.kv_heads], 1)
        self.o.add_to(x, attend(q, k, v))
        gate, up = self.gate_up(_norm(x, self.norms[1])).chunk(2, -1)
        self.down.add_to(x, self.act(gate) * up)
        return x

    def decode(self, x: Tensor, kernels, rotary: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, batch) -> Tensor:
        """The same for one token a row, x [n, d], through rollout_kernels; rotary: cos, sin [positions, D]."""
        n, at = len(x), (batch.prompt, batch.step)
        qkv = self.qkv(_norm(x, self.norms[0]))
        q = kernels.prepare(qkv, keys, values, self.head_norm, rotary, batch.lengths, *at)
        self.o.add_to(x, kernels.attend(q, keys, values, batch.lengths[:n], batch.leader, *at))
        self.down.add_to(x, kernels.silu_mul(self.gate_up(_norm(x, self.norms[1]))))
        return x


def _norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N, heads, D], cos and sin [N, D]."""
    a, b = x.chunk(2, -1)
    return (x * cos[:, None]).addcmul_(torch.cat((-b, a), -1), sin[:, None])


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """softmax(q K^T / sqrt D + bias) V: q [n, Hkv, H / Hkv, D], keys, values [n, Hkv, S, D], bias [n, 1, 1, S]."""
    if q.dtype != torch.float32 or q.is_cuda:
        mask = bias.expand(-1, -1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    # Products this small take half the time of the CPU's fused attention.
    q3, keys, values = (t.flatten(0, 1) for t in (q * q.shape[-1] ** -0.5, keys, values))
    scores = torch.bmm(q3, keys.transpose(1, 2)).unflatten(0, q.shape[:2]).add_(bias)
    return torch.bmm(scores.softmax(-1).flatten(0, 1), values).unflatten(0, q.shape[:2])
