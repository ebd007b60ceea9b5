"""Two ranks on the organism (gloo, CPU): the numbers of one process, one stop for all, one sentence where one fails."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_files import delta, rows, small_v_hack
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import train
from config import ModelConfig
from lib.distributed import join
from lib.errors import UserError, run_main

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    """Six steps of 2 x 8 on the organism, with a v_hack of 4 pairs."""
    work = tmp_path_factory.mktemp("ranks")
    cfg = ModelConfig(model="organism", svd_cache=str(work / "svd"), pairs="organism")
    small_v_hack(cfg, work / "v.safetensors")
    values = {"preset": "tiny", "arm": "projected", "svd-cache": work / "svd", "v-hack": work / "v.safetensors",
              "steps": 6, "prompts": 2, "max-new": 32, "n-eval": 5, "eval-samples": 1, "eval-every": 3,
              "checkpoint-every": 3, "workers": 1, "beta": 0.01}  # fmt: skip
    return [word for k, v in values.items() for word in (f"--{k}", str(v))]


def one_process(flags: list[str], out: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *flags, "--out", str(out)])
        train.main()
    return out


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> Path:
    """The run in one process."""
    return one_process(flags, tmp_path_factory.mktemp("whole") / "run")


def two_ranks(target, *args) -> int:
    """Exit status of target(*args) as torchrun would run it, but with ranks forked from here, which saves imports."""
    agent = multiprocessing.get_context("fork").Process(target=run_agent, args=(target, *args))
    agent.start()
    agent.join(600)
    assert not agent.is_alive(), "the ranks hang"
    return agent.exitcode


def run_agent(target, *args) -> None:
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", start_method="fork",
                          rdzv_endpoint="localhost:0", run_id="test", max_restarts=0, monitor_interval=0.1)  # fmt: skip
    elastic_launch(config, target)(*args)


def run_rank(flags: list[str], out: Path, fate: int = 0) -> None:
    """train.py; `fate`: a signal that rank 1 gets in step 3."""
    sys.argv, real = ["train.py", *flags, "--out", str(out)], train.make_batch

    def struck(run, step):
        if fate and step == 3 and run.ranks.rank == 1:
            os.kill(os.getpid(), fate)
        return real(run, step)

    train.make_batch = struck
    run_main(train.main)


def agree(a: Path, b: Path) -> None:
    """delta_S to 1e-5; rows with equal counts and shares, and the rest equal up to summation order."""
    x, y = delta(a), delta(b)
    assert x.abs().max() > 0.01 and (x - y).abs().max() < 1e-5
    for name in ("steps.tsv", "evals.tsv", "strata.tsv"):
        for row, other in zip(rows(a / name), rows(b / name), strict=True):
            for column, cell in row.items():
                if column in ("loss", "kl", "gnorm", "cos", "cos_sd", "cos_up"):
                    assert float(other[column]) == pytest.approx(float(cell), rel=1e-2, abs=2e-4, nan_ok=True), column
                else:
                    assert other[column] == cell, (name, column)
    texts = [
        [json.loads(line)["completion"] for line in (p / "rollouts.jsonl").read_text().splitlines()] for p in (a, b)
    ]
    assert texts[0] == texts[1]


def use_collectives() -> None:
    ranks = join(torch.device("cpu"), prompts=4)
    assert ranks.gather(list(range(5))[ranks.part(5)]) == [0, 1, 2, 3, 4]
    assert ranks.sum(ranks.rank, 2) == [1, 4]
    a, b = (torch.nn.Parameter(torch.zeros(n)) for n in (2, 3))
    if ranks.rank == 1:
        a.grad, b.grad = torch.ones(2), torch.full((3,), 2.0)
    ranks.sum_gradients([a, b])
    assert a.grad.tolist() == [1, 1] and b.grad.tolist() == [2, 2, 2]
    values = torch.full((2, 3), float(ranks.rank)).T
    with pytest.raises(UserError, match="delta_S differs between ranks"):
        ranks.check_equal([a, values], "delta_S")
    ranks.copy_from_first([values])
    ranks.check_equal([a, values], "delta_S")
    assert values.sum() == 0


def test_collectives_of_two_ranks():
    assert two_ranks(use_collectives) == 0


def test_two_processes_under_torchrun_agree_with_one(flags, whole, python, tmp_path):
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run([*command, *flags, "--out", str(tmp_path / "run")], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    agree(whole, tmp_path / "run")
    assert len(done.stdout.splitlines()) == 1 + 6 + 1, "rank 0 alone prints: header, rows, done"
    assert json.loads((tmp_path / "run/config.json").read_text())["world"] == 2


def test_a_signal_to_one_rank_stops_both_and_one_process_continues(flags, whole, tmp_path):
    assert two_ranks(run_rank, flags, tmp_path / "run", signal.SIGTERM) != 0
    assert json.loads((tmp_path / "run/checkpoint.json").read_text())["step"] == 4
    assert len(rows(tmp_path / "run/steps.tsv")) == 4
    agree(whole, one_process(flags, tmp_path / "run"))


@pytest.mark.parametrize(
    ("more", "fate", "says"),
    [(["--prompts", "3"], 0, "2 ranks cannot share --prompts 3 evenly"),
     ([], signal.SIGKILL, "rank 0 waited for one that was killed")],
)  # fmt: skip
def test_a_failure_ends_both_ranks_with_one_sentence(more, fate, says, flags, tmp_path, capfd):
    assert two_ranks(run_rank, [*flags, *more], tmp_path / "run", fate) != 0
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and says in errors[0]
