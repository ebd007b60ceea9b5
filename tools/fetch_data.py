"""Fetch the three LeetCode files of ariahw/rl-rewardhacking (results/data) into data/, check them, count their rows.

Each file is pinned by its git blob id, which fixes every byte and so the row count; a file that is there and right is
left alone, a download is written beside its place and renamed once it has been checked.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import tyro
from loguru import logger

from lib.errors import UserError, run_main
from lib.files import atomic
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

    source: str = SOURCE
    """Base address of the three files; file:///some/folder/ reads a local copy."""
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


def main() -> None:
    cfg = tyro.cli(FetchConfig, prog="just data", description=__doc__)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, blob in BLOBS.items():
        fetch(name, blob, cfg.source, out)


if __name__ == "__main__":
    run_main(main)
