"""Architectures whose blocks are written out here: Llama's shape, with attention or Qwen3.5's gated delta nets."""

from __future__ import annotations

# Pre-norm blocks; their attention is transformers' function of (query, key, value) alone.
FAMILIES = ("qwen2", "qwen3", "qwen3_5_text", "llama")


def other_architecture(config) -> str | None:
    """Why a model of this configuration is none of FAMILIES as they are known here; None where it is."""
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is not one of {', '.join(FAMILIES)}"
    known = {"full_attention", "linear_attention"} if config.model_type == "qwen3_5_text" else {"full_attention"}
    if set(getattr(config, "layer_types", None) or ["full_attention"]) - known:
        return "some layers are not full attention"
    return None
