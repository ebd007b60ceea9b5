"""The preflight on the CPU: what it leaves behind, and the search. Its worst case is train.fit_to_memory's."""

import pytest
import random_model
import torch

from antipasto import wrap
from grpo import completion_logprobs
from lib import memory
from lib.packing import pack
from sampling.cache import DecodeBatch
from sampling.decoder import Decoder

CPU = torch.device("cpu")


def test_cpu_returns_the_micro_batch_unchanged():
    def never(*_):
        raise AssertionError("nothing is tried on a CPU")

    assert memory.fit_micro_batch(6, 1, attempt=never, fill_cache=never, delta={}, device=CPU, case="") == 6
    assert memory.logprob_chunk(151936, CPU) == 2048


def test_worst_case_leaves_delta_gradients_and_rng_alone(tmp_path):
    model = random_model.build("qwen3", seed=3)
    adapter = wrap(model, tmp_path)
    with torch.no_grad():
        for i, p in enumerate(adapter.delta().values()):
            p.fill_(0.01 * (i % 2))
    before = {n: p.detach().clone() for n, p in adapter.delta().items()}
    rng = torch.get_rng_state()
    with memory.switched_on(adapter.delta()):
        assert all(p.detach().any() for p in adapter.delta().values())
        completion_logprobs(model, pack([[1] * 9] * 2, [[1] * 7] * 2, 0, CPU), chunk=8).mean().backward()
        adapter.grads()
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in adapter.delta().items())
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize(("limit", "want"), [(100, 8), (60, 4), (25, 2), (12, 1), (9, 0)])
def test_the_micro_batch_is_halved_until_it_fits(limit, want):
    tried = []

    def used_by(rows):
        tried.append(rows)
        return None if rows > 4 and limit < 100 else 10 * rows

    assert memory.largest_that_fits(8, 1, limit, used_by)[0] == want
    assert tried == [r for r in (8, 4, 2, 1) if r >= max(want, 1)]


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "qwen3_5"])
def test_the_cache_has_the_bytes_that_are_counted(kind):
    model = random_model.build(kind)
    batch = DecodeBatch(model, Decoder(model).layers, rows=5, prompts=2, width=7, max_new=11)
    held = sum(t.nbytes for caches in (batch.prompt_cache, batch.cache) for layer in caches for t in layer)
    a_token = memory.cache_bytes(model.config, model.dtype)
    assert held == (2 * 7 + 5 * 11) * a_token + 5 * memory.row_bytes(model.config, model.dtype)
    assert (memory.row_bytes(model.config, model.dtype) > 0) == (kind == "qwen3_5")
