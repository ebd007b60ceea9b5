"""Does a direction tell hacks from the rest at a branch point? Measured without training.

    python diagnose_vhack.py outputs/tiny/vanilla_s0 --at takeoff [--v self=outputs/tiny/v_hack_self_pairs.safetensors]

Rollouts are sampled at the parent's branch point and graded; each one's gradient of its mean NLL in delta_S coordinates
is scored against a direction v by the mean over modules of cos(g_b, v). The table has

    AUROC     of the scores for strict hacks, 0.5 is chance; with the 2.5 and 97.5% quantiles of random directions
    ceiling   the labelled direction of directions.py, cross-validated: made on four fifths, scored on the rest
    share     of the squared length of the step's policy gradient, sum_b A_b g_b, that lies along v; chance is 1 / r

for all modules, by kind of module and by third of the depth. Written: diagnose.tsv, diagnose.json, diagnose.png.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from loguru import logger
from torch import Tensor

from arms import ARMS
from branch import parent_config
from directions import auroc, labelled_direction, row_gradients, sampled
from extract_vhack_grad import load_v_hack
from grading.asserts import check_gradable
from lib.distributed import Ranks
from lib.errors import UserError, run_main
from lib.files import atomic, write_json
from lib.models import pick_device
from lib.tensors import load_tensors
from problems.sources import split_problems
from record.takeoff import file_of, load_branch_point
from rewards import Grader, reward
from rollouts import Run
from stage import set_stage

FOLDS = 5
KIND = re.compile(r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|in_proj_\w+|out_proj)$")


@dataclass
class DiagnoseConfig:
    """Which directions, at which branch point."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory of a vanilla run."""
    at: Literal["early", "takeoff", "late"] = "takeoff"
    """The rule whose first firing is the branch point."""
    v: list[str] = field(default_factory=list)
    """Further directions as name=FILE (artifacts of extract_vhack_grad.py); the run's own v_hack is `pairs`."""
    rollouts: int = 384
    """Rollouts, four a prompt."""
    random: int = 200
    """Random directions behind the band of chance."""
    out: str = ""
    """Folder of the results; empty: <run>/diagnose_<rule>."""
    model: str = ""
    """Where the run's model lies now; empty: where it was."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """None: as the run."""
    workers: int | None = None
    """None: as the run."""
    isolation: Literal["bwrap", "rlimits"] | None = None
    """None: as the run."""


def cosines(gradients: dict[str, Tensor], v: dict[str, Tensor]) -> dict[str, Tensor]:
    """{module: [B] cosine of each row's gradient with v}."""
    out = {}
    for name, g in gradients.items():
        first = v[name].cpu().float()
        out[name] = torch.nn.functional.cosine_similarity(g, (first if first.dim() == 1 else first[0])[None], dim=1)
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
    layers = {name: int(re.search(r"layers\.(\d+)\.", name).group(1)) for name in names}
    depth = max(layers.values()) + 1
    groups = {"all": names}
    for name in names:
        groups.setdefault(KIND.search(name).group(1), []).append(name)
    for third, label in enumerate(("early layers", "middle layers", "late layers")):
        groups[label] = [n for n in names if layers[n] * 3 // depth == third]
    return {label: members for label, members in groups.items() if members}


def rows_of(gradients: dict[str, Tensor], hack_B: Tensor, advantage_B: Tensor, vs: dict[str, dict], n_random: int):
    """One row a direction and part, random bands beside them."""
    generator = torch.Generator().manual_seed(0)
    per_module = {name: cosines(gradients, v) for name, v in vs.items()}
    per_module["oracle (cross-validated)"] = cross_validated(gradients, hack_B)
    chance = []
    for _ in range(n_random):
        v = {n: torch.randn(g.shape[1], generator=generator) for n, g in gradients.items()}
        chance.append(cosines(gradients, v))
    step = {n: (advantage_B[:, None] * g).sum(0) for n, g in gradients.items()}
    rows = []
    for part, members in parts_of(list(gradients)).items():

        def mean(cos, members=members) -> Tensor:
            return torch.stack([cos[n] for n in members]).mean(0)

        null = torch.tensor([auroc(mean(cos), hack_B) for cos in chance])
        total = sum(step[n].square().sum().item() for n in members)
        for name, cos in per_module.items():
            share = float("nan")
            if name in vs and total > 0:
                first = {n: vs[name][n].cpu().float() for n in members}
                first = {n: v if v.dim() == 1 else v[0] for n, v in first.items()}
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


def plot(rows: list[dict], path: Path) -> None:
    """AUROC by part, a mark a direction, the band of random directions grey."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parts = list(dict.fromkeys(row["part"] for row in rows))
    names = list(dict.fromkeys(row["direction"] for row in rows))
    fig, ax = plt.subplots(figsize=(8, 0.42 * len(parts) + 1.4), layout="constrained")
    for y, part in enumerate(parts):
        row = next(r for r in rows if r["part"] == part)
        ax.barh(y, row["random_hi"] - row["random_lo"], left=row["random_lo"], height=0.7, color="0.85")
    for i, name in enumerate(names):
        points = [(r["auroc"], parts.index(r["part"])) for r in rows if r["direction"] == name]
        ax.plot(*zip(*points, strict=True), "osD^vP"[i % 6], ms=6, label=name, ls="")
    ax.axvline(0.5, color="0.5", lw=0.8)
    ax.set_yticks(range(len(parts)), parts)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("AUROC of the score for strict hacks (grey: 95% of random directions)")
    ax.legend(frameon=False, loc="lower left", fontsize=8)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def diagnose(cfg: DiagnoseConfig) -> tuple[list[dict], dict]:
    """(rows of the table, what they were measured on)."""
    path = Path(cfg.run)
    parent, there = parent_config(path)
    point = load_branch_point(file_of(path, cfg.at))
    asked = {k: getattr(cfg, k) for k in ("device", "workers", "isolation") if getattr(cfg, k) is not None}
    parent = dataclasses.replace(parent, model=cfg.model or parent.model, branch_from=cfg.at, **asked)
    device = pick_device(parent.device, parent.preset, parent.threads)
    problems = split_problems(parent.problems, parent.eval_file, parent.n_eval)
    check_gradable(*problems)
    with Grader(workers=parent.workers, timeout_s=parent.grade_timeout, isolation=parent.isolation) as grader:
        stage = set_stage(parent, device, Ranks(), grader, problems)
        if stage.adapter.weights_sha256 != there.get("weights_sha256"):
            raise UserError(f"{parent.model} has other weights than those that {path} was trained on: pass --model")
        with torch.no_grad():
            for name, p in stage.adapter.delta().items():
                p.copy_(point.tensors[f"delta_S.{name}"])
        run = Run(
            cfg=parent,
            device=device,
            model=stage.model,
            tokenizer=stage.tokenizer,
            adapter=stage.adapter,
            v_hack=None,
            grader=grader,
            sampler=stage.sampler,
            prompts=stage.prompts(ARMS["vanilla"].write_access),
            rebound=None,
            share=stage.share,
        )
        prompts, completions, grades = sampled(run, run.prompts, cfg.rollouts, "diagnose")
    hack_B = torch.tensor([g.hack for g in grades])
    if not FOLDS <= hack_B.sum() <= len(hack_B) - FOLDS:
        raise UserError(
            f"{int(hack_B.sum())} of {len(hack_B)} rollouts are strict hacks: too few of one kind to tell "
            "apart; raise --rollouts or take another point"
        )
    vs = {"pairs": load_v_hack(parent.v_hack_path(), stage.adapter, parent)[0]}
    for text in cfg.v:
        name, _, file = text.partition("=")
        vs[name] = load_tensors(Path(file))[0]
    gradients = row_gradients(run, prompts, completions)
    paid_B = torch.tensor([reward(g, True) for g in grades])
    advantage_B = (paid_B.view(-1, 4) - paid_B.view(-1, 4).mean(1, keepdim=True)).flatten()
    facts = {
        "run": str(path),
        "rule": point.rule,
        "step": point.step,
        "rollouts": len(hack_B),
        "hacks": int(hack_B.sum()),
    }
    return rows_of(gradients, hack_B, advantage_B, vs, cfg.random), facts


def main() -> None:
    cfg = tyro.cli(DiagnoseConfig, description=__doc__)
    if cfg.rollouts % 4 or cfg.rollouts < 8:
        raise UserError(f"--rollouts {cfg.rollouts}: give a multiple of four, four a prompt")
    rows, facts = diagnose(cfg)
    out = Path(cfg.out) if cfg.out else Path(cfg.run) / f"diagnose_{cfg.at}"
    out.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    with atomic(out / "diagnose.tsv", "w") as f:
        f.write("\t".join(columns) + "\n")
        for row in rows:
            f.write("\t".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()) + "\n")
    write_json(out / "diagnose.json", facts | {"rows": rows})
    plot(rows, out / "diagnose.png")
    logger.info(f"{facts['hacks']} strict hacks among {facts['rollouts']} rollouts at step {facts['step']}")
    for row in rows[: len({r["direction"] for r in rows})]:
        print(f"{row['direction']}\tAUROC {row['auroc']:.3f}\trandom {row['random_lo']:.3f} to {row['random_hi']:.3f}")
    print(f"done: {out}/diagnose.tsv")


if __name__ == "__main__":
    run_main(main)
