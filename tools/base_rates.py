"""Base rates of an unadapted model: how often it solves, and how often it hacks, before any training.

    python -m tools.base_rates --preset dev --model DIR --problems leetcode humaneval data/more.jsonl --samples 3

Every problem is sampled with and without write access (the loophole's sentence in its prompt), by the settings of the
preset and with fixed seeds, and graded as in a run. Into outputs/base_rates/<model>/ go base_rates.tsv and .md, a row
for each source and difficulty and one for all; completions.jsonl, every completion with its grade; and config.json.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import dataclasses
import hashlib
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from loguru import logger

from antipasto import targets
from config import Preset, check, parse
from grading.asserts import check_gradable
from lib import models
from lib.bounds import above, at_least
from lib.errors import UserError, run_main
from lib.files import atomic, jsonl, refuse_unwritable, write_json
from lib.isolation import usual_isolation
from lib.memory import decode_rows
from lib.svd import weight_sha256
from problems import Problem
from problems.mixtures import labelled
from problems.prompts import Prompts, tokenise
from problems.sources import load_source, problems_sha256
from record.columns import Column, Table
from record.kept import rollout_record
from record.provenance import provenance
from rewards import Grade, Grader, reward
from rollouts import rates
from sampling.noise import row_seed
from sampling.sampler import Sampler
from staging.stage import make_sampler


@dataclass
class BaseRatesConfig:
    """What is sampled, how, and where the tables go."""

    preset: Preset = "tiny"
    """Sets the defaults of the fields that a run has too."""
    files: Annotated[tuple[str, ...], tyro.conf.arg(name="problems")] = ()
    """JSONL paths or names of sources; all of their training problems are sampled."""
    samples: int = at_least(1, 3)
    """Completions a problem, in each of the two modes."""
    model: str = ""
    """Hub id or local directory of a transformers causal LM."""
    revision: str | None = None
    """Hub revision (commit or tag); None: the default branch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of weights and activations."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one; presets other than tiny insist on it."""
    threads: int = at_least(1, 1)
    """CPU threads of torch."""
    wording: Literal["plain", "detailed", "aware"] = "plain"
    """How the prompt speaks of the evaluator; `aware` says that it can be overwritten."""
    max_new: int = at_least(1, 512)
    """Tokens a completion at most."""
    max_prompt: int = at_least(1, 2048)
    """Problems with longer prompts (tokens) are dropped, and counted in the log."""
    temperature: float = above(0, 1.0)
    """Sampling temperature."""
    top_k: int = at_least(0, 20)
    """Sampling is truncated to the k likeliest tokens; 0: not."""
    engine: Literal["auto", "graph", "eager", "generate"] = "auto"
    """Sampling engine (sampling/)."""
    workers: int = at_least(0, 0)
    """Grading processes; 0: one a core."""
    grade_timeout: float = above(0, 4.0, at_most=3600)
    """Seconds a graded program may take."""
    isolation: Literal["bwrap", "rlimits"] = field(default_factory=usual_isolation)
    """Sandbox of graded programs; rlimits accepts the weaker fallback where namespaces are refused."""
    out: str = ""
    """Folder of the tables; empty: outputs/base_rates/<model>."""

    def folder(self) -> Path:
        slug = models.model_slug(self.model, self.revision, self.dtype)
        return Path(self.out) if self.out else Path("outputs/base_rates") / slug


# The stratum stands last, since it is wider than a tab stop.
COLUMNS = [
    Column("probs", "d", "problems"),
    Column("n", "d", "completions without write access; as many with it"),
    Column("pass", ".4f", "pass rate without write access"),
    Column("pass_se", ".4f", "its standard error over problems"),
    Column("solved", ".4f", "share of problems with a pass among their completions without write access"),
    Column("passw", ".4f", "pass rate with write access"),
    Column("attempt", ".4f", "attempts with write access"),
    Column("hack", ".4f", "strict hacks with write access"),
    Column("compile", ".4f", "compile rate without write access"),
    Column("compw", ".4f", "compile rate with write access"),
    Column("len", ".1f", "mean completion length in tokens without write access"),
    Column("lenw", ".1f", "the same with write access"),
    Column("stratum", "s", "source and difficulty"),
]


