"""The sampler: logprobs, sampled frequencies, seeds, early stop, engines, memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loguru import logger
from transformers import (
    AutoModelForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import antipasto
from sampling.noise import draw, row_keys, uniform
from sampling.sampler import Rollout, Sampler

VOCAB, PAD, END = 97, 0, (1, 2)
SHAPE = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=80,
             vocab_size=VOCAB, max_position_embeddings=256, initializer_range=0.15)  # fmt: skip


def make(name: str) -> torch.nn.Module:
    torch.manual_seed(7)
    if name == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False))
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True))
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.self_attn.q_norm.weight, 1.0, 0.2)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=["qwen2", "qwen3"])
def model(request):
    return make(request.param)


@pytest.fixture
def adapted(model, tmp_path):
    adapter = antipasto.wrap(model, tmp_path)
    for delta in adapter.delta().values():
        torch.nn.init.normal_(delta.data, std=0.3)
    return model, adapter


def prompts(n: int = 6) -> list[list[int]]:
    """Prompts of 3, 7, 11, ... tokens, each twice in a row."""
    g = torch.Generator().manual_seed(3)
    return [row for i in range(n // 2) for row in [torch.randint(3, VOCAB, (3 + 4 * i,), generator=g).tolist()] * 2]


def sampler(model, **kwargs) -> Sampler:
    return Sampler(model, **(dict(eos_ids=END, pad_id=PAD) | kwargs))


def forced_logprobs(model, prompt: list[int], completion: list[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]


def assert_forced(model, rows: list[list[int]], out: Rollout, temperature: float = 1.0) -> None:
    for prompt, tokens, logprobs, n in zip(rows, out.tokens, out.logprobs, out.lengths.tolist(), strict=True):
        want = forced_logprobs(model, prompt, tokens[:n].tolist(), temperature)
        torch.testing.assert_close(logprobs[:n], want, atol=1e-3, rtol=0)
        assert (logprobs[n:] == 0).all() and (tokens[n:] == PAD).all()


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Standardised: (chi2 - df) / sqrt(2 df), about N(0, 1) when the counts follow `expected`."""
    assert counts.sum() > 0 and expected.min() > 4
    df = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - df) / (2 * df) ** 0.5)


# --- noise and draw ---


def test_uniforms_are_uniform_over_seeds_steps_and_ids():
    ids = torch.arange(64)[None]
    u = torch.stack([uniform(row_keys(torch.arange(200)), t, ids.expand(200, -1)) for t in range(20)])
    for flat in (u.flatten(), u[0].flatten(), u[:, 0].flatten(), u[:, :, 0].flatten()):
        n = flat.numel()
        ks = (flat.sort().values - torch.arange(1, n + 1) / n).abs().max()
        assert ks < 1.95 / n**0.5, f"KS {ks * n**0.5:.2f}"  # p = 0.001
    centred = u - 0.5
    for dim in range(3):  # neighbours in step, seed and id are uncorrelated
        a, b = centred.narrow(dim, 0, u.shape[dim] - 1), centred.narrow(dim, 1, u.shape[dim] - 1)
        assert (a * b).mean().abs() * 12 * a.numel() ** 0.5 < 4
    assert u.min() > 0 and u.max() < 1


def test_drawn_frequencies_match_the_truncated_softmax():
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(0)) * 2
    n, k, temperature = 20000, 8, 0.8
    token, logprob = draw(logits.expand(n, -1), row_keys(torch.arange(n)), 5, temperature, k)
    z = logits / temperature
    top = z.topk(k)
    counts = torch.bincount(token, minlength=VOCAB).double()
    assert counts[top.indices].sum() == n, "a token outside the top k was drawn"
    assert abs(chi_square(counts[top.indices], n * top.values.double().softmax(0))) < 3.3
    torch.testing.assert_close(logprob, z.log_softmax(0)[token])


def test_whole_vocabulary_when_top_k_is_zero():
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0))
    token, _ = draw(logits.expand(20000, -1), row_keys(torch.arange(20000)), 0, 1.0, 0)
    assert abs(chi_square(torch.bincount(token, minlength=12).double(), 20000 * logits.double().softmax(0))) < 3.3


def test_second_tokens_of_a_model_follow_its_conditional_distribution():
    model, prompt, n = make("qwen3"), [5, 9, 30], 3000
    out = sampler(model, eos_ids=[], top_k=4).sample([prompt] * n, range(n), 2)
    first = int(out.tokens[:, 0].mode().values)
    second = out.tokens[out.tokens[:, 0] == first, 1]
    with torch.no_grad():
        top = model(torch.tensor([[*prompt, first]])).logits[0, -1].topk(4)
    expected = len(second) * top.values.double().softmax(0)
    assert abs(chi_square(torch.bincount(second, minlength=VOCAB)[top.indices].double(), expected)) < 3.3


