"""Triton kernels of training against plain torch: in the interpreter on a CPU, and on a GPU against float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import random_model
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from lib.kernels import largest_error
print(largest_error(torch.device("cpu"), torch.float32), largest_error(torch.device("cpu"), torch.bfloat16))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the kernels themselves are tested")
def test_kernels_match_torch_in_the_interpreter():
    pytest.importorskip("triton")
    env = {
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(Path.home()),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    command = [sys.executable, "-c", SCRIPT, str(ROOT)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    single, half = map(float, done.stdout.split())
    assert single < 1e-5 and half < 0.01


@gpu
def test_kernels_are_usable_on_this_gpu():
    from lib.fused import training_kernels

    assert training_kernels(torch.empty(2, 2, device="cuda", dtype=torch.bfloat16)) is not None


@gpu
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_gradients_of_a_real_vocabulary_are_those_of_float64(temperature):
    from lib.logprobs import HeadLogprobs

    g = torch.Generator("cuda").manual_seed(0)
    head = nn.Linear(256, 151_936, bias=False).requires_grad_(False).to("cuda", torch.bfloat16)
    hidden = torch.randn(70, 256, generator=g, device="cuda").bfloat16().requires_grad_()
    targets = torch.randint(0, 151_936, (70,), generator=g, device="cuda")
    up = torch.randn(70, generator=g, device="cuda") if temperature < 1 else torch.ones((), device="cuda").expand(70)

    # The reference starts from the logits as bf16 holds them: what is compared is what the kernels do.
    logits = head(hidden.detach()).double().requires_grad_()
    want = (logits / temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    d_logits = torch.autograd.grad(want, logits, up.double())[0]
    got = HeadLogprobs.apply(hidden, head, targets, temperature, 32)
    assert (got - want).abs().max() < 1e-4
    (grad,) = torch.autograd.grad(got, hidden, up)
    exact = d_logits @ head.weight.double()
    assert (grad.double() - exact).norm() < 0.01 * exact.norm()


@gpu
@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_a_fused_model_is_nearer_to_float64_than_transformers_own(kind):
    from lib.fused import fuse

    exact = random_model.build(kind, vocab=150).double().cuda()
    plain, fused = (random_model.build(kind, vocab=150, dtype=torch.bfloat16).cuda() for _ in range(2))
    for model in (exact,):  # the same weights as bf16 holds them
        model.load_state_dict({name: t.double() for name, t in plain.state_dict().items()})
    fuse(fused)
    ids = torch.randint(1, 150, (4, 60), generator=torch.Generator().manual_seed(0)).cuda()
    with torch.no_grad():
        want, before, after = (m(ids).logits.double() for m in (exact, plain, fused))
    assert not before.equal(after), "nothing was fused"
    assert (after - want).norm() < 1.1 * (before - want).norm()
