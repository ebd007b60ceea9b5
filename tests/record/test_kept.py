"""What a run keeps of its rollouts: within the budget, evenly spread, the same after a resumption; prompts once."""

import json
import random

from record.folder import RunDir
from record.kept import RolloutBudget, cost, fitting


def batch(rng: random.Random, n: int, split: str = "train") -> list[dict]:
    lengths = [rng.randrange(2000) for _ in range(n)]
    return [{"split": split, "problem": f"p{i // 4}", "row": i, "completion": "é" * k} for i, k in enumerate(lengths)]


def keep_a_run(budget: RolloutBudget, rng: random.Random, steps: int, every: int, first: int = 0) -> list[int]:
    """Bytes kept at each evaluation and step of a run."""
    spent = []
    for step in range(first, steps + 1):
        if step % every == 0:
            spent.append(sum(map(cost, budget.of_evaluation(batch(rng, 40)))))
        if step < steps:
            spent.append(sum(map(cost, budget.of_step(step, batch(rng, 64)))))
    return spent


def test_a_run_stays_within_its_budget_and_uses_it():
    seed = random.randrange(1 << 32)
    for total in (0, 30_000, 400_000, 2_000_000):
        spent = keep_a_run(RolloutBudget(total, 20, 5, {}), random.Random(seed), 20, 5)
        assert sum(spent) <= total, (seed, total)
        assert sum(spent) >= 0.7 * total or total < 64 * 20, (seed, total)


def test_every_step_and_evaluation_has_its_part():
    spent = keep_a_run(RolloutBudget(600_000, 20, 5, {}), random.Random(1), 20, 5)
    assert min(spent) > 5_000


def test_a_large_budget_keeps_everything():
    records = batch(random.Random(2), 64)
    assert RolloutBudget(1e9, 10, 1, {}).of_step(0, records) == records


def test_what_fits_is_evenly_spread():
    records = [{"completion": "", "row": i} for i in range(64)]
    assert [r["row"] for r in fitting(records, 4 * cost(records[0]) + 1)] == [0, 16, 32, 48]
    assert fitting(records, cost(records[0]) - 1) == [] == fitting([], 100)


def test_a_resumed_run_keeps_what_an_uninterrupted_one_does():
    """The memory goes through JSON, and the evaluations still to come are counted anew."""
    memory: dict = {}
    whole = keep_a_run(RolloutBudget(300_000, 20, 5, memory), random.Random(3), 20, 5)
    rng, memory = random.Random(3), {}
    before = keep_a_run(RolloutBudget(300_000, 20, 5, memory), rng, 9, 5)  # evaluations at 0 and 5, steps 0 to 8
    again = RolloutBudget(300_000, 20, 3, json.loads(json.dumps(memory)))
    rest = keep_a_run(again, rng, 20, 5, first=9)
    assert before + rest == whole


# --- prompts ---


def row(split: str, problem: str, prompt: str) -> dict:
    return {
        "step": 0,
        "split": split,
        "problem": problem,
        "completion": "x",
        "prompt": prompt,
        "evaluator": "run_tests",
    }


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_prompt_is_stored_once_a_problem_and_split(tmp_path):
    run = RunDir(tmp_path / "run", {"arm": "vanilla"})
    run.load_checkpoint()
    grown = run.add_rollouts([row("train", "a", "A"), row("train", "a", "A"), row("eval", "a", "A!")])
    assert grown == run.prompts.stat().st_size and run.add_rollouts([row("eval", "a", "A!")]) == 0
    assert [(p["split"], p["problem"], p["prompt"]) for p in read(run.prompts)] == [
        ("train", "a", "A"),
        ("eval", "a", "A!"),
    ]
    assert len(read(run.rollouts)) == 4 and not any("prompt" in r for r in read(run.rollouts))


def test_prompts_after_the_checkpoint_are_written_again_by_a_resumed_run(tmp_path):
    run = RunDir(tmp_path / "run", {"arm": "vanilla"})
    run.load_checkpoint()
    run.add_rollouts([row("train", "a", "A")])
    run.save_checkpoint({}, {"step": 1, "carried": {}})
    size = run.prompts.stat().st_size
    run.add_rollouts([row("train", "b", "B")])
    run._held.close()
    again = RunDir(tmp_path / "run", {"arm": "vanilla"})
    again.prompts.write_bytes(again.prompts.read_bytes()[:size])
    again.load_checkpoint()
    again.add_rollouts([row("train", "a", "A"), row("train", "b", "B")])
    assert [p["problem"] for p in read(again.prompts)][-1] == "b"
