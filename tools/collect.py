"""Copy what a report reads out of finished runs, small enough to commit: python -m tools.collect outputs/tiny TARGET

Per run: config, steps, evals, strata, summary, tripwires that fired, resumptions, and rollouts.jsonl.gz reduced to the
fields that tables are made of, with the text of a few completions of each evaluation and of the training step at it
(the first in the file, whatever they say); prompts.jsonl.gz has the prompts of these. Held-out tables come along. Runs
without summary.json are left out unless --include-incomplete.
`--samples K` also writes samples_<run>.md: K completions of the last evaluation with write access, evenly spread over
its rows. Where TARGET is NAME.tar.xz, all but the samples is packed into it (lib/archives.py); they lie beside it.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from loguru import logger

from lib.archives import ENDING, is_archive, pack
from lib.errors import UserError, run_main
from lib.files import jsonl
from lib.spread import evenly
from report.runs import ASIDE

# Files of a run that are copied as they are.
FILES = ("config.json", "steps.tsv", "evals.tsv", "strata.tsv", "summary.json")

# Fields of a graded completion: in the heading of a sample, and kept of every rollout.
FACTS = ("hack", "attempt", "flavour", "own_pass", "gt_pass", "reward")
FIELDS = ("step", "split", "problem", "stratum", "flavour", "hack", "attempt", "own_pass", "gt_pass", "compiles")


@dataclass
class CollectConfig:
    """Where from and where to."""

    source: tyro.conf.Positional[Path]
    """A folder of run directories, such as outputs/tiny."""
    target: tyro.conf.Positional[Path]
    """Where the copies go: a folder, or NAME.tar.xz."""
    texts: int = 4
    """Completions kept whole for each step and split."""
    samples: int = 0
    """Completions of the last evaluation in samples_<run>.md."""
    include_incomplete: bool = False
    """Copy runs without summary.json too, as far as they have got."""


def reduce_rollouts(source: Path, target: Path, texts: int) -> None:
    """Packed, FIELDS alone, and the completion of the first `texts` of each step and split; of training, these alone,
    at the evaluations' steps. prompts.jsonl beside `source` likewise.

    The same rows give the same bytes: the packed file names no time.
    """
    seen: Counter = Counter()
    with open(source) as lines:
        records = [json.loads(line) for line in lines]
    evaluated = {record["step"] for record in records if record["split"] != "train"}
    kept, prompted = [], set()
    for record in records:
        key = (record["step"], record["split"])
        whole, seen[key] = seen[key] < texts, seen[key] + 1
        if record["split"] == "train" and not (whole and record["step"] in evaluated):
            continue
        keep = (*FIELDS, "completion", "reward", "reason") if whole else FIELDS
        kept.append({k: record[k] for k in keep if k in record})
        if whole:
            prompted.add((record["split"], record.get("problem")))
    write_packed(target, kept)

    prompts = source.with_name("prompts.jsonl")
    if prompts.exists():
        with open(prompts) as lines:
            stored = [json.loads(line) for line in lines]
        write_packed(
            target.with_name("prompts.jsonl.gz"), [p for p in stored if (p["split"], p["problem"]) in prompted]
        )


def write_packed(target: Path, records: list[dict]) -> None:
    """JSON lines as .gz; the same records give the same bytes."""
    with open(target, "wb") as f, gzip.GzipFile("", "wb", fileobj=f, mtime=0) as packed:
        packed.write(jsonl(records))


def samples(source: Path, k: int) -> str:
    """Markdown with at most k rows of the last evaluation with write access, evenly spread, each with its grade."""
    with open(source) as lines:
        rows = [json.loads(line) for line in lines]
    last = max(r["step"] for r in rows if r["split"] == "eval")
    rows = [r for r in rows if r["split"] == "eval" and r["step"] == last]
    shown = evenly(rows, k)
    which = f"{len(shown)} of {len(rows)} completions at step {last}"
    text = f"# {source.parent.name}: {which}, evenly spread, not selected\n"
    for i, r in enumerate(shown, 1):
        facts = ", ".join(f"{name} {r[name]}" for name in FACTS)
        text += f"\n## {i}. problem {r['problem']}\n\n{facts}; {r['reason']}\n\n"
        text += "".join(f"    {line}\n" for line in r["completion"].splitlines())
    return text


def copy_run(run: Path, folder: Path, texts: int) -> None:
    """What a report reads of one run, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name != "summary.json" or (run / name).exists():
            shutil.copyfile(run / name, folder / name)
    for path in (*run.glob("tripwire-*.json"), *run.glob("resumed.jsonl")):
        shutil.copyfile(path, folder / path.name)
    reduce_rollouts(run / "rollouts.jsonl", folder / "rollouts.jsonl.gz", texts)


def copy_runs(cfg: CollectConfig, runs: list[Path], folder: Path, beside: Path) -> None:
    """The runs and their held-out tables into `folder`, samples into `beside`."""
    for run in runs:
        copy_run(run, folder / run.name, cfg.texts)
        if cfg.samples:
            (beside / f"samples_{run.name}.md").write_text(samples(run / "rollouts.jsonl", cfg.samples))
    for heldout in cfg.source.glob("*_heldout"):
        shutil.copytree(heldout, folder / heldout.name, dirs_exist_ok=True)


def main() -> None:
    cfg = tyro.cli(CollectConfig, prog="python -m tools.collect", description=__doc__)
    mark = "config.json" if cfg.include_incomplete else "summary.json"
    runs = sorted(p.parent for p in cfg.source.glob(f"*/{mark}") if not ASIDE.fullmatch(p.parent.name))
    if not runs:
        raise UserError(f"{cfg.source} holds no run to copy (no */{mark})")
    if is_archive(cfg.target):
        cfg.target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / cfg.target.name.removesuffix(ENDING)
            copy_runs(cfg, runs, folder, cfg.target.parent)
            pack(folder, cfg.target)
    else:
        copy_runs(cfg, runs, cfg.target, cfg.target)
    logger.info(f"{len(runs)} runs -> {cfg.target}")


if __name__ == "__main__":
    run_main(main)
