"""Where a run comes from: package versions, git commit, uncommitted changes, hardware, command line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys

import torch

from lib.files import REPO

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "safetensors",
    "tokenizers",
    "numpy",
    "flash-attn",
    "flash-linear-attention",
    "fla-core",
    "causal-conv1d",
)


def provenance() -> dict:
    """Package versions, git commit, hash of uncommitted changes, argv."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    git = ["git", "-C", str(REPO)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        diff = subprocess.run([*git, "diff", "HEAD"], capture_output=True, check=True).stdout
        diff_sha = hashlib.sha256(diff).hexdigest() if diff else ""
    except (OSError, subprocess.CalledProcessError):
        commit, diff_sha = None, None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "packages": {**versions, "python": sys.version.split()[0]},
        "hardware": device,
        "git_commit": commit,
        "git_diff_sha": diff_sha,
        "argv": sys.argv,
    }
