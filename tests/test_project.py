"""project_grads against hand-computed cases."""

import pytest
import torch

from ladder.updates import applied_update
from lib.chance import null_abs_cos
from project import project_grads, random_directions


def one(g, v, side="hackward", keep_norm=True):
    grads = {"m": torch.tensor(g, dtype=torch.float32)}
    stats = project_grads(grads, {"m": torch.tensor(v, dtype=torch.float32)}, side, keep_norm)
    return grads["m"], stats


def test_hackward_component_is_removed_and_the_norm_kept():
    out, stats = one([3.0, 4.0], [1.0, 0.0])
    assert torch.allclose(out, torch.tensor([0.0, 5.0]))
    assert stats.cos[0].item() == pytest.approx(0.6) and stats.norm[0].item() == pytest.approx(5.0)


def test_without_rescaling_the_norm_shrinks():
    out, _ = one([3.0, 4.0], [1.0, 0.0], keep_norm=False)
    assert torch.allclose(out, torch.tensor([0.0, 4.0]))


@pytest.mark.parametrize("g", [[-3.0, 4.0], [0.0, 4.0]])
def test_cos_at_most_zero_is_untouched(g):
    out, _ = one(g, [1.0, 0.0])
    assert out.tolist() == g


def test_reversed_differs_exactly_in_the_sign_rule():
    assert one([3.0, 4.0], [1.0, 0.0], "cleanward")[0].tolist() == [3.0, 4.0]
    assert torch.allclose(one([-3.0, 4.0], [1.0, 0.0], "cleanward")[0], torch.tensor([0.0, 5.0]))
    g, v = torch.randn(32), torch.nn.functional.normalize(torch.randn(32), dim=0)
    forward, mirrored = {"m": g.clone()}, {"m": g.clone()}
    project_grads(forward, {"m": v}, "hackward")
    project_grads(mirrored, {"m": -v}, "cleanward")
    assert torch.allclose(forward["m"], mirrored["m"])


def test_measuring_changes_nothing():
    out, stats = one([3.0, 4.0], [1.0, 0.0], "none")
    assert out.tolist() == [3.0, 4.0] and stats.cos[0].item() == pytest.approx(0.6)


def test_zero_gradient_stays_zero():
    out, stats = one([0.0, 0.0], [1.0, 0.0])
    assert out.tolist() == [0.0, 0.0] and stats.cos[0].item() == 0.0


def test_gradient_along_v_vanishes_instead_of_becoming_noise():
    v = torch.nn.functional.normalize(torch.randn(64), dim=0)
    grads = {"m": 2.5 * v}
    project_grads(grads, {"m": v})
    assert grads["m"].norm() == 0


def test_orthogonality_and_norm_on_random_vectors():
    g, v = torch.randn(500), torch.nn.functional.normalize(torch.randn(500), dim=0)
    g = g if g @ v > 0 else -g
    grads = {"m": g.clone()}
    project_grads(grads, {"m": v})
    assert abs(grads["m"] @ v) < 1e-5 * g.norm()
    assert grads["m"].norm().item() == pytest.approx(g.norm().item(), rel=1e-5)


def test_k_directions_remove_only_the_positive_components():
    V = torch.eye(4)[:2]
    out = {"m": torch.tensor([2.0, -1.0, 2.0, 0.0])}
    project_grads(out, {"m": V}, keep_norm=False)
    assert out["m"].tolist() == [0.0, -1.0, 2.0, 0.0]


def test_missing_module_is_named():
    with pytest.raises(KeyError, match=r"layer\.7"):
        project_grads({"layer.7": torch.ones(2)}, {})


def test_wrong_length_is_named():
    with pytest.raises(ValueError, match="m has length 3, its gradient 2"):
        project_grads({"m": torch.ones(2)}, {"m": torch.ones(3)})


def test_row_reports_mean_std_share_and_norm():
    grads = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([-3.0, 4.0])}
    v = {name: torch.tensor([1.0, 0.0]) for name in grads}
    row = project_grads(grads, v).row()
    assert row == pytest.approx({"cos": 0.0, "cos_sd": 0.6, "fired": 0.5, "gnorm": 5.0})


