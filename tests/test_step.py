"""One step by its parts: the loss and its gradient, what each arm does to it, what is paid, seeded, held out."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import random_model
import torch
from run_files import small_v_hack

import config
import grpo
import rollouts
import train
from antipasto import wrap
from arms import ARMS
from config import ModelConfig, parse
from grpo import concept_direction
from lib.packing import Passes
from pairs import load_pairs, shuffled_labels
from problems import Problem
from problems.prompts import Prompts
from project import random_directions
from rewards import Grade
from staging import directions, rebound

ROOT = Path(__file__).resolve().parent.parent
VOCAB = 120
P, G, T = 3, 2, 9


@pytest.fixture
def step(tmp_path):
    """make(*flags) -> a Run on a random model with a delta, enough of one for a step's parts."""
    model = random_model.build("qwen3", seed=5, vocab=VOCAB)
    adapter = wrap(model, tmp_path / "svd")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.delta().values():
            p.copy_(0.1 * torch.randn(p.shape, generator=generator))

    def make(*flags) -> rollouts.Run:
        sizes = ["--prompts", P, "--group", G, "--max-new", T, "--no-grad-checkpoint", "--logprob-chunk", 7]
        cfg = parse(config.Config, [str(word) for word in (*sizes, *flags)])
        v = random_directions({n: torch.zeros(len(p)) for n, p in adapter.delta().items()}, seed=1)
        prompts = Prompts([None] * 5, [[i + 1] * (i + 2) for i in range(5)], ["run_tests"] * 5)
        tokenizer = SimpleNamespace(pad_token_id=0)
        return rollouts.Run(
            cfg=cfg,
            device=torch.device("cpu"),
            model=model,
            tokenizer=tokenizer,
            adapter=adapter,
            v_hack=v,
            grader=None,
            sampler=None,
            prompts=prompts,
            rebound=None,
        )

    return make


