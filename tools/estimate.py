"""Seconds a step, hours, peak memory and price of a run, before renting a GPU: `just estimate full --rate 2.5`.

    python -m tools.estimate --preset full --rate 2.5              from the committed bench/step.tsv
    python -m tools.estimate --preset full --run outputs/full/X    from a short run's steps.tsv (median of its steps)
    python -m tools.estimate --preset full --group 8 --max-new 512 any flag of train.py

From the bench, each part scales with what bounds it, in units of the measured step (b: the bench's):
    rollout    t_b x new / new_b x bytes / bytes_b           bytes read a decode step: W, head, keys and values
    training   t_b x tokens W / (tokens_b W_b)               completions of 0.44 max_new tokens, prompts once a group
    grading    t_b x completions / completions_b + the time limit, since in most steps some program hangs
    memory     W, W + D, U, Vh, embedding + cache P prompt + P G new + a chunk of logits + activations of a pass (the
               measured rest, by tokens: 16384, or 8 padded rows, where none are given); not without checkpointing
From a run, its steps are taken as they are, so its P, G and max_new must be those asked about. An evaluation samples
and grades n_eval x eval_samples completions in two modes at a step's speed.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config import Config, check, parse
from lib.errors import UserError, run_main
from lib.files import REPO
from lib.memory import MOST_LOGIT_ROWS, MOST_TOKENS
from lib.shapes import BENCH_NAMES, SHAPES, Shape
from lib.tables import read_blocks, read_table

if TYPE_CHECKING:
    import pandas as pd

# Mean completion length as a share of max_new, and prompt tokens: those of bench/step.py.
MEAN_LENGTH = 0.44
BENCH_PROMPT = 512


@dataclass
class EstimateConfig(Config):
    """A run as train.py takes it, and what to rest the estimate on."""

    run: str = ""
    """Run directory whose steps.tsv is the measurement."""
    bench: str = str(REPO / "bench/step.tsv")
    """Measurement of one step, made by bench/step.py."""
    mean_prompt: int = 512
    """Mean prompt tokens."""


@dataclass(frozen=True)
class StepSizes:
    """P, P G, mean tokens of a prompt and the most of a completion; share, most: how training runs (Passes)."""

    prompts: int
    rows: int
    prompt: int
    new: int
    share: bool
    most: int
    """Tokens of a forward."""

    def trained(self) -> float:
        """Tokens of a training pass: a prompt once for each piece of its group, or for each completion."""
        completions = self.rows * MEAN_LENGTH * self.new
        if not self.share:
            return self.rows * self.prompt + completions
        pieces = math.ceil(completions / self.prompts / max(1, self.most - self.prompt))
        return self.prompts * max(1, pieces) * self.prompt + completions


def cache(shape: Shape, sizes: StepSizes, prompt: float, new: float) -> float:
    """Bytes of keys and values, of every prompt once and `new` tokens a row, and of the states of gated delta nets."""
    tokens = sizes.prompts * prompt + sizes.rows * new
    return tokens * shape.kv_bytes() + sizes.rows * shape.state_bytes()


def held(shape: Shape, sizes: StepSizes) -> float:
    """Bytes held through a step in bf16: W, W + D, U, Vh, the embedding (tied), the cache, a chunk of logits."""
    parameters = 2 * (2 * shape.weights() + shape.factors() + shape.vocab * shape.d)
    logits = 2 * MOST_LOGIT_ROWS * shape.vocab  # in bf16, which is all there is of them (lib/kernels.py)
    return parameters + cache(shape, sizes, sizes.prompt * 5 // 4, sizes.new) + logits


def decode_bytes(shape: Shape, sizes: StepSizes) -> float:
    """Bytes that a decode step moves halfway: W + D, the head, the cache, states written back."""
    read = 2 * (shape.weights() + shape.vocab * shape.d) + cache(shape, sizes, sizes.prompt, sizes.new / 2)
    return read + sizes.rows * shape.state_bytes()


def sizes_of(cfg: EstimateConfig) -> StepSizes:
    """Of the step that is asked about."""
    padded = (cfg.micro_batch or 8) * (cfg.mean_prompt * 5 // 4 + cfg.max_new)
    most = cfg.micro_tokens or MOST_TOKENS if cfg.share_prefix else padded
    return StepSizes(
        cfg.prompts, cfg.prompts * cfg.group, cfg.mean_prompt, cfg.max_new, share=cfg.share_prefix, most=most
    )


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


@dataclass
class MeasuredPart:
    """One part of a measured step: its row of the bench's table, and what that was measured with."""

    row: pd.Series
    comment: str

    @property
    def shape(self) -> Shape:
        return SHAPES[BENCH_NAMES[self.row["model"]]]

    @property
    def sizes(self) -> StepSizes:
        P, G, new = (int(self.row[name]) for name in ("P", "G", "max_new"))
        said = re.search(r"micro-(tokens|batch) (\d+)", self.row["note"])
        most = int(said[2]) if said else 8
        if not said or said[1] == "batch":
            most *= BENCH_PROMPT * 5 // 4 + new
        return StepSizes(P, P * G, BENCH_PROMPT, new, share=self.row["row"] == "train_shared", most=most)

    @property
    def seconds(self) -> float:
        return float(self.row["s"])