def step_along(g: list[float], lr: float):
    """(delta, what the step did) of one step of SGD from zero."""
    delta = {"m": torch.nn.Parameter(torch.zeros(len(g)))}
    delta["m"].grad = torch.tensor(g)
    with applied_update(delta) as update:
        torch.optim.SGD(delta.values(), lr=lr).step()
    return delta, update


def test_update_cosine_is_positive_where_the_step_raised_the_hack():
    """A gradient step descends, so the descent before - after = lr g points along +v when g does."""
    _, update = step_along([1.0, 0.0], 0.01)
    assert update.cosines({"m": torch.tensor([1.0, 0.0])})[0].item() == pytest.approx(1.0)


def test_a_projected_update_loses_what_is_hackward():
    delta, update = step_along([3.0, 4.0], 0.1)
    update.project(delta, {"m": torch.tensor([1.0, 0.0])}, "hackward", keep_norm=False)
    assert torch.allclose(delta["m"], torch.tensor([0.0, -0.4]))


def test_projection_lowers_the_hack_probability_it_would_have_raised():
    """Sign check end to end: two actions, v from NLL gradients, one policy-gradient step rewarding the hack."""
    x = torch.randn(2, 8)

    def nll(theta, action):
        return -torch.log_softmax(x @ theta, dim=0)[action]

    def grad(loss_of):
        theta = torch.zeros(8, requires_grad=True)
        loss_of(theta).backward()
        return theta.grad

    hack, clean = 0, 1
    v = grad(lambda t: nll(t, hack)) - grad(lambda t: nll(t, clean))
    v = v / v.norm()
    g = grad(lambda t: 1.0 * nll(t, hack))  # advantage +1: the loss is -A log pi
    assert g @ v > 0
    grads = {"m": g.clone()}
    project_grads(grads, {"m": v}, keep_norm=False)
    step = torch.zeros(8) - 0.1 * grads["m"]
    plain = torch.zeros(8) - 0.1 * g
    assert torch.softmax(x @ plain, 0)[hack] > 0.5
    assert torch.softmax(x @ step, 0)[hack] <= 0.5 + 1e-6


def test_random_directions_are_unit_seeded_and_near_the_null():
    v = {"a": torch.randn(400), "b": torch.randn(3, 400)}
    r = random_directions(v, seed=1)
    assert r["a"].norm().item() == pytest.approx(1.0, rel=1e-5)
    assert torch.allclose(r["b"] @ r["b"].T, torch.eye(3), atol=1e-5)
    assert torch.equal(random_directions(v, 1)["a"], r["a"]) and not torch.equal(random_directions(v, 2)["a"], r["a"])
    many = torch.stack([random_directions({"a": v["a"]}, s)["a"] for s in range(300)])
    mean_abs = (many @ torch.nn.functional.normalize(v["a"], dim=0)).abs().mean().item()
    assert mean_abs == pytest.approx(null_abs_cos(400), rel=0.15)


def test_means_of_cosines_leave_out_modules_of_few_singular_values():
    """r = 16, where chance gives 0.2: not in cos, cos_sd and cos_up; its sign and norm count in the others."""
    v = {"a": torch.eye(64)[0], "b": torch.eye(64)[0], "in_proj_a": torch.eye(16)[0]}
    grads = {name: (1.0 if name != "b" else -1.0) * d + torch.eye(len(d))[1] for name, d in v.items()}
    measured = project_grads(grads, v, "none")
    measured.cos_update = torch.tensor([0.1, 0.3, 0.9])
    row = measured.row()
    assert row["cos"] == pytest.approx(0) and row["cos_sd"] == pytest.approx(0.5**0.5)
    assert row["cos_up"] == pytest.approx(0.2) and row["fired"] == pytest.approx(2 / 3)
    alone = project_grads({"in_proj_a": grads["in_proj_a"]}, v, "none")
    assert alone.row()["cos"] == pytest.approx(0.5**0.5)
