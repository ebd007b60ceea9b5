"""AntiPaSTO SVD adapter: every attention and MLP Linear gets one trainable number per singular value.

For W [d_out, d_in] of full rank r = min(d_out, d_in), W = U diag(S) Vh, only `delta_S` [r] (fp32, zero init) trains:

    y = x W^T + b + ((x Vh^T) * delta_S) U^T            forward, x [T, d_in], h = x Vh^T [T, r]
    d delta_S = sum_t h_t * (g_t U)                     backward, g [T, d_out]
    dx = g W + ((g U) * delta_S) Vh

In bf16 the sum is one product, y = [x, h * delta_S] [W | U]^T + b, accumulated in fp32 and rounded once. Rounding
x W^T to bf16 first would put it on the grid, and a delta of less than half a unit in the last place would round away
again: measured, 25% of a delta of 1e-3 is lost that way and 93% of 7e-5 (tests/test_antipasto.py, docs/method.md).
adapter_kernels.py has the products, and what backward may take instead.

Identity: at delta_S = 0 the adapted model equals the base model bit for bit, in any dtype (that product is then
skipped), so switching the delta off (`reference`) is the KL reference and costs no second copy of the weights.

Departures from AntiPaSTO (wassname): no rotation of the singular axes, since a rotated axis would void v_hack, and
the additive form instead of U diag(S + delta_S) Vh, because the merged form loses deltas below bf16's resolution.

SVDs are computed one Linear at a time and cached as svd_cache/<model>/<module>.safetensors with U, S, Vh and the
SHA-256 of the weight. A file that is stale, torn or does not multiply back to W is rebuilt.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
import torch.nn.functional as F
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from adapter_kernels import DeltaLinear

# Attention and MLP projections of Qwen2 and Qwen3, and the gated delta net's in Qwen3.5 (in_proj_*, out_proj).
TARGET = re.compile(
    r"(^|\.)layers\.\d+\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|in_proj_\w+|out_proj)$"
)
# Their blocks add the MLP's output to the residual as it is; elsewhere a norm may read it first.
PRE_NORM = ("qwen2", "qwen3", "qwen3_5_text", "llama")
RECONSTRUCTION_TOL = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


class AdapterError(ValueError):
    """A model, cache or delta_S file that cannot be used; the message says what to do."""


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
        self.ends_block = False
        """Whether nothing but a residual reads the output: the last product of a pre-norm block."""
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

    def applied_delta(self, x: Tensor) -> Tensor:
        """The term that delta_S adds to the output, ((x Vh^T) * delta_S) U^T, [..., d_out]."""
        h = F.linear(x, self.Vh)
        return F.linear(h * self.delta_S.to(h.dtype), self.U)

    def delta_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """U diag(delta_S) Vh [d_out, d_in], the delta as a matrix of its own (never added to W in bf16)."""
        dtype = dtype or self.weight.dtype
        return (self.U.to(dtype) * self.delta_S.detach().to(dtype)) @ self.Vh.to(dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, r={self.delta_S.numel()}"


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
        """delta_S.grad [r] fp32 of each module. Raises AssertionError naming a module without a finite gradient."""
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

    def save(self, path: Path, metadata: dict[str, str] | None = None) -> None:
        """Write delta_S alone, {module: [r] fp32}, atomically."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.delta().items()}
        save_atomic(tensors, path, {"weights_sha256": self.weights_sha256, **(metadata or {})})

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Load delta_S. Raises AdapterError when the file belongs to other weights or lacks a module."""
        tensors, metadata = load_tensors(path)
        if metadata.get("weights_sha256") != self.weights_sha256:
            raise AdapterError(
                f"{path} was trained on other weights than this model's: pass the model it was made with"
            )
        if missing := sorted(self.modules.keys() - tensors.keys()):
            raise AdapterError(f"{path} lacks delta_S of {missing[0]} and {len(missing) - 1} more modules")
        for name, parameter in self.delta().items():
            parameter.copy_(tensors[name])


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute each decoder layer in backward instead of keeping its activations."""
    # Embeddings are frozen: without an input that requires grad, a checkpointed layer would have no backward.
    model.enable_input_require_grads()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within the context an OSError names `path`: a full disk names no file, and a temporary one means nothing."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A file written to a temporary name, synced, renamed: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            # A path that is no text keeps its bytes as \udcXX, which JSON reads back.
            text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
            with open(temporary, mode, **text) as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)  # or a power cut may take the new name back
            os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