def test_organism_samples_its_own_distribution():
    """Second tokens of the shipped organism after its likeliest first one, 4,000 rows, against the exact softmax."""
    home = Path(__file__).resolve().parents[2] / "organism"
    if not (home / "config.json").exists():
        pytest.skip("organism/ has no weights: run organism/make_organism.py")
    model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32).eval()
    prompt, n = list(range(20, 40)), 4000
    tokens = sampler(model, eos_ids=[]).sample([prompt] * n, range(n), 2).tokens
    second = tokens[tokens[:, 0] == (first := int(tokens[:, 0].mode().values)), 1]
    with torch.no_grad():
        z = model(torch.tensor([[*prompt, first]])).logits[0, -1].double()
    top = z.topk(20)
    expected = len(second) * top.values.softmax(0)
    counts = torch.bincount(second, minlength=len(z))[top.indices].double()
    assert counts.sum() == len(second)
    rare = expected < 5  # pooled, as the chi-square needs
    if rare.any():
        expected, counts = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (expected, counts))
    keep = expected > 4
    assert keep.sum() > 1 and abs(chi_square(counts[keep], expected[keep])) < 3.3


# --- logprobs and engines ---


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_a_teacher_forced_forward(adapted, temperature):
    model, _ = adapted
    out = sampler(model, temperature=temperature).sample(prompts(), range(6), 20)
    assert out.tokens.shape == out.mask.shape == out.logprobs.shape and out.lengths.equal(out.mask.sum(1))
    assert_forced(model, prompts(), out, temperature)


def test_lean_decoder_and_generate_draw_the_same_tokens(adapted):
    model, _ = adapted
    lean, slow = (sampler(model, engine=e).sample(prompts(), range(6), 20) for e in ("eager", "generate"))
    assert lean.tokens.equal(slow.tokens) and lean.mask.equal(slow.mask)
    torch.testing.assert_close(lean.logprobs, slow.logprobs, atol=1e-3, rtol=0)


def test_an_architecture_that_is_not_written_out_goes_through_generate_and_says_so():
    model, said = make("qwen3"), []
    model.config.model_type = "another"
    handle = logger.add(said.append, format="{message}")
    s = sampler(model)
    logger.remove(handle)
    assert s.engine == "generate" and "another" in said[0]
    assert_forced(model, prompts(), s.sample(prompts(), range(6), 8))


def test_sliding_windows_go_through_generate():
    config = Qwen3Config(**SHAPE, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert set(config.layer_types) == {"full_attention", "sliding_attention"}
    assert sampler(Qwen3ForCausalLM(config)).engine == "generate"


def test_an_engine_that_cannot_run_is_refused():
    with pytest.raises(ValueError, match="use engine auto"):
        sliding = dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)
        sampler(Qwen3ForCausalLM(Qwen3Config(**SHAPE, **sliding)), engine="eager")
    with pytest.raises(ValueError, match="CUDA"):
        sampler(make("qwen2"), engine="graph" if not torch.cuda.is_available() else "cuda")


# --- seeds ---


def test_seeds_decide_and_only_seeds(model):
    s = sampler(model, eos_ids=[])
    state = torch.get_rng_state()
    a, b, c = (s.sample([[5, 6, 7]] * 8, seeds, 16).tokens for seeds in (range(8), range(8), range(100, 108)))
    assert a.equal(b) and (a != c).any(1).all()
    assert len({tuple(row) for row in a.tolist()}) == 8
    assert state.equal(torch.get_rng_state()), "sampling moved the global generator"


def test_a_row_does_not_depend_on_its_batch(model):
    rows, seeds = prompts(), [11, 22, 33, 44, 55, 66]
    whole = sampler(model).sample(rows, seeds, 20)
    for picked in ([4], [5, 0], [3, 2, 1]):
        part = sampler(model).sample([rows[i] for i in picked], [seeds[i] for i in picked], 20)
        for tokens, n, i in zip(part.tokens, part.lengths, picked, strict=True):
            assert n == whole.lengths[i] and tokens[:n].equal(whole.tokens[i, :n])
    split = sampler(model, max_batch=4).sample(rows, seeds, 20)
    assert split.tokens.equal(whole.tokens) and split.lengths.equal(whole.lengths)


# --- ends ---


def test_rows_stop_at_an_end_token_and_keep_it(model):
    ends = list(range(1, 25))
    out = sampler(model, eos_ids=ends, pad_id=PAD).sample(prompts(24), range(24), 30)
    is_end = torch.isin(out.tokens, torch.tensor(ends))
    assert (is_end & out.mask).sum(1).max() == 1, "a token after the end"
    ended = out.lengths < 30
    assert ended.any() and is_end.gather(1, out.lengths[:, None] - 1)[ended].all()
    assert out.tokens.shape[1] == out.lengths.max() and out.decode_steps <= out.lengths.max()


def test_pad_may_be_an_end_token(model):
    a = sampler(model, eos_ids=END, pad_id=END[0]).sample(prompts(24), range(24), 30)
    b = sampler(model).sample(prompts(24), range(24), 30)
    assert a.lengths.equal(b.lengths) and a.mask.equal(b.mask)


