"""The preflight on the CPU: what it leaves behind, the worst case it builds, and the search."""

import pytest
import random_model
import torch

from antipasto import wrap
from lib import memory


@pytest.fixture
def adapted(tmp_path):
    model = random_model.build("qwen3", seed=3)
    return model, wrap(model, tmp_path)


def test_cpu_returns_the_micro_batch_unchanged(adapted):
    model, adapter = adapted
    cpu = torch.device("cpu")
    rows = memory.fit_micro_batch(model, adapter, longest_prompt=9, max_new=7, rows=6, batch=12, logprob_chunk=8,
                                     beta=1e-3, device=cpu)  # fmt: skip
    assert rows == 6
    assert memory.logprob_chunk(151936, cpu) == 2048


def test_worst_case_leaves_delta_gradients_and_rng_alone(adapted):
    model, adapter = adapted
    with torch.no_grad():
        for i, p in enumerate(adapter.delta().values()):
            p.fill_(0.01 * (i % 2))
    before = {n: p.detach().clone() for n, p in adapter.delta().items()}
    rng = torch.get_rng_state()
    with memory.switched_on(adapter):
        assert all(p.detach().any() for p in adapter.delta().values())
        memory.forward_backward(model, adapter, 2, 16, 7, 8, 1e-3, torch.device("cpu"))
        adapter.grads()
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in adapter.delta().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_worst_case_has_every_row_at_full_length():
    ids, completion = memory.worst_case(3, 16, 7, torch.device("cpu"))
    assert ids.shape == (3, 16)
    assert completion.sum(1).tolist() == [7, 7, 7] and not completion[:, :9].any()


@pytest.mark.parametrize(("limit", "want"), [(100, 8), (60, 4), (25, 2), (12, 1), (9, 0)])
def test_the_micro_batch_is_halved_until_it_fits(limit, want):
    tried = []

    def attempt(rows):
        tried.append(rows)
        return None if rows > 4 and limit < 100 else 10 * rows

    assert memory.largest_that_fits(8, limit, attempt)[0] == want
    assert tried == [r for r in (8, 4, 2, 1) if r >= max(want, 1)]
