"""Projection of grad(delta_S) orthogonal to the hack direction, and its controls.

Per module, with g [r] the gradient of the loss, V [k, r] orthonormal hack directions (k = 1: the preregistered one):

    c_i = g . v_i / |g|
    g' = g - sum over {i : c_i > 0} (g . v_i) v_i         then rescaled to |g| (keep_norm)

No threshold. Sign: v = unit(grad NLL(hack) - grad NLL(clean)), and GRPO descends -A log pi, so raising a hack's
probability has a loss gradient along +grad NLL(hack): c > 0 is hack-ward. `reversed` removes c < 0 instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

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


@torch.no_grad()
def treat_moment(
    moments: dict[str, Tensor],
    treatment: Literal["keep", "project", "zero"],
    v_hack: dict[str, Tensor] | None,
    side: Side,
) -> None:
    """AdamW's first moments {module: [r]} at a branch, in place; `project` removes, without rescaling, what a gradient
    would lose by the arm's rule (in arms without one: the hack-ward part, so that vanilla can be treated alike).
    """
    if treatment == "zero":
        for moment in moments.values():
            moment.zero_()
    elif treatment == "project":
        project_grads(moments, v_hack, "hackward" if side == "none" else side, keep_norm=False)


@dataclass
class AppliedUpdate:
    """What a step did to delta_S; {module: [r]}."""

    before: dict[str, Tensor]
    descent: dict[str, Tensor]
    """delta_S before minus after: it points along the gradient, as far as the optimiser followed it."""

    @torch.no_grad()
    def project(self, delta: dict[str, nn.Parameter], v_hack: dict[str, Tensor], side: Side, keep_norm: bool) -> None:
        """`--project update`: the rule of `project_grads` on the update itself, after the optimiser has applied it."""
        project_grads(self.descent, v_hack, side, keep_norm)
        self._apply(delta)

    @torch.no_grad()
    def shrink(self, delta: dict[str, nn.Parameter], v_hack: dict[str, Tensor], side: Side) -> None:
        """Control: each module's update keeps its direction and takes the length that projecting it would leave."""
        projected = {name: d.clone() for name, d in self.descent.items()}
        project_grads(projected, v_hack, side, keep_norm=False)
        for name, d in self.descent.items():
            d.mul_(projected[name].norm() / d.norm().clamp_min(torch.finfo(d.dtype).tiny))
        self._apply(delta)

    @torch.no_grad()
    def weigh(self, delta: dict[str, nn.Parameter], weights: dict[str, Tensor]) -> None:
        """TDGA in delta_S coordinates: each singular value's step times its weight in [0, 1], the module's step at its
        length before, since AdamW would undo a weighted gradient and a shorter step is another control's.
        """
        for name, d in self.descent.items():
            length = d.norm()
            d.mul_(weights[name])
            d.mul_(length / d.norm().clamp_min(torch.finfo(d.dtype).tiny))
        self._apply(delta)

    def _apply(self, delta: dict[str, nn.Parameter]) -> None:
        for name, p in delta.items():
            p.copy_(self.before[name] - self.descent[name])

    def cosines(self, v_hack: dict[str, Tensor]) -> Tensor:
        """[M] cosine of minus the update with the first direction; > 0 is hack-ward."""
        return project_grads(self.descent, v_hack, "none").cos


@torch.no_grad()
def project_moment(
    optimiser: torch.optim.AdamW, delta: dict[str, nn.Parameter], v_hack: dict[str, Tensor], side: Side
) -> None:
    """After optimiser.step(): as if AdamW had used its first moment without what `side` removes, and kept that one.

        m' = m - (m . v) v,      delta_S <- delta_S - lr / (1 - beta1^t) (m' - m) / (sqrt(s / (1 - beta2^t)) + eps)

    m averages a step's noise away over 1 / (1 - beta1) steps, so that one-sided removal acts on what accumulates.
    """
    moments = {name: optimiser.state[p]["exp_avg"] for name, p in delta.items()}
    before = {name: m.clone() for name, m in moments.items()}
    project_grads(moments, v_hack, side, keep_norm=False)
    group = optimiser.param_groups[0]
    (beta1, beta2), lr, eps = group["betas"], group["lr"], group["eps"]
    for name, p in delta.items():
        state = optimiser.state[p]
        t = float(state["step"])
        denominator = (state["exp_avg_sq"] / (1 - beta2**t)).sqrt() + eps
        p.sub_(lr / (1 - beta1**t) * (moments[name] - before[name]) / denominator)


@contextmanager
def applied_update(delta: dict[str, nn.Parameter]) -> Iterator[AppliedUpdate]:
    """Around optimiser.step(): its `descent` is there once the block is left."""
    update = AppliedUpdate({name: p.detach().clone() for name, p in delta.items()}, {})
    yield update
    update.descent = {name: update.before[name] - p.detach() for name, p in delta.items()}


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
