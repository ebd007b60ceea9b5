"""Sampling completions fast: KV cache, lean decode step, early stop, per-row seeds.

One row b of prompt x_b and seed s_b samples y_0, y_1, ... until an end token or max_new:

    z     = logits / temperature                             [B, V] fp32
    y_t   = argmax over the top_k of z of z_i + g_i          Gumbel-max: an exact draw from softmax over the top_k
    g_i   = -log(-log u(s_b, t, i))                          u: a counter-based hash (splitmix64) of seed, step, token
    logp  = z[y_t] - logsumexp(z)                            over the FULL vocabulary, what the PPO ratio divides by

No random generator has a state, so a row's tokens depend on its prompt and its seed alone: neither other rows nor an
evaluation between two steps can change them. The noise belongs to token ids, not to ranks.

Engines. `eager`: the Qwen2/Qwen3/Llama decoder written out over the model's own weights, since a transformers forward
costs several ms of Python a step. `graph`: the same step, sampling included, captured as CUDA graphs. `generate`:
transformers generate with the same noise, for every other architecture (Qwen3.5's gated delta net, sliding windows).

Cache, per layer: K, V [B, Hkv, S, D], allocated once. Slots [0, P) hold the prompt, right-padded to P, slots P + t the
token y_t. Prompts are padded on the right rather than on the left, so that prefill is plainly causal and needs no
mask; the gap between a short prompt and slot P is masked in decode. Equal prompts are prefilled once. Rows that ended
are dropped by compacting the others to the front.

Adapter: y = x W^T + x D^T with D = U diag(delta_S) Vh made once a call, the same additive form as training; in fp32,
where nothing is lost, W + D is one matrix.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

LEAN_TYPES = ("qwen2", "qwen3", "llama")
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
SLOT_BUCKET = 128
"""Graphs without Triton attend to a multiple of so many slots."""
PREFILL_TOKENS = 16384
"""Tokens of one prefill slice: bounds the MLP's activations."""


@dataclass
class Rollout:
    """Completions of one call, on the model's device."""

    tokens: Tensor
    """[B, T] int64 completion tokens, pad_id beyond the end; T <= max_new, trimmed to the longest."""
    mask: Tensor
    """[B, T] bool, True on completion tokens, the end token included."""
    logprobs: Tensor
    """[B, T] fp32 log softmax(logits / temperature) over the full vocabulary at the sampled token, 0 off the mask."""
    lengths: Tensor
    """[B] int64 = mask.sum(1)."""
    decode_steps: int
    prefill_s: float
    decode_s: float


# --- noise and sampling -------------------------------------------------------------------------------------------


