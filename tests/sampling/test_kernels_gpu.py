"""The decode kernels at real shapes on a GPU in bf16 against float64, and the engines against each other."""

from __future__ import annotations

import pytest
import random_model
import torch
import torch.nn.functional as F

from antipasto import wrap
from sampling.noise import draw, row_keys
from sampling.sampler import Sampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
# Query heads, key heads, width of a head: Qwen3-4B, Qwen2.5-0.5B.
SHAPES = [(32, 8, 128), (14, 2, 64)]


def close(got: torch.Tensor, want: torch.Tensor, error: float = 0.008) -> bool:
    return bool((got.double() - want.double()).norm() < error * want.double().norm())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(shape, generator=g, device="cuda").bfloat16()


@pytest.mark.parametrize("heads, kv_heads, D", SHAPES)
@pytest.mark.parametrize("step", [0, 63, 300])
def test_attention_over_prompt_and_own_slots(heads, kv_heads, D, step):
    from sampling import kernels

    n, P, T = 23, 400, 301
    q, prompt_k, prompt_v = random(n, heads, D), random(5, kv_heads, P, D, seed=1), random(5, kv_heads, P, D, seed=2)
    keys, values = random(n + 1, kv_heads, T, D, seed=3), random(n + 1, kv_heads, T, D, seed=4)
    group = torch.tensor([0] * 6 + [1] * 1 + [2] * 9 + [4] * 7, device="cuda")
    of_prompt = torch.tensor([400, 1, 257, 9, 128], device="cuda")
    lengths, at = of_prompt[group], torch.tensor(step, device="cuda")
    got = kernels.attend(q, prompt_k, prompt_v, keys, values, lengths, group, at)

    both = (torch.cat([p[group], own[:n]], 2).double() for p, own in ((prompt_k, keys), (prompt_v, values)))
    sees = torch.arange(P, device="cuda") < lengths[:, None]
    sees = torch.cat([sees, (torch.arange(T, device="cuda") <= at).expand(n, -1)], 1)[:, None, None]
    want = F.scaled_dot_product_attention(q[:, :, None].double(), *both, attn_mask=sees, enable_gqa=True)
    assert close(got, want.flatten(1))


@pytest.mark.parametrize("heads, kv_heads, D", SHAPES)
@pytest.mark.parametrize("norm", [True, False])
def test_head_norm_rotation_and_cache(heads, kv_heads, D, norm):
    from sampling import kernels

    n, T, t = 17, 20, 13
    qkv, keys, values = random(n, (heads + 2 * kv_heads) * D), random(n, kv_heads, T, D), random(n, kv_heads, T, D)
    weights = random(2, D, seed=5).abs()
    angle = random(90, D // 2, seed=6).repeat(1, 2)
    lengths = torch.arange(n, device="cuda") * 3 + 1
    q, k, v = qkv.double().view(n, -1, D).split([heads, kv_heads, kv_heads], 1)
    if norm:
        q, k = (F.rms_norm(x, (D,), w.double(), 1e-6) for x, w in ((q, weights[0]), (k, weights[1])))
    cos, sin = angle.cos(), angle.sin()
    c, s = (x[lengths + t][:, None].double() for x in (cos, sin))
    q, k = (x * c + torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1) * s for x in (q, k))
    at = torch.tensor(t, device="cuda")
    before = keys.clone()
    got = kernels.prepare(qkv, keys, values, (weights, 1e-6) if norm else None, (cos, sin), lengths, at)
    assert close(got, q) and close(keys[:, :, t], k) and values[:, :, t].equal(v.bfloat16())
    assert keys[:, :, :t].equal(before[:, :, :t]) and keys[:, :, t + 1 :].equal(before[:, :, t + 1 :])


@pytest.mark.parametrize("width", [9728, 4864, 70])
def test_gated_product(width):
    from sampling import kernels

    x = random(33, 2 * width)
    assert close(kernels.silu_mul(x), F.silu(x[:, :width].double()) * x[:, width:].double())


@pytest.mark.parametrize("vocab", [151_936, 151_665])
def test_drawn_tokens_are_those_of_plain_torch(vocab):
    from sampling import kernels

    logits = 3 * random(96, vocab)
    assert kernels.draws.fits(logits, 20) == (vocab % kernels.draws.CHUNKS == 0)
    if not kernels.draws.fits(logits, 20):
        return
    keys, step = row_keys(torch.arange(96, device="cuda")), torch.tensor(7, device="cuda")
    (want, want_logp), (got, logp) = (f(logits, keys, step, 0.9, 20) for f in (draw, kernels.draws.draw))
    # bf16 logits tie, and which of equal ones is the twentieth is open.
    assert (want == got).float().mean() > 0.95 and (want_logp - logp)[want == got].abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_graphs_give_the_tokens_of_single_steps_while_rows_end(kind, tmp_path):
    model = random_model.build(kind, vocab=512, dtype=torch.bfloat16)
    adapter = wrap(model, tmp_path / "svd", "cuda")
    with torch.no_grad():
        for p in adapter.delta().values():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(p))
    prompts = [[i + 1] * (5 + 40 * i) for i in range(4) for _ in range(5)]
    found = []
    for engine in ("eager", "graph"):
        sampler = Sampler(model, eos_ids=range(12), pad_id=0, engine=engine)
        found.append(sampler.sample(prompts, range(20), 60))
        assert sampler.engine == engine and sampler.decoder.kernels is not None
    assert found[0].tokens.equal(found[1].tokens) and (found[0].lengths < 60).any()
    assert (found[0].logprobs - found[1].logprobs).abs().max() < 1e-3
