"""What is said of kernels that a model with gated delta nets would use."""

import random_model
import torch

from lib.models import missing_kernels


def test_what_is_missing_is_named_once_with_its_cost_and_only_for_gated_delta_nets(monkeypatch):
    hybrid, plain = (random_model.config(kind, 50) for kind in ("qwen3_5", "qwen3"))
    found = {"fla": None, "causal_conv1d": None}
    monkeypatch.setattr("lib.models.find_spec", found.get)
    said = missing_kernels(hybrid)
    assert "flash-linear-attention (" in said and "causal-conv1d (" in said and "\n" not in said
    assert missing_kernels(plain) is None
    found["fla"] = torch
    assert "flash-linear-attention" not in missing_kernels(hybrid)
    found["causal_conv1d"] = torch
    assert missing_kernels(hybrid) is None
