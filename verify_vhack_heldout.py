"""Does v_hack point the same way on pairs it has not seen? Table, histogram, gate, exit status.

Per module cos(d, v) with d the mean gradient difference over the held-out pairs. Beside it the null: the cosine of
d with a random unit vector, whose mean absolute value is about sqrt(2 / (pi r)).

    healthy   unimodal (Silverman's test), median > 0.3
    target    mean > 0.2
    gate      positive in > 50% of modules, which is chance (exit status 1 below it, unless --override)

A pass says that the direction generalises across pairs, no more: on the organism a pair set passed that suppressed
nothing (docs/RESEARCH_JOURNAL.md).

    python verify_vhack_heldout.py --preset P [--v-hack F]
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from antipasto import load_model
from config import ModelConfig, check, parse
from extract_vhack_grad import pair_differences
from lib.bounds import at_least
from lib.chance import null_abs_cos
from lib.errors import UserError, run_main
from lib.files import atomic, file_sha256, naming, refuse_unwritable, write_json
from lib.models import pick_device
from pairs import load_pairs
from project import first_direction, random_directions
from record.inputs import missing_v_hack
from record.v_hack import load_v_hack
from report.figures import save_heldout
from report.heldout import DEBUG_STEPS, HeldOutTable, heldout_line, kinds_table
from report.statistics import unimodality_p


@dataclass
class VerifyConfig(ModelConfig):
    """Check v_hack on the held-out pairs."""

    override: bool = False
    """Exit 0 even below the gate."""
    out: str = ""
    """Folder for heldout.{tsv,png,json}; empty: <its name>_heldout/ beside the v_hack artifact."""
    null_seed: int = at_least(0, 0, below=1 << 63)
    """Seed of the random directions."""


@dataclass
class HeldOutCosines:
    """Held-out cosines per module."""

    names: list[str]
    r: list[int]
    cos: Tensor
    """[M] cosine of the held-out mean difference with v."""
    null: Tensor
    """[M] cosine of the same with a random unit vector."""

    def table(self) -> HeldOutTable:
        """The same as the report reads it."""
        return HeldOutTable(cos=self.cos.numpy(), null=self.null.numpy(), r=np.array(self.r))

    def summary(self) -> dict[str, float]:
        """Mean, median, p of one mode (r not small: lib/chance.py), fraction positive, the null's |cos|, its chance."""
        return {
            "modules": len(self.names),
            "mean": self.table().mean,
            "median": self.table().median,
            "fraction_positive": (self.cos > 0).float().mean().item(),
            "one_mode_p": unimodality_p(self.table().counted),
            "null_mean": self.null.mean().item(),
            "null_mean_abs": self.null.abs().mean().item(),
            "null_expected_abs": sum(map(null_abs_cos, self.r)) / len(self.r),
        }


def heldout_cosines(differences: dict[str, Tensor], v_hack: dict[str, Tensor], null_seed: int = 0) -> HeldOutCosines:
    """{module: [n, r]} held-out differences against v_hack and against random directions."""
    null = random_directions({n: first_direction(v) for n, v in v_hack.items()}, null_seed)
    cos, null_cos = [], []
    for name, D in differences.items():
        d = D.mean(0)
        d = d / d.norm().clamp_min(1e-30)
        cos.append(d @ first_direction(v_hack[name]))
        null_cos.append(d @ null[name])
    return HeldOutCosines(
        names=list(differences),
        r=[D.shape[1] for D in differences.values()],
        cos=torch.stack(cos),
        null=torch.stack(null_cos),
    )


def write_heldout(result: HeldOutCosines, folder: Path, header: dict[str, str]) -> None:
    """heldout.tsv (a row a module), heldout.png, and last heldout.json (summary and provenance), the sweep's marker."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = zip(result.names, result.r, result.cos.tolist(), result.null.tolist(), strict=True)
    with atomic(folder / "heldout.tsv", "w") as f:
        f.write("module\tr\tcos\tnull\n")
        f.writelines(f"{name}\t{r}\t{c:.4f}\t{null:.4f}\n" for name, r, c, null in columns)
    with naming(folder / "heldout.png"):
        save_heldout(result.table(), folder / "heldout.png")
    write_json(folder / "heldout.json", {**result.summary(), **header})


def main() -> int:
    cfg = parse(VerifyConfig, description=__doc__)
    check(cfg)
    path = cfg.v_hack_path()
    folder = Path(cfg.out) if cfg.out else path.with_name(path.stem + "_heldout")
    refuse_unwritable(folder)
    held_out = [p for p in load_pairs(cfg.pairs) if p.held_out]
    if not held_out:
        raise UserError(f"--pairs {cfg.pairs} holds no held-out pair, so there is nothing to verify on")
    if not path.exists():
        raise UserError(missing_v_hack(cfg))

    # The direction, and the pairs that it has not seen.
    model, tokenizer, adapter = load_model(cfg, pick_device(cfg.device, cfg.preset, cfg.threads))
    v_hack, metadata = load_v_hack(path, adapter, cfg)

    # Measure, write, print.
    result = heldout_cosines(pair_differences(model, tokenizer, adapter, held_out), v_hack, cfg.null_seed)
    header = {"model": cfg.model, "pairs": cfg.pairs, "n_held_out": len(held_out)}
    hashes = {"v_hack_sha256": file_sha256(path), "pairs_sha256": metadata["pairs_sha256"]}
    write_heldout(result, folder, header | hashes)
    print(kinds_table(result.names, result.table()))

    # The gate, with chance beside every threshold.
    table = result.table()
    print(heldout_line(path.stem, table))
    print(f"gate {'passed' if table.passes() else 'FAILED'} ({table.health()})  {folder}/heldout.tsv")
    if not table.passes() and not cfg.override:
        logger.error(f"v_hack is not positive in more than half of the modules; {DEBUG_STEPS}; or pass --override")
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
