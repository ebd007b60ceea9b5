"""tools.estimate"""

from __future__ import annotations

import csv
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from config import Config, check, parse
from lib.errors import UserError, run_main
from lib.files import REPO
from lib.memory import BYTES_PER_LOGIT, MOST_LOGIT_ROWS

MEAN_LENGTH = 0.44
"""Mean completion length as a share of max_new: that of the lengths in bench/step.py."""


BENCH_PROMPT = 512


@dataclass
class EstimateConfig(Config):
    """A run as train.py takes it, and what to rest the estimate on."""

    rate: float = 0.0
    """US dollars an hour; 0: no price."""
    run: str = ""
    """Run directory whose steps.tsv is the measurement."""
    bench: str = str(REPO / "bench/step.tsv")
    """Measurement of one step, made by bench/step.py."""
    mean_prompt: int = 512
    """Mean prompt tokens."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder: hidden d, layers, query and key widths (heads x head_dim), MLP width, vocabulary."""

    d: int
    layers: int
    q: int
    kv: int
    mlp: int
    vocab: int

    def linears(self) -> list[tuple[int, int]]:
        """(d_out, d_in) of a layer's adapted Linears."""
        d, m = self.d, self.mlp
        return [(self.q, d), (self.kv, d), (self.kv, d), (d, self.q), (m, d), (m, d), (d, m)]

    def weights(self) -> int:
        """Parameters of the adapted Linears."""
        return self.layers * sum(o * i for o, i in self.linears())

    def factors(self) -> int:
        """Elements of their U and Vh."""
        return self.layers * sum((o + i) * min(o, i) for o, i in self.linears())

    def kv_bytes(self) -> int:
        """Bytes of cache a token, bf16."""
        return 2 * 2 * self.layers * self.kv

    def held(self, rows: int, tokens: int) -> float:
        """Bytes held through a step: W, U, Vh, the embedding (tied) in bf16, D in int8, cache `rows` x `tokens`."""
        return 3 * self.weights() + 2 * (self.factors() + self.vocab * self.d) + rows * tokens * self.kv_bytes()

    def logits(self) -> float:
        """Bytes of a chunk of logits, forward and backward."""
        return MOST_LOGIT_ROWS * BYTES_PER_LOGIT * self.vocab

    def read(self, rows: int, tokens: float) -> float:
        """Bytes a decode step reads: W and D, the head, the cache at `tokens` a row."""
        return 3 * self.weights() + 2 * self.vocab * self.d + rows * tokens * self.kv_bytes()


SHAPES = {
    "Qwen/Qwen3-4B": Shape(2560, 36, 4096, 1024, 9728, 151936),
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": Shape(896, 24, 896, 128, 4864, 151936),
}


BENCH_MODELS = {"qwen3-4b": "Qwen/Qwen3-4B", "qwen2.5-0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct"}


@dataclass
class Estimate:
    """Seconds of a step's parts, GiB at the peak, and what they rest on."""

    rollout: float
    grading: float
    training: float
    gib: float
    source: str

    @property
    def step(self) -> float:
        return self.rollout + self.grading + self.training


def bench_rows(path: Path, model: str) -> tuple[str, list[dict[str, str]]]:
    """(comment line, rows) of the last run of `model` in a bench TSV, else of the last run of any.

    Raises UserError where the file is missing.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: run bench/step.py --out {path} on the GPU to be rented, or pass "
                        "--run with the directory of a short run")  # fmt: skip
    lines = path.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("#")] or [-1]
    runs = [(lines[max(i, 0)].lstrip("# "), list(csv.DictReader(lines[i + 1 : end], delimiter="\t")))
            for i, end in zip(starts, [*starts[1:], None], strict=True)]  # fmt: skip
    same = [run for run in runs if any(BENCH_MODELS.get(row["model"]) == model for row in run[1])]
    return (same or runs)[-1]


def from_bench(cfg: EstimateConfig) -> Estimate:
    """Scale the bench's last measured parts to `cfg`. Raises UserError where model or measurement is unknown."""
    if cfg.model not in SHAPES:
        raise UserError(f"no measurement for --model {cfg.model} (only {', '.join(SHAPES)}): make a few steps with "
                        "`just train` and pass --run with that run's directory")  # fmt: skip
    about, rows = bench_rows(Path(cfg.bench), cfg.model)
    parts = {}
    for row in rows:  # of several forms of a part the last stands, as in the bench's own sum
        if row["s"] and not row["s"].startswith("failed"):
            parts[row["row"].split("_")[0]] = row
    if missing := {"rollout", "train", "grade"} - parts.keys():
        raise UserError(f"{cfg.bench} has no row for {', '.join(sorted(missing))}: run bench/step.py again")
    base = parts["train"]
    shape, shape_b = SHAPES[cfg.model], SHAPES[BENCH_MODELS[base["model"]]]
    B, B_b, new_b = cfg.prompts * cfg.group, int(base["P"]) * int(base["G"]), int(base["max_new"])

    bytes_ = shape.read(B, cfg.mean_prompt + cfg.max_new / 2)
    bytes_b = shape_b.read(B_b, BENCH_PROMPT + new_b / 2)
    tokens = B * (cfg.mean_prompt + MEAN_LENGTH * cfg.max_new)
    tokens_b = B_b * (BENCH_PROMPT + MEAN_LENGTH * new_b)
    longest, longest_b = cfg.mean_prompt * 5 // 4 + cfg.max_new, BENCH_PROMPT * 5 // 4 + new_b
    rest = max(0.0, float(base["peak_gib"]) * 2**30 - shape_b.held(B_b, longest_b) - shape_b.logits())
    rest *= (cfg.micro_batch or 8) * longest * shape.d * shape.layers / (8 * longest_b * shape_b.d * shape_b.layers)
    scaled = ", scaled by bytes and tokens to another model: a small one is bound by launches, and slower than this"
    if BENCH_MODELS[base["model"]] == cfg.model:
        scaled = ""
    return Estimate(
        rollout=float(parts["rollout"]["s"]) * cfg.max_new / new_b * bytes_ / bytes_b,
        grading=float(parts["grade"]["s"]) * B / B_b + cfg.grade_timeout,
        training=float(base["s"]) * tokens * shape.weights() / (tokens_b * shape_b.weights()),
        gib=(shape.held(B, longest) + shape.logits() + rest) / 2**30 if cfg.grad_checkpoint else math.nan,
        source=f"{Path(cfg.bench).name}: {about}, {base['model']}{scaled}",
    )


