"""The decoder's stacked products: what the delta adds survives both dtypes, measured against float64."""

from __future__ import annotations

from itertools import pairwise

import torch

from antipasto import SVDLinear
from sampling.linear import StackedLinear, dithered


def adapted(d: int) -> SVDLinear:
    """An SVDLinear of random bf16 weights [d, d]."""
    inner = torch.nn.Linear(d, d, bias=False).to(torch.bfloat16)
    return SVDLinear(inner, *torch.linalg.svd(inner.weight.data.float()))


def slope(change: torch.Tensor, exact: torch.Tensor) -> float:
    """Of the regression of one on the other, through zero."""
    change, exact = change.double(), exact.double()
    return float((change * exact).sum() / (exact * exact).sum())


def test_applied_delta_survives_in_fp32():
    """The error of what delta adds, relative to float64."""
    linear = torch.nn.Linear(128, 96, bias=False)
    module = SVDLinear(linear, *torch.linalg.svd(linear.weight.data, full_matrices=False))
    torch.nn.init.normal_(module.delta_S, std=7e-5)
    x, ours = torch.randn(64, 128), StackedLinear(module)
    ours.refresh()
    want = x.double() @ module.delta_weight(torch.float64).T
    held = x.double() @ (ours.weight.double() - linear.weight.double()).T
    assert (held - want).norm() < 0.01 * want.norm()


def test_rounding_does_not_eat_the_delta_in_bf16():
    """Regressing the change of a bf16 product on the exact delta gives 1, not the 0.75 of rounding x W^T first, nor
    the less that is left of it where W + D is rounded to nearest."""
    torch.manual_seed(3)
    module = adapted(256)
    x, product = torch.randn(4096, 256).to(torch.bfloat16), StackedLinear(module)
    with torch.no_grad():
        product.refresh()
        base = product(x)
        assert base.equal(x @ module.weight.T), "without a delta the weights are the model's, bit for bit"
        torch.nn.init.normal_(module.delta_S, std=1e-3)
        product.refresh()
        exact = x.double() @ module.delta_weight(torch.float64).T
    assert abs(slope(product(x).double() - base.double(), exact) - 1) < 0.05


def test_dithered_numbers_keep_their_mean_and_lie_beside_what_they_stand_for():
    x = torch.randn(400_000).mul_(0.05)
    y = dithered(x)
    ulp = torch.finfo(torch.bfloat16).eps * 2.0 ** x.abs().log2().floor()
    off = (y.double() - x.double()) / ulp
    assert off.abs().max() <= 1
    assert abs(off.mean()) < 5 * 0.41 / len(x) ** 0.5, "the mean of 400,000 errors of standard deviation 0.41 at most"
    assert abs((off * x.sign()).mean()) < 5 * 0.41 / len(x) ** 0.5, "neither towards zero nor away from it"


def test_dithered_numbers_are_the_same_again_and_never_fall_as_the_number_grows():
    x = torch.randn(64, 1000).bfloat16().float()
    assert dithered(x).float().equal(x), "what bf16 holds stays"
    steps = [dithered(x * (1 + i * 1e-3)).float().abs() for i in range(8)]
    assert all((a <= b).all() for a, b in pairwise(steps))
    state = torch.random.get_rng_state()
    assert dithered(x + 1e-4).equal(dithered(x + 1e-4))
    assert torch.random.get_rng_state().equal(state)
