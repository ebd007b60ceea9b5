"""One GRPO run on delta_S: sample -> grade -> backward -> project -> step.

    python train.py --preset {tiny,dev,mid,full} --arm ARM --seed N [--steps N] [--any-field V]
    torchrun --nproc-per-node N train.py ...        the same run on N GPUs (lib/distributed.py)

Departures from GRPO (Shao et al. 2024): advantages without 1/std (Dr.GRPO; --advantage classic has it), a fixed loss
normaliser P G T_max, flat groups skipped. One optimiser step a batch of rollouts, so the PPO ratio differs from 1 only
by the sampler's numerics.

Notation, as suffixes where a shape is not obvious: P prompts of a step, G completions a prompt (a group), B = P G rows,
T tokens, d residual width, r singular axis of a module (the length of its delta_S), M modules, k directions a module.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger

from antipasto import Adapter, checkpoint_layers, load_model
from arms import ARMS
from config import Config, check, parse
from directions import begin, directions_for, live_direction, row_gradients, scores
from grpo import clipped_objective, completion_logprobs, k3, pack
from lib.distributed import Ranks, join, reports_once
from lib.errors import UserError, run_main
from lib.memory import fit_to_memory, peak_gib
from lib.models import end_ids, pick_device
from problems import Problem
from problems.prompts import Prompts, tokenise
from problems.sources import split_problems
from project import AppliedUpdate, applied_update, project_grads, project_moment, treat_moment
from rebound import make_rebound
from record.book import Book
from record.folder import RunDir, refuse_other
from record.provenance import provenance
from rewards import Grader, check_gradable
from rollouts import Batch, HeldOut, Run, evaluate, make_batch
from sampling.sampler import Sampler


def backward(run: Run, batch: Batch) -> tuple[float, float]:
    """Accumulate the step's gradient over micro-batches of live rows, every rank some of them, and sum it over the
    ranks; (loss, mean k3, nan where beta is 0).

    The longest rows go first, so that torch's allocator serves every later micro-batch from the blocks of the first.
    From short to long each would need larger blocks than those it has cached: it would reserve far more than the peak.
    """
    cfg, model, device, pad_id = run.cfg, run.model, run.device, run.tokenizer.pad_token_id
    kept = batch.kept_P_G.flatten()
    live = [b for b in range(len(batch.prompts)) if batch.live_P[b // cfg.group] and kept[b]]
    live.sort(key=lambda b: len(batch.prompts[b]) + len(batch.completions[b]))
    live = live[run.ranks.rank :: run.ranks.world]
    advantages = batch.advantages_P_G.flatten()
    loss_sum, kl_sum, tokens = 0.0, 0.0, 0
    model.train(cfg.grad_checkpoint)  # transformers recomputes layers only in training mode
    for start in reversed(range(0, len(live), cfg.micro_batch)):
        rows = live[start : start + cfg.micro_batch]
        ids, mask = pack([batch.prompts[b] for b in rows], [batch.completions[b] for b in rows], pad_id, device)
        old = torch.cat([batch.old_logprobs[b] for b in rows]).to(device)
        A = torch.cat([advantages[b].expand(len(batch.completions[b])) for b in rows]).to(device)
        logp = completion_logprobs(model, ids, mask, cfg.temperature, cfg.logprob_chunk)
        loss = -clipped_objective(logp, old, A, cfg.clip)
        if cfg.beta > 0:
            with torch.no_grad(), run.adapter.reference():
                ref = completion_logprobs(model, ids, mask, cfg.temperature, cfg.logprob_chunk)
            kl = k3(logp, ref)
            loss = loss + cfg.beta * kl
            kl_sum += kl.detach().sum().item()
        loss = loss.sum() / (cfg.prompts * cfg.group * cfg.max_new)
        loss.backward()
        loss_sum += loss.item()
        tokens += len(logp)
    model.eval()
    loss_sum, kl_sum, tokens = run.ranks.sum(loss_sum, kl_sum, tokens)
    run.ranks.sum_gradients(run.adapter.delta().values())
    return loss_sum, kl_sum / tokens if cfg.beta > 0 and tokens else math.nan


def learning_rate(cfg: Config, step: int) -> float:
    """Linear warm-up over `warmup` steps, then constant, or cosine to zero at `anneal` or the last step."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    if cfg.schedule == "constant":
        return cfg.lr
    progress = (step - cfg.warmup) / max(1, (cfg.anneal or cfg.steps) - cfg.warmup)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * progress))


