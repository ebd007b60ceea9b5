"""Fixtures of whole runs, and the paths that tests import from: the root, tests/ and tests/helpers/."""

import gc
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests"), str(REPO / "tests/helpers")]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process compiles torch and transformers anew
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, also by what tests start

# Seconds of a core, measured on a machine with other work: the longest files go first, so that no worker waits for one
# at the end.
SECONDS = {"test_survive": 62, "test_rewards": 60, "test_pueue": 53, "test_distributed": 48, "test_train": 48,
           "test_branch": 47, "test_pool": 45, "test_second_set": 40, "test_branches": 40, "test_stream": 40,
           "test_tripwires": 32, "test_statistics": 32, "test_plot_pareto": 29, "test_full_probe": 28,
           "test_kernels": 25, "test_verdicts": 22}  # fmt: skip


def pytest_configure(config):
    config.option.loadscopereorder = False  # xdist would begin with the files of most tests


def pytest_xdist_auto_num_workers(config):
    """A worker more than cores: many tests wait for processes."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: -SECONDS.get(item.path.stem, 0))
    gc.freeze()  # torch's objects are not looked through again and again


def pytest_unconfigure():
    gc.unfreeze()  # or nanobind calls them leaked at exit


SHARED = REPO.parent / "shared/data/leetcode_medhard_80.jsonl"


@pytest.fixture(autouse=True)
def same_draws():
    """What a test draws from torch does not hang on the tests before it; TEST_SEED=$RANDOM just test: other draws."""
    torch.manual_seed(int(os.environ.get("TEST_SEED", 0)))


@pytest.fixture
def leetcode():
    """The 80 real problems, where they are at hand."""
    if not SHARED.exists():
        pytest.skip("the 80 LeetCode rows are not at ../shared/data")
    from problems.leetcode import load_problems

    return load_problems(SHARED)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A random tiny Qwen3 with its tokenizer, as a local directory."""
    import random_model

    path = tmp_path_factory.mktemp("model") / "random"
    random_model.main(path)
    return path


@pytest.fixture(scope="session")
def trainer():
    """Runs command lines in real processes: trainer(*flags) -> Done (warm_trainer.py)."""
    from warm_trainer import Trainer

    warm = Trainer()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def python(trainer) -> str:
    """A stand-in for sys.executable whose imports are done (warm_python.py)."""
    return trainer.python


@pytest.fixture(scope="session")
def organism_flags(tmp_path_factory) -> list:
    """Flags of a run of seconds on the shipped organism: 40 of its problems, 12 steps of 2 x 4 rollouts."""
    from problems.organism import organism_problems

    work = tmp_path_factory.mktemp("organism")
    rows = [{"id": p.id, "prompt": p.messages, "gt_answer": p.tests, "func_name": p.entry, "difficulty": p.stratum}
            for p in organism_problems(40, seed=0, split="train")]  # fmt: skip
    (work / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--preset", "tiny", "--svd-cache", work / "svd", "--problems", work / "problems.jsonl", "--prompts", 2,
            "--group", 4, "--n-eval", 5, "--eval-samples", 1, "--eval-every", 4, "--checkpoint-every", 2, "--steps", 12,
            "--max-new", 32, "--warmup", 1, "--workers", 1]  # fmt: skip