def measured_parts(cfg: EstimateConfig) -> dict[str, MeasuredPart]:
    """{rollout, train, grade: as measured last, of the model itself or else of the one nearest to it in size}.

    Raises UserError where the file or a part is missing.
    """
    path = Path(cfg.bench)
    if not path.exists():
        raise UserError(
            f"{path} does not exist: run bench/step.py --out {path} on the GPU to be rented, or pass "
            "--run with the directory of a short run"
        )

    found: dict[str, tuple[tuple[float, bool], MeasuredPart]] = {}
    for comment, rows in read_blocks(path):
        for _, row in rows.iterrows():  # of several forms of a part the last stands, as in the bench's own sum
            if not row["s"] or row["s"].startswith("failed") or row["model"] not in BENCH_NAMES:
                continue
            part = MeasuredPart(row, comment)
            other = row["row"].startswith("train") and part.sizes.share != cfg.share_prefix
            far = abs(math.log(part.shape.weights() / SHAPES[cfg.model].weights())), other
            name = row["row"].split("_")[0]
            if name not in found or far <= found[name][0]:
                found[name] = (far, part)
    if missing := {"rollout", "train", "grade"} - found.keys():
        raise UserError(f"{path} has no row for {', '.join(sorted(missing))}: run bench/step.py again")
    return {name: part for name, (_, part) in found.items()}


def from_bench(cfg: EstimateConfig) -> Estimate:
    """Scale the bench's measured parts to `cfg`. Raises UserError where model or measurement is unknown."""
    if cfg.model not in SHAPES:
        raise UserError(
            f"no measurement for --model {cfg.model} (only {', '.join(SHAPES)}): make a few steps with "
            "`just train` and pass --run with that run's directory"
        )
    parts = measured_parts(cfg)
    roll, train, grade = (parts[name] for name in ("rollout", "train", "grade"))
    shape, step = SHAPES[cfg.model], sizes_of(cfg)

    # Sampling is bound by the bytes that a decode step moves, training by the tokens.
    moved = decode_bytes(shape, step) / decode_bytes(roll.shape, roll.sizes)
    trained = step.trained() * shape.weights() / (train.sizes.trained() * train.shape.weights())

    # Memory: what is held, and the measured rest, which grows with a pass's activations.
    rest = max(0.0, float(train.row["peak_gib"]) * 2**30 - held(train.shape, train.sizes))
    wide, wide_b = (s.d * s.layers * sizes.most for s, sizes in ((shape, step), (train.shape, train.sizes)))

    return Estimate(
        rollout=roll.seconds * step.new / roll.sizes.new * moved,
        grading=grade.seconds * step.rows / grade.sizes.rows + cfg.grade_timeout,
        training=train.seconds * trained,
        gib=(held(shape, step) + rest * wide / wide_b) / 2**30 if cfg.grad_checkpoint else math.nan,
        source=f"{Path(cfg.bench).name}: {rests_on(cfg.model, rollout=roll, training=train)}",
    )


def rests_on(model: str, **parts: MeasuredPart) -> str:
    """Which measurement each part is scaled from."""
    said = []
    for name, part in parts.items():
        of = part.row["model"]
        far = "" if BENCH_NAMES[of] == model else " (scaled by bytes and tokens to another model)"
        said.append(f"{name} {of}{far}, {part.comment}")
    return "; ".join(said)


def from_run(folder: Path, cfg: EstimateConfig) -> Estimate:
    """Medians of a run's steps. Raises UserError where it has none or was run with other sizes."""
    path = folder / "steps.tsv"
    if not path.exists():
        raise UserError(f"{path} does not exist: pass --run with a run directory of `just train`")
    rows = read_table(path)
    if rows.empty:
        raise UserError(f"{path} has no finished step yet")
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    keys = ("model", "prompts", "group", "max_new")
    if ran := {k: config[k] for k in keys if config.get(k, getattr(cfg, k)) != getattr(cfg, k)}:
        flags = " ".join(f"--{k.replace('_', '-')} {value}" for k, value in ran.items())
        asked = ", ".join(f"{k} {getattr(cfg, k)}" for k in ran)
        raise UserError(f"{folder} ran with other sizes than the estimate's {asked}: pass {flags}")

    measured = rows[["t_roll", "t_grade", "t_train", "gib"]].astype(float)
    if len(measured) > 1:
        measured = measured.iloc[1:]  # the first step also warms up
    median = measured.median()
    return Estimate(
        rollout=median["t_roll"],
        grading=median["t_grade"],
        training=median["t_train"],
        gib=measured["gib"].max(),
        source=f"{path}, median of {len(measured)} steps",
    )


def estimate_table(cfg: EstimateConfig, e: Estimate) -> str:
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
    given = cfg.run or (cfg.micro_tokens if cfg.share_prefix else cfg.micro_batch)
    largest = f"{MOST_TOKENS} tokens" if cfg.share_prefix else "8 rows"
    peak = f"{e.gib:8.1f} GiB" + ("" if given else f" with passes of {largest} (0: what fits)")
    lines.append(f"  {'peak':12}{'not known without checkpointing' if math.isnan(e.gib) else peak}")
    return "\n".join([*lines, f"rests on {e.source}"])


def main() -> None:
    cfg = parse(EstimateConfig, description=__doc__, prog="just estimate")
    check(cfg)
    if cfg.mean_prompt <= 0:
        raise UserError(f"--mean-prompt {cfg.mean_prompt} must be above 0")
    try:
        estimate = from_run(Path(cfg.run), cfg) if cfg.run else from_bench(cfg)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{cfg.run} holds no readable run of train.py" if cfg.run else f"{cfg.bench} is none of bench/step.py's"
        raise UserError(f"{what} ({type(error).__name__}: {error}): pass another") from error
    print(estimate_table(cfg, estimate))


if __name__ == "__main__":
    run_main(main)