def act_on_update(run: Run, update: AppliedUpdate) -> None:
    """What some arms and forms do to the update that AdamW has applied, in place of it."""
    cfg, arm, delta = run.cfg, ARMS[run.cfg.arm], run.adapter.delta()
    if arm.shrinks:
        update.shrink(delta, run.v_hack, arm.removes)
    elif arm.weighs:
        update.weigh(delta, run.weights)
    elif cfg.project == "update" and arm.removes != "none":
        update.project(delta, run.v_hack, arm.removes, arm.keep_norm)


def set_learning_rate(optimiser: torch.optim.AdamW, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def train(run: Run, book: Book, held_out: HeldOut) -> None:
    """The loop: evaluate now and then; sample, grade, backward, project, step."""
    cfg, arm, delta = run.cfg, ARMS[run.cfg.arm], run.adapter.delta()
    betas = (cfg.beta1, cfg.beta2)
    optimiser = torch.optim.AdamW(delta.values(), lr=cfg.lr, betas=betas, weight_decay=cfg.weight_decay)
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters() if p.requires_grad}, "the optimiser must hold only delta_S"

    first = book.resume(optimiser, run.v_hack)
    begin(run, at_start=book.at_start)
    if book.fresh_branch:
        moments = {name: optimiser.state[p]["exp_avg"] for name, p in delta.items() if p in optimiser.state}
        treat_moment(moments, cfg.moment, run.v_hack, arm.removes)

    for step in range(first, cfg.steps + 1):
        if book.evaluation_due(step):
            book.evaluation(*evaluate(run, held_out, step))
        book.between_steps(step, optimiser, run.v_hack)  # a checkpoint where one is due; a signal ends the run here
        if step == cfg.steps:
            break
        if cfg.refresh_every and step and step % cfg.refresh_every == 0:
            run.v_hack = directions_for(cfg, run.model, run.tokenizer, run.adapter, refresh=True)[0]
            run.ranks.copy_from_first(run.v_hack.values())

        # Sample P x G completions, grade them, turn rewards into advantages.
        batch, lr = make_batch(run, step), learning_rate(cfg, step)
        row, measured, started = {"step": step, "lr": lr, **batch.row()}, None, time.perf_counter()

        if batch.live_P.any():  # with every group flat there is nothing to learn, so AdamW does not move either
            # Backward: grad(delta_S) of the clipped objective and the KL, over micro-batches and ranks.
            optimiser.zero_grad(set_to_none=True)
            row["loss"], row["kl"] = backward(run, batch)

            # Project: what is hack-ward in each module's gradient leaves it.
            if arm.v == "live":
                run.v_hack = live_direction(run, batch)
            side = arm.removes if cfg.project in ("grad", "moment") and not arm.shrinks else "none"
            measured = project_grads(run.adapter.grads(), run.v_hack, side, arm.keep_norm)

            # Step: clip, AdamW, and what became of the gradient in the update.
            if measured.finite():
                torch.nn.utils.clip_grad_norm_(delta.values(), cfg.grad_clip)
                set_learning_rate(optimiser, lr)
                with applied_update(delta) as update:
                    optimiser.step()
                    if cfg.project in ("moment", "mean") and arm.removes != "none":
                        project_moment(optimiser, delta, run.v_hack, arm.removes)
                act_on_update(run, update)
                if run.v_hack is not None:
                    measured.cos_update = update.cosines(run.v_hack)
            else:
                logger.warning(f"step {step}: the gradient is not finite, so the update is skipped")
            row |= measured.row()

        row |= {"t_train": time.perf_counter() - started, "gib": peak_gib(run.device)}
        book.step(row, measured, batch, optimiser)
    if book.folder.writes:
        run.adapter.save(book.folder.path / "delta_S.safetensors")
    book.finish()


