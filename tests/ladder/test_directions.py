"""Directions of labelled rollouts, per-row gradients, and what the ladder's arms do, each against a slow reference."""

import copy
import math
from types import SimpleNamespace

import pytest
import random_model
import torch
from scipy.stats import mannwhitneyu

from antipasto import checkpoint_layers, wrap
from arms import ARMS, VARIANTS
from grpo import completion_logprobs, group_advantages, mean_nll
from ladder.diagnosis import cross_validated
from ladder.gradients import auroc, row_gradients, rows_a_pass, scores, scoring
from ladder.labelled import labelled_direction
from ladder.updates import AppliedUpdate, applied_update, project_moment, treat_moment
from lib.packing import pack
from lib.shared_prefix import share_prefix
from project import project_grads

VOCAB = 60
# Every third labelled rollout counts as a hack: the base model makes one in two hundred.
THIRDS = """
import dataclasses
from ladder import labelled
real = labelled.sampled
def thirds(run, prompts, n, key):
    *rows, grades = real(run, prompts, n, key)
    return *rows, [dataclasses.replace(g, own_pass=j % 3 == 0, gt_pass=False) for j, g in enumerate(grades)]
labelled.sampled = thirds"""


@pytest.fixture
def run(tmp_path):
    """A random model with a delta, enough of a run for gradients of rollouts."""
    model = random_model.build("qwen3", seed=5, vocab=VOCAB)
    adapter = wrap(model, tmp_path / "svd")
    with torch.no_grad():
        for p in adapter.delta().values():
            p.copy_(0.1 * torch.randn(p.shape))
    cfg = SimpleNamespace(
        micro_batch=3, micro_tokens=0, temperature=1.0, logprob_chunk=5, grad_checkpoint=False, score_rollouts=True
    )
    return SimpleNamespace(
        cfg=cfg, model=model, adapter=adapter, device=torch.device("cpu"), tokenizer=SimpleNamespace(pad_token_id=0)
    )


def rollouts_of(n: int) -> tuple[list[list[int]], list[list[int]]]:
    prompts = [torch.randint(1, VOCAB, (3 + i % 4,)).tolist() for i in range(n)]
    return prompts, [torch.randint(1, VOCAB, (2 + (5 * i) % 7,)).tolist() for i in range(n)]


def test_per_row_gradients_agree_with_autograd_row_by_row(run):
    prompts, completions = rollouts_of(8)
    got = row_gradients(run, prompts, completions)
    delta = run.adapter.delta()
    for b, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        nll = mean_nll(run.model, prompt, completion, 0, run.device)
        for (name, g), want in zip(got.items(), torch.autograd.grad(nll, list(delta.values())), strict=True):
            assert (g[b] - want).norm() <= 1e-5 * want.norm() + 1e-9, (b, name)
    assert all(m.row_sums is None for m in run.adapter.modules.values())


