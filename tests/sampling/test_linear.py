"""The decoder's stacked products: what the delta adds survives both dtypes, measured against float64."""

from __future__ import annotations

import pytest
import torch

from antipasto import SVDLinear
from sampling.linear import StackedLinear


@pytest.mark.parametrize("dtype,std,tol", [(torch.float32, 7e-5, 0.01), (torch.bfloat16, 1e-3, 0.01)])
def test_applied_delta_survives(dtype, std, tol):
    """The error of what delta adds, relative to float64; merging into bf16 weights would lose half of it or more."""
    g = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(128, 96, bias=False).to(dtype)
    linear.weight.data.copy_(torch.randn(96, 128, generator=g) / 128**0.5)
    U, S, Vh = torch.linalg.svd(linear.weight.double(), full_matrices=False)
    module = SVDLinear(linear, U, S, Vh)
    module.delta_S.data.copy_(torch.randn(96, generator=g).sign() * std)
    x = torch.randn(64, 128, generator=g).to(dtype)
    ours = StackedLinear(module)
    ours.refresh(object() if dtype == torch.float32 else None)  # kernels change nothing in float32
    delta = module.U.double() * module.delta_S.detach().double() @ module.Vh.double()
    want = x.double() @ delta.T
    held = ours.weight.double() - linear.weight.double() if ours.merged else ours.delta.double()
    error = (x.double() @ held.T - want).norm() / want.norm()
    assert error < tol, f"{error:.4f}"


def test_rounding_does_not_eat_the_delta_in_bf16(tmp_path):
    """Regressing the change of a bf16 product on the exact delta gives 1, not the 0.75 of rounding x W^T first."""
    torch.manual_seed(3)
    inner = torch.nn.Linear(256, 256, bias=False).to(torch.bfloat16)
    U, S, Vh = torch.linalg.svd(inner.weight.data.float())
    module = SVDLinear(inner, U, S, Vh)
    x, product = torch.randn(4096, 256).to(torch.bfloat16), StackedLinear(module)
    with torch.no_grad():
        product.refresh()
        base = product(x).double()
        torch.nn.init.normal_(module.delta_S, std=1e-3)
        product.refresh()
        change, exact = product(x).double() - base, (x.double() @ module.delta_weight(torch.float64).T)
    assert abs((change * exact).sum() / (exact * exact).sum() - 1) < 0.05
