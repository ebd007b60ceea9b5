"""Rebound's penalties against hand-computed cases, and its residual means against transformers' own hidden states."""

from __future__ import annotations

import math

import pytest
import torch
from random_model import build

from grpo import Rebound, concept_direction, group_advantages, rebound_penalty, rebound_zscore_discount
from lib.packing import Passes, pack
from lib.residuals import ResidualMean, layer_at_depth, residual_means

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
COMPLETIONS = [[20, 21], [22, 23, 24, 25, 26], [27]]
PASSES = Passes(share=False, pad_id=0, device=torch.device("cpu"), most_rows=2)


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "qwen3_5"])
def model(request):
    return build(request.param, seed=3)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_penalty_is_alpha_times_the_positive_part_of_the_cosine():
    v = torch.tensor([3.0, 4.0])
    h = torch.tensor([[3.0, 4.0], [6.0, 8.0], [-3.0, -4.0], [4.0, -3.0], [5.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(rebound_penalty(h, v), torch.tensor([0.5, 0.5, 0.0, 0.0, 0.3, 0.0]))
    torch.testing.assert_close(rebound_penalty(h, v, alpha=2.0)[4], torch.tensor(1.2))


def test_penalty_of_a_zero_direction_is_zero():
    assert rebound_penalty(torch.randn(4, 8), torch.zeros(8)).tolist() == [0.0] * 4


def test_penalty_ignores_the_lengths_of_both_vectors():
    h, v = torch.randn(16, 32), torch.randn(32)
    torch.testing.assert_close(rebound_penalty(h, v), rebound_penalty(1e3 * h, 1e-3 * v), atol=1e-6, rtol=1e-4)


def test_discount_by_hand():
    # group 7: s = 1, 3, mean 2, population std 1, z = -1, 1; group 2: s = 0, 0, 6, mean 2, std sqrt 8, one z > 0
    h = torch.tensor([[1.0, 9.0], [0.0, 5.0], [3.0, -2.0], [0.0, 1.0], [6.0, 0.0]])
    groups = torch.tensor([7, 2, 7, 2, 2])
    expected = torch.tensor([1.0, 1.0, 1 - 2 * sigmoid(1), 1.0, 1 - 2 * sigmoid(4 / math.sqrt(8))])
    torch.testing.assert_close(rebound_zscore_discount(h, torch.tensor([1.0, 0.0]), groups), expected)


def test_discount_uses_the_sigma_floor_in_a_nearly_uniform_group():
    h = torch.tensor([[1.00], [1.02]])  # std 0.01, floored to 0.1: z = 0.1 instead of 1
    got = rebound_zscore_discount(h, torch.ones(1), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(got, torch.tensor([1.0, 1 - 2 * sigmoid(0.1)]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 3, 6, 12])
def test_discount_of_equal_projections_is_one(size):
    h = torch.randn(1, 16).expand(size, 16) * 37
    assert rebound_zscore_discount(h, torch.randn(16), torch.zeros(size, dtype=torch.long)).tolist() == [1.0] * size


def test_discount_against_float64_per_group():
    h, v, groups = torch.randn(24, 32), torch.randn(32), torch.randint(0, 5, (24,))
    s = (h.double() @ v.double()).tolist()
    for b, got in enumerate(rebound_zscore_discount(h, v, groups, alpha=1.3).tolist()):
        mates = [s[c] for c in range(24) if groups[c] == groups[b]]
        mean = sum(mates) / len(mates)
        z = (s[b] - mean) / max(math.sqrt(sum((x - mean) ** 2 for x in mates) / len(mates)), 0.1)
        assert got == pytest.approx(
            1 - 1.3 * sigmoid(z) if s[b] - mean > 1e-5 * max(map(abs, mates)) else 1.0, abs=1e-5
        )


def test_discount_gives_a_flat_group_of_hacks_an_advantage_against_the_shortcut():
    rewards = torch.full((1, 4), 3.5)
    h = torch.tensor([[0.0], [0.0], [0.0], [8.0]])
    factor = rebound_zscore_discount(h, torch.ones(1), torch.zeros(4, dtype=torch.long)).view(1, 4)
    assert not group_advantages(rewards)[1].any()
    advantages, live = group_advantages(rewards * factor)
    assert live.all()
    assert advantages[0, 3] < 0 < advantages[0, 0]


@pytest.mark.parametrize("n_layers, layer", [(36, 23), (24, 15), (28, 17), (4, 2), (2, 0), (1, 0)])
def test_layer_at_depth(n_layers, layer):
    assert layer_at_depth(n_layers) == layer


def test_layer_at_depth_ends_at_the_last_layer():
    assert layer_at_depth(10, 1.0) == 9


def test_residual_means_equal_the_hidden_states_of_single_rows(model):
    got = residual_means(model, PROMPTS, COMPLETIONS, layer=0, passes=PASSES)
    assert got.shape == (3, 64)
    assert got.dtype == torch.float32
    for row, prompt, completion in zip(got, PROMPTS, COMPLETIONS, strict=True):
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(row, hidden[0, len(prompt) :].double().mean(0).float(), atol=1e-5, rtol=1e-4)


def test_capture_leaves_the_forward_alone_and_removes_its_hook(model):
    packed = pack(PROMPTS, COMPLETIONS, 0, "cpu")
    hooks = [len(layer._forward_hooks) for layer in model.model.layers]
    with torch.no_grad():
        plain = model(input_ids=packed.ids).logits
        with ResidualMean(model, 1, packed) as seen:
            hooked = model(input_ids=packed.ids).logits
    torch.testing.assert_close(plain, hooked, atol=0, rtol=0)
    assert not seen.h_mean.requires_grad
    assert [len(layer._forward_hooks) for layer in model.model.layers] == hooks


def test_early_stop_skips_the_later_layers_and_hides_no_other_error(model):
    packed = pack(PROMPTS, COMPLETIONS, 0, "cpu")
    reached = []
    last = model.model.layers[-1].register_forward_pre_hook(lambda *_: reached.append(1))
    with torch.no_grad(), ResidualMean(model, 0, packed, stop=True):
        packed.hidden(model)
    last.remove()
    assert not reached
    with pytest.raises(ZeroDivisionError), ResidualMean(model, 0, packed, stop=True):
        _ = 1 / 0


def test_row_without_completion_gives_zeros_and_no_penalty(model):
    h = residual_means(model, PROMPTS[:2], [[], [30, 31]], layer=1, passes=PASSES)
    assert h[0].abs().max() == 0
    assert rebound_penalty(h, h[1]).tolist() == pytest.approx([0.0, 0.5])


def test_concept_direction_is_the_mean_difference_of_the_pairs(model):
    pairs = [(p, c, [*c[::-1], 40]) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    raw = concept_direction(model, pairs, layer=1, passes=PASSES, unit=False)
    expected = sum(
        residual_means(model, [p], [h], 1, PASSES)[0] - residual_means(model, [p], [c], 1, PASSES)[0]
        for p, h, c in pairs
    ) / len(pairs)
    torch.testing.assert_close(raw, expected, atol=1e-5, rtol=1e-4)
    v = concept_direction(model, pairs, layer=1, passes=PASSES)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v, raw / raw.norm())
    swapped = concept_direction(model, [(p, c, h) for p, h, c in pairs], layer=1, passes=PASSES)
    torch.testing.assert_close(swapped, -v, atol=1e-5, rtol=1e-4)


def test_the_shuffled_control_pays_each_row_by_the_discount_of_another_of_its_group(model):
    prompts = [[5, 6, 7]] * 4 + [[8, 9]] * 4
    completions = torch.randint(20, 60, (8, 5)).tolist()
    v, rewards_P_G = torch.randn(model.config.hidden_size), torch.rand(2, 4) + 1
    paid = {
        pays: Rebound(pays, 2.0, 1, v, PASSES).pay(model, prompts, completions, rewards_P_G) / rewards_P_G
        for pays in ("zscore", "shuffled")
    }
    torch.testing.assert_close(paid["shuffled"][:, [2, 3, 0, 1]], paid["zscore"])
    assert (paid["zscore"] < 0).any(1).all(), "in each group somebody is fined"


def test_errors_say_what_is_wrong(model):
    with pytest.raises(ValueError, match="no contrastive pairs"):
        concept_direction(model, [], layer=0, passes=PASSES)
    with pytest.raises(ValueError, match="same mean residual"):
        concept_direction(model, [([5], [6, 7], [6, 7])], layer=0, passes=PASSES)
    with pytest.raises(ValueError, match="no decoder layer 9"):
        residual_means(model, PROMPTS, COMPLETIONS, layer=9, passes=PASSES)
    with pytest.raises(RuntimeError, match="no forward has passed"):
        _ = ResidualMean(model, 0, torch.ones(1, 1)).h_mean
