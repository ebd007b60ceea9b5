"""AdamW's moment and its update: what the ladder's arms and forms do to them in place of the gradient, or beside it.

    moment    the first moment loses what `side` removes, after a step (`--project moment`, `mean`) or at a branch
    update    the rule of project.py on what AdamW has applied (`--project update`), or its length alone (`shrunk`), or
              a weight for each singular value (`trusted`)

A step's update is measured in every arm (cos_up): projecting the gradient does not bind what AdamW makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from arms import ARMS, Side
from project import project_grads
from rollouts import Run


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


def act_on_update(run: Run, update: AppliedUpdate) -> None:
    """What some arms and forms do to the update that AdamW has applied, in place of it."""
    cfg, arm, delta = run.cfg, ARMS[run.cfg.arm], run.adapter.delta()
    if arm.shrinks:
        update.shrink(delta, run.v_hack, arm.removes)
    elif arm.weighs:
        update.weigh(delta, run.weights)
    elif cfg.project == "update" and arm.removes != "none":
        update.project(delta, run.v_hack, arm.removes, arm.keep_norm)
