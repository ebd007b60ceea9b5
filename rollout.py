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
    z = logits.float() / temperature
    k = min(top_k, z.shape[-1]) if top_k > 0 else z.shape[-1]
    values, ids = z.topk(k, dim=-1, sorted=False)
    gumbel = -(-uniform(keys, step, ids).log()).log()
    choice = (values + gumbel).argmax(-1, keepdim=True)
    return ids.gather(-1, choice)[:, 0], values.gather(-1, choice)[:, 0] - z.logsumexp(-1)


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
    """One or several Linears of the same input as one product; knows the adapter's delta (see the module docstring)."""

    def __init__(self, modules: list[nn.Module], fuse: bool):
        self.modules, self.fuse = modules, fuse
        self.sizes = [m.weight.shape[0] for m in modules]
        self.parts: list[list[Tensor | None]] = []

    def refresh(self) -> None:
        """Take over the current weights and delta_S; buffers keep their addresses."""
        if self.fuse:
            weights = [m.weight if (d := _delta(m)) is None else m.weight + d for m in self.modules]
            biases = [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in self.modules]
            has_bias = any(m.bias is not None for m in self.modules)
            self.parts = [[torch.cat(weights), torch.cat(biases) if has_bias else None, None]]
            return
        if not self.parts:
            self.parts = [[m.weight, m.bias, None] for m in self.modules]
        for module, part in zip(self.modules, self.parts, strict=True):
            delta = _delta(module)
            if part[2] is not None:
                part[2].zero_() if delta is None else part[2].copy_(delta)
            elif delta is not None:
                part[2] = delta

    def __call__(self, x: Tensor) -> Tensor:
        """[N, d_in] -> [N, sum of d_out]."""
        out = []
        for weight, bias, delta in self.parts:
            y = F.linear(x, weight, bias)
            out.append(y if delta is None else y.addmm_(x, delta.t()))
        return out[0] if len(out) == 1 else torch.cat(out, -1)


def _delta(module: nn.Module) -> Tensor | None:
    """U diag(delta_S) Vh [d_out, d_in] in the weight's dtype, or None where there is no active adapter."""
    return module.delta_weight() if hasattr(module, "delta_S") and module.enabled else None


class _Layer:
    """One decoder layer: pre-norm attention with grouped heads and rotary positions, then a gated MLP."""

    def __init__(self, layer: nn.Module, fuse: bool):
        attn, mlp = layer.self_attn, layer.mlp
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.head_norms = (getattr(attn, "q_norm", None), getattr(attn, "k_norm", None))
        self.qkv = _Linear([attn.q_proj, attn.k_proj, attn.v_proj], fuse)
        self.o = _Linear([attn.o_proj], fuse)
        self.gate_up = _Linear([mlp.gate_proj, mlp.up_proj], fuse)
        self.down = _Linear([mlp.down_proj], fuse)
        self.act, self.head_dim = mlp.act_fn, attn.head_dim

    def linears(self) -> tuple[_Linear, ...]:
        return self.qkv, self.o, self.gate_up, self.down

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, attend) -> Tensor:
        """x [N, d]; cos, sin [N, 1, D]; attend(q [N, H, D], k, v [N, Hkv, D]) -> [N, H * D] stores k, v and attends."""
        D = self.head_dim
        q, k, v = (p.unflatten(-1, (-1, D)) for p in self.qkv(_norm(x, self.norms[0])).split(self.qkv.sizes, -1))
        if self.head_norms[0] is not None:
            q, k = _norm(q, self.head_norms[0]), _norm(k, self.head_norms[1])
        x = x + self.o(attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v))
        gate, up = self.gate_up(_norm(x, self.norms[1])).chunk(2, -1)
        return x + self.down(self.act(gate) * up)