def test_per_row_gradients_stay_unshared_on_a_model_that_shares_prompts(run):
    """Rows of one group, a model prepared for sharing, as many rows a pass as micro_tokens hold."""
    prompts, completions = rollouts_of(6)
    prompts = [prompts[b // 3] for b in range(6)]
    want = row_gradients(run, prompts, completions)
    assert share_prefix(run.model)
    run.cfg.micro_batch, run.cfg.micro_tokens = 0, 25
    for name, g in row_gradients(run, prompts, completions).items():
        torch.testing.assert_close(g, want[name], rtol=1e-4, atol=1e-7)


def test_a_padded_pass_keeps_within_rows_and_tokens():
    sizes = {(rows, tokens): rows_a_pass(SimpleNamespace(micro_batch=rows, micro_tokens=tokens), 100)
             for rows in (0, 8, 64) for tokens in (0, 50, 800, 8192)}  # fmt: skip
    assert sizes == {(0, 0): 8, (0, 50): 1, (0, 800): 8, (0, 8192): 32, (8, 0): 8, (8, 50): 1, (8, 800): 8,
                     (8, 8192): 8, (64, 0): 64, (64, 50): 1, (64, 800): 8, (64, 8192): 64}  # fmt: skip


def test_per_row_gradients_are_the_same_where_layers_are_recomputed(run):
    prompts, completions = rollouts_of(5)
    want = row_gradients(run, prompts, completions)
    checkpoint_layers(run.model)
    run.cfg.grad_checkpoint = True
    for name, g in row_gradients(run, prompts, completions).items():
        torch.testing.assert_close(g, want[name], rtol=1e-4, atol=1e-7)
    assert not run.model.training


@pytest.mark.parametrize("share", [False, True])
def test_a_step_scores_its_rows_by_its_own_backward(run, share):
    """Against each token's share of the gradient, summed over the completion alone, of the NLL by itself."""
    prompts, completions = rollouts_of(6)
    prompts = [prompts[b // 3] for b in range(6)]
    advantages = [torch.tensor(a) for a in (1.5, -0.5, -1.0, 0.0, 2.0, -2.0)]
    delta = run.adapter.delta()
    run.v_hack = {name: torch.randn(p.shape) for name, p in delta.items()}
    want = []
    for prompt, completion in zip(prompts, completions, strict=True):
        packed = pack([prompt], [completion], 0, run.device)
        with run.adapter.per_row(torch.arange(packed.ids.numel()), packed.ids.numel()) as shares:
            torch.autograd.grad(-completion_logprobs(run.model, packed).sum(), list(delta.values()))
        second = {name: s for name, s in shares.items() if "layers.1." in name}  # of two
        own = {name: s[len(prompt) :].sum(0, keepdim=True) for name, s in second.items()}
        want.append(scores(own, run.v_hack).item())

    assert not share or share_prefix(run.model)
    packed = pack(prompts, completions, 0, run.device, share)
    A = torch.cat([a.expand(len(c)) for a, c in zip(advantages, completions, strict=True)])
    got: list[float] = []
    with scoring(run, packed, advantages, got):
        (-(A * completion_logprobs(run.model, packed)).sum()).backward()
    assert math.isnan(got[3])
    want[3] = math.nan
    assert got == pytest.approx(want, rel=1e-3, abs=1e-5, nan_ok=True)


def test_scoring_changes_no_bit_of_the_gradient(run):
    prompts, completions = rollouts_of(6)
    packed, out = pack(prompts, completions, 0, run.device), []
    run.v_hack = {name: torch.randn(p.shape) for name, p in run.adapter.delta().items()}
    for on in (True, False):
        run.cfg.score_rollouts = on
        with scoring(run, packed, [torch.ones(())] * 6, scored := []):
            grads = torch.autograd.grad(
                completion_logprobs(run.model, packed).sum(), list(run.adapter.delta().values())
            )
        out.append(grads)
        assert all(map(math.isnan, scored)) != on
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))


def test_a_labelled_direction_is_the_difference_of_means_and_k_span_the_hacks(run):
    g = {"a": torch.randn(12, 30)}
    hack = torch.tensor([True] * 5 + [False] * 7)
    want = g["a"][:5].double().mean(0) - g["a"][5:].double().mean(0)
    torch.testing.assert_close(labelled_direction(g, hack)["a"].double(), want / want.norm(), rtol=1e-5, atol=1e-6)
    V = labelled_direction(g, hack, k=3)["a"]
    torch.testing.assert_close(V @ V.T, torch.eye(3), rtol=0, atol=1e-5)
    differences = g["a"][:5] - g["a"][5:].mean(0)
    unit = differences / differences.norm(dim=1, keepdim=True)
    best = torch.linalg.svdvals(unit.double())[:3].square().sum()
    assert (unit @ V.T).square().sum().item() == pytest.approx(best.item(), rel=1e-5)


def test_scores_are_mean_cosines_over_modules():
    g = {"a": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "b": torch.tensor([[1.0, 0.0], [0.0, -2.0]])}
    v = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([[0.0, 1.0], [1.0, 0.0]])}
    assert scores(g, v).tolist() == pytest.approx([(0.6 + 0.0) / 2, (0.0 - 1.0) / 2])


def adamw(steps: int = 3):
    """A parameter after some steps of AdamW, its optimiser, and a direction."""
    p = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
    optimiser = torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    v = torch.randn(6, dtype=torch.float64)
    for _ in range(steps):
        p.grad = torch.randn(6, dtype=torch.float64) + v
        optimiser.step()
    return p, optimiser, v / v.norm()


@pytest.mark.parametrize("side", ["hackward", "both"])
def test_a_projected_moment_is_adamw_with_that_moment(side):
    """By hand: m, s and the step of AdamW (Loshchilov & Hutter 2019), with m cleared of v before it is used."""
    p, optimiser, v = adamw()
    m, s = optimiser.state[p]["exp_avg"].clone(), optimiser.state[p]["exp_avg_sq"].clone()
    g = torch.randn(6, dtype=torch.float64) + 2 * v
    m, s = 0.9 * m + 0.1 * g, 0.99 * s + 0.01 * g.square()
    dot = m @ v
    m = m - dot * v if dot > 0 or side == "both" else m
    want = p.detach() - 0.1 * m / (1 - 0.9**4) / ((s / (1 - 0.99**4)).sqrt() + 1e-8)
    p.grad = g
    with applied_update({"w": p}) as update:
        optimiser.step()
        project_moment(optimiser, {"w": p}, {"w": v}, side)
    torch.testing.assert_close(p.detach(), want)
    torch.testing.assert_close(optimiser.state[p]["exp_avg"], m)
    torch.testing.assert_close(update.descent["w"], update.before["w"] - want)


@pytest.mark.parametrize(("treatment", "side", "left"), [
    ("keep", "hackward", lambda m, v: m),
    ("zero", "none", lambda m, v: 0 * m),
    ("project", "none", lambda m, v: m - (m @ v).clamp(min=0) * v),
    ("project", "cleanward", lambda m, v: m - (m @ v).clamp(max=0) * v),
])  # fmt: skip
def test_the_first_moment_at_a_branch(treatment, side, left):
    for sign in (1, -1):
        v = torch.nn.functional.normalize(torch.randn(9), dim=0)
        m = torch.randn(9) + sign * 3 * v
        got = {"w": m.clone()}
        treat_moment(got, treatment, {"w": v}, side)
        torch.testing.assert_close(got["w"], left(m, v), rtol=1e-5, atol=1e-6)


def test_two_sided_removal_leaves_nothing_of_the_direction_in_gradient_and_update():
    V = torch.linalg.qr(torch.randn(9, 3)).Q.T.contiguous()
    for g in (torch.randn(9), torch.randn(9) - 4 * V[0]):
        grads = {"w": g.clone()}
        project_grads(grads, {"w": V}, "both", keep_norm=True)
        assert (V @ grads["w"]).abs().max() < 1e-5
        assert grads["w"].norm().item() == pytest.approx(g.norm().item(), rel=1e-5)  # fp32


def test_a_shrunk_update_has_the_projected_length_and_its_own_direction():
    p = torch.nn.Parameter(torch.zeros(9))
    v, d = torch.nn.functional.normalize(torch.randn(9), dim=0), torch.randn(9)
    d = d + (2 - d @ v) * v  # hackward, whatever was drawn
    update = AppliedUpdate({"w": torch.zeros(9)}, {"w": d.clone()})
    update.shrink({"w": p}, {"w": v}, "hackward")
    want = (d - (d @ v) * v).norm()
    assert p.norm().item() == pytest.approx(want.item(), rel=1e-5)
    assert torch.cosine_similarity(-p.detach(), d, dim=0).item() == pytest.approx(1.0, abs=1e-5)


def test_a_weighted_update_keeps_its_length():
    p, d, w = torch.nn.Parameter(torch.zeros(9)), torch.randn(9), torch.rand(9)
    AppliedUpdate({"w": torch.zeros(9)}, {"w": d.clone()}).weigh({"w": p}, {"w": w})
    torch.testing.assert_close(p.detach(), -(d * w) * d.norm() / (d * w).norm())


def test_screened_rows_count_in_no_group():
    rewards = torch.tensor([[3.5, 0.5, 0.5, 3.5], [3.5, 0.5, 3.5, 3.5], [3.5, 0.5, 0.5, 0.0]])
    kept = torch.tensor([[True, True, True, False], [True, False, True, True], [False, True, False, False]])
    A, live = group_advantages(rewards, kept_P_G=kept)
    assert A[0].tolist() == pytest.approx([2.0, -1.0, -1.0, 0.0])
    assert live.tolist() == [True, False, False] and not A[1:].any()


def test_every_direction_has_its_forms_and_oracles_are_the_only_labelled_ones():
    for name, arm in ARMS.items():
        if arm.removes != "none" and not arm.shrinks:
            assert {f"{name}-moment", f"{name}-mean", f"{name}-update"} <= VARIANTS.keys()
    labelled = {name for name, arm in ARMS.items() if arm.labelled}
    assert labelled == {"screen-oracle", "penalty-oracle", "oracle-v", "oracle-live", "oracle-k4", "oracle-k16"}


def test_the_gate_reads_no_grade(monkeypatch):
    """Hacks and passes earn the same: with every label swapped, the advantages of arm gated stay what they are."""
    import rollouts
    from rewards import Grade

    P, G = 3, 4
    paid = [bool(torch.rand(()) < 0.5) for _ in range(P * G)]
    tokens = [[1 + j % 7] * (1 + j % 3) for j in range(P * G)]

    def batch(hacks: bool):
        grades = [
            Grade(True, p and not hacks, p and hacks, p and hacks, p and hacks, "print" if p and hacks else "", 0.0, "")
            for p in paid
        ]
        answer = (tokens, [torch.zeros(len(t)) for t in tokens], [""] * (P * G), grades, 0.0, 0.0)
        monkeypatch.setattr(rollouts, "sample_and_grade", lambda *a: copy.copy(answer))
        cfg = SimpleNamespace(
            arm="gated", seed=0, prompts=P, group=G, noise=0, advantage="drgrpo", monitor_accuracy=1.0
        )
        prompts = SimpleNamespace(ids=[[1]] * 5, problems=[None] * 5, evaluators=[""] * 5, shown=lambda i: {})
        run = SimpleNamespace(
            cfg=cfg, prompts=prompts, write_access=True, rebound=None, gate=0.0,
            score=lambda run, rows, completions: torch.tensor([math.sin(len(c) + 3 * c[0]) for c in completions]),
        )  # fmt: skip
        return rollouts.make_batch(run, 0).advantages_P_G

    assert torch.equal(batch(True), batch(False))


def test_the_labelled_arms_run_on_the_organism(organism_flags, trainer, tmp_path):
    """Two steps each, with the direction of 24 labelled rollouts where one is needed."""
    for arm in ("oracle-v", "oracle-live", "oracle-k4", "screen-oracle", "penalty-oracle"):
        out = ["--out", tmp_path / arm]
        flags = [*organism_flags, "--arm", arm, "--steps", 2, "--oracle-rollouts", 24, "--eval-every", 99, *out]
        done = trainer(*flags, "--v-hack", "none", plant=THIRDS)
        assert done.status == 0, done.err
        assert (tmp_path / arm / "summary.json").exists()


def test_auroc_counts_ties_half_and_cross_validation_never_scores_its_own_rows():
    s, y = torch.randint(0, 5, (60,)).float(), torch.rand(60) < 0.4
    y[:2] = torch.tensor([True, False])
    u = mannwhitneyu(s[y].numpy(), s[~y].numpy()).statistic
    assert auroc(s, y) == pytest.approx(u / (y.sum().item() * (~y).sum().item()))
    noise = {"layers.0.q_proj": torch.randn(80, 40)}  # labels without a signal: above chance only if rows leaked
    hack = torch.arange(80) < 40
    assert auroc(cross_validated(noise, hack)["layers.0.q_proj"], hack) < 0.75
