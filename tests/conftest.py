"""Scripts are flat files at the repository's root; tests import them from there."""

import os
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)

SHARED = REPO.parent / "shared/data/leetcode_medhard_80.jsonl"


@pytest.fixture
def leetcode():
    """The 80 real problems, where they are at hand."""
    if not SHARED.exists():
        pytest.skip("the 80 LeetCode rows are not at ../shared/data")
    from problems import load_problems

    return load_problems(SHARED)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A random tiny Qwen3 with its tokenizer, as a local directory."""
    import random_model

    path = tmp_path_factory.mktemp("model") / "random"
    random_model.main(path)
    return path
