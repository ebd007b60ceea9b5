"""AntiPaSTO SVD adapter: every attention and MLP Linear gets one trainable number per singular value.

For W [d_out, d_in] of full rank r = min(d_out, d_in), W = U diag(S) Vh, only `delta_S` [r] (fp32, zero init) trains:

    y = x W^T + b + ((x Vh^T) * delta_S) U^T            forward, x [T, d_in], h = x Vh^T [T, r]
    d delta_S = sum_t h_t * (g_t U)                     backward, g [T, d_out]
    dx = g W + ((g U) * delta_S) Vh

Identity: at delta_S = 0 the adapted model equals the base model bit for bit, in any dtype (that product is then
skipped), so switching the delta off (`reference`) is the KL reference and costs no second copy of the weights.

Departures from AntiPaSTO (wassname): no rotation of the singular axes, since a rotated axis would void v_hack, and
the additive form instead of U diag(S + delta_S) Vh, because the merged form loses deltas below bf16's resolution.
lib/adapted.py has the products in bf16 and fp32, docs/method.md the measurements.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn
from tqdm import tqdm

from config import ModelConfig
from lib import models
from lib.adapted import DeltaLinear, RowSums
from lib.errors import AdapterError
from lib.families import FAMILIES
from lib.fused import fuse
from lib.svd import cached_svd
from lib.tensors import save_atomic

# Attention and MLP projections of Qwen2 and Qwen3, and the gated delta net's in Qwen3.5 (in_proj_*, out_proj).
TARGET = re.compile(
    r"(^|\.)layers\.\d+\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|in_proj_\w+|out_proj)$"
)
LAYER = re.compile(r"layers\.(\d+)\.")


class SVDLinear(nn.Module):
    """A frozen Linear with its singular vectors and a trainable delta_S.

    Buffers weight_U = [W | U] [d_out, d_in + r], Vh [r, d_in] and bias [d_out] or None in the model's dtype, S [r]
    fp32; parameter delta_S [r] fp32. x [..., d_in] -> [..., d_out] in the model's dtype.
    """

    def __init__(self, linear: nn.Linear, U: Tensor, S: Tensor, Vh: Tensor):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.data
        self.register_buffer("weight_U", torch.cat([weight, U.to(weight)], dim=1))
        self.register_buffer("Vh", Vh.to(weight))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.data)
        self.register_buffer("S", S.float().to(weight.device))
        self.delta_S = nn.Parameter(torch.zeros(S.numel(), dtype=torch.float32, device=weight.device))
        self.enabled = True
        # Whether nothing but a residual reads the output: the last product of a pre-norm block.
        self.ends_block = False
        # While `Adapter.per_row` collects them.
        self.row_sums: RowSums | None = None
        self._zero = (-1, True)

    @property
    def weight(self) -> Tensor:
        """W [d_out, d_in], a view."""
        return self.weight_U[:, : self.in_features]

    @property
    def U(self) -> Tensor:
        """U [d_out, r], a view."""
        return self.weight_U[:, self.in_features :]

    def is_zero(self) -> bool:
        """Whether delta_S is all zero. On a GPU that is a sync, so it is asked once a change (writes through `.data`,
        which leave no trace in the version, are not seen there)."""
        if self._zero[0] != self.delta_S._version or not self.delta_S.is_cuda:
            self._zero = (self.delta_S._version, not bool(self.delta_S.detach().any()))
        return self._zero[1]

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return F.linear(x, self.weight, self.bias)
        return DeltaLinear.apply(x, self.delta_S, self)

    def delta_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """U diag(delta_S) Vh [d_out, d_in], the delta as a matrix of its own (never added to W in bf16)."""
        dtype = dtype or self.weight.dtype
        return (self.U.to(dtype) * self.delta_S.detach().to(dtype)) @ self.Vh.to(dtype)


@dataclass
class Adapter:
    """The SVDLinears of one model, by module name, in module order."""

    modules: dict[str, SVDLinear]
    weights_sha256: str
    """SHA-256 over names and weight hashes: ties a v_hack or delta_S to the exact weights and dtype."""

    def delta(self) -> dict[str, nn.Parameter]:
        """delta_S [r] fp32 of each module, by name."""
        return {name: module.delta_S for name, module in self.modules.items()}

    def grads(self) -> dict[str, Tensor]:
        """delta_S.grad [r] fp32 of each module; whether all are finite says project.Projection.finite.

        Raises AssertionError naming a module without a gradient.
        """
        out = {}
        for name, parameter in self.delta().items():
            assert parameter.grad is not None, f"{name}.delta_S has no gradient: is it in the graph?"
            out[name] = parameter.grad
        return out

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within the context the model is its base model: every delta is switched off, whatever its value."""
        before = [module.enabled for module in self.modules.values()]
        for module in self.modules.values():
            module.enabled = False
        try:
            yield
        finally:
            for module, enabled in zip(self.modules.values(), before, strict=True):
                module.enabled = enabled

    @contextmanager
    def per_row(self, row_of_token: Tensor, n: int, every: int = 1) -> Iterator[dict[str, Tensor]]:
        """Within the context a backward also sums grad(delta_S) by row: {module: [n, r] fp32}, added to in place.

        row_of_token [B L] int64: the row in [0, n) that each token of the batch belongs to, in row-major order, -1 for
        none. A row's share is its own gradient where rows do not see one another and none of its tokens is left out.
        every: of the layers every second, third, ..., the last of them among these.
        """
        tokens = None if (row_of_token >= 0).all() else (row_of_token >= 0).nonzero()[:, 0]
        rows_of = row_of_token if tokens is None else row_of_token[tokens]
        rows = (torch.arange(n, device=rows_of.device)[:, None] == rows_of).float()
        chosen = {n: m for n, m in self.modules.items() if (int(LAYER.search(n)[1]) + 1) % every == 0}
        sums = {name: torch.zeros(n, len(m.delta_S), device=m.delta_S.device) for name, m in chosen.items()}
        for name, module in chosen.items():
            module.row_sums = RowSums(rows, tokens, sums[name])
        try:
            yield sums
        finally:
            for module in self.modules.values():
                module.row_sums = None

    @contextmanager
    def at_zero(self) -> Iterator[None]:
        """Within the context every delta_S is zero, for sampling from the base model; then the values are back."""
        before = {name: p.detach().clone() for name, p in self.delta().items()}
        self.load({name: torch.zeros_like(value) for name, value in before.items()})
        try:
            yield
        finally:
            self.load(before)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Set delta_S to {module: [r]}. Raises KeyError where a module is missing."""
        for name, p in self.delta().items():
            p.copy_(values[name])

    def save(self, path: Path, metadata: dict[str, str] | None = None) -> None:
        """Write delta_S alone, {module: [r] fp32}, atomically."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.delta().items()}
        save_atomic(tensors, path, {"weights_sha256": self.weights_sha256, **(metadata or {})})


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute each decoder layer in backward instead of keeping its activations."""
    # Embeddings are frozen: without an input that requires grad, a checkpointed layer would have no backward.
    model.enable_input_require_grads()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def targets(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """(name, Linear) of every attention and MLP Linear, in the model's order."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and TARGET.search(name)]


