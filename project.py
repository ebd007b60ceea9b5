"""Projection of grad(delta_S) orthogonal to the hack direction, and its controls.

Per module, with g [r] the gradient of the loss, V [k, r] orthonormal hack directions (k = 1: the preregistered one):

    c_i = g . v_i / |g|
    g' = g - sum over {i : c_i > 0} (g . v_i) v_i         then rescaled to |g| (keep_norm)

No threshold. Sign: v = unit(grad NLL(hack) - grad NLL(clean)), and GRPO descends -A log pi, so raising a hack's
probability has a loss gradient along +grad NLL(hack): c > 0 is hack-ward. `reversed` removes c < 0 instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["hackward", "cleanward", "none"]
"""Which components are removed: c > 0 (projected), c < 0 (reversed control), or none (measure only)."""

# Below this share of |g| the residual is rounding noise, and rescaling it to |g| would step in a random direction.
RESIDUAL_FLOOR = 1e-6


@dataclass
class Projection:
    """What one call measured; all [M] fp32 on CPU, in the order of `names`."""

    names: list[str]
    cos: Tensor
    """c of the first direction, before projection; 0 for a zero gradient."""
    norm: Tensor
    """|g| before projection."""

    def row(self) -> dict[str, float]:
        """Mean and std of c over modules, share with c > 0, mean |g|."""
        return {
            "cos": self.cos.mean().item(),
            "cos_sd": self.cos.std(correction=0).item(),
            "fired": (self.cos > 0).float().mean().item(),
            "gnorm": self.norm.mean().item(),
        }


def remove(g: Tensor, V: Tensor, side: Side, keep_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One module: (g' [r], c of the first direction, |g|), for g [r] and orthonormal V [k, r]."""
    norm = g.norm()
    dots = V @ g
    c = torch.where(norm > 0, dots / norm.clamp_min(torch.finfo(g.dtype).tiny), torch.zeros_like(dots))
    if side == "none":
        return g, c[0], norm
    chosen = c > 0 if side == "hackward" else c < 0
    out = g - V.T @ (dots * chosen)
    residual = out.norm()
    keep = residual > RESIDUAL_FLOOR * norm
    scale = norm / residual.clamp_min(torch.finfo(g.dtype).tiny) if keep_norm else torch.ones_like(norm)
    out = torch.where(keep, out * scale, torch.zeros_like(out))
    return torch.where(chosen.any(), out, g), c[0], norm


@torch.no_grad()
def project_grads(grads: dict[str, Tensor], v_hack: dict[str, Tensor], side: Side = "hackward",
                  keep_norm: bool = True) -> Projection:  # fmt: skip
    """Project every gradient in place.

    grads: {module: [r] fp32}; v_hack: {module: [r] or [k, r]}, orthonormal rows. Raises KeyError naming a module
    that v_hack lacks, and ValueError naming one whose length differs.
    """
    cos, norms = [], []
    for name, g in grads.items():
        if name not in v_hack:
            raise KeyError(f"v_hack has no direction for module {name}")
        V = v_hack[name].to(g.device, g.dtype)
        V = V[None] if V.dim() == 1 else V
        if V.shape[1] != g.numel():
            raise ValueError(f"v_hack of {name} has length {V.shape[1]}, its gradient {g.numel()}")
        out, c, norm = remove(g, V, side, keep_norm)
        if side != "none":
            g.copy_(out)
        cos.append(c)
        norms.append(norm)
    return Projection(list(grads), torch.stack(cos).float().cpu(), torch.stack(norms).float().cpu())


def random_directions(v_hack: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Control `random-v`: unit vectors of the same shapes, isotropic, from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, v in v_hack.items():
        noise = torch.randn(v.shape, generator=generator, dtype=torch.float32)
        if noise.dim() == 1:
            out[name] = noise / noise.norm()
        else:
            out[name] = torch.linalg.qr(noise.T).Q.T.contiguous()
    return out


def null_abs_cos(r: int) -> float:
    """E|cos| of a random unit vector with any fixed one in r dimensions, about sqrt(2 / (pi r))."""
    return (2 / (torch.pi * r)) ** 0.5


@torch.no_grad()
def update_cosines(descent: dict[str, Tensor], v_hack: dict[str, Tensor]) -> Tensor:
    """[M] cosine of -(applied update) with the first direction; > 0 is hack-ward. descent = delta before - after."""
    return project_grads(descent, v_hack, "none").cos
