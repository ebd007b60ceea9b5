"""The SVD adapter against its base model and a float64 implementation of the merged form."""

import pytest
import random_model
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Gemma2Config, Gemma2ForCausalLM

from antipasto import SVDLinear, checkpoint_layers, wrap
from lib.adapted import exact
from lib.errors import AdapterError
from lib.tensors import load_tensors


def linear(d_in: int, d_out: int, bias: bool, dtype: torch.dtype, seed: int) -> SVDLinear:
    torch.manual_seed(seed)
    inner = nn.Linear(d_in, d_out, bias=bias).to(dtype)
    U, S, Vh = torch.linalg.svd(inner.weight.data.float(), full_matrices=False)
    return SVDLinear(inner, U, S, Vh)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "qwen3_5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrapped_model_is_its_base_model_at_delta_zero(kind, dtype, tmp_path):
    model = random_model.build(kind, vocab=200, dtype=dtype)
    ids = torch.randint(0, 200, (2, 17))
    with torch.no_grad():
        base = model(ids).logits
        adapter = wrap(model, tmp_path)
        assert torch.equal(model(ids).logits, base)
    assert torch.equal(model(ids).logits, base)  # with a graph, too
    assert {n.rpartition(".")[2] for n in adapter.modules} >= {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"}


def test_qwen3_5_wraps_the_gated_delta_net(tmp_path):
    adapter = wrap(random_model.build("qwen3_5", vocab=200), tmp_path)
    leaves = {n.rpartition(".")[2] for n in adapter.modules}
    assert {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"} <= leaves
    assert "lm_head" not in leaves


def added(x, module):
    """The term that delta_S adds to the output, ((x Vh^T) * delta_S) U^T, [..., d_out] in the module's dtype."""
    return x @ module.delta_weight().T


def float64_reference(module, x, g):
    """(y, dx, d delta_S) of y = ((x Vh^T) * (S + delta_S)) U^T + b in float64, with the module's own factors."""
    x, delta = x.detach().double().requires_grad_(), module.delta_S.detach().double().requires_grad_()
    U, Vh = module.U.double(), module.Vh.double()
    # W rather than U diag(S) Vh, since in bf16 the factors multiply back to 2^-9 only.
    y = x @ module.weight.double().T + ((x @ Vh.T) * delta) @ U.T
    if module.bias is not None:
        y = y + module.bias.double()
    y.backward(g.double())
    return y.detach(), x.grad, delta.grad


@pytest.mark.parametrize("tokens", [15, 300])  # fewer and more than r: the two ways to d delta_S
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("d_in", "d_out", "bias"), [(48, 96, True), (96, 48, False), (64, 64, True)])
def test_forward_and_gradients_agree_with_float64(d_in, d_out, bias, dtype, tol, recompute, tokens):
    seed = int(torch.randint(0, 2**31, ()).item())
    module = linear(d_in, d_out, bias, dtype, seed)
    x = torch.randn(3, tokens // 3, d_in, dtype=dtype, requires_grad=True)
    module.delta_S.data.copy_(0.3 * torch.randn(min(d_in, d_out)))
    g = torch.randn(3, tokens // 3, d_out, dtype=dtype)
    y = checkpoint(module, x, use_reentrant=False) if recompute else module(x)
    y.backward(g)
    for got, want in zip((y, x.grad, module.delta_S.grad), float64_reference(module, x, g), strict=True):
        assert (got.double() - want).norm() < tol * want.norm(), seed


def test_the_form_for_bf16_is_right_in_float64():
    module = linear(24, 40, True, torch.float64, 0)
    module.delta_S.data = torch.randn(24, dtype=torch.float64)
    x = torch.randn(5, 24, dtype=torch.float64)
    torch.testing.assert_close(exact(x, module), float64_reference(module, x, torch.ones(5, 40))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_layers_have_the_gradients_of_plain_ones(dtype, tmp_path):
    """The recompute leaves out what a block ends in, and multiplies by a merged matrix: no gradient may show it."""
    model = random_model.build("qwen3", vocab=100, dtype=dtype)
    adapter = wrap(model, tmp_path)
    ids, grads = torch.randint(0, 100, (2, 40)), []
    for p in adapter.delta().values():
        p.data.normal_(std=0.05)
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_layers(model)
        model.train(checkpointed).zero_grad()
        model(ids).logits.float().log_softmax(-1)[..., 7].mean().backward()
        grads.append(torch.cat([g.flatten() for g in adapter.grads().values()]))
    assert (grads[1] - grads[0]).norm() < (1e-5 if dtype == torch.float32 else 0.05) * grads[0].norm()


def test_blocks_that_norm_what_the_mlp_returns_recompute_it(tmp_path):
    """Gemma2 norms down_proj's output, so the recompute may not leave it out."""
    shape = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                 intermediate_size=80, vocab_size=100)  # fmt: skip
    model = Gemma2ForCausalLM(Gemma2Config(**shape, attn_implementation="eager")).eval()
    adapter, ids, grads = wrap(model, tmp_path), torch.randint(0, 100, (2, 20)), []
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_layers(model)
        model.train(checkpointed).zero_grad()
        model(ids).logits.log_softmax(-1)[..., 7].mean().backward()
        grads.append(torch.cat([g.flatten() for g in adapter.grads().values()]))
    assert (grads[1] - grads[0]).norm() < 1e-5 * grads[0].norm()


def test_applied_delta_survives_bf16_at_one_preregistered_step():
    module = linear(1024, 1024, False, torch.bfloat16, seed=1)
    module.delta_S.data.copy_(7e-5 * torch.randn(1024).sign())
    x = torch.randn(64, 1024, dtype=torch.bfloat16)
    want = ((x.double() @ module.Vh.double().T) * module.delta_S.double()) @ module.U.double().T
    exact = ((x.double() @ svd64(module)[2].T) * module.delta_S.double()) @ svd64(module)[0].T
    assert (added(x, module).double() - want).norm() < 0.02 * want.norm()
    assert (added(x, module).double() - exact).norm() < 0.02 * exact.norm()


def svd64(module: SVDLinear):
    """The float64 SVD of the weight in the module's signs."""
    U, S, Vh = torch.linalg.svd(module.weight.double(), full_matrices=False)
    sign = (U * module.U.double()).sum(0).sign()
    return U * sign, S, Vh * sign[:, None]


@pytest.mark.parametrize(("size", "tol"), [(1e-2, 0.02), (1e-3, 0.05)])
def test_rounding_of_the_output_does_not_eat_the_delta(size, tol):
    """In bf16 one output cannot show a small delta, but the mean can: regressing the change on the delta gives 1."""
    module = linear(512, 512, False, torch.bfloat16, seed=2)
    x = torch.randn(4096, 512, dtype=torch.bfloat16)
    with torch.no_grad():
        base = module(x).double()
        module.delta_S.copy_(size * torch.randn(512).sign())
        change, delta = module(x).double() - base, added(x, module).double()
    slope = (change * delta).sum() / (delta * delta).sum()
    assert abs(slope - 1) < tol


def test_reference_switches_the_delta_off_and_back_on(tmp_path):
    model = random_model.build("qwen3", vocab=100)
    ids = torch.randint(0, 100, (1, 9))
    with torch.no_grad():
        base = model(ids).logits
        adapter = wrap(model, tmp_path)
        for p in adapter.delta().values():
            p.add_(0.1)
        moved = model(ids).logits
        with adapter.reference():
            assert torch.equal(model(ids).logits, base)
        assert torch.equal(model(ids).logits, moved) and not torch.equal(moved, base)


def test_every_trainable_parameter_is_a_float32_delta(tmp_path):
    model = random_model.build("qwen3", vocab=100, dtype=torch.bfloat16)
    adapter = wrap(model, tmp_path)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapter.delta().values()}
    assert all(p.dtype == torch.float32 for p in adapter.delta().values())


def test_saved_delta_names_the_weights_that_it_belongs_to(tmp_path):
    adapter = wrap(random_model.build("qwen3", vocab=100), tmp_path / "a")
    for p in adapter.delta().values():
        p.data.normal_()
    adapter.save(tmp_path / "delta_S.safetensors")
    tensors, metadata = load_tensors(tmp_path / "delta_S.safetensors")
    assert all(torch.equal(tensors[name], p) for name, p in adapter.delta().items())
    same = wrap(random_model.build("qwen3", vocab=100), tmp_path / "a")
    other = wrap(random_model.build("qwen3", vocab=100, seed=1), tmp_path / "b")
    assert metadata["weights_sha256"] == same.weights_sha256 != other.weights_sha256


def test_a_model_without_targets_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="nothing to adapt"):
        wrap(nn.Sequential(nn.Linear(3, 3)), tmp_path)
