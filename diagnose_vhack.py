"""Does a direction tell hacks from the rest at a branch point? Measured without training.

    python diagnose_vhack.py outputs/tiny/vanilla_s0 --at takeoff [--v self=outputs/tiny/v_hack_self_pairs.safetensors]
    python diagnose_vhack.py outputs/tiny/vanilla_s* --at takeoff --out DIR        each, and all of them together

Rollouts are sampled at the parent's branch point and graded; each one's gradient of its mean NLL in delta_S coordinates
is scored against a direction v by the mean over modules of cos(g_b, v). The table has

    AUROC     of the scores for strict hacks, 0.5 is chance; with the 2.5 and 97.5% quantiles of random directions
    ceiling   the labelled direction of directions.py, cross-validated: made on four fifths, scored on the rest
    share     of the squared length of the step's policy gradient, sum_b A_b g_b, that lies along v; chance is 1 / r

for all modules, by kind of module and by third of the depth. Written: diagnose.tsv, diagnose.json, diagnose.png; of
several runs together diagnose.md and diagnose.png.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import dataclasses
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from arms import ARMS
from branch import parent_config
from config import Config
from directions import auroc, labelled_direction, row_gradients, sampled
from extract_vhack_grad import load_v_hack
from grading.asserts import check_gradable
from lib.distributed import Ranks
from lib.errors import UserError, run_main
from lib.files import atomic, read_json, write_json
from lib.models import pick_device
from lib.tensors import load_tensors
from problems.sources import split_problems
from record.takeoff import file_of, load_branch_point
from report.diagnoses import combined, combined_md, plot_diagnoses, plot_diagnosis
from rewards import Grader, reward
from stage import Stage, set_stage

FOLDS = 5
KIND = re.compile(r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|in_proj_\w+|out_proj)$")


@dataclass
class DiagnoseConfig:
    """Which directions, at which branch point."""

    runs: Annotated[list[str], tyro.conf.Positional]
    """Run directories of vanilla runs; those of several that have been diagnosed are read."""
    at: Literal["early", "takeoff", "late"] = "takeoff"
    """The rule whose first firing is the branch point."""
    v: list[str] = field(default_factory=list)
    """Further directions as name=FILE (artifacts of extract_vhack_grad.py); the run's own v_hack is `pairs`."""
    rollouts: int = 384
    """Rollouts, four a prompt."""
    random: int = 200
    """Random directions behind the band of chance."""
    out: str = ""
    """Folder of the results, of several runs that of the table and figure together; empty: <run>/diagnose_<rule>, and
    diagnose_<rule> beside the first run."""
    model: str = ""
    """Where the run's model lies now; empty: where it was."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """None: as the run."""
    workers: int | None = None
    """None: as the run."""
    isolation: Literal["bwrap", "rlimits"] | None = None
    """None: as the run."""
    micro_batch: int | None = None
    """Rows a pass; None: as the run."""


def cosines(gradients: dict[str, Tensor], v: dict[str, Tensor]) -> dict[str, Tensor]:
    """{module: [B] cosine of each row's gradient with v}."""
    out = {}
    for name, g in gradients.items():
        first = v[name].cpu().float()
        out[name] = torch.nn.functional.cosine_similarity(g, (first if first.dim() == 1 else first[0])[None], dim=1)
    return out


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


def stage_for(parent: Config, there: dict, path: Path, grader: Grader) -> Stage:
    """Model, problems and sampler of a run. Raises UserError where the weights are not those that it was trained on."""
    problems = split_problems(parent.problems, parent.eval_file, parent.n_eval)
    check_gradable(*problems)
    stage = set_stage(parent, pick_device(parent.device, parent.preset, parent.threads), Ranks(), grader, problems)
    stage.refuse_other_weights(parent.model, there, path)
    return stage


def diagnose(cfg: DiagnoseConfig, path: Path, stage: Stage, parent: Config) -> tuple[list[dict], dict]:
    """(rows of the table, what they were measured on) of one branch point."""
    # The parent as it was at the point, and rollouts by noise of their own.
    point = load_branch_point(file_of(path, cfg.at))
    stage.adapter.load({name: point.tensors[f"delta_S.{name}"] for name in stage.adapter.modules})
    run = stage.run(parent, stage.prompts(ARMS["vanilla"].write_access))
    prompts, completions, grades = sampled(run, run.prompts, cfg.rollouts, "diagnose")
    hack_B = torch.tensor([g.hack for g in grades])
    n, hacks = len(hack_B), int(hack_B.sum())
    facts = {"run": str(path), "rule": point.rule, "step": point.step, "rollouts": n, "hacks": hacks}
    if not FOLDS <= hacks <= n - FOLDS:
        what = f"{path}: {hacks} of {n} rollouts are strict hacks, too few of one kind to tell apart"
        raise UserError(f"{what}: raise --rollouts or take another point")

    # Their gradients against every direction.
    vs = {"pairs": load_v_hack(parent.v_hack_path(), stage.adapter, parent)[0]}
    for text in cfg.v:
        name, _, file = text.partition("=")
        vs[name] = load_tensors(Path(file))[0]
    gradients = row_gradients(run, prompts, completions)
    paid_B = torch.tensor([reward(g, True) for g in grades])
    advantage_B = (paid_B.view(-1, 4) - paid_B.view(-1, 4).mean(1, keepdim=True)).flatten()
    return rows_of(gradients, hack_B, advantage_B, vs, cfg.random), facts


def write_diagnosis(out: Path, rows: list[dict], facts: dict) -> None:
    """diagnose.tsv, diagnose.png and, last, diagnose.json."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / "diagnose.tsv", "w") as f:
        f.write("\t".join(rows[0]) + "\n")
        for row in rows:
            f.write("\t".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()) + "\n")
    plot_diagnosis(rows, out / "diagnose.png")
    write_json(out / "diagnose.json", facts | {"rows": rows})
    print(f"# {facts['run']}: {facts['hacks']} strict hacks among {facts['rollouts']} rollouts at step {facts['step']}")
    for row in rows:
        if row["part"] == "all":
            band = f"random {row['random_lo']:.3f} to {row['random_hi']:.3f}"
            print(f"{row['direction']}\tAUROC {row['auroc']:.3f}\t{band}", flush=True)


def main() -> None:
    cfg = tyro.cli(DiagnoseConfig, description=__doc__)
    if cfg.rollouts % 4 or cfg.rollouts < 8:
        raise UserError(f"--rollouts {cfg.rollouts}: give a multiple of four, four a prompt")
    paths = [Path(run) for run in cfg.runs]
    one = Path(cfg.out) if cfg.out and len(paths) == 1 else None
    outs = {path: one or path / f"diagnose_{cfg.at}" for path in paths}

    # Each point that has not been diagnosed; the model is loaded for the first and must be that of the others.
    todo = [path for path in paths if len(paths) == 1 or not (outs[path] / "diagnose.json").exists()]
    flags = ("device", "workers", "isolation", "micro_batch")
    asked = {k: getattr(cfg, k) for k in flags if getattr(cfg, k) is not None}
    parents = {path: parent_config(path) for path in todo}
    with ExitStack() as stack:
        stage = None
        for path, (parent, there) in parents.items():
            parent = dataclasses.replace(parent, model=cfg.model or parent.model, branch_from=cfg.at, **asked)
            if stage is None:
                settings = {"workers": parent.workers, "timeout_s": parent.grade_timeout}
                grader = stack.enter_context(Grader(**settings, isolation=parent.isolation))
                stage, first = stage_for(parent, there, path, grader), there
            if any(there.get(key) != first.get(key) for key in ("weights_sha256", "problems_sha256")):
                raise UserError(f"{path} is of another model or other problems than {todo[0]}: diagnose it apart")
            write_diagnosis(outs[path], *diagnose(cfg, path, stage, parent))

    # Several together.
    if len(paths) > 1:
        out = Path(cfg.out) if cfg.out else paths[0].parent / f"diagnose_{cfg.at}"
        out.mkdir(parents=True, exist_ok=True)
        together = combined([read_json(outs[path] / "diagnose.json")["rows"] for path in paths])
        plot_diagnoses(together, out / "diagnose.png")
        (out / "diagnose.md").write_text(combined_md(together, [path.name for path in paths], cfg.at), encoding="utf-8")
        print(f"done: {out}/diagnose.md, {len(paths)} branch points")
    else:
        print(f"done: {outs[paths[0]]}/diagnose.tsv")


if __name__ == "__main__":
    run_main(main)
