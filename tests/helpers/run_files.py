"""What tests of whole runs share: a v_hack made in seconds, and reading what a run left behind."""

from __future__ import annotations

from pathlib import Path

import torch

from antipasto import load_model
from config import ModelConfig
from extract_vhack_grad import directions, pair_differences
from lib.models import pick_device
from lib.tensors import load_tensors
from pairs import load_pairs
from record.v_hack import save_v_hack

TIMING = {"t_roll", "t_grade", "t_train", "eta", "gib"}
"""Columns that a clock or an allocator decides."""


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a TSV without the columns of TIMING."""
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [{k: v for k, v in zip(header, line, strict=True) if k not in TIMING} for line in lines]


def delta(folder: Path) -> torch.Tensor:
    """delta_S of every module of a finished run, one vector."""
    return torch.cat([t for _, t in sorted(load_tensors(folder / "delta_S.safetensors")[0].items())])


def small_v_hack(cfg: ModelConfig, path: Path) -> None:
    """Extract cfg's v_hack from four of its pairs."""
    model, tokenizer, adapter = load_model(cfg, pick_device(cfg.device, cfg.preset, cfg.threads))
    pairs = load_pairs(cfg.pairs)
    few = [p for p in pairs if not p.held_out][:4]
    save_v_hack(path, directions(pair_differences(model, tokenizer, adapter, few)), adapter, cfg, pairs)