def _mix(z: Tensor) -> Tensor:
    """splitmix64's finaliser (Steele, Lea & Flood 2014) on int64, which wraps alike on CPU and CUDA."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687  # 0xBF58476D1CE4E5B9; masks make the shifts logical
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685  # 0x94D049BB133111EB
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, splitmix64's increment


def row_keys(seeds: Tensor) -> Tensor:
    """One hash a row, [B] int64, of seeds [B] int64."""
    return _mix(seeds + _GOLDEN)


def uniform(keys: Tensor, step: Tensor | int, ids: Tensor) -> Tensor:
    """Uniforms in (0, 1), fp32 [B, K], from row keys [B], the step and token ids [B, K]."""
    step = torch.as_tensor(step, dtype=torch.long, device=keys.device)
    key = _mix(keys ^ ((step + 1) * -2643881736870682267))  # 0xDB4F0B9175AE2165, any odd constant
    bits = (_mix(key[:, None] + ids * _GOLDEN) >> 41) & 0x7FFFFF  # 23 bits: + 0.5 is then exact in fp32
    return (bits.float() + 0.5) * 2.0**-23


def draw(logits: Tensor, keys: Tensor, step: Tensor | int, temperature: float, top_k: int) -> tuple[Tensor, Tensor]:
    """Sampled ids [B] int64 and their full-vocabulary logprobs [B] fp32, from logits [B, V]; top_k 0 means no cut."""
    z = logits if temperature == 1.0 else logits.float() / temperature
    logprobs = z.log_softmax(-1, dtype=torch.float32)
    # Ranking z rather than the logprobs reads half the bytes in bf16; the order is the same.
    ids = z.topk(min(top_k, z.shape[-1]) if top_k > 0 else z.shape[-1], dim=-1, sorted=False).indices
    candidates = logprobs.gather(-1, ids)
    gumbel = -(-uniform(keys, step, ids).log()).log()
    choice = (candidates + gumbel).argmax(-1, keepdim=True)
    return ids.gather(-1, choice)[:, 0], candidates.gather(-1, choice)[:, 0]


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


# --- the decoder written out --------------------------------------------------------------------------------------


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


class _Batch:
    """The rows being decoded: their cache and what the step reads and writes, at fixed addresses for the graphs."""

    def __init__(self, model: nn.Module, layers: list[_Layer], rows: int, slots: int, max_new: int):
        weight = model.get_input_embeddings().weight
        shape, device = (rows, layers[0].kv_heads, slots, layers[0].head_dim), weight.device
        self.rows, self.slots, self.max_new, self.n = rows, slots, max_new, 0
        self.cache = [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in layers]
        """K, V [rows, Hkv, slots, D] of each layer."""
        self.last, self.lengths, self.keys, self.row, self.group, self.leader = (
            torch.zeros(rows, dtype=torch.long, device=device) for _ in range(6)
        )
        """[rows]: token sampled last, prompt length, noise key, row of the output, prompt number, first row with it."""
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        self.step, self.prompt = (torch.zeros((), dtype=torch.long, device=device) for _ in range(2))
        """Index of the token sampled last; P, the slot of token 0."""
        self.tokens = torch.zeros((rows, max_new), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((rows, max_new), dtype=torch.float32, device=device)
        positions = torch.arange(slots, device=device)[None]
        cos, sin = model.model.rotary_emb(weight[:1, None], positions)
        self.rotary = (cos[0].contiguous(), sin[0].contiguous())
        """cos, sin [slots, D]."""

    def fits(self, rows: int, slots: int, max_new: int) -> bool:
        return rows <= self.rows and slots <= self.slots and max_new <= self.max_new

    def begin(self, seeds: Sequence[int], lengths: list[int], group: list[int], width: int) -> None:
        """Reset for one call: rows b of prompt number group[b] and length lengths[b], padded to `width`."""
        device, self.n = self.last.device, len(seeds)
        self.keys[: self.n] = row_keys(torch.tensor(list(seeds), dtype=torch.long, device=device))
        self.lengths[: self.n] = torch.tensor(lengths, device=device)
        self.group[: self.n] = torch.tensor(group, device=device)
        self.row.copy_(torch.arange(self.rows, device=device))
        self.done.zero_()
        self.step.zero_()
        self.prompt.fill_(width)
        self._lead()

    def _lead(self) -> None:
        group = self.group[: self.n]
        self.leader[: self.n] = (group[:, None] == group).int().argmax(1)

    def keep(self, index: Tensor) -> None:
        """Move the rows `index` [m] (ascending) to the front and forget the others."""
        m = len(index)
        vectors = (self.last, self.lengths, self.keys, self.row, self.group, self.done)
        for tensor in (*vectors, *(t for kv in self.cache for t in kv)):
            tensor[:m] = tensor.index_select(0, index)
        self.n = m
        self._lead()


class Sampler:
    """Samples completions of a transformers causal LM, adapted or plain; see the module docstring.

    eos_ids: end tokens; pad_id fills tokens beyond the end; top_k 0 samples from the whole vocabulary. engine: "auto",
    "graph", "eager" or "generate". max_batch: the most rows decoded together (None: all of a call).
    Raises ValueError where the engine asked for cannot run the model.
    """

    def __init__(self, model: nn.Module, *, eos_ids: Sequence[int], pad_id: int, temperature: float = 1.0,
                 top_k: int = 20, engine: str = "auto", max_batch: int | None = None):  # fmt: skip
        if engine not in ("auto", "graph", "eager", "generate"):
            raise ValueError(f"engine {engine!r} is none of auto, graph, eager, generate")
        self.model, self.pad_id, self.temperature, self.top_k = model, pad_id, temperature, top_k
        self.device, self.max_batch = model.get_input_embeddings().weight.device, max_batch
        self.eos = torch.tensor(list(eos_ids), dtype=torch.long, device=self.device)
        cuda, reason = self.device.type == "cuda", lean_reason(model)
        if engine in ("graph", "eager") and reason:
            raise ValueError(f"engine {engine} cannot run this model ({reason}): use engine auto or generate")
        if engine == "graph" and not cuda:
            raise ValueError("engine graph needs a CUDA device: use engine auto or eager")
        if engine == "auto":
            engine = "generate" if reason else "graph" if cuda else "eager"
            if reason:
                logger.info(f"sampling through transformers generate: {reason}")
        self.engine, self.layers = engine, []
        if engine != "generate":
            self.layers = [_Layer(layer) for layer in model.model.layers]
        self.kernels = _load_kernels(self.layers[0]) if cuda and self.layers else None
        self.check_every = 8 if cuda else 1
        """Decode steps between two looks at which rows have ended: a look waits for the device."""
        self.delta_bits = 8
        """Of the adapter's materialised delta in bf16 models: 8, which needs the Triton kernels, or 16."""
        self._batch: _Batch | None = None
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._addresses: list[tuple[int, int]] = []

    def free(self) -> None:
        """Give the cache, the graphs and the materialised delta back; the next call makes them again."""
        self._batch, self._addresses = None, []
        self._graphs.clear()
        for layer in self.layers:
            for linear in layer.linears:
                linear.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], max_new: int) -> Rollout:
        """One completion of at most max_new tokens for each prompt (token ids); seeds: one int64 a row."""
        if len(prompts) != len(seeds) or not prompts or min(map(len, prompts)) == 0 or max_new < 1:
            raise ValueError("sample() needs at least one prompt, no empty prompt, one seed a prompt and max_new >= 1")
        run = self._generate if self.engine == "generate" else self._decode
        size = self.max_batch or len(prompts)
        parts = [run(prompts[i : i + size], seeds[i : i + size], max_new) for i in range(0, len(prompts), size)]
        width = max(p[0].shape[1] for p in parts)
        tokens = torch.cat([F.pad(p[0], (0, width - p[0].shape[1]), value=self.pad_id) for p in parts])
        mask = torch.cat([F.pad(p[1], (0, width - p[1].shape[1]), value=False) for p in parts])
        logprobs = torch.cat([F.pad(p[2], (0, width - p[2].shape[1]), value=0.0) for p in parts])
        return Rollout(tokens, mask, logprobs, mask.sum(1), *(sum(p[i] for p in parts) for i in (3, 4, 5)))

    def _finish(self, tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens, logprobs [B, T] as sampled -> tokens, mask, logprobs trimmed and blanked beyond the first end."""
        ends = torch.isin(tokens, self.eos).long()
        mask = ends.cumsum(1) - ends == 0
        width = int(mask.sum(1).max())
        tokens, mask, logprobs = tokens[:, :width], mask[:, :width], logprobs[:, :width]
        return tokens.masked_fill(~mask, self.pad_id), mask, logprobs.masked_fill(~mask, 0.0)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    # --- eager and graph ---

    def _decode(self, prompts, seeds, max_new: int) -> tuple[Tensor, Tensor, Tensor, int, float, float]:
        start = self._clock()
        self._refresh()
        batch = self._prefill(prompts, seeds, max_new)
        middle, steps = self._clock(), 0
        while steps + 1 < max_new:
            alive = int((~batch.done[: batch.n]).sum())
            if alive == 0:
                break
            if (size := self._size(alive)) <= 0.85 * batch.n:
                order = batch.done[: batch.n].int().argsort(stable=True)  # those that go on, then some that ended
                batch.keep(order[:size].sort().values)
            for _ in range(min(self.check_every, max_new - 1 - steps)):
                self._advance(batch, prompt_slots=max(map(len, prompts)), steps=steps)
                steps += 1
        n = len(prompts)
        result = self._finish(batch.tokens[:n, : steps + 1], batch.logprobs[:n, : steps + 1])
        return *result, steps, middle - start, self._clock() - middle

    def _refresh(self) -> None:
        """Take over the current delta_S; graphs stay valid while every weight stays where it is."""
        kernels = self.kernels if self.delta_bits == 8 else None
        addresses = [linear.refresh(kernels) for layer in self.layers for linear in layer.linears]
        if addresses != self._addresses:
            self._graphs.clear()
            self._addresses = addresses

    def _size(self, alive: int) -> int:
        """The batch size to decode `alive` rows with: exact without graphs, else one of a few to capture."""
        if self.engine != "graph":
            return alive
        unit = next((u for limit, u in ((2, 1), (4, 2), (8, 4), (32, 8), (128, 16)) if alive <= limit), 32)
        return -(-alive // unit) * unit

    def _advance(self, batch: _Batch, prompt_slots: int, steps: int) -> None:
        """One decode step. The first of a shape runs uncaptured, which warms it up, and is captured for the others."""
        bucket = SLOT_BUCKET if self.engine == "graph" else 1
        slots = min(batch.slots, -(-(prompt_slots + steps + 1) // bucket) * bucket)
        key = (batch.n, 0 if self.kernels else slots)
        if key in self._graphs:
            return self._graphs[key].replay()
        try:
            self._step(batch, batch.n, slots)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.kernels is None:
                raise
            logger.warning(f"the Triton decode kernels failed ({error}): going on with plain torch, slower")
            self.kernels = None
            for layer in self.layers:
                for linear in layer.linears:
                    linear.release()
            self._refresh()
            return self._step(batch, batch.n, slots)
        if self.engine == "graph":
            self._capture(key, batch, slots)

    def _capture(self, key: tuple[int, int], batch: _Batch, slots: int) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self._step(batch, batch.n, slots)
            self._graphs[key] = graph
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            logger.warning(f"CUDA graph capture failed ({error}): going on without graphs, several times slower")
            self.engine = "eager"

    def _prefill(self, prompts, seeds, max_new: int) -> _Batch:
        """Run each distinct prompt once, copy its keys and values to its rows and sample every row's first token."""
        distinct = {p: i for i, p in enumerate(dict.fromkeys(map(tuple, prompts)))}
        width, n, group = max(map(len, distinct)), len(prompts), [distinct[tuple(p)] for p in prompts]
        if self._batch is None or not self._batch.fits(n, width + max_new, max_new):
            self._batch = None
            self._graphs.clear()
            slots = width + max_new if self.device.type == "cpu" else -(-(width + max_new) // 64) * 64
            self._batch = _Batch(self.model, self.layers, n, slots, max_new)
        batch = self._batch
        batch.begin(seeds, [len(p) for p in prompts], group, width)
        per_slice, logits = max(1, PREFILL_TOKENS // width), []
        for first in range(0, len(distinct), per_slice):
            part = list(distinct)[first : first + per_slice]
            pairs = [(row, i - first) for row, i in enumerate(group) if first <= i < first + len(part)]
            ids = torch.tensor([list(p) + [0] * (width - len(p)) for p in part], device=self.device)
            rows, source = torch.tensor(pairs, device=self.device).unbind(1)
            logits.append(self._prefill_slice(ids, [len(p) for p in part], batch, rows, source))
        self._emit(batch, n, torch.cat(logits).index_select(0, torch.tensor(group, device=self.device)), batch.step)
        return batch

    def _prefill_slice(self, ids: Tensor, lengths: list[int], batch: _Batch, rows: Tensor, source: Tensor) -> Tensor:
        """Fill the cache of `rows` from prompts ids [p, P] (row rows[i] takes prompt source[i]); logits [p, V]."""
        p, width = ids.shape
        rotary = tuple(t[:width].repeat(p, 1) for t in batch.rotary)
        x = F.embedding(ids.flatten(), self.model.get_input_embeddings().weight)
        for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):

            def attend(q, k, v, keys=keys, values=values):
                q, k, v = (t.unflatten(0, (p, width)).transpose(1, 2) for t in (q, k, v))
                keys[rows, :, :width] = k.index_select(0, source)
                values[rows, :, :width] = v.index_select(0, source)
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                return out.transpose(1, 2).reshape(p * width, -1)

            x = layer(x, rotary, attend)
        last = torch.tensor([i * width + n - 1 for i, n in enumerate(lengths)], device=self.device)
        return self.model.lm_head(_norm(x[last], self.model.model.norm))

    def _step(self, batch: _Batch, n: int, slots: int) -> None:
        """Feed the last tokens of the first n rows, attend to the first `slots` slots, sample the next tokens."""
        x = F.embedding(batch.last[:n], self.model.get_input_embeddings().weight)
        if self.kernels is not None:
            for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):
                x = layer.decode(x, self.kernels, batch.rotary, keys, values, batch)
        else:
            x = self._layers_in_torch(x, batch, n, slots)
        self._emit(batch, n, self.model.lm_head(_norm(x, self.model.model.norm)), batch.step + 1)

    def _layers_in_torch(self, x: Tensor, batch: _Batch, n: int, slots: int) -> Tensor:
        at, lengths = batch.prompt + batch.step, batch.lengths[:n]
        rotary = tuple(t.index_select(0, lengths + batch.step) for t in batch.rotary)
        slot = torch.arange(slots, device=self.device)
        visible = (slot < lengths[:, None]) | ((slot >= batch.prompt) & (slot <= at))
        bias = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))[:, None, None]
        for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):

            def attend(q, k, v, keys=keys[:n], values=values[:n]):
                keys.index_copy_(2, at[None], k[:, :, None])
                values.index_copy_(2, at[None], v[:, :, None])
                # The query heads that share a key head are laid out as query positions: no repeated keys.
                q, keys, values = q.unflatten(1, (k.shape[1], -1)), keys[:, :, :slots], values[:, :, :slots]
                return _attend(q, keys, values, bias).flatten(1)

            x = layer(x, rotary, attend)
        return x

    def _emit(self, batch: _Batch, n: int, logits: Tensor, step: Tensor) -> None:
        """Sample from logits [n, V] and write token and logprob at column `step` of the rows' outputs."""
        token, logprob = draw(logits, batch.keys[:n], step, self.temperature, self.top_k)
        at = (batch.row[:n], step.expand(n))
        # A row that ended keeps sampling until it is dropped; _finish cuts at the first end.
        batch.tokens.index_put_(at, token)
        batch.logprobs.index_put_(at, logprob)
        batch.done[:n] |= (token[:, None] == self.eos).any(1)
        batch.last[:n] = token
        batch.step.copy_(step)

    # --- transformers generate ---

    def _generate(self, prompts, seeds, max_new: int) -> tuple[Tensor, Tensor, Tensor, int, float, float]:
        """transformers generate, left-padded; a logits processor draws with our noise, so seeds mean the same."""
        start, width = self._clock(), max(map(len, prompts))
        pad = [width - len(p) for p in prompts]
        ids = torch.tensor([[self.pad_id] * w + list(p) for w, p in zip(pad, prompts, strict=True)], device=self.device)
        attention = torch.tensor([[0] * w + [1] * (width - w) for w in pad], device=self.device)
        keys, drawn = row_keys(torch.tensor(list(seeds), dtype=torch.long, device=self.device)), []

        def processor(input_ids: Tensor, logits: Tensor) -> Tensor:
            drawn.append(draw(logits, keys, len(drawn), self.temperature, self.top_k))
            return torch.full_like(logits, float("-inf")).scatter_(1, drawn[-1][0][:, None], 0.0)

        training = self.model.training
        self.model.eval()
        try:
            self.model.generate(
                ids, attention_mask=attention, max_new_tokens=max_new, do_sample=False, num_beams=1, use_cache=True,
                logits_processor=[processor], eos_token_id=self.eos.tolist(), pad_token_id=self.pad_id,
                temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
            )  # fmt: skip
        finally:
            self.model.train(training)
        tokens, logprobs = (torch.stack([d[i] for d in drawn], 1) for i in (0, 1))
        return *self._finish(tokens, logprobs), len(drawn) - 1, 0.0, self._clock() - start