@dataclass
class Stage:
    """What the runs of one model and one set of problems share, loaded once."""

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

    def prompts(self, write_access: bool) -> Prompts:
        """The training prompts of an arm."""
        return tokenise(self.tokenizer, self.problems[0], write_access=write_access, **self.form)

    def held_out(self, names: bool) -> HeldOut:
        """The evaluation prompts in both modes; names: of other evaluators than run_tests()."""
        return HeldOut(
            open=tokenise(self.tokenizer, self.problems[1], write_access=True, names=names, **self.form),
            closed=tokenise(self.tokenizer, self.problems[1], write_access=False, **self.form),
        )


def set_stage(cfg: Config, device: torch.device, ranks: Ranks, grader: Grader, problems) -> Stage:
    """Load the model, its SVDs and the sampler. Raises UserError where they do not suit training."""
    with ranks.first():  # it fills the SVD cache
        model, tokenizer, adapter = load_model(cfg, device)
    if cfg.grad_checkpoint:
        if getattr(model.config, "attention_dropout", 0):  # a recompute would draw another mask
            raise UserError(f"--model {cfg.model} trains with dropout; pass --no-grad-checkpoint")
        checkpoint_layers(model)
    try:
        sampler = Sampler(
            model,
            eos_ids=end_ids(model, tokenizer),
            pad_id=tokenizer.pad_token_id,
            temperature=cfg.temperature,
            top_k=cfg.top_k,
            engine=cfg.engine,
        )
    except ValueError as error:
        raise UserError(f"--engine {cfg.engine}: {error}") from error
    form = {"wording": cfg.wording, "max_prompt": cfg.max_prompt}
    return Stage(
        device=device,
        ranks=ranks,
        model=model,
        tokenizer=tokenizer,
        adapter=adapter,
        sampler=sampler,
        grader=grader,
        problems=problems,
        form=form,
    )


def run_arm(stage: Stage, cfg: Config, **provenance_of_a_branch) -> Path:
    """One run on the stage, begun or resumed; returns its folder."""
    v_hack, v_sha = directions_for(cfg, stage.model, stage.tokenizer, stage.adapter)
    stage.ranks.copy_from_first((v_hack or {}).values())
    prompts, held_out = stage.prompts(ARMS[cfg.arm].write_access), stage.held_out(cfg.eval_names)
    fit_to_memory(
        cfg,
        stage.model,
        stage.adapter,
        stage.sampler,
        [prompts, held_out.open, held_out.closed],
        stage.device,
        stage.ranks.world,
    )
    config = {
        **dataclasses.asdict(cfg),
        "sandbox": stage.grader.isolation,
        "v_hack_sha256": v_sha,
        "weights_sha256": stage.adapter.weights_sha256,
        "world": stage.ranks.world,
        **provenance_of_a_branch,
        **provenance(),
    }
    with stage.ranks.first():
        folder = RunDir(cfg.run_path(), config, cfg.fresh, writes=stage.ranks.rank == 0)
    run = Run(
        cfg=cfg,
        device=stage.device,
        model=stage.model,
        tokenizer=stage.tokenizer,
        adapter=stage.adapter,
        v_hack=v_hack,
        grader=stage.grader,
        sampler=stage.sampler,
        prompts=prompts,
        rebound=make_rebound(cfg, stage.model, stage.tokenizer, stage.adapter),
        ranks=stage.ranks,
        score=lambda run, *rows: scores(row_gradients(run, *rows), run.v_hack),
    )
    train(run, Book(cfg, folder, stage.adapter.delta(), stage.ranks), held_out)
    return folder.path


@reports_once
def main() -> None:
    cfg = parse(Config, description=__doc__)
    check(cfg)
    device = pick_device(cfg.device, cfg.preset, cfg.threads)
    ranks = join(device, cfg.prompts)
    path = cfg.run_path()
    if not cfg.fresh:
        refuse_other(path, dataclasses.asdict(cfg))
    if (path / "summary.json").exists() and not cfg.fresh:
        logger.info(f"{path} is complete: nothing to do (--fresh runs it again)")
        return
    problems = split_problems(cfg.problems, cfg.eval_file, cfg.n_eval)
    check_gradable(*problems)
    workers = ranks.workers(cfg.workers)
    with Grader(workers=workers, timeout_s=cfg.grade_timeout, isolation=cfg.isolation) as grader:
        run_arm(set_stage(cfg, device, ranks, grader, problems), cfg)
    print(f"done: {path}/summary.json")


if __name__ == "__main__":
    run_main(main)
