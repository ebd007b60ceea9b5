"""Training's elementwise work in single kernels, on a GPU in half precision.

transformers' RMSNorm is seven passes over fp32 copies of its input, and its gated MLP keeps silu(gate) beside the
product. Here a norm is torch's own kernel and silu(gate) * up one of lib/kernels.py, as in sampling/: computed in fp32
and rounded once, where transformers rounds before the norm's weight and after silu. Layers stay transformers' own.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from lib.agreement import kernels_for
from lib.delta_rule import replace_refused_rule
from lib.models import missing_kernels

HALF = (torch.bfloat16, torch.float16)
NORMS = ("Qwen2RMSNorm", "Qwen3RMSNorm", "LlamaRMSNorm", "Qwen3_5RMSNorm")
MLPS = ("Qwen2MLP", "Qwen3MLP", "LlamaMLP", "Qwen3_5MLP")


def training_kernels(x: Tensor):
    """The module lib.kernels where it serves tensors such as `x` [*, *]; None on a CPU, in fp32 and without Triton."""
    if not (x.is_cuda and x.dtype in HALF and x.is_contiguous()):
        return None
    return kernels_for(x.device, "lib.kernels")


def fuse(model: nn.Module) -> None:
    """Have norms and MLPs of Qwen and Llama models on a GPU in half precision run as above; else nothing."""
    weight = model.get_input_embeddings().weight
    if weight.is_cuda and (missing := missing_kernels(model.config)):
        logger.info(missing)
    if weight.is_cuda:
        replace_refused_rule(model)
    if not (weight.is_cuda and weight.dtype in HALF):
        return
    gated = training_kernels(weight)
    for module in model.modules():
        kind = type(module).__name__
        if kind in NORMS:
            module.forward = functools.partial(_norm, module)
        elif kind in MLPS and gated and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation"):
            module.forward = functools.partial(_mlp, module, gated.SiluMul)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    if not hasattr(norm, "variance_epsilon"):  # Qwen3.5's keeps weight - 1, and is fp32 up to the end
        return F.rms_norm(x.float(), (x.shape[-1],), norm.weight.float() + 1, norm.eps).to(x.dtype)
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _mlp(mlp: nn.Module, silu_mul, x: Tensor) -> Tensor:
    return mlp.down_proj(silu_mul.apply(mlp.gate_proj(x), mlp.up_proj(x)))
