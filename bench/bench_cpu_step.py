"""Seconds of a vanilla GRPO step on the organism, 8 x 8 on one core: own engine against transformers generate.

    taskset -c 0 python bench/bench_cpu_step.py --out bench/cpu_step.tsv

The same train_step, problems and seeds twice; only the sampling engine differs. Steps alternate between the two, so
that a drifting machine touches both alike. Grading is included, by one worker on the same core. Medians over the steps.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import config
import rollouts
import train
from antipasto import load_model
from config import parse
from lib import models
from lib.models import pick_device
from problems import prompts, sources
from record.provenance import provenance
from rewards import Grader
from sampling.sampler import Sampler

PARTS = ("t_roll", "t_grade", "t_train")


@dataclass
class BenchConfig:
    """What to time."""

    steps: int = 12
    """Steps of each engine, the first two not counted."""
    out: str = ""
    """Also write the TSV here."""


def main() -> None:
    bench = tyro.cli(BenchConfig, description=__doc__)
    cfg = parse(
        config.Config,
        ["--preset", "tiny", "--workers", "1", "--logprob-chunk", "2048", "--svd-cache", tempfile.mkdtemp()],
    )
    device = pick_device(cfg.device, cfg.preset, cfg.threads)
    seconds: dict[str, list[dict[str, float]]] = {"eager": [], "generate": []}
    with Grader(workers=1, timeout_s=cfg.grade_timeout) as grader:
        runs = {}
        for engine in seconds:
            model, tokenizer, adapter = load_model(cfg, device)
            sampler = Sampler(model, eos_ids=models.end_ids(model, tokenizer), pad_id=tokenizer.pad_token_id,
                              temperature=cfg.temperature, top_k=cfg.top_k, engine=engine)  # fmt: skip
            prompts = prompts.tokenise(cfg, tokenizer, sources.split_problems(cfg)[0], True)
            run = rollouts.Run(cfg, device, model, tokenizer, adapter, None, grader, sampler, prompts, None)
            runs[engine] = run, torch.optim.AdamW(adapter.delta().values(), betas=(cfg.beta1, cfg.beta2),
                                                  weight_decay=cfg.weight_decay)  # fmt: skip
        for step in range(bench.steps):
            for engine, (run, optimiser) in runs.items():
                row, *_ = train.train_step(run, optimiser, step)
                seconds[engine].append({p: row[p] for p in PARTS} | {"len": row["len"], "reward": row["reward"]})
    versions = provenance()["packages"]
    cores = len(os.sched_getaffinity(0))
    lines = [f"# {cores} core(s), torch {versions['torch']}, transformers {versions['transformers']}, "
             f"P 8 x G 8, max_new {cfg.max_new}, median of {bench.steps - 2} steps",
             "engine\tstep_s\tt_roll\tt_grade\tt_train\tlen\tratio"]  # fmt: skip
    totals = {e: statistics.median(sum(s[p] for p in PARTS) for s in rows[2:]) for e, rows in seconds.items()}
    for engine, rows in seconds.items():
        medians = [statistics.median(s[p] for s in rows[2:]) for p in (*PARTS, "len")]
        cells = [
            engine,
            f"{totals[engine]:.2f}",
            *(f"{m:.2f}" for m in medians),
            f"{totals[engine] / totals['eager']:.2f}",
        ]
        lines.append("\t".join(cells))
    print("\n".join(lines))
    if bench.out:
        Path(bench.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
