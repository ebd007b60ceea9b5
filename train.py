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
import lib.interrupt  # noqa: F401 (on top)

import dataclasses
import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from arms import ARMS
from config import Config, check, parse
from grading.asserts import check_gradable
from grpo import clipped_objective, completion_logprobs, k3, left_clip
from ladder.begin import begin
from ladder.gradients import auroc, row_gradients, scores, scoring
from ladder.labelled import live_direction
from ladder.updates import act_on_update, applied_update, project_moment, treat_moment
from lib.distributed import join, reports_once
from lib.errors import run_main
from lib.memory import peak_gib
from lib.models import pick_device
from lib.schedule import learning_rate, set_learning_rate
from problems.sources import problems_sha256, split_problems
from project import project_grads
from record.book import Book
from record.folder import RunDir, refuse_other
from record.inputs import call_at_end, check_inputs
from record.provenance import provenance
from rewards import Grader
from rollouts import Batch, HeldOut, Run, evaluate, make_batch
from staging.directions import directions_for
from staging.preflight import fit_to_memory
from staging.rebound import make_rebound
from staging.stage import Stage, set_stage


def backward(run: Run, batch: Batch) -> dict[str, float]:
    """Accumulate the step's gradient over micro-batches of live rows, every rank some of them, and sum it over the
    ranks. Columns: loss; kl, mean k3, nan where beta is 0; clipfr, share of tokens whose ratio left the clip; auroc of
    the rows' scores, nan where one class is missing."""
    cfg, model, ranks = run.cfg, run.model, run.ranks
    kept = batch.kept_P_G.flatten()
    live = [b for b in range(len(batch.prompts)) if batch.live_P[b // cfg.group] and kept[b]]
    prompts, completions = [batch.prompts[b] for b in live], [batch.completions[b] for b in live]
    advantages = batch.advantages_P_G.flatten()
    sums, scored = torch.zeros(4, dtype=torch.float64, device=run.device), []
    model.train(cfg.grad_checkpoint)  # transformers recomputes layers only in training mode
    for rows in run.passes.split(prompts, completions, ranks.rank, ranks.world):
        sums += backward_rows(
            run,
            prompts=[prompts[i] for i in rows],
            completions=[completions[i] for i in rows],
            old_logprobs=[batch.old_logprobs[live[i]] for i in rows],
            advantages=[advantages[live[i]] for i in rows],
            scored=(row_scores := []),
        )
        scored += [(s, batch.grades[live[i]].hack) for i, s in zip(rows, row_scores, strict=True) if not math.isnan(s)]
    model.eval()
    loss, kl, clipped, tokens = ranks.sum(*sums.tolist())
    ranks.sum_gradients(run.adapter.delta().values())
    scores_B, hack_B = (torch.tensor(column) for column in zip(*ranks.gather(scored) or [(0.0, False)], strict=True))
    tokens = tokens or math.nan
    kl = kl / tokens if cfg.beta > 0 else math.nan
    return {"loss": loss, "kl": kl, "clipfr": clipped / tokens, "auroc": auroc(scores_B, hack_B)}


def backward_rows(
    run: Run,
    prompts: list[list[int]],
    completions: list[list[int]],
    old_logprobs: list[Tensor],
    advantages: list[Tensor],
    scored: list[float] | None = None,
) -> Tensor:
    """Add one micro-batch's gradient to delta_S.grad, and the rows' scores to `scored`; [its share of the loss, sum of
    k3, tokens that left the clip, tokens] on the device."""
    cfg, model = run.cfg, run.model
    packed = run.passes.pack(prompts, completions)
    old = torch.cat(old_logprobs).to(run.device)
    A = torch.cat([a.expand(len(c)) for a, c in zip(advantages, completions, strict=True)]).to(run.device)
    kl = torch.zeros((), device=run.device)

    # Per token of a completion [N]: the clipped objective, and the KL to the model without its delta.
    logp = completion_logprobs(model, packed, cfg.temperature, cfg.logprob_chunk)
    loss = -clipped_objective(logp, old, A, cfg.clip)
    if cfg.beta > 0:
        with torch.no_grad(), run.adapter.reference():
            ref = completion_logprobs(model, packed, cfg.temperature, cfg.logprob_chunk)
        kl = k3(logp, ref)
        loss = loss + cfg.beta * kl
    loss = loss.sum() / (cfg.prompts * cfg.group * cfg.max_new)
    with scoring(run, packed, advantages, scored) if scored is not None else nullcontext():
        loss.backward()
    clipped = left_clip(logp.detach(), old, cfg.clip).sum()
    return torch.stack([loss.detach(), kl.detach().sum(), clipped, torch.full_like(loss, len(logp))])


def begin_or_resume(run: Run, book: Book) -> tuple[torch.optim.AdamW, int]:
    """AdamW over delta_S and the first step: of a new run, of a branch with its moment treated, or of a checkpoint."""
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
    return optimiser, first


def train(run: Run, book: Book, held_out: HeldOut) -> None:
    """The loop: evaluate now and then; sample, grade, backward, project, step."""
    cfg, arm, delta = run.cfg, ARMS[run.cfg.arm], run.adapter.delta()
    optimiser, first = begin_or_resume(run, book)
    for step in range(first, cfg.steps + 1):
        if book.evaluation_due(step):
            book.evaluation(*evaluate(run, held_out, step))
        book.between_steps(step, optimiser, run.v_hack)  # a checkpoint where one is due; a signal ends the run here
        if step >= book.end:
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
            row |= backward(run, batch)

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


def run_arm(stage: Stage, cfg: Config, **branch) -> Path:
    """One run on the stage, begun or resumed; returns its folder. branch: what its config.json says of a parent."""
    # Direction, held-out prompts, the run.
    v_hack, v_sha = directions_for(cfg, stage.model, stage.tokenizer, stage.adapter)
    stage.ranks.copy_from_first((v_hack or {}).values())
    held_out = stage.held_out(cfg.eval_names)
    run = stage.run(
        cfg,
        stage.prompts(ARMS[cfg.arm].write_access),
        v_hack=v_hack,
        score=lambda run, *rows: scores(row_gradients(run, *rows), run.v_hack),
    )
    fit_to_memory(run, held_out, backward_rows)

    # Its folder, with everything that made it.
    config = {
        **dataclasses.asdict(cfg),
        "sandbox": stage.grader.isolation,
        "v_hack_sha256": v_sha,
        "weights_sha256": stage.adapter.weights_sha256,
        "problems_sha256": problems_sha256(*stage.problems),
        "world": stage.ranks.world,
        "attention": stage.attention,
        **branch,
        **provenance(),
    }
    with stage.ranks.first():
        folder = RunDir(cfg.run_path(), config, cfg.fresh, writes=stage.ranks.rank == 0)
    run.rebound = make_rebound(cfg, stage.model, stage.tokenizer, stage.adapter, run.passes)
    train(run, Book(cfg, folder, stage.adapter.delta(), stage.ranks), held_out)
    return folder.path


@reports_once
def main() -> None:
    cfg = parse(Config, description=__doc__)
    check(cfg)
    check_inputs(cfg)
    call_at_end(cfg.then, cfg.run_path())
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


if __name__ == "__main__":
    run_main(main)