def wrap_linear(model: nn.Module, name: str, U: Tensor, S: Tensor, Vh: Tensor) -> SVDLinear:
    """Put an SVDLinear in the place of the Linear called `name`, which it keeps; U, S, Vh: its SVD."""
    module = SVDLinear(model.get_submodule(name), U, S, Vh)
    # Pre-norm blocks add the MLP's output to the residual as it is; elsewhere a norm may read it first.
    module.ends_block = getattr(model.config, "model_type", "") in FAMILIES and name.endswith("mlp.down_proj")
    model.set_submodule(name, module)
    return module


def wrap(model: nn.Module, cache_dir: Path, device: torch.device | str = "cpu") -> Adapter:
    """Replace every target Linear of `model` in place by an SVDLinear, freeze the rest, and move the model to `device`.

    The weights stay where they are while the SVDs are made, one Linear at a time on `device`, so the peak is the
    model plus one SVD. Raises AdapterError where the model has no target Linear.
    """
    device = torch.device(device)
    if not (found := targets(model)):
        raise AdapterError(f"{type(model).__name__} has no attention or MLP Linear under layers.N: nothing to adapt")
    model.requires_grad_(False)
    modules, digest, hits = {}, hashlib.sha256(), 0
    for name, linear in tqdm(found, desc="svd", disable=None, leave=False):
        U, S, Vh, sha, hit = cached_svd(linear.weight.data, Path(cache_dir) / f"{name}.safetensors", device)
        modules[name] = wrap_linear(model, name, U, S, Vh)
        digest.update(f"{name} {sha}\n".encode())
        hits += hit
    model.to(device)
    trainable = sum(m.delta_S.numel() for m in modules.values())
    logger.info(f"wrapped {len(modules)} Linears ({hits} SVDs from {cache_dir}), {trainable:,} trainable delta_S")
    return Adapter(modules, digest.hexdigest())


def load_model(cfg: ModelConfig, device: torch.device) -> tuple[nn.Module, object, Adapter]:
    """(model, tokenizer, adapter) of a configuration: loaded, wrapped, on `device`, in eval mode."""
    attention = models.pick_attention(cfg.dtype, device)
    model, tokenizer = models.load(cfg.model, cfg.revision, cfg.dtype, attention)
    cache = Path(cfg.svd_cache) / models.model_slug(cfg.model, cfg.revision, cfg.dtype)
    adapter = wrap(model, cache, device)
    fuse(model)
    return model, tokenizer, adapter
