"""The decode kernels against plain torch, in Triton's interpreter on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

KERNELS = """
import sys, torch, torch.nn.functional as F
sys.path.insert(0, sys.argv[1])
from sampling import kernels as rk
rk.SHARED_PROGRAMS, rk.OWN_PROGRAMS = 12, 24
torch.manual_seed(0)
for H, HKV, D, norm in ((4, 2, 16, True), (6, 2, 32, False), (3, 3, 16, True)):
    n, P, t = 11, 90, 7
    PK, PV = (torch.randn(5, HKV, P, D) for _ in range(2))
    K, V = (torch.randn(n + 1, HKV, 12, D) for _ in range(2))
    group, step = torch.tensor([0] * 3 + [1] + [3] * 5 + [1, 4]), torch.tensor(t)
    lengths = torch.tensor([70, 1, 5, 90, 33])[group]
    qkv, weights = torch.randn(n, (H + 2 * HKV) * D), torch.rand(2, D)
    angle = torch.randn(99, D // 2).repeat(1, 2)
    q, k, v = qkv.view(n, -1, D).split([H, HKV, HKV], 1)
    if norm:
        q, k = F.rms_norm(q, (D,), weights[0], 1e-6), F.rms_norm(k, (D,), weights[1], 1e-6)
    c, s = angle.cos()[lengths + t][:, None], angle.sin()[lengths + t][:, None]
    q, k = (x * c + torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1) * s for x in (q, k))
    K2, V2 = K.clone(), V.clone()
    K2[:n, :, t], V2[:n, :, t] = k, v
    got = rk.prepare(qkv, K, V, (weights, 1e-6) if norm else None, (angle.cos(), angle.sin()), lengths, step)
    for a, b in ((got, q), (K, K2), (V, V2)):
        torch.testing.assert_close(a, b)
    keys, values = (torch.cat([p[group], own[:n]], 2) for p, own in ((PK, K), (PV, V)))
    mask = torch.cat([torch.arange(P) < lengths[:, None], (torch.arange(12) <= t).expand(n, -1)], 1)
    want = F.scaled_dot_product_attention(q[:, :, None], keys, values, mask[:, None, None], enable_gqa=True)
    torch.testing.assert_close(rk.attend(got, PK, PV, K, V, lengths, group, step), want.flatten(1))

from types import SimpleNamespace
from sampling.delta_net import DeltaNetLayer
from sampling.layers import DecoderLayer
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig
model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(
    num_hidden_layers=2, layer_types=["linear_attention", "full_attention"], hidden_size=48, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=80, vocab_size=50, head_dim=16, linear_num_key_heads=2,
    linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=8)).eval().requires_grad_(False)
for name, p in model.named_parameters():
    if "norm" in name:
        torch.nn.init.normal_(p, 0.5, 0.2)
n, like = 3, model.lm_head.weight
batch = SimpleNamespace(n=n, prompts=2, width=9, group=torch.tensor([0, 0, 1]), lengths=torch.tensor([6, 6, 9]),
                        members=torch.tensor([[0, 1], [2, 0]]), place=torch.tensor([0, 1, 2]))
batch.rotary = tuple(t[0].contiguous() for t in model.model.rotary_emb(like[:1, None], torch.arange(20)[None]))
for kind, layer in zip((DeltaNetLayer, DecoderLayer), model.model.layers):
    layer = kind(layer)
    [linear.refresh() for linear in layer.linears]
    prompt, own = layer.caches(like, n + 1, 2, 9, 5)
    [torch.nn.init.normal_(t) for t in (*prompt, *own)]
    twin = [t.clone() for t in own]
    for t in range(3):
        batch.step = torch.tensor(t)
        sees = torch.cat([torch.arange(9) < batch.lengths[:, None], (torch.arange(5) <= t).expand(n, -1)], 1)
        bias = torch.zeros(n, 14).masked_fill_(~sees, float("-inf"))[:, None, None]
        now = SimpleNamespace(batch=batch, n=n, slots=5, fused=False, bias=bias,
                              rotary=[r[batch.lengths + t] for r in batch.rotary])
        x = torch.randn(n, 48)
        want = layer.step(x.clone(), prompt, own, now)
        torch.testing.assert_close(layer.decode(x.clone(), rk, prompt, twin, batch), want, atol=1e-4, rtol=1e-4)
        for a, b in zip(twin, own):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)

assert rk.draws.disagreement(torch.device("cpu"), rows=2) < 1e-4
x = torch.randn(3, 2 * 70)
torch.testing.assert_close(rk.silu_mul(x), F.silu(x[:, :70]) * x[:, 70:])
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the kernels themselves are tested")
def test_kernels_match_torch_in_the_interpreter():
    pytest.importorskip("triton")
    root = str(Path(__file__).resolve().parents[2])
    env = {
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(Path.home()),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run([sys.executable, "-c", KERNELS, root], env=env, capture_output=True, text=True, timeout=6000)
    assert done.returncode == 0, done.stderr[-2000:]
