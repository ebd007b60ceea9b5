"""Who was fined, read back from what a Rebound run keeps."""

import json

import numpy as np
import pytest
import torch

from grpo import group_advantages, rebound_zscore_discount
from tools.fines import fined_rows, fines

P, G, D = 16, 8, 5


def discounted(roll: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, discounts, advantages [P, G] as rollouts.Rebound.pay makes them, of random residuals."""
    rewards_P_G = torch.tensor([0.0, 0.5, 3.5])[torch.randint(3, (P, G))]
    groups = torch.arange(P).repeat_interleave(G)
    discount_P_G = rebound_zscore_discount(torch.randn(P * G, D), torch.randn(D), groups, 2.0).view(P, G).roll(roll, 1)
    return rewards_P_G, discount_P_G, group_advantages(rewards_P_G * discount_P_G)[0]


@pytest.mark.parametrize("roll", [0, G // 2], ids=["zscore", "shuffled"])
def test_who_was_fined_follows_from_rewards_and_advantages(roll):
    rewards_P_G, discount_P_G, advantages_P_G = discounted(roll)
    for rewards, discounts, advantages in zip(rewards_P_G, discount_P_G, advantages_P_G, strict=True):
        fined = fined_rows(rewards.double().numpy(), advantages.double().numpy(), alpha=2.0)
        assert (fined == ((discounts < 1) & (rewards > 0)).numpy()).all()


def test_advantages_of_another_pay_are_not_read():
    assert fined_rows(np.array([3.5, 3.5, 0.5, 0.5]), np.array([2.0, 1.0, -1.0, -2.0]), alpha=2.0) is None


def test_a_run_gives_shares_and_the_gap_and_half_kept_steps_do_not_count(tmp_path):
    rewards_P_G, discount_P_G, advantages_P_G = discounted(roll=0)
    run = tmp_path / "rebound-zscore_s0"
    run.mkdir()
    config = {"arm": "rebound-zscore", "seed": 0, "prompts": P, "group": G, "advantage": "drgrpo"}
    (run / "config.json").write_text(json.dumps(config))
    columns = [x.flatten().tolist() for x in (rewards_P_G, advantages_P_G)]
    rows = [
        {"step": 0, "split": "train", "reward": r, "advantage": a, "hack": r > 1} for r, a in zip(*columns, strict=True)
    ]
    rows += [row | {"step": 1, "advantage": 99.0} for row in rows[1:]]
    (run / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    found = fines(run)
    assert (found["groups"], found["unread"]) == (P, 0)
    hack_P_G, fined_P_G = rewards_P_G > 1, discount_P_G < 1
    assert found["fined_hacks"] == pytest.approx(fined_P_G[hack_P_G].double().mean().item())
    other_P_G = ~hack_P_G & (rewards_P_G > 0)
    assert found["fined_others"] == pytest.approx(fined_P_G[other_P_G].double().mean().item())
    gaps = [
        a[h].mean() - a[~h].mean() for a, h in zip(advantages_P_G, hack_P_G, strict=True) if h.any() and not h.all()
    ]
    assert found["gap"] == pytest.approx(torch.stack(gaps).mean().item(), abs=1e-5)