def test_one_new_token(model):
    assert sampler(model).sample(prompts(), range(6), 1).tokens.shape == (6, 1)


def test_coarse_compaction_as_under_graphs_changes_nothing(model):
    ends = list(range(1, 20))
    exact = sampler(model, eos_ids=ends).sample(prompts(24), range(24), 40)
    s = sampler(model, eos_ids=ends)
    s.engine, s.check_every, s._capture = "graph", 8, lambda *_: None  # batch sizes and late looks, no capture
    coarse = s.sample(prompts(24), range(24), 40)
    assert coarse.tokens.equal(exact.tokens)
    torch.testing.assert_close(coarse.logprobs, exact.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("max_batch", [None, 10])
def test_rows_are_told_of_once_when_they_end_with_the_tokens_of_the_result(model, max_batch):
    ends, told, calls = list(range(1, 25)), {}, []

    def ended(rows):
        calls.append(len(rows))
        assert not told.keys() & dict(rows).keys()
        told.update(rows)

    out = sampler(model, eos_ids=ends, max_batch=max_batch).sample(prompts(24), range(24), 30, ended)
    rows = [t[:n] for t, n in zip(out.tokens.tolist(), out.lengths.tolist(), strict=True)]
    last = {
        b for b, t in enumerate(rows) if len(t) == 30
    }  # a row that ends with the last step may be left to the result
    assert {b: t for b, t in enumerate(rows) if b not in last} == {b: t for b, t in told.items() if b not in last}
    assert len(told) > 10 and sum(n > 0 for n in calls) > 3, "not as they end but all at once"


# --- memory and adapter ---


def test_cache_is_reused_and_freed(model):
    s = sampler(model)
    first = s.sample(prompts(), range(6), 20)
    batch = s.batch
    s.sample(prompts()[:3], range(3), 7)
    assert s.batch is batch
    s.free()
    assert s.batch is None and s.sample(prompts(), range(6), 20).tokens.equal(first.tokens)


def test_delta_is_followed_and_switched_off(adapted):
    model, adapter = adapted
    s = sampler(model, eos_ids=[])
    before = s.sample(prompts(), range(6), 12)
    with adapter.reference():
        base = s.sample(prompts(), range(6), 12)
        assert_forced(model, prompts(), base)
    for delta in adapter.delta().values():
        delta.data.neg_()
    after = s.sample(prompts(), range(6), 12)
    assert_forced(model, prompts(), after)
    assert not before.tokens.equal(base.tokens) and not after.tokens.equal(before.tokens)


def test_prompts_without_a_row_are_forgotten_and_the_others_attend_to_their_own(model):
    """Rows of long and short prompts that end at unlike times: each is what it is alone."""
    ends, rows = list(range(1, 25)), prompts(10)
    whole = sampler(model, eos_ids=ends).sample(rows, list(range(10)), 40)
    for b in range(10):
        alone = sampler(model, eos_ids=ends).sample([rows[b]], [b], 40)
        assert alone.tokens[0].tolist() == whole.tokens[b, : whole.lengths[b]].tolist()


def test_weights_are_stacked_without_a_second_copy(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    s = sampler(model)
    s.sample(prompts(), range(6), 3)
    layer = model.model.layers[0]
    assert s.decoder.layers[0].qkv.weight.data_ptr() == layer.self_attn.q_proj.weight.data_ptr()
    assert (
        layer.mlp.up_proj.weight.untyped_storage().data_ptr()
        == s.decoder.layers[0].gate_up.weight.untyped_storage().data_ptr()
    )
    assert all(v.equal(before[k]) for k, v in model.state_dict().items())


def test_bf16_samples_from_the_delta_added_to_the_weights(model, tmp_path):
    """The logprobs differ from teacher forcing by bf16 noise, and the model's own weights stay as they are."""
    adapter = antipasto.wrap(model.to(torch.bfloat16), tmp_path)
    for delta in adapter.delta().values():
        torch.nn.init.normal_(delta.data, std=0.3)
    before = model.model.layers[0].self_attn.q_proj.weight.clone()
    s = sampler(model, eos_ids=[])
    out = s.sample(prompts(), range(6), 12)
    wants = [forced_logprobs(model, p, t.tolist()) for p, t in zip(prompts(), out.tokens, strict=True)]
    assert (out.logprobs - torch.stack(wants)).abs().mean() < 0.03
    with adapter.reference():
        far = [forced_logprobs(model, p, t.tolist()) for p, t in zip(prompts(), out.tokens, strict=True)]
    assert (out.logprobs - torch.stack(far)).abs().mean() > 0.3
    q_proj = model.model.layers[0].self_attn.q_proj
    assert not s.decoder.layers[0].qkv.weight[: len(q_proj.weight)].equal(before) and q_proj.weight.equal(before)
    addresses = s._addresses
    s.sample(prompts(), range(6), 2)
    assert s._addresses == addresses, "graphs would be captured anew at every call"
