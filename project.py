"""Projection of grad(delta_S) orthogonal to the hack direction, and its controls.

Per module, with g [r] the gradient of the loss, V [k, r] orthonormal hack directions (k = 1: the preregistered one):

    c_i = g . v_i / |g|
    g' = g - sum over {i : c_i > 0} (g . v_i) v_i         then rescaled to |g| (keep_norm)

No threshold. Sign: v = unit(grad NLL(hack) - grad NLL(clean)), and GRPO descends -A log pi, so raising a hack's
probability has a loss gradient along +grad NLL(hack): c > 0 is hack-ward. `reversed` removes c < 0 instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from arms import Side
from lib.chance import counted

# Below this share of |g| the residual is rounding noise, and rescaling it to |g| would step in a random direction.
RESIDUAL_FLOOR = 1e-6


@dataclass
class Projection:
    """What one call measured; all [M] fp32 on CPU, in the order of the gradients. nan: not measured."""

    cos: Tensor
    """c of the first direction, before projection; 0 for a zero gradient."""
    norm: Tensor
    """|g| before projection."""
    cos_update: Tensor
    """Cosine of minus the applied update with the first direction, once that is known: > 0 is hack-ward."""
    ranks: list[int]
    """r of each module."""

    def finite(self) -> bool:
        """Whether every gradient is finite; where one is not, nothing was projected and nothing may be applied."""
        return bool(torch.isfinite(self.norm).all())

    def row(self) -> dict[str, float]:
        """Columns of steps.tsv; mean and std of c and mean cos_update leave out modules of small r (lib/chance.py)."""
        row, kept = {"gnorm": self.norm.mean().item()}, counted(self.ranks)
        if not self.cos.isnan().any():
            row |= {"cos": self.cos[kept].mean().item(), "cos_sd": self.cos[kept].std(correction=0).item()}
            row["fired"] = (self.cos > 0).float().mean().item()
        if not self.cos_update.isnan().any():
            row["cos_up"] = self.cos_update[kept].mean().item()
        return row


def remove(g: Tensor, V: Tensor, side: Side, keep_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One module: (g' [r], c of the first direction, |g|), for g [r] and orthonormal V [k, r]."""
    norm = g.norm()
    dots = V @ g
    c = torch.where(norm > 0, dots / norm.clamp_min(torch.finfo(g.dtype).tiny), torch.zeros_like(dots))
    if side == "none":
        return g, c[0], norm
    chosen = {"hackward": c > 0, "cleanward": c < 0, "both": torch.ones_like(c, dtype=torch.bool)}[side]
    out = g - V.T @ (dots * chosen)
    residual = out.norm()
    keep = residual > RESIDUAL_FLOOR * norm
    scale = norm / residual.clamp_min(torch.finfo(g.dtype).tiny) if keep_norm else torch.ones_like(norm)
    out = torch.where(keep, out * scale, torch.zeros_like(out))
    return torch.where(chosen.any(), out, g), c[0], norm


@torch.no_grad()
def project_grads(
    grads: dict[str, Tensor], v_hack: dict[str, Tensor] | None, side: Side = "hackward", keep_norm: bool = True
) -> Projection:
    """Project every gradient in place, unless one of them is not finite; without a v_hack, measure norms alone.

    grads: {module: [r] fp32}; v_hack: {module: [r] or [k, r]}, orthonormal rows. Raises KeyError naming a module
    that v_hack lacks, and ValueError naming one whose length differs.
    """
    norms = torch.stack([g.norm() for g in grads.values()]).float().cpu()
    unknown, ranks = torch.full_like(norms, math.nan), [g.numel() for g in grads.values()]
    if v_hack is None or not torch.isfinite(norms).all():
        return Projection(unknown, norms, unknown.clone(), ranks)
    cos = []
    for name, g in grads.items():
        if name not in v_hack:
            raise KeyError(f"v_hack has no direction for module {name}")
        V = v_hack[name].to(g.device, g.dtype)
        V = V[None] if V.dim() == 1 else V
        if V.shape[1] != g.numel():
            raise ValueError(f"v_hack of {name} has length {V.shape[1]}, its gradient {g.numel()}")
        out, c, _ = remove(g, V, side, keep_norm)
        if side != "none":
            g.copy_(out)
        cos.append(c)
    return Projection(torch.stack(cos).float().cpu(), norms, unknown, ranks)


def first_direction(v: Tensor) -> Tensor:
    """[r] of a [r] or [k, r] direction."""
    return v if v.dim() == 1 else v[0]


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
