"""The computation of diagnose_vhack.py: how well directions tell hacks from the rest, by the gradients of rollouts.

g_b [r] per module is the gradient of rollout b (ladder/gradients.py), s_b = mean over modules of cos(g_b, v).
"""

from __future__ import annotations

import torch
from torch import Tensor

from antipasto import LAYER
from ladder.gradients import auroc, cosines
from ladder.labelled import labelled_direction
from project import first_direction

# Folds of the cross-validated ceiling: a direction is made on four fifths of the rollouts and scores the rest.
FOLDS = 5


def random_cosines(gradients: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """{module: [n, B] cosines with n random directions}."""
    generator = torch.Generator().manual_seed(0)
    out = {}
    for name, g in gradients.items():
        v_n_r = torch.nn.functional.normalize(torch.randn(n, g.shape[1], generator=generator), dim=1)
        out[name] = v_n_r @ torch.nn.functional.normalize(g, dim=1).T
    return out


def cross_validated(gradients: dict[str, Tensor], hack_B: Tensor) -> dict[str, Tensor]:
    """{module: [B] cosines with the labelled direction of the other folds' rows}; hacks are spread over the folds."""
    order = torch.cat([hack_B.nonzero()[:, 0], (~hack_B).nonzero()[:, 0]])
    fold_B = torch.empty(len(hack_B), dtype=torch.long)
    fold_B[order] = torch.arange(len(hack_B)) % FOLDS
    out = {name: torch.zeros(len(hack_B)) for name in gradients}
    for fold in range(FOLDS):
        held = fold_B == fold
        v = labelled_direction({n: g[~held] for n, g in gradients.items()}, hack_B[~held])
        for name, cos in cosines({n: g[held] for n, g in gradients.items()}, v).items():
            out[name][held] = cos
    return out


def parts_of(names: list[str]) -> dict[str, list[str]]:
    """Groups of modules: all, each kind of Linear, thirds of the depth."""
    layers = {name: int(LAYER.search(name)[1]) for name in names}
    depth = max(layers.values()) + 1
    groups = {"all": names}
    for name in names:
        groups.setdefault(name.rpartition(".")[2], []).append(name)
    for third, label in enumerate(("early layers", "middle layers", "late layers")):
        groups[label] = [n for n in names if layers[n] * 3 // depth == third]
    return {label: members for label, members in groups.items() if members}


def rows_of(gradients: dict[str, Tensor], hack_B: Tensor, advantage_B: Tensor, vs: dict[str, dict], n_random: int):
    """One row a direction and part, random bands beside them."""
    per_module = {name: cosines(gradients, v) for name, v in vs.items()}
    per_module["oracle (cross-validated)"] = cross_validated(gradients, hack_B)
    chance = random_cosines(gradients, n_random)
    step = {n: (advantage_B[:, None] * g).sum(0) for n, g in gradients.items()}
    rows = []
    for part, members in parts_of(list(gradients)).items():

        def mean(cos, members=members) -> Tensor:
            return torch.stack([cos[n] for n in members]).mean(0)

        null = torch.tensor([auroc(score_B, hack_B) for score_B in mean(chance)])
        total = sum(step[n].square().sum().item() for n in members)
        for name, cos in per_module.items():
            share = float("nan")
            if name in vs and total > 0:
                first = {n: first_direction(vs[name][n]).cpu().float() for n in members}
                share = sum((step[n] @ first[n] / first[n].norm()).square().item() for n in members) / total
            rows.append(
                {
                    "part": part,
                    "modules": len(members),
                    "direction": name,
                    "auroc": auroc(mean(cos), hack_B),
                    "random_lo": null.quantile(0.025).item(),
                    "random_hi": null.quantile(0.975).item(),
                    "share": share,
                    "chance": sum(1 / gradients[n].shape[1] for n in members) / len(members),
                }
            )
    return rows
