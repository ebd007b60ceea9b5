"""The configuration of every script: one field a flag, its range beside it, the presets below.

A preset only sets defaults; any flag overrides it. `python SCRIPT.py --preset P --help` shows the resulting values.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import tyro

from arms import ARMS
from lib.bounds import above, at_least, refuse_out_of_bounds
from lib.errors import UserError
from lib.isolation import usual_isolation
from lib.presets import PRESETS

Preset = Literal[tuple(PRESETS)]
ArmName = Literal[tuple(ARMS)]
MOST_ROLLOUTS = 65536


@dataclass
class ModelConfig:
    """What extraction, verification and training must agree on."""

    preset: Preset = "tiny"
    """Sets the defaults of every other field."""
    model: str = ""
    """Hub id or local directory of a transformers causal LM."""
    revision: str | None = None
    """Hub revision (commit or tag); None: the default branch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the frozen weights and activations; delta_S is always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one; presets other than tiny insist on it."""
    pairs: str = "default"
    """Contrastive pair set (pairs.py): default, default-far, organism (-same, -far), self, a JSONL file."""
    threads: int = at_least(1, 1)
    """CPU threads of torch; the organism is too small to gain from a second, so runs go side by side instead."""
    svd_cache: str = "svd_cache"
    """Folder of cached SVDs, one subfolder a model."""
    v_hack: str = ""
    """The v_hack artifact; empty: <artifacts>/v_hack_<pairs>.safetensors."""
    artifacts: str = ""
    """Folder of v_hack artifacts and of the model's own pairs; empty: outputs/<preset>."""
    n_directions: int = at_least(1, 1)
    """Hack directions per module: 1 is the preregistered mean difference, k > 1 the top-k of the SVD of differences."""

    def v_hack_path(self) -> Path:
        """Where the v_hack artifact of this configuration lies."""
        if self.v_hack:
            return Path(self.v_hack)
        suffix = "" if self.n_directions == 1 else f"_k{self.n_directions}"
        return self.artifacts_path() / f"v_hack_{Path(self.pairs).stem}{suffix}.safetensors"

    def artifacts_path(self) -> Path:
        return Path(self.artifacts) if self.artifacts else Path("outputs") / self.preset


