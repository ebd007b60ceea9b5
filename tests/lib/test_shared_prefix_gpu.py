"""Shared prefixes on a GPU in bf16: the flash kernels against float64, and a model against padded rows."""

from __future__ import annotations

import pytest
import torch
from test_shared_prefix import adapted, rows, run

from antipasto import checkpoint_layers
from lib.fused import fuse
from lib.shared_prefix import Layout, SharedFlash, flash_works

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_flash_attention_serves_shared_prefixes_on_this_gpu():
    assert flash_works(torch.empty(0, device="cuda").device)


@pytest.mark.parametrize("heads, kv_heads, D", [(32, 8, 128), (14, 2, 64)])
@pytest.mark.parametrize(
    "prompts, completions",
    [([300, 17, 129], [[200, 1, 64], [33] * 5, [513]]), ([40], [[1]]), ([1, 256], [[128, 128], [7]])],
)
def test_attention_and_its_gradients_are_those_of_float64(heads, kv_heads, D, prompts, completions):
    layout = Layout(prompts, completions, "cuda")
    L = sum(prompts) + sum(map(sum, completions))
    g = torch.Generator("cuda").manual_seed(0)
    q, k, v, up = (
        torch.randn(L, n, D, generator=g, device="cuda").bfloat16() for n in (heads, kv_heads, kv_heads, heads)
    )
    exact = [t.double().transpose(0, 1).requires_grad_() for t in (q, k, v)]
    want = layout._attend_gathered(*exact, D**-0.5)
    wants = (want, *torch.autograd.grad(want, exact, up.double().transpose(0, 1)))
    half = [t.clone().requires_grad_() for t in (q, k, v)]
    got = SharedFlash.apply(*half, layout, D**-0.5)
    for a, b in zip((got, *torch.autograd.grad(got, half, up)), wants, strict=True):
        b = b.transpose(0, 1)
        assert (a.double() - b).norm() < 0.01 * b.norm()


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_model_differs_from_padded_rows_as_two_batchings_of_them_do(kind, checkpointed, tmp_path):
    model, adapter = adapted(kind, tmp_path, torch.bfloat16)
    model.cuda()
    fuse(model)
    assert flash_works(model.device)
    if checkpointed:
        checkpoint_layers(model)
        model.train()
    prompts, completions = rows(groups=((200, 8), (90, 8)), longest=60)
    everything, singles = [list(range(16))], [[b] for b in range(16)]
    want, want_grad = run(model, adapter, everything, False, (prompts, completions))
    other, other_grad = run(model, adapter, singles, False, (prompts, completions))
    got, grad = run(model, adapter, everything, True, (prompts, completions))
    noise = max(float((other - want).norm() / want.norm()), 2.0**-9)
    assert (got - want).norm() < 3 * noise * want.norm()
    noise = max(float((other_grad - want_grad).norm() / want_grad.norm()), 2.0**-8)
    assert (grad - want_grad).norm() < 3 * noise * want_grad.norm()
