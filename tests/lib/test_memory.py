"""The preflight on the CPU: what it leaves behind, and the search. Its worst case is staging.preflight's."""

import pytest
import random_model
import torch

from antipasto import wrap
from grpo import completion_logprobs
from lib import memory
from lib.errors import UserError
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


GIB = 1 << 30


@pytest.mark.parametrize("free", [1 * GIB, 40 * GIB, 79 * GIB])
def test_a_share_does_not_hang_on_what_others_have_taken(free):
    taken, own = memory.planned(80 * GIB, free, held=5 * GIB, share=0.25)
    assert own == 20 * GIB and taken == own - memory.CONTEXT - 5 * GIB


def test_shares_of_runs_side_by_side_never_exceed_the_gpu():
    for runs in range(2, 9):
        parts = [memory.planned(80 * GIB, 80 * GIB, 0, 1000 // runs / 1000) for _ in range(runs)]
        assert sum(free + memory.CONTEXT for free, _ in parts) == sum(own for _, own in parts) <= 80 * GIB


def test_alone_a_run_goes_by_what_is_free_now():
    assert memory.planned(80 * GIB, 33 * GIB, 5 * GIB, 1.0) == (33 * GIB, 80 * GIB)
    assert memory.planned(80 * GIB, 33 * GIB, 30 * GIB, 0.25)[0] == 0, "what it holds already is not there twice"


class Card:
    """A GPU by its figures: another process has taken `others` bytes of it."""

    def __init__(self, monkeypatch, others: int):
        self.fraction = 1.0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GIB - others, 80 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GIB)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 9 * GIB)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", self.claim)

    def claim(self, fraction: float, device) -> None:
        self.fraction = fraction


def test_the_plan_of_a_share_is_the_same_beside_any_neighbour(monkeypatch):
    """The figures behind the micro-batch, the chunk and the cache; the calls are CUDA's, answered from a table."""
    from types import SimpleNamespace

    config = SimpleNamespace(num_hidden_layers=36, num_key_value_heads=8, head_dim=128)
    cuda, found = torch.device("cuda"), []
    for others in (3 * GIB, 60 * GIB):
        card = Card(monkeypatch, others)
        memory.claim_share(cuda, 0.5)
        assert card.fraction == pytest.approx(0.5 - memory.CONTEXT / (80 * GIB))
        rows = memory.decode_rows(config, 1536, 8, cuda, torch.bfloat16, 0.5)
        found.append((rows, memory.logprob_chunk(151936, cuda, 0.5), memory._peak(cuda, 0.5)))
    assert found[0] == found[1] and found[0][2] == 10 * GIB
    assert memory.decode_rows(config, 1536, 8, cuda, torch.bfloat16) < found[1][0], "without it the neighbour decides"
    with pytest.raises(UserError, match="let fewer runs share the GPU"):
        memory.claim_share(cuda, 0.02)