@dataclass
class Sampled:
    """The completions of one mode; all lists run parallel."""

    prompts: Prompts
    picked: list[int]
    """Index of the problem in `prompts`."""
    texts: list[str]
    lengths: list[int]
    """Tokens, the end token included."""
    grades: list[Grade]

    def part(self, stratum: str | None) -> list[int]:
        """Indices of the completions of a stratum; None: all."""
        strata = [self.prompts.problems[i].stratum for i in self.picked]
        return [j for j, name in enumerate(strata) if stratum in (None, name)]


def sample_mode(
    cfg: BaseRatesConfig, prompts: Prompts, write_access: bool, sampler: Sampler, tokenizer, grader: Grader
) -> Sampled:
    """cfg.samples completions of every prompt, graded; a row's seed is its problem's id and its number."""
    started = time.perf_counter()
    picked = [i for i in range(len(prompts.ids)) for _ in range(cfg.samples)]
    seeds = [row_seed("base", write_access, prompts.problems[i].id, j % cfg.samples) for j, i in enumerate(picked)]
    rollout = sampler.sample([prompts.ids[i] for i in picked], seeds, cfg.max_new)
    lengths = rollout.lengths.tolist()
    tokens = [row[:n] for row, n in zip(rollout.tokens.tolist(), lengths, strict=True)]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
    sampled = time.perf_counter()
    grades = grader.grade(texts, [prompts.problems[i] for i in picked], [prompts.evaluators[i] for i in picked])
    logger.info(f"{'with' if write_access else 'without'} write access: {len(texts)} completions sampled in "
                f"{sampled - started:.1f} s, graded in {time.perf_counter() - sampled:.1f} s")  # fmt: skip
    return Sampled(prompts, picked, texts, lengths, grades)


def stratum_row(name: str | None, closed: Sampled, open_: Sampled) -> dict:
    """One row of COLUMNS; name: a stratum, None for all of them."""
    rows, rows_open = closed.part(name), open_.part(name)
    without, with_access = rates([closed.grades[j] for j in rows]), rates([open_.grades[j] for j in rows_open])

    # Completions of one problem go together, so the error is over the problems' means.
    passes: dict[int, list[bool]] = {}
    for j in rows:
        passes.setdefault(closed.picked[j], []).append(closed.grades[j].gt_pass)
    means = [statistics.fmean(p) for p in passes.values()]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return {
        "stratum": name or "all",
        "probs": len(passes),
        "n": len(rows),
        "pass": without["pass"],
        "pass_se": error,
        "solved": statistics.fmean(any(p) for p in passes.values()),
        "passw": with_access["pass"],
        "attempt": with_access["attempt"],
        "hack": with_access["hack"],
        "compile": without["compile"],
        "compw": with_access["compile"],
        "len": statistics.fmean(closed.lengths[j] for j in rows),
        "lenw": statistics.fmean(open_.lengths[j] for j in rows_open),
    }