@dataclass
class Config(ModelConfig):
    """One run: what train.py takes."""

    arm: ArmName = "vanilla"
    """The preregistered four: vanilla, projected, projected-nomag (no rescaling to |g|), rebound (reward penalty);
    controls: random-v (random unit vectors), shuffled-v (labels permuted within pairs), reversed (removes cos < 0),
    rebound-zscore (Rebound after Wu & Tang), no-loophole (write access off)."""
    seed: int = at_least(0, 0, below=1 << 63)
    """Seeds the prompts' order, every sampled token and the random controls."""
    label: str = ""
    """Name of the run directory and of the row in tables instead of the arm's, for variants of an arm."""
    out: str = ""
    """Run directory; empty: outputs/<preset>/<label or arm>_s<seed>."""
    fresh: bool = False
    """Move an existing run aside instead of continuing it."""

    # --- problems and evaluation
    problems: str = ""
    """Training problems: a JSONL path; organism, leetcode, humaneval or mbpp; or a mixture of these with how many
    training problems each gives, as in leetcode:60,humaneval:75."""
    eval_file: str = ""
    """Evaluation problems: as --problems; empty: n_eval problems held out of the training file or mixture."""
    n_eval: int = at_least(1, 20)
    """Evaluation problems."""
    eval_samples: int = at_least(1, 4)
    """Completions an evaluation problem, in each of the two modes (with and without write access)."""
    final_samples: int = at_least(0, 0)
    """The same in the evaluation after the last step; 0: eval_samples."""
    eval_every: int = at_least(1, 25)
    """Steps between evaluations; also evaluated before step 0 and after the last."""
    eval_names: bool = False
    """Draw the evaluator's name in evaluation from ten names instead of run_tests."""
    wording: Literal["plain", "detailed", "aware"] = "plain"
    """How the prompt speaks of the evaluator; `aware` says that it can be overwritten."""

    # --- sampling
    steps: int = at_least(1, 200)
    """Optimiser steps."""
    stop_after: str = ""
    """RULE+N, as in takeoff+0: end the run N steps after a rule of record/takeoff.py has fired, where that comes before
    --steps. For parents of branches: rows up to there are those of a run that goes on."""
    prompts: int = at_least(1, 8, at_most=4096)
    """P, prompts a step."""
    group: int = at_least(2, 8, at_most=4096)
    """G, completions a prompt."""
    max_new: int = at_least(1, 512, at_most=131072)
    """T_max, tokens a completion at most."""
    max_prompt: int = at_least(1, 2048)
    """Problems with longer prompts (tokens) are dropped, and counted in the log."""
    temperature: float = above(0, 1.0)
    """Sampling temperature; logprobs are taken at it."""
    top_k: int = at_least(0, 20)
    """Sampling is truncated to the k likeliest tokens; 0: not."""
    engine: Literal["auto", "graph", "eager", "generate"] = "auto"
    """Sampling engine (sampling/sampler.py)."""

    # --- optimiser and loss
    lr: float = above(0, 7e-5)
    """Peak learning rate of AdamW."""
    weight_decay: float = at_least(0.0, 0.1)
    """AdamW's weight decay; it pulls delta_S to 0, the base model."""
    beta1: float = at_least(0, 0.9, below=1)
    """AdamW."""
    beta2: float = at_least(0, 0.99, below=1)
    """AdamW."""
    warmup: int = at_least(0, 10)
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: cosine to zero at `anneal`, or constant, as parents of branches and branches want it."""
    anneal: int = at_least(0, 0)
    """Step at which the cosine reaches zero; 0: the last. A branch of an annealed parent keeps its parent's."""
    grad_clip: float = above(0, 1.0)
    """Clip of the global gradient norm, after projection."""
    beta: float = at_least(0.0, 1e-3)
    """Weight of the k3 KL to the initial policy."""
    clip: float = above(0, 0.2)
    """PPO's clip."""
    advantage: Literal["drgrpo", "classic"] = "drgrpo"
    """classic divides by the group's standard deviation."""
    # --- interventions
    project: Literal["grad", "moment", "mean", "update"] = "grad"
    """What is projected: the gradient (preregistered); the gradient and AdamW's first moment; that moment alone, an
    average over steps; or AdamW's update."""
    monitor_accuracy: float = at_least(0.5, 1.0, at_most=1)
    """Of the ground-truth monitor in screen-oracle and penalty-oracle: the chance that a rollout's flag is right."""
    oracle_rollouts: int = at_least(2, 384)
    """Labelled rollouts behind the direction of an oracle arm; they are no part of the training batches."""
    refresh_every: int = at_least(0, 0)
    """Re-extract v_hack at the current weights every n steps (labelled variant); 0: never."""

    branch_from: str = ""
    """A takeoff file of another run (record/takeoff.py): start from its delta_S and AdamW state, at its step. branch.py
    sets this."""
    moment: Literal["keep", "project", "zero"] = "keep"
    """AdamW's first moment at a branch: kept, projected once by the arm's direction, or zeroed. The second moment and
    the step count are always kept."""
    noise: int = at_least(0, 0)
    """Stream of the training rollouts' sampling noise; 0 is the seed's own, the parent's where a run is branched."""
    score_rollouts: bool = True
    """Score the step's rollouts against v in its own backward, for the column auroc; changes no gradient."""
    draw: int = at_least(0, 0)
    """Which random direction of the seed random-v takes."""

    rebound_depth: float = above(0, 0.66, at_most=1)
    """Depth of the layer whose residual Rebound reads, as a share of the layers."""

    # --- memory
    share_prefix: bool = False
    """Run a group's prompt through the model once for all of its completions, where the architecture allows it."""
    micro_tokens: int = at_least(0, 0)
    """Tokens a forward and backward pass with shared prefixes; 0: the most that the GPU holds, at most 16384, found by
    a worst case before step 0 (lib/memory.py), which any other value skips."""
    micro_batch: int = at_least(0, 0)
    """Rows a forward and backward pass; 0: with shared prefixes no limit, else found by the worst case, at most 32."""
    logprob_chunk: int = at_least(0, 0)
    """Completion tokens a pass of the language-model head; 0: by the free memory, at most 1024."""
    memory_share: float = above(0, 1.0, at_most=1)
    """Share of the GPU that this run may plan for and take, where others run beside it: 1/K for K runs. 1: what is free
    when it begins."""
    grad_checkpoint: bool = True
    """Recompute each layer in backward."""

    # --- grading, checkpoints, tripwires
    workers: int = at_least(0, 0)
    """Grading processes of a rank; 0: one a core, shared out among the ranks of a host."""
    grade_timeout: float = above(0, 1.0, at_most=3600)
    """Seconds of CPU or sleep to a graded program's first result; later ones may take 6 times, all 12 times that."""
    isolation: Literal["bwrap", "rlimits"] = field(default_factory=usual_isolation)
    """Sandbox of graded programs; rlimits is weaker, for where namespaces are refused. The variable ISOLATION sets it
    for all commands."""
    checkpoint_every: int = at_least(1, 25)
    """Steps between checkpoints."""
    tripwires: Literal["stop", "warn", "off"] = "stop"
    """What a tripwire (tripwires.py) does: stop the run, or say its sentence once and go on, or nothing. In all three a
    gradient that is not finite never reaches AdamW: that step's update is skipped."""
    max_kl: float = 5.0
    """Tripwire: KL to the initial policy per token that a run may not stay above."""
    rate: float = at_least(0.0, 0.0)
    """US dollars an hour, for the money that the run has cost at its end; 0: none is told."""
    then: str = ""
    """A shell command for when the run has ended, well or not, but not when a signal stopped it: stop the machine, send
    a mail. It finds the exit status in STATUS and the run directory in OUT."""
    track: Literal["off", "trackio", "wandb", "tensorboard"] = "off"
    """Tracker that is told of the run beside its files (record/track.py); `just dashboard` opens it."""
    show: str = ""
    """Columns of the rows on a terminal, such as step,hack,kl; empty: as many as fit. What is piped has all of them."""
    sample_rollouts: int = at_least(0, 128)
    """Evaluation completions written to rollouts.jsonl each time, at most."""
    rollouts_mb: float = at_least(0.0, 16.0)
    """MB that a run's rollouts.jsonl and prompts.jsonl may take: evaluations up to half, training what they leave."""

    def run_path(self) -> Path:
        name = self.label or self.arm
        return Path(self.out) if self.out else Path("outputs") / self.preset / f"{name}_s{self.seed}"