def _norm(x: Tensor, norm: nn.Module) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class _Batch:
    """The rows being decoded: their cache and what the step reads and writes. Tensors keep their addresses."""

    def __init__(self, n: int, prompt: int, max_new: int, cache: list[tuple[Tensor, Tensor]], device):
        self.n, self.prompt, self.cache = n, prompt, cache
        self.last = torch.zeros(n, dtype=torch.long, device=device)
        """[n] the token sampled last."""
        self.lengths = torch.zeros_like(self.last)
        """[n] prompt lengths."""
        self.keys = torch.zeros_like(self.last)
        self.row = torch.arange(n, device=device)
        """[n] the row of the output that a row of the batch writes."""
        self.done = torch.zeros(n, dtype=torch.bool, device=device)
        self.step = torch.zeros((), dtype=torch.long, device=device)
        """Index of the token sampled last."""
        self.tokens = torch.zeros((n, max_new), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((n, max_new), dtype=torch.float32, device=device)

    def keep(self, index: Tensor) -> None:
        """Move the rows `index` [m] (ascending) to the front."""
        m = len(index)
        for tensor in (self.last, self.lengths, self.keys, self.row, self.done, *(t for kv in self.cache for t in kv)):
            tensor[:m] = tensor.index_select(0, index)
        self.n = m


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
        reason = lean_reason(model)
        if engine in ("graph", "eager") and reason:
            raise ValueError(f"engine {engine} cannot run this model ({reason}): use engine auto or generate")
        if engine == "auto" and reason:
            logger.info(f"sampling through transformers generate: {reason}")
        self.engine = ("generate" if reason else "eager") if engine == "auto" else engine
        if self.engine != "generate":
            dtype = model.get_input_embeddings().weight.dtype
            self.layers = [_Layer(layer, fuse=dtype == torch.float32) for layer in model.model.layers]
        self._cache: list[tuple[Tensor, Tensor]] = []

    def free(self) -> None:
        """Give the cache back; the next call allocates it again."""
        self._cache = []

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

    # --- eager and graph ---

    def _decode(self, prompts, seeds, max_new: int) -> tuple[Tensor, Tensor, Tensor, int, float, float]:
        start = self._clock()
        for layer in self.layers:
            for linear in layer.linears():
                linear.refresh()
        batch = self._prefill(prompts, seeds, max_new)
        middle, steps = self._clock(), 0
        while steps + 1 < max_new:
            alive = int((~batch.done[: batch.n]).sum())
            if alive == 0:
                break
            if alive <= 0.8 * batch.n:
                batch.keep((~batch.done[: batch.n]).nonzero()[:, 0])
            self._step(batch, batch.n, batch.prompt + steps + 1)
            steps += 1
        result = self._finish(batch.tokens[:, : steps + 1], batch.logprobs[:, : steps + 1])
        return *result, steps, middle - start, self._clock() - middle

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _allocate(self, rows: int, slots: int) -> list[tuple[Tensor, Tensor]]:
        """K, V [>= rows, Hkv, >= slots, D] of each layer, reused where they are large enough."""
        if not self._cache or self._cache[0][0].shape[0] < rows or self._cache[0][0].shape[2] < slots:
            self.free()
            config, weight = self.model.config, self.model.get_input_embeddings().weight
            shape = (rows, config.num_key_value_heads, slots, self.layers[0].head_dim)
            self._cache = [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in self.layers]
        return self._cache

    def _prefill(self, prompts, seeds, max_new: int) -> _Batch:
        """Run each distinct prompt once, copy its keys and values to its rows and sample every row's first token."""
        distinct = {tuple(p): i for i, p in enumerate(dict.fromkeys(map(tuple, prompts)))}
        width, n = max(map(len, distinct)), len(prompts)
        batch = _Batch(n, width, max_new, self._allocate(n, width + max_new), self.device)
        batch.keys = row_keys(torch.tensor(list(seeds), dtype=torch.long, device=self.device))
        batch.lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        positions = torch.arange(width + max_new, device=self.device)[None]
        embedding = self.model.get_input_embeddings()
        cos, sin = self.model.model.rotary_emb(embedding.weight[:1, None], positions)
        self.rotary = (cos[0, :, None], sin[0, :, None])  # [positions, 1, D]
        per_slice, logits = max(1, PREFILL_TOKENS // width), []
        index = [distinct[tuple(p)] for p in prompts]
        for first in range(0, len(distinct), per_slice):
            part = list(distinct)[first : first + per_slice]
            rows = torch.tensor([r for r, i in enumerate(index) if first <= i < first + len(part)], device=self.device)
            source = torch.tensor([index[r] - first for r in rows.tolist()], device=self.device)
            ids = torch.tensor([list(p) + [0] * (width - len(p)) for p in part], device=self.device)
            logits.append(self._prefill_slice(ids, [len(p) for p in part], batch, rows, source))
        order = torch.tensor(index, device=self.device)
        self._emit(batch, n, torch.cat(logits).index_select(0, order), 0)
        return batch

    def _prefill_slice(self, ids: Tensor, lengths: list[int], batch: _Batch, rows: Tensor, source: Tensor) -> Tensor:
        """Fill the cache of `rows` from prompts ids [p, P] (row rows[i] takes prompt source[i]); logits [p, V]."""
        p, width = ids.shape
        cos, sin = (t[:width].repeat(p, 1, 1) for t in self.rotary)
        x = F.embedding(ids.flatten(), self.model.get_input_embeddings().weight)
        for layer, (keys, values) in zip(self.layers, batch.cache, strict=False):

            def attend(q, k, v, keys=keys, values=values):
                q, k, v = (t.unflatten(0, (p, width)).transpose(1, 2) for t in (q, k, v))
                keys[rows, :, :width] = k.index_select(0, source)
                values[rows, :, :width] = v.index_select(0, source)
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                return out.transpose(1, 2).reshape(p * width, -1)

            x = layer(x, cos, sin, attend)
        last = torch.tensor([i * width + n - 1 for i, n in enumerate(lengths)], device=self.device)
        return self.model.lm_head(_norm(x[last], self.model.model.norm))

    def _step(self, batch: _Batch, n: int, slots: int) -> None:
        """Feed the last tokens of the first n rows, attend to the first `slots` slots, sample the next tokens."""
        at, step = batch.prompt + batch.step, batch.step
        lengths = batch.lengths[:n]
        x = F.embedding(batch.last[:n], self.model.get_input_embeddings().weight)
        cos, sin = (t.index_select(0, lengths + step) for t in self.rotary)
        slot = torch.arange(slots, device=self.device)
        visible = (slot < lengths[:, None]) | ((slot >= batch.prompt) & (slot <= at))
        bias = torch.zeros_like(visible, dtype=x.dtype).masked_fill_(~visible, float("-inf"))[:, None, None]
        for layer, (keys, values) in zip(self.layers, batch.cache, strict=True):

            def attend(q, k, v, keys=keys[:n], values=values[:n]):
                keys.index_copy_(2, at[None], k[:, :, None])
                values.index_copy_(2, at[None], v[:, :, None])
                # The query heads that share a key head are laid out as query positions: no repeated keys.
                q = q.unflatten(1, (k.shape[1], -1))
                mask = bias.expand(-1, -1, q.shape[2], -1)
                out = F.scaled_dot_product_attention(q, keys[:, :, :slots], values[:, :, :slots], attn_mask=mask)
                return out.flatten(1)

            x = layer(x, cos, sin, attend)
        self._emit(batch, n, self.model.lm_head(_norm(x, self.model.model.norm)), batch.step + 1)

    def _emit(self, batch: _Batch, n: int, logits: Tensor, step: Tensor | int) -> None:
        """Sample from logits [n, V] and write token and logprob at column `step` of the rows' outputs."""
        token, logprob = draw(logits, batch.keys[:n], step, self.temperature, self.top_k)
        column = torch.as_tensor(step, device=self.device).expand(n)
        # A row that ended keeps sampling until it is dropped; _finish cuts at the first end.
        batch.tokens.index_put_((batch.row[:n], column), token)
        batch.logprobs.index_put_((batch.row[:n], column), logprob)
        batch.done[:n] |= torch.isin(token, self.eos)
        batch.last[:n] = token
        batch.step.copy_(column[0])

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
            self.model.generate(ids, attention_mask=attention, max_new_tokens=max_new, do_sample=False, num_beams=1,
                                logits_processor=[processor], eos_token_id=self.eos.tolist(),
                                pad_token_id=self.pad_id, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0, use_cache=True)  # fmt: skip
        finally:
            self.model.train(training)
        tokens, logprobs = (torch.stack([d[i] for d in drawn], 1) for i in (0, 1))
        return *self._finish(tokens, logprobs), len(drawn) - 1, 0.0, self._clock() - start
