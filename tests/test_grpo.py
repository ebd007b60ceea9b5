"""Advantages, clip, KL, and chunked completion-only logprobs against full float64 ones."""

import math

import pytest
import random_model
import torch

from grpo import clipped_objective, completion_logprobs, group_advantages, k3
from lib.packing import pack


def test_dr_grpo_centres_and_flags_flat_groups():
    A, live = group_advantages(torch.tensor([[3.5, 0.5, 0.5, 3.5], [0.5, 0.5, 0.5, 0.5]]))
    assert A.tolist() == [[1.5, -1.5, -1.5, 1.5], [0.0, 0.0, 0.0, 0.0]]
    assert live.tolist() == [True, False]


def test_classic_advantages_have_unit_std():
    A, _ = group_advantages(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), classic=True)
    assert A.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)


def test_clip_takes_the_pessimistic_branch():
    old = torch.zeros(4)
    logp = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    A = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert clipped_objective(logp, old, A, 0.2).tolist() == pytest.approx([1.2, -1.5, 0.5, -0.8])


def test_k3_is_zero_at_equality_and_unbiased():
    p = torch.log_softmax(torch.randn(6), 0)
    q = torch.log_softmax(torch.randn(6), 0)
    assert k3(p, p).abs().max() == 0
    assert (k3(p, q) >= 0).all()
    assert (p.exp() * k3(p, q)).sum().item() == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_logprobs_and_gradients_match_float64(temperature):
    model = random_model.build("qwen3", vocab=300)
    prompts = [torch.randint(0, 300, (n,)).tolist() for n in (5, 2, 9)]
    completions = [torch.randint(0, 300, (n,)).tolist() for n in (7, 1, 4)]
    packed = pack(prompts, completions, 0, "cpu")
    parameter = model.model.layers[0].self_attn.q_proj.weight
    got = completion_logprobs(model, packed, temperature=temperature, chunk=3)
    (grad,) = torch.autograd.grad(got.sum(), parameter)
    exact = model.double()
    want = []
    for p, c in zip(prompts, completions, strict=True):
        logits = exact(torch.tensor([p + c])).logits[0] / temperature
        logp = logits.log_softmax(-1)
        want += [logp[len(p) - 1 + t, token] for t, token in enumerate(c)]
    want = torch.stack(want)
    assert (got - want).abs().max() < 1e-4
    (grad64,) = torch.autograd.grad(want.sum(), exact.model.layers[0].self_attn.q_proj.weight)
    assert (grad.double() - grad64).norm() < 1e-4 * grad64.norm()


def test_logprobs_are_never_positive_in_bf16():
    model = random_model.build("qwen3", vocab=300, dtype=torch.bfloat16)
    with torch.no_grad():
        logp = completion_logprobs(model, pack([[1, 2, 3]], [[4, 5, 6, 7]], 0, "cpu"))
    assert logp.dtype == torch.float32 and (logp <= 0).all()


def test_uniform_model_gives_minus_log_vocab():
    model = random_model.build("qwen3", vocab=300)
    torch.nn.init.zeros_(model.lm_head.weight)
    with torch.no_grad():
        logp = completion_logprobs(model, pack([[1]], [[2, 3]], 0, "cpu"))
    assert logp.tolist() == pytest.approx([-math.log(300)] * 2)