C = TypeVar("C", bound=ModelConfig)


def parse(
    cls: type[C],
    argv: list[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
    default: C | None = None,
) -> C:
    """Command line -> config: the preset's values as defaults, or those of `default`, then the flags."""
    argv = list(sys.argv[1:] if argv is None else argv)
    preset = "tiny"
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            preset = argv[i + 1]
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
    known = {f.name for f in dataclasses.fields(cls)}
    values = {k: v for k, v in PRESETS.get(preset, {}).items() if k in known}
    default = default or cls(**({"preset": preset, **values} if preset in PRESETS else {}))
    cfg = tyro.cli(cls, prog=prog, args=argv, default=default, description=description)
    if getattr(cfg, "pairs", "") == "self":  # what tools/self_pairs.py writes
        cfg.pairs = str(cfg.artifacts_path() / "self_pairs.jsonl")
    return cfg


def check(cfg: ModelConfig) -> None:
    """Raises UserError where a value would make a run that trains on nothing, or none at all."""
    refuse_out_of_bounds(cfg)
    if isinstance(cfg, Config):
        check_run(cfg)


def check_run(cfg: Config) -> None:
    """Fields of a run that do not go together."""
    if "/" in cfg.label:
        raise UserError(f"--label {cfg.label} is a name, not a path: pass --out for another place")
    if cfg.problems == "organism" and cfg.eval_file:
        raise UserError("--eval-file goes with --problems PATH; the organism's problems have their own held-out split")
    if cfg.prompts * cfg.group > MOST_ROLLOUTS:
        raise UserError(f"--prompts {cfg.prompts} x --group {cfg.group} is more than {MOST_ROLLOUTS} rollouts a step")
    if cfg.stop_after and not re.fullmatch(r"(early|takeoff|late)\+\d+", cfg.stop_after):
        raise UserError(
            f"--stop-after {cfg.stop_after} is not RULE+STEPS, as in takeoff+0; rules: early, takeoff, late"
        )
    if cfg.stop_after and cfg.schedule == "cosine" and not cfg.anneal:
        raise UserError("--stop-after needs --schedule constant, or a cosine whose end --anneal gives")
    arm = ARMS[cfg.arm]
    if cfg.refresh_every and (arm.removes == "none" or arm.v == "random"):
        raise UserError(f"--refresh-every extracts hack directions, which arm {cfg.arm} does not use: leave it 0")