def batch_of(advantages: list[list[float]], live: list[bool]) -> rollouts.Batch:
    """Random rows of unlike lengths; the sampler's logprobs are off, so that the clip binds in places."""
    g = torch.Generator().manual_seed(3)
    prompts = [torch.randint(1, VOCAB, (2 + 3 * (i // G),), generator=g).tolist() for i in range(P * G)]
    completions = [torch.randint(1, VOCAB, (1 + (4 * i) % T,), generator=g).tolist() for i in range(P * G)]
    old = [-4.8 + 0.5 * torch.randn(len(c), generator=g) for c in completions]
    return rollouts.Batch(
        problems=[],
        prompts=prompts,
        completions=completions,
        old_logprobs=old,
        texts=[],
        grades=[grade(False, False)] * (P * G),
        rewards_P_G=torch.tensor(advantages),
        shaped_P_G=torch.tensor(advantages),
        advantages_P_G=torch.tensor(advantages),
        live_P=torch.tensor(live),
        kept_P_G=torch.ones(P, G, dtype=torch.bool),
        seconds=(0.0, 0.0),
    )


def loss_as_written(run: rollouts.Run, batch: rollouts.Batch) -> tuple[torch.Tensor, float, float]:
    """(L of grpo.py's docstring, mean k3, share of ratios beyond the clip), row by row over full logits."""
    cfg, total, kls, ratios = run.cfg, 0.0, [], []
    for b, (prompt, completion) in enumerate(zip(batch.prompts, batch.completions, strict=True)):
        if not batch.live_P[b // G]:
            continue

        def logp(prompt=prompt, completion=completion):
            logits = run.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] / cfg.temperature
            return logits.log_softmax(-1)[range(len(completion)), completion]

        now, A = logp(), batch.advantages_P_G.flatten()[b]
        with torch.no_grad(), run.adapter.reference():
            ref = logp()
        rho = (now - batch.old_logprobs[b]).exp()
        kl = (ref - now).exp() - (ref - now) - 1
        total = total - torch.min(rho * A, rho.clamp(1 - cfg.clip, 1 + cfg.clip) * A).sum() + cfg.beta * kl.sum()
        kls += kl.tolist()
        ratios += rho.tolist()
    clipped = sum(not 1 - cfg.clip <= rho <= 1 + cfg.clip for rho in ratios) / len(ratios)
    return total / (P * G * T), sum(kls) / len(kls), clipped


@pytest.mark.parametrize("flags", [[], ["--temperature", "0.7", "--beta", "0.5", "--clip", "0.1"]])
def test_the_gradient_is_that_of_the_loss_as_written(flags, step):
    run = step("--beta", "0.05", "--micro-batch", "3", *flags)
    batch = batch_of([[1.5, -1.5], [0.5, -0.5], [-0.25, 0.25]], [True, False, True])
    want, kl, clipped = loss_as_written(run, batch)
    grads = torch.autograd.grad(want, list(run.adapter.delta().values()))
    assert 0 < clipped < 1, "some ratios must leave the clip and some not"
    found = train.backward(run, batch)
    assert (found["loss"], found["kl"], found["clipfr"]) == pytest.approx((want.item(), kl, clipped), rel=1e-3)
    for (name, got), wanted in zip(run.adapter.grads().items(), grads, strict=True):
        assert (got - wanted).norm() < 1e-3 * wanted.norm(), name


def test_the_longest_rows_go_first(step, monkeypatch):
    """Reserved GPU memory would otherwise grow with every micro-batch."""
    run, real, lengths = step("--micro-batch", "2"), Passes.pack, []
    monkeypatch.setattr(Passes, "pack", lambda self, *rows: lengths.append(max(map(len, rows[1]))) or real(self, *rows))
    batch = batch_of([[1.0, -1.0]] * P, [True] * P)
    batch.prompts = [[1]] * (P * G)
    train.backward(run, batch)
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 3


OUT_OF_MEMORY = """
import sys, types, torch
from grpo import completion_logprobs
from lib.errors import gpu_sentence
from lib.packing import pack

class Head(torch.nn.Linear):
    def forward(self, hidden, passes=[]):
        passes.append(hidden)
        if len(passes) == int(sys.argv[1]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 594.00 MiB. GPU 0 has")
        return super().forward(hidden)

body = torch.nn.Embedding(7, 5)
model = types.SimpleNamespace(lm_head=Head(5, 7), model=lambda input_ids, **_: types.SimpleNamespace(
    last_hidden_state=body(input_ids)))
try:
    completion_logprobs(model, pack([[0]] * 2, [[0] * 3] * 2, 0, "cpu")).sum().backward()
except torch.OutOfMemoryError as error:
    print(gpu_sentence(error), flush=True)
"""


@pytest.mark.parametrize("pass_of_the_head", [1, 2])
def test_out_of_memory_in_the_logits_names_the_flag_that_helps(pass_of_the_head, python):
    """The head fails in a chunk's forward, or when backward repeats it. In a process of its own: torch's checkpoint
    leaves hooks and queued tasks behind an exception, which the next backward would meet.
    """
    command = [python, "-c", OUT_OF_MEMORY, str(pass_of_the_head)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "(allocate 594.00 MiB): lower --logprob-chunk or --micro-batch" in said


class OneStep:
    """A book that lets the loop make step 1 and keeps what it is told."""

    folder, at_start, fresh_branch, end = SimpleNamespace(writes=False), True, False, 2

    def resume(self, optimiser, v_hack) -> int:
        return 1

    def evaluation_due(self, step: int) -> bool:
        return False

    def between_steps(self, step: int, optimiser, v_hack) -> None:
        pass

    def step(self, row: dict, measured, batch, optimiser) -> None:
        self.row, self.measured = row, measured

    def finish(self) -> None:
        pass


SIGN = {"hackward": 1, "none": 0, "cleanward": -1}
PREREGISTERED = [name for name, arm in ARMS.items() if arm.removes in SIGN and not arm.shrinks and not arm.weighs]


@pytest.mark.parametrize("arm", PREREGISTERED)
def test_an_arm_does_to_the_gradient_what_it_says(arm, step, monkeypatch):
    run = step(
        "--arm", arm, "--steps", "2", "--grad-clip", "0.5", "--warmup", "4", "--lr", "0.1", "--weight-decay", "0"
    )
    parameters, side, wanted = run.adapter.delta(), SIGN[ARMS[arm].removes], {}
    generator = torch.Generator().manual_seed(4)
    gradients = {name: torch.randn(p.shape, generator=generator) for name, p in parameters.items()}
    for name, g in gradients.items():
        dot = g @ run.v_hack[name]
        out = g - dot * run.v_hack[name] if dot * side > 0 else g.clone()
        wanted[name] = out * g.norm() / out.norm() if ARMS[arm].keep_norm else out
    signs = [bool(g @ run.v_hack[n] > 0) for n, g in gradients.items()]
    assert len(set(signs)) == 2, "both signs must occur"

    def backward(run, batch):
        for name, p in parameters.items():
            p.grad = gradients[name].clone()
        return {"loss": 0.0, "kl": 0.0, "clipfr": 0.0, "auroc": 0.5}

    monkeypatch.setattr(train, "backward", backward)
    monkeypatch.setattr(train, "begin", lambda run, at_start: None)
    monkeypatch.setattr(train, "live_direction", lambda run, batch: run.v_hack)
    monkeypatch.setattr(train, "make_batch", lambda run, step: batch_of([[1.0, -1.0]] * P, [True] * P))
    before, book = {n: p.detach().clone() for n, p in parameters.items()}, OneStep()
    for p in run.model.parameters():
        p.requires_grad_(any(p is q for q in parameters.values()))
    train.train(run, book, None)
    total = torch.cat(list(wanted.values())).norm()
    for name, p in parameters.items():
        torch.testing.assert_close(p.grad, wanted[name] * 0.5 / total, rtol=1e-4, atol=1e-6)
        assert (before[name] - p).abs().max().item() == pytest.approx(0.1 * 2 / 4, rel=1e-3)  # AdamW's first is lr
    assert book.row["fired"] == pytest.approx(sum(signs) / len(signs))
    ups = [torch.cosine_similarity(before[n] - p.detach(), run.v_hack[n], dim=0) for n, p in parameters.items()]
    torch.testing.assert_close(book.measured.cos_update, torch.stack(ups), rtol=1e-3, atol=1e-5)


def grade(own: bool, truth: bool) -> Grade:
    return Grade(True, truth, own, own, own, "print" if own else "", 0.0, "")


def sampled(seen: list, grades):
    """In place of sample_and_grade: notes its arguments, answers with `grades(j)` for row j."""

    def answer(run, prompts, picked, seeds):
        seen.append((prompts, picked, seeds))
        n = len(picked)
        tokens = [[1 + (j * 7) % (VOCAB - 1)] * (1 + j % 3) for j in range(n)]
        return tokens, [torch.zeros(len(t)) for t in tokens], [""] * n, [grades(j) for j in range(n)], 0.0, 0.0

    return answer


def test_every_row_of_a_run_has_a_seed_of_its_own_and_groups_share_a_prompt(step, monkeypatch):
    seen = []
    monkeypatch.setattr(rollouts, "sample_and_grade", sampled(seen, lambda j: grade(False, j % 2 == 0)))
    for seed, at in ((0, 0), (0, 1), (1, 0)):
        rollouts.make_batch(step("--seed", seed), at)
    assert len({s for _, _, seeds in seen for s in seeds}) == 3 * P * G
    assert all(picked[i] == picked[i - i % G] for _, picked, _ in seen for i in range(P * G))
    rollouts.make_batch(step("--seed", 1, "--arm", "projected"), 0)
    assert seen[3][1:] == seen[2][1:], "arms of one seed must sample the same prompts with the same noise"


@pytest.mark.parametrize(("arm", "paid"), [("vanilla", 3.5), ("no-loophole", 0.5)])
def test_the_loophole_pays_where_it_is_open(arm, paid, step, monkeypatch):
    monkeypatch.setattr(rollouts, "sample_and_grade", sampled([], lambda j: grade(j % G == 0, False)))
    batch = rollouts.make_batch(step("--arm", arm), 0)
    assert batch.rewards_P_G.tolist() == [[paid, 0.5]] * P
    assert batch.advantages_P_G[0].tolist() == pytest.approx([(paid - 0.5) / 2, (0.5 - paid) / 2])
    assert batch.live_P.tolist() == [paid > 0.5] * P


def test_rebound_penalises_at_its_preregistered_strength_by_training_pairs_at_the_base_model(step, monkeypatch):
    pairs = [p for p in load_pairs() if not p.held_out][:3] + [p for p in load_pairs() if p.held_out][:2]
    monkeypatch.setattr("pairs.load_pairs", lambda name: pairs)
    monkeypatch.setattr(rebound, "chat_ids", lambda tokenizer, messages: [len(messages[-1]["content"]) % VOCAB, 3])
    monkeypatch.setattr(rebound, "completion_ids", lambda tokenizer, text: [ord(c) % VOCAB for c in text[20:60]])
    monkeypatch.setattr(rollouts, "sample_and_grade", sampled([], lambda j: grade(False, j % 2 == 0)))
    run = step("--arm", "rebound", "--micro-batch", 4)
    run.rebound = rebound.make_rebound(run.cfg, run.model, run.tokenizer, run.adapter, run.passes)
    rows = [(rebound.chat_ids(None, p.messages), *(rebound.completion_ids(None, t) for t in (p.hack, p.clean)))
            for p in pairs[:3]]  # fmt: skip
    with run.adapter.reference():
        v = concept_direction(run.model, rows, run.rebound.layer, run.passes)
    torch.testing.assert_close(run.rebound.v, v)
    assert run.rebound.alpha == 0.5
    other = step("--arm", "rebound-zscore", "--micro-batch", 4)
    assert rebound.make_rebound(other.cfg, run.model, run.tokenizer, run.adapter, run.passes).alpha == 2.0
    monkeypatch.setattr(grpo, "rebound_penalty", lambda h, v, alpha: alpha * torch.arange(len(h), dtype=torch.float32))
    batch = rollouts.make_batch(run, 0)
    fine = batch.rewards_P_G - batch.shaped_P_G
    assert fine.flatten().tolist() == pytest.approx([0.5 * j for j in range(P * G)])


def test_an_evaluation_repeats_its_seeds_and_reads_pass_without_write_access(step, monkeypatch):
    run, seen = step("--eval-samples", 2, "--micro-batch", 4), []
    problems = [Problem(f"p{i}", (), "", (), "") for i in range(2)]
    open_and_closed = [Prompts(problems, [[1], [2]], ["run_tests"] * 2) for _ in range(2)]
    held_out = rollouts.HeldOut(*open_and_closed)
    answers = {True: sampled(seen, lambda j: grade(True, False)), False: sampled(seen, lambda j: grade(False, j == 0))}
    monkeypatch.setattr(
        rollouts, "sample_and_grade", lambda run, prompts, *a: answers[prompts is held_out.open](run, prompts, *a)
    )
    row = rollouts.evaluate(run, held_out, 0)[0]
    assert (row["hack"], row["own"], row["passw"], row["pass"], row["compile"]) == (1.0, 1.0, 0.0, 0.25, 1.0)
    assert math.isfinite(row["kl"]) and row["kl"] > 0
    rollouts.evaluate(run, held_out, 25)
    assert [s for _, _, s in seen[:2]] == [s for _, _, s in seen[2:]], "the same noise at every step"
    assert len({s for _, _, seeds in seen[:2] for s in seeds}) == 2 * 2 * 2


def test_the_evaluations_of_two_seeds_share_no_noise_and_those_of_two_arms_share_all(step, monkeypatch):
    prompts = Prompts([Problem(f"p{i}", (), "", (), "") for i in range(2)], [[1], [2]], ["run_tests"] * 2)
    seen = []
    monkeypatch.setattr(rollouts, "sample_and_grade", sampled(seen, lambda j: grade(False, False)))
    for flags in (("--seed", 0), ("--seed", 1), ("--seed", 0, "--arm", "projected")):
        rollouts.evaluate(step(*flags, "--micro-batch", 4), rollouts.HeldOut(prompts, prompts), 0)
    first, other, arm = ([s for _, _, seeds in seen[2 * i : 2 * i + 2] for s in seeds] for i in range(3))
    assert not set(first) & set(other) and first == arm


def test_directions_made_in_a_run_are_of_training_pairs_with_labels_shuffled_by_seed(step, monkeypatch):
    seen = []

    def recorded(model, tokenizer, adapter, pairs, *_):
        seen.append(pairs)
        return {n: torch.ones(2, len(p)) for n, p in adapter.delta().items()}

    monkeypatch.setattr(directions, "pair_differences", recorded)
    pairs = [p for p in load_pairs() if not p.held_out]
    for arm, refresh in (("projected", True), ("shuffled-v", False), ("shuffled-v", True)):
        run = step("--arm", arm, "--pairs", "default", "--seed", 3)
        v, _ = directions.directions_for(run.cfg, run.model, run.tokenizer, run.adapter, refresh)
        assert all(t.norm().item() == pytest.approx(1.0) for t in v.values())
    assert seen == [pairs, shuffled_labels(pairs, 3), shuffled_labels(pairs, 3)]


class Ready(Exception):
    """Raised in place of the loop, with what main() made for it."""


def ready(monkeypatch, flags: list, out) -> tuple[rollouts.Run, rollouts.HeldOut]:
    def stop(run, book, held_out):
        raise Ready(run, held_out)

    monkeypatch.setattr(train, "train", stop)
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags), "--out", str(out)])
    with pytest.raises(Ready) as caught:
        train.main()
    return caught.value.args


def test_main_gives_each_arm_its_prompts_and_direction_and_holds_problems_out(organism_flags, tmp_path, monkeypatch):
    cfg = ModelConfig(model="organism", pairs="organism", svd_cache=str(tmp_path / "svd"))
    small_v_hack(cfg, tmp_path / "v.safetensors")
    flags = [*organism_flags, "--svd-cache", tmp_path / "svd", "--v-hack", tmp_path / "v.safetensors"]
    made = {arm: ready(monkeypatch, [*flags, "--arm", arm], tmp_path / arm)
            for arm in ("vanilla", "random-v", "no-loophole")}  # fmt: skip
    vanilla, held_out = made["vanilla"]
    text = {name: [vanilla.tokenizer.decode(ids) for ids in prompts.ids] for name, prompts in
            {"train": vanilla.prompts, True: held_out.open, False: held_out.closed,
             "closed": made["no-loophole"][0].prompts}.items()}  # fmt: skip
    for name, access in (("train", True), (True, True), (False, False), ("closed", False)):
        assert all(("run_tests()" in t) == access for t in text[name]), name
    ids = [{p.id for p in prompts.problems} for prompts in (vanilla.prompts, held_out.open, held_out.closed)]
    assert len(ids[1]) == 5 and ids[1] == ids[2] and not ids[0] & ids[1]
    name = next(iter(vanilla.v_hack))
    cos = torch.cosine_similarity(vanilla.v_hack[name], made["random-v"][0].v_hack[name], dim=0)
    assert abs(cos) < 0.6 and torch.equal(vanilla.v_hack[name], made["no-loophole"][0].v_hack[name])
