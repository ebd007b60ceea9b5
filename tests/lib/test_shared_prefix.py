"""Completions that share their prompt against rows that repeat it: logprobs, gradients, residuals, and float64."""

import copy

import pytest
import random_model
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from antipasto import checkpoint_layers, wrap
from grpo import completion_logprobs
from lib.packing import Passes, pack
from lib.residuals import residual_means
from lib.shared_prefix import Layout, enable, share_prefix

VOCAB = 150
CPU = torch.device("cpu")


def rows(seed: int = 0, groups=((7, 5), (3, 1), (12, 3)), longest: int = 11):
    """Prompts and completions of unlike lengths; groups: (prompt tokens, completions)."""
    g = torch.Generator().manual_seed(seed)
    prompts, completions = [], []
    for width, count in groups:
        prompt = torch.randint(1, VOCAB, (width,), generator=g).tolist()
        for _ in range(count):
            n = int(torch.randint(1, longest + 1, (), generator=g))
            prompts.append(prompt)
            completions.append(torch.randint(1, VOCAB, (n,), generator=g).tolist())
    return prompts, completions


def adapted(kind: str, tmp_path, dtype=torch.float32):
    if kind == "llama":
        torch.manual_seed(2)
        shape = dict(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, vocab_size=VOCAB
        )
        model = LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=96)).to(dtype).eval()
    else:
        model = random_model.build(kind, seed=4, vocab=VOCAB, dtype=dtype)
    adapter = wrap(model, tmp_path / "svd")
    g = torch.Generator().manual_seed(1)
    for p in adapter.delta().values():
        p.data.copy_(0.1 * torch.randn(p.shape, generator=g))
    enable(model)
    return model, adapter


def run(model, adapter, parts, share: bool, rows_of):
    """(logprobs [N], delta_S gradient of a weighted sum of them), over forwards of the rows in `parts`."""
    prompts, completions = rows_of
    found, device = {}, model.device
    model.zero_grad()
    for part in parts:
        packed = pack([prompts[b] for b in part], [completions[b] for b in part], 0, device, share)
        logp = completion_logprobs(model, packed, chunk=13)
        weights = torch.cat([torch.linspace(-1, 1, n) + b for n, b in zip(packed.lengths, part, strict=True)])
        (weights.to(logp) * logp).sum().backward()
        found |= dict(zip(part, logp.detach().split(packed.lengths), strict=True))
    return torch.cat([found[b] for b in range(len(prompts))]), torch.cat([g for g in adapter.grads().values()])


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "qwen3_5"])
def test_logprobs_and_gradients_are_those_of_rows_that_repeat_the_prompt(kind, checkpointed, tmp_path):
    model, adapter = adapted(kind, tmp_path)
    if checkpointed:
        checkpoint_layers(model)
        model.train()
    everything = [list(range(len(rows()[0])))]
    want, want_grad = run(model, adapter, everything, False, rows())
    got, grad = run(model, adapter, everything, True, rows())
    assert (got - want).abs().max() < 1e-5
    assert (grad - want_grad).norm() < 1e-5 * want_grad.norm()


def test_a_group_cut_into_several_forwards_has_the_same_gradient(tmp_path):
    model, adapter = adapted("qwen3", tmp_path)
    prompts, completions = rows()
    whole, grad = run(model, adapter, [list(range(len(prompts)))], True, (prompts, completions))
    parts = Passes(True, 0, CPU, most_tokens=30).split(prompts, completions)
    assert len(parts) > 2
    cut, cut_grad = run(model, adapter, parts, True, (prompts, completions))
    assert (whole - cut).abs().max() < 1e-5 and (grad - cut_grad).norm() < 1e-5 * grad.norm()


def test_float64_agrees_to_its_own_precision(tmp_path):
    model = random_model.build("qwen3", seed=4, vocab=VOCAB).double()
    enable(model)
    prompts, completions = rows()
    with torch.no_grad():
        hidden = [pack(prompts, completions, 0, "cpu", share) for share in (False, True)]
        padded, shared = (p.hidden(model)[p.predicts] for p in hidden)
    assert padded.dtype == torch.float64 and (padded - shared).abs().max() < 1e-12


@pytest.mark.parametrize("share", [False, True])
def test_a_deep_copy_in_another_dtype_runs_on_its_own_weights(share, tmp_path):
    """As bench/step.py compares a bf16 model with its fp32 copy; a gated delta net's forward is bound to its module."""
    model, _ = adapted("qwen3_5", tmp_path, torch.bfloat16)
    packed = pack(*rows(groups=((5, 2),)), 0, CPU, share)
    exact = completion_logprobs(copy.deepcopy(model).float(), packed, chunk=13)
    torch.testing.assert_close(completion_logprobs(model, packed, chunk=13), exact, atol=0.1, rtol=0)


def test_bf16_differs_as_two_batchings_of_padded_rows_do(tmp_path):
    model, adapter = adapted("qwen3", tmp_path, torch.bfloat16)
    prompts, completions = rows(groups=((20, 8), (9, 8)), longest=30)
    everything, singles = [list(range(16))], [[b] for b in range(16)]
    want, want_grad = run(model, adapter, everything, False, (prompts, completions))
    other, other_grad = run(model, adapter, singles, False, (prompts, completions))
    got, grad = run(model, adapter, everything, True, (prompts, completions))
    noise = max((other - want).norm() / want.norm(), torch.tensor(2.0**-9))
    assert (got - want).norm() < 3 * noise * want.norm()
    noise = max((other_grad - want_grad).norm() / want_grad.norm(), torch.tensor(2.0**-8))
    assert (grad - want_grad).norm() < 3 * noise * want_grad.norm()


def test_residual_means_are_those_of_padded_rows(tmp_path):
    model, _ = adapted("qwen3", tmp_path)
    prompts, completions = rows()
    padded, shared = (
        residual_means(model, prompts, completions, 0, Passes(share, 0, CPU, most_tokens=40)) for share in (False, True)
    )
    torch.testing.assert_close(padded, shared, atol=1e-5, rtol=1e-5)


def test_other_inputs_keep_the_attention_that_the_model_had():
    model = random_model.build("qwen3", vocab=VOCAB)
    ids, mask = torch.randint(1, VOCAB, (2, 9)), torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        enable(model)
        enable(model)
        assert model(ids, attention_mask=mask).logits.equal(before)


def test_what_a_model_cannot_share_is_said_and_left_alone():
    model = random_model.build("qwen3", vocab=VOCAB)
    model.config.layer_types = ["full_attention", "sliding_attention"]
    before = model.config._attn_implementation
    assert not share_prefix(model) and model.config._attn_implementation == before


def test_a_delta_net_reads_back_into_prompts_shorter_than_its_convolution(tmp_path):
    model, adapter = adapted("qwen3_5", tmp_path)
    data = rows(3, groups=((1, 2), (2, 3), (80, 2)), longest=70)
    everything = [list(range(7))]
    want, got = (run(model, adapter, everything, share, data) for share in (False, True))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_no_mask_of_the_whole_sequence_is_built():
    """Memory of a mask: rows x (prompt + row), never the square of the sequence."""
    layout = Layout([40, 30], [[5] * 20, [7] * 20], CPU)
    L = layout.start + 20 * 5 + 20 * 7
    assert layout.sees.numel() == 40 * 7 * (40 + 7) < L * L / 2
