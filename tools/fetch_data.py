"""Fetch problem files: LeetCode rows of ariahw/rl-rewardhacking, HumanEval and MBPP of the Hugging Face hub.

    python -m tools.fetch_data --sets leetcode humaneval mbpp

The LeetCode files are copied and checked by their git blob ids. HumanEval and MBPP come through `datasets` at a pinned
revision and are written in the same form (problems/form.py): data/humaneval.jsonl, data/mbpp.jsonl.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from loguru import logger

from grading.asserts import split_test
from lib.errors import TestError, UserError, run_main
from lib.files import atomic, jsonl
from problems import humaneval, mbpp
from problems.hub import load_records
from problems.leetcode import load_problems

SOURCE = "https://raw.githubusercontent.com/ariahw/rl-rewardhacking/main/results/data"

# git blob ids in commit bf5cdb8 of the source.
BLOBS = {
    "leetcode_train_medhard_filtered.jsonl": "c10a5f39a18489200f4487e849ab86f166c31c7e",
    "leetcode_train_medhard_holdout.jsonl": "c78b68d7a620fee326dc965a38283aecb80ec39a",
    "leetcode_test_medhard.jsonl": "05a1d425a840bbdcdba13a9074176c609df0d8f1",
}


@dataclass
class FetchConfig:
    """Where from and where to."""

    sets: tuple[Literal["leetcode", "humaneval", "mbpp"], ...] = ("leetcode", "humaneval", "mbpp")
    """What to fetch."""
    source: str = SOURCE
    """Base address of the three LeetCode files; file:///some/folder/ reads a local copy."""
    humaneval: str = ""
    """A local JSON file or folder in the format of openai/openai_humaneval; empty: the hub."""
    mbpp: str = ""
    """A local JSON file or folder in the format of google-research-datasets/mbpp; empty: the hub."""
    out: str = "data"
    """Folder to write."""


def blob_id(data: bytes) -> str:
    """git's object id of a file's content, SHA-1 of "blob <size>\\0" + bytes."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def download(url: str) -> bytes:
    """All of it. Raises OSError, HTTPException or ValueError where the address does not answer, or breaks off."""
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read()


def fetch(name: str, blob: str, source: str, out: Path) -> None:
    """One file. Raises UserError where it cannot be had or is another file; nothing is left half written."""
    path, url = out / name, f"{source.rstrip('/')}/{name}"
    if not path.exists() or blob_id(path.read_bytes()) != blob:
        try:
            data = download(url)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                f"{url} cannot be reached ({reason}): run `just data` on a machine with network access "
                f"and copy {out}/ here, or pass --problems PATH"
            ) from error
        if (got := blob_id(data)) != blob:
            raise UserError(
                f"{url} is git blob {got[:12]}, not {blob[:12]}: the source has changed; "
                f"check it, and pass it with --problems if you trust it"
            )
        with atomic(path) as f:
            f.write(data)
    logger.info(f"{path}: {len(load_problems(path))} problems")


def convert(source, copy: str, path: Path) -> None:
    """Write `path` from the records of a module of problems/ (humaneval, mbpp), or from a local copy of them.

    Rows whose tests the grader cannot take apart are left out. Raises UserError where the records cannot be had.
    """
    records = load_records(source.HUB, copy)
    rows = [row for row in source.rows(records) if gradable(row)]
    with atomic(path) as f:
        f.write(jsonl(rows))
    logger.info(f"{path}: {len(load_problems(path))} problems of {len(records)}")


def gradable(row: dict) -> bool:
    """Whether every test of a row can be taken apart."""
    try:
        for test in row["gt_answer"]:
            split_test(test, row["func_name"])
    except TestError:
        return False
    return True


def main() -> None:
    cfg = tyro.cli(FetchConfig, prog="just data", description=__doc__)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    if "leetcode" in cfg.sets:
        for name, blob in BLOBS.items():
            fetch(name, blob, cfg.source, out)
    if "humaneval" in cfg.sets:
        convert(humaneval, cfg.humaneval, out / "humaneval.jsonl")
    if "mbpp" in cfg.sets:
        convert(mbpp, cfg.mbpp, out / "mbpp.jsonl")


if __name__ == "__main__":
    run_main(main)