def from_run(folder: Path, cfg: EstimateConfig) -> Estimate:
    """Medians of a run's steps. Raises UserError where it has none or was run with other sizes."""
    path = folder / "steps.tsv"
    if not path.exists():
        raise UserError(f"{path} does not exist: pass --run with a run directory of `just train`")
    with path.open() as f:
        rows = list(csv.DictReader((line for line in f if not line.startswith("#")), delimiter="\t"))
    if not rows:
        raise UserError(f"{path} has no finished step yet")
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    keys = ("model", "prompts", "group", "max_new")
    if ran := {k: config[k] for k in keys if config.get(k, getattr(cfg, k)) != getattr(cfg, k)}:
        flags = " ".join(f"--{k.replace('_', '-')} {value}" for k, value in ran.items())
        asked = ", ".join(f"{k} {getattr(cfg, k)}" for k in ran)
        raise UserError(f"{folder} ran with other sizes than the estimate's {asked}: pass {flags}")
    rows = rows[1:] or rows  # the first step also warms up
    median = {k: statistics.median(float(r[k]) for r in rows) for k in ("t_roll", "t_grade", "t_train")}
    gib = max(float(r["gib"]) for r in rows)
    return Estimate(median["t_roll"], median["t_grade"], median["t_train"], gib, f"{path}, median of {len(rows)} steps")


def table(cfg: EstimateConfig, e: Estimate) -> str:
    """The small table that is printed, TSV-like columns: part, seconds a step, share of the run's hours."""
    evals = len({*range(0, cfg.steps, cfg.eval_every), cfg.steps})
    completions = 2 * cfg.n_eval * cfg.eval_samples
    eval_s = evals * completions / (cfg.prompts * cfg.group) * (e.rollout + e.grading)
    hours = (cfg.steps * e.step + eval_s) / 3600
    lines = [f"{cfg.preset}: {cfg.model}, P {cfg.prompts}, G {cfg.group}, {cfg.max_new} new tokens, {cfg.steps} steps"]
    for name, seconds in (("rollout", e.rollout), ("grading", e.grading), ("training", e.training), ("step", e.step)):
        lines.append(f"  {name:12}{seconds:8.1f} s{cfg.steps * seconds / 3600:8.2f} h")
    lines.append(f"  {'evaluation':12}{eval_s / evals:8.1f} s{eval_s / 3600:8.2f} h   ({evals} of {completions})")
    price = f"   {hours * cfg.rate:.2f} USD at {cfg.rate:g} an hour" if cfg.rate else ""
    lines.append(f"  {'run':12}{'':10}{hours:8.2f} h{price}")
    peak = f"{e.gib:8.1f} GiB" if cfg.run or cfg.micro_batch else f"{e.gib:8.1f} GiB at micro-batch 8 (0: what fits)"
    lines.append(f"  {'peak':12}{'not known without checkpointing' if math.isnan(e.gib) else peak}")
    return "\n".join([*lines, f"rests on {e.source}"])


def main() -> None:
    cfg = parse(EstimateConfig, description=__doc__)
    check(cfg)
    if not (0 <= cfg.rate < math.inf and cfg.mean_prompt > 0):
        raise UserError(f"--rate {cfg.rate:g} must be at least 0 and --mean-prompt {cfg.mean_prompt} above 0")
    try:
        estimate = from_run(Path(cfg.run), cfg) if cfg.run else from_bench(cfg)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{cfg.run} holds no readable run of train.py" if cfg.run else f"{cfg.bench} is none of bench/step.py's"
        raise UserError(f"{what} ({type(error).__name__}: {error}): pass another") from error
    print(table(cfg, estimate))


if __name__ == "__main__":
    run_main(main)
