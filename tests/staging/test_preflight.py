"""The worst case before step 0 is a micro-batch as the loop makes it."""

from types import SimpleNamespace

import random_model
import torch

import config
import train
from antipasto import wrap
from ladder import gradients
from problems.prompts import Prompts
from project import random_directions
from rollouts import HeldOut, Run
from staging import preflight


def test_the_rows_that_are_tried_are_scored_as_a_steps_are(tmp_path, monkeypatch):
    """On a CPU nothing is tried, so the search is replaced by one attempt at three rows."""
    model = random_model.build("qwen3", seed=5, vocab=60)
    adapter = wrap(model, tmp_path / "svd")
    prompts = Prompts([None] * 2, [[1, 2], [3]], ["run_tests"] * 2)
    run = Run(
        cfg=config.Config(prompts=2, group=4, max_new=5, isolation="bwrap"),
        device=torch.device("cpu"),
        model=model,
        tokenizer=SimpleNamespace(pad_token_id=0),
        adapter=adapter,
        v_hack=random_directions({n: torch.zeros(len(p)) for n, p in adapter.delta().items()}, seed=1),
        grader=None,
        sampler=SimpleNamespace(),
        prompts=prompts,
        rebound=None,
    )
    scored, real = [], gradients.scores
    monkeypatch.setattr(gradients, "scores", lambda *a: scored.append(real(*a)) or scored[-1])
    monkeypatch.setattr(preflight, "fit_micro_batch", lambda attempt, **_: attempt(3) or 3)
    preflight.fit_to_memory(run, HeldOut(prompts, prompts), train.backward_rows)
    assert run.cfg.micro_batch == 3 and [s.shape for s in scored] == [(3,)]
    assert not model.training