def save_atomic(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """safetensors through `atomic`, into a folder that exists: one that vanished is not begun again half empty."""
    data = save(tensors, metadata)  # save_file would report a full disk as an error of its own, without a number
    with atomic(Path(path)) as f:
        f.write(data)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header metadata of a safetensors file; AdapterError where it is missing or torn."""
    if not Path(path).is_file():
        raise AdapterError(f"{path} does not exist" if not Path(path).exists() else f"{path} is not a file")
    try:
        with safe_open(path, framework="pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{path} is torn or not a safetensors file ({error}): check the path, or delete it and make it again"
        ) from error


def weight_sha256(weight: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    data = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{data.dtype} {tuple(data.shape)}".encode())
    digest.update(data.view(torch.uint8).numpy())
    return digest.hexdigest()


def svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [d_out, r], S [r], Vh [r, d_in] in fp32, S descending; on CPU by LAPACK, on CUDA by `svd_gram`."""
    if weight.is_cuda:
        return svd_gram(weight)
    return torch.linalg.svd(weight.float(), full_matrices=False)


def svd_gram(weight: Tensor, tol: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """SVD from the eigenvectors of the smaller Gram matrix in float64.

    Squaring costs half the digits, which float64 has to spare for weights of bf16 or fp32; where a weight is so ill
    conditioned that the derived singular vectors are not orthonormal to `tol`, the direct SVD is taken.
    """
    A = weight.double()
    wide = A.shape[0] <= A.shape[1]
    A = A if wide else A.T
    U = torch.linalg.eigh(A @ A.T).eigenvectors  # ascending
    U = U.flip(1)
    Vh = U.T @ A
    S = Vh.norm(dim=1)
    Vh = Vh / S.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    off = (Vh @ Vh.T - torch.eye(len(S), dtype=Vh.dtype, device=Vh.device)).abs().max()
    if not off < tol:
        return torch.linalg.svd(weight.float(), full_matrices=False)
    S, order = S.sort(descending=True)
    U, Vh = U[:, order], Vh[order]
    if not wide:
        U, Vh = Vh.T, U.T
    return U.float().contiguous(), S.float(), Vh.float().contiguous()


def multiplies_back(weight: Tensor, U: Tensor, S: Tensor, Vh: Tensor) -> bool:
    """Whether U diag(S) Vh x = W x for a random x, to the dtype's resolution: catches flipped bytes cheaply."""
    if U.shape != (weight.shape[0], len(S)) or Vh.shape != (len(S), weight.shape[1]):
        return False
    x = torch.randn(weight.shape[1], 2, generator=torch.Generator().manual_seed(0)).to(weight.device)
    got, want = U.float() @ (S[:, None] * (Vh.float() @ x)), weight.float() @ x
    return bool((got - want).norm() <= RECONSTRUCTION_TOL[weight.dtype] * want.norm())


def cached_svd(weight: Tensor, path: Path, device: torch.device) -> tuple[Tensor, Tensor, Tensor, str, bool]:
    """U, Vh (dtype of the weight), S (fp32) on CPU, the weight's SHA-256, and whether the cache had them."""
    sha = weight_sha256(weight)
    if path.exists():
        try:
            tensors, metadata = load_tensors(path)
            U, S, Vh = tensors["U"], tensors["S"], tensors["Vh"]
            if metadata.get("weight_sha256") == sha and multiplies_back(weight.cpu(), U, S, Vh):
                return U, S, Vh, sha, True
            logger.warning(f"{path} is stale or damaged: rebuilding it")
        except (AdapterError, KeyError):
            logger.warning(f"{path} is torn: rebuilding it")
    U, S, Vh = (t.cpu().contiguous() for t in svd(weight.to(device)))
    U, Vh = U.to(weight.dtype), Vh.to(weight.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomic({"U": U, "S": S, "Vh": Vh}, path, {"weight_sha256": sha, "dtype": str(weight.dtype)})
    return U, S, Vh, sha, False


def targets(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """(name, Linear) of every attention and MLP Linear, in the model's order."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and TARGET.search(name)]


def wrap_linear(model: nn.Module, name: str, U: Tensor, S: Tensor, Vh: Tensor) -> SVDLinear:
    """Put an SVDLinear in the place of the Linear called `name`, which it keeps; U, S, Vh: its SVD."""
    module = SVDLinear(model.get_submodule(name), U, S, Vh)
    module.ends_block = getattr(model.config, "model_type", "") in PRE_NORM and name.endswith("mlp.down_proj")
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
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
    logger.info(f"wrapped {len(modules)} Linears ({hits} SVDs from {cache_dir}), "
                f"{sum(m.delta_S.numel() for m in modules.values()):,} trainable delta_S")  # fmt: skip
    return Adapter(modules, digest.hexdigest())