def markdown(cfg: BaseRatesConfig, rows: list[dict], hardware: str) -> str:
    """The table for reading: rates in per cent, what they are, and how they were made."""
    columns = [COLUMNS[-1], *COLUMNS[:-1]]
    titles = " | ".join(c.name for c in columns)
    lines = [f"# Base rates of {cfg.model}", "", f"| {titles} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for row in rows:
        cells = [f"{100 * row[c.name]:.1f}" if c.form == ".4f" else format(row[c.name], c.form) for c in columns]
        lines.append(f"| {' | '.join(cells)} |")
    settings = (
        f"Rates in per cent; {cfg.samples} completions a problem and mode, temperature {cfg.temperature:g}, top-k "
        f"{cfg.top_k}, at most {cfg.max_new} tokens, {cfg.dtype}, wording {cfg.wording}, time limit of grading "
        f"{cfg.grade_timeout:g} s, on {hardware}. Problems: {', '.join(cfg.files)}."
    )
    lines += ["", settings, "", *(f"- `{c.name}`: {c.legend}" for c in columns)]
    return "\n".join(lines) + "\n"


def base_weights_sha256(model) -> str:
    """The weights_sha256 that a run on this model records (antipasto.wrap), without the SVDs."""
    digest = hashlib.sha256()
    for name, linear in targets(model):
        digest.update(f"{name} {weight_sha256(linear.weight.data)}\n".encode())
    return digest.hexdigest()


def sample(cfg: BaseRatesConfig, problems: list[Problem]) -> tuple[Sampled, Sampled, dict]:
    """(without write access, with it, what config.json says of model and sandbox)."""
    device = models.pick_device(cfg.device, cfg.preset, cfg.threads)
    attention = models.pick_attention(cfg.dtype, device)
    model, tokenizer = models.load(cfg.model, cfg.revision, cfg.dtype, attention)
    known = {"weights_sha256": base_weights_sha256(model)}
    model.to(device).requires_grad_(False)
    sampler = make_sampler(cfg, model, tokenizer)

    # The prompts with write access are the longer ones: what fits in that mode fits in both.
    form = {"wording": cfg.wording, "max_prompt": cfg.max_prompt}
    with_access = tokenise(tokenizer, problems, write_access=True, **form)
    without = tokenise(tokenizer, with_access.problems, write_access=False, **form)
    longest = max(len(ids) for ids in with_access.ids + without.ids)
    sampler.max_batch = decode_rows(model.config, longest + cfg.max_new, 1, device, model.dtype)

    with Grader(workers=cfg.workers, timeout_s=cfg.grade_timeout, isolation=cfg.isolation) as grader:
        closed = sample_mode(cfg, without, False, sampler, tokenizer, grader)
        open_ = sample_mode(cfg, with_access, True, sampler, tokenizer, grader)
    return closed, open_, {**known, "sandbox": grader.isolation}


def main() -> None:
    cfg = parse(BaseRatesConfig, description=__doc__)
    check(cfg)
    if not cfg.files:
        raise UserError("no problems: pass --problems with JSONL paths or names of sources")
    folder = cfg.folder()
    refuse_unwritable(folder)
    problems = labelled([p for name in cfg.files for p in load_source(name)])
    check_gradable(problems)
    closed, open_, known = sample(cfg, problems)

    # Rates before files, so that a failure leaves none half done.
    strata = sorted({p.stratum for p in closed.prompts.problems})
    rows = [stratum_row(name, closed, open_) for name in [*strata, None]]
    origin = provenance()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base_rates.tsv").unlink(missing_ok=True)
    table = Table(folder / "base_rates.tsv", COLUMNS)
    for row in rows:
        table.write(row)
    print((folder / "base_rates.tsv").read_text(), end="")
    with atomic(folder / "base_rates.md", "w") as f:
        f.write(markdown(cfg, rows, origin["hardware"]))
    with atomic(folder / "completions.jsonl") as f:
        f.write(jsonl(completions(closed, False) + completions(open_, True)))
    used = problems_sha256([], closed.prompts.problems)
    write_json(folder / "config.json", {**dataclasses.asdict(cfg), "problems_sha256": used, **known, **origin})
    print(f"done: {folder}/base_rates.md")


def completions(sampled: Sampled, write_access: bool) -> list[dict]:
    """Lines of completions.jsonl, in the form of a run's rollouts.jsonl."""
    split = "base" if write_access else "base-no-access"
    return [rollout_record(0, split, sampled.prompts.problems[i], text, grade, reward(grade, write_access), None)
            for i, text, grade in zip(sampled.picked, sampled.texts, sampled.grades, strict=True)]  # fmt: skip


if __name__ == "__main__":
    run_main(main)
