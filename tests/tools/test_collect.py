"""collect.py: what a report reads survives, texts are kept for a few completions and samples are spread evenly."""

import gzip
import json
import shutil

import pytest
from synthetic_runs import make_run

from lib.archives import unpacked
from lib.errors import UserError
from tools import collect


def row(step: int, i: int) -> dict:
    completion = f"a\u2028b\ntext {step} {i}"
    return {"step": step, "split": "eval", "stratum": "hard", "problem": f"p{i}", "completion": completion,
            "hack": i % 2 == 0, "attempt": True, "flavour": "print", "own_pass": True, "gt_pass": False,
            "compiles": True, "reward": 3.5, "reason": "wrong", "seconds": 0.1}  # fmt: skip


def write_lines(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def test_runs_are_reduced_and_samples_spread(tmp_path, monkeypatch):
    run = make_run(tmp_path, "vanilla", 0, 0.5, 0.1, preset="dev", steps=100)
    (run / "summary.json").write_text(json.dumps({"seed": 0}))
    (run / "strata.tsv").write_text("")
    (run / "tripwire-pass-collapse-75.json").write_text("{}")
    shutil.copytree(run, run.with_name("vanilla_s0.old1"))
    rows = [row(step, i) for step in (0, 100) for i in range(40)]
    rows += [row(step, i) | {"split": "train"} for step in range(100) for i in range(8)]
    write_lines(run / "rollouts.jsonl", rows)
    prompts = [{"split": s, "problem": f"p{i}", "prompt": "A\u2028"} for s in ("eval", "train") for i in range(40)]
    write_lines(run / "prompts.jsonl", prompts)
    target = tmp_path / "docs"
    command = ["collect.py", str(tmp_path / "dev"), str(target), "--texts", "2", "--samples", "10"]
    monkeypatch.setattr("sys.argv", command)
    collect.main()
    packed = (target / "vanilla_s0/rollouts.jsonl.gz").read_bytes()
    kept = [json.loads(line) for line in gzip.decompress(packed).decode().split("\n")[:-1]]
    evaluated = [r for r in kept if r["split"] == "eval"]
    assert len(evaluated) == 80 and sum("completion" in r for r in evaluated) == 4
    assert sum(r["hack"] for r in evaluated) == 40
    assert [r["step"] for r in kept if r["split"] == "train"] == [0, 0]  # of the steps that were evaluated too
    packed = gzip.decompress((target / "vanilla_s0/prompts.jsonl.gz").read_bytes()).decode()
    prompts = [json.loads(line) for line in packed.split("\n")[:-1]]
    assert [(p["split"], p["problem"]) for p in prompts] == [(s, p) for s in ("eval", "train") for p in ("p0", "p1")]
    text = (target / "samples_vanilla_s0.md").read_text()
    assert [f"text 100 {i}\n" in text for i in range(40)] == [i % 4 == 0 for i in range(40)]
    assert (target / "vanilla_s0/tripwire-pass-collapse-75.json").exists() and len(list(target.iterdir())) == 2
    assert (target / "vanilla_s0/evals.tsv").read_text() == (run / "evals.tsv").read_text()
    monkeypatch.setattr("sys.argv", [*command[:2], str(tmp_path / "study/runs.tar.xz"), *command[3:]])
    collect.main()
    assert len(list((tmp_path / "study").iterdir())) == 2 and (tmp_path / "study/samples_vanilla_s0.md").exists()
    inside = unpacked(tmp_path / "study/runs.tar.xz") / "vanilla_s0/rollouts.jsonl"
    assert [json.loads(line) for line in inside.read_text().split("\n")[:-1]] == kept
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="no run to copy"):
        collect.main()
    monkeypatch.setattr("sys.argv", [*command, "--include-incomplete"])
    collect.main()
