"""The stage: what the runs of one model and one set of problems share, loaded once for a run or for all branches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from antipasto import Adapter, checkpoint_layers, load_model
from config import Config
from grading.asserts import check_gradable
from lib.distributed import Ranks
from lib.errors import UserError
from lib.memory import claim_share
from lib.models import end_ids, pick_device
from lib.shared_prefix import share_prefix
from problems import Problem
from problems.prompts import Prompts, tokenise
from problems.sources import split_problems
from rewards import Grader
from rollouts import HeldOut, Run
from sampling.sampler import Sampler


@dataclass
class Stage:
    """Model, problems, sampler and grader; the arms come and go."""

    device: torch.device
    ranks: Ranks
    model: torch.nn.Module
    tokenizer: object
    adapter: Adapter
    sampler: Sampler
    grader: Grader
    problems: tuple[list[Problem], list[Problem]]
    """Training, evaluation."""
    form: dict
    """How prompts are made: wording, max_prompt."""
    attention: str
    """The attention that the model was loaded with."""
    share: bool
    """Whether the model was prepared for completions that share their prompt."""

    def prompts(self, write_access: bool) -> Prompts:
        """The training prompts of an arm."""
        return tokenise(self.tokenizer, self.problems[0], write_access=write_access, **self.form)

    def held_out(self, names: bool) -> HeldOut:
        """The evaluation prompts in both modes; names: of other evaluators than run_tests()."""
        return HeldOut(
            open=tokenise(self.tokenizer, self.problems[1], write_access=True, names=names, **self.form),
            closed=tokenise(self.tokenizer, self.problems[1], write_access=False, **self.form),
        )

    def run(self, cfg: Config, prompts: Prompts, **fields) -> Run:
        """A run on this stage; fields: those of rollouts.Run that are not the stage's, such as v_hack."""
        of_stage = ("device", "model", "tokenizer", "adapter", "grader", "sampler", "ranks", "share")
        shared = {name: getattr(self, name) for name in of_stage}
        return Run(cfg=cfg, prompts=prompts, **{"v_hack": None, "rebound": None} | shared | fields)

    def refuse_other_weights(self, model: str, there: dict, path: str | Path) -> None:
        """Raises UserError where a run's config.json, `there`, names other weights than the model's."""
        if self.adapter.weights_sha256 != there.get("weights_sha256"):
            raise UserError(f"{model} has other weights than those that {path} was trained on: pass --model")


def make_sampler(cfg, model, tokenizer) -> Sampler:
    """The sampler of cfg's temperature, top_k and engine. Raises UserError where the engine does not suit the model."""
    try:
        return Sampler(
            model,
            eos_ids=end_ids(model, tokenizer),
            pad_id=tokenizer.pad_token_id,
            temperature=cfg.temperature,
            top_k=cfg.top_k,
            engine=cfg.engine,
        )
    except ValueError as error:
        raise UserError(f"--engine {cfg.engine}: {error}") from error


def set_stage(cfg: Config, device: torch.device, ranks: Ranks, grader: Grader, problems) -> Stage:
    """Load the model, its SVDs and the sampler. Raises UserError where they do not suit training."""
    claim_share(device, cfg.memory_share)
    with ranks.first():  # it fills the SVD cache
        model, tokenizer, adapter = load_model(cfg, device)
    if cfg.grad_checkpoint:
        if getattr(model.config, "attention_dropout", 0):  # a recompute would draw another mask
            raise UserError(f"--model {cfg.model} trains with dropout; pass --no-grad-checkpoint")
        checkpoint_layers(model)
    sampler = make_sampler(cfg, model, tokenizer)
    attention = model.config._attn_implementation  # before share_prefix puts its own in front
    share = cfg.share_prefix and share_prefix(model)
    return Stage(
        device=device,
        ranks=ranks,
        model=model,
        tokenizer=tokenizer,
        adapter=adapter,
        sampler=sampler,
        grader=grader,
        problems=problems,
        form={"wording": cfg.wording, "max_prompt": cfg.max_prompt},
        attention=attention,
        share=share,
    )


def stage_for(cfg: Config, there: dict, path: str | Path, grader: Grader) -> Stage:
    """The stage of the run at `path`, whose config.json is `there`, as `cfg` has it now.

    Raises UserError where the weights are not those that the run was trained on.
    """
    problems = split_problems(cfg.problems, cfg.eval_file, cfg.n_eval)
    check_gradable(*problems)
    stage = set_stage(cfg, pick_device(cfg.device, cfg.preset, cfg.threads), Ranks(), grader, problems)
    stage.refuse_other_weights(cfg.model, there, path)
    return stage
