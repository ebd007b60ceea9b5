"""Sizes of the known models, for what is computed without loading one: benches with random weights, `just estimate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


def kv_bytes(layers: int, kv_heads: int, head_dim: int, itemsize: int = 2) -> int:
    """Bytes of keys and values a token, of a model with attention in every layer."""
    return 2 * layers * kv_heads * head_dim * itemsize


@dataclass(frozen=True)
class Shape:
    """A decoder of transformers' Qwen2 or Qwen3 architecture, its embedding tied to its head."""

    family: Literal["qwen2", "qwen3"]
    d: int
    """Width of the residual."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    """Width of the gated MLP."""
    vocab: int
    positions: int = 32768
    """Longest sequence."""

    @property
    def q(self) -> int:
        """Width of the queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    def linears(self) -> list[tuple[int, int]]:
        """(d_out, d_in) of a layer's adapted Linears."""
        d, m = self.d, self.mlp
        return [(self.q, d), (self.kv, d), (self.kv, d), (d, self.q), (m, d), (m, d), (d, m)]

    def weights(self) -> int:
        """Parameters of the adapted Linears."""
        return self.layers * sum(o * i for o, i in self.linears())

    def factors(self) -> int:
        """Elements of their U and Vh."""
        return self.layers * sum((o + i) * min(o, i) for o, i in self.linears())

    def kv_bytes(self) -> int:
        """Bytes of cache a token, bf16."""
        return kv_bytes(self.layers, self.kv_heads, self.head_dim)

    def config(self) -> dict:
        """Arguments of the transformers config."""
        return {
            "hidden_size": self.d,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.positions,
            "tie_word_embeddings": True,
            **({"head_dim": self.head_dim} if self.family == "qwen3" else {}),
        }


# Hub ids, and the names that benches and their tables have for them.
SHAPES = {
    "Qwen/Qwen3-4B": Shape("qwen3", 2560, 36, 32, 8, 128, 9728, 151936, 40960),
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": Shape("qwen2", 896, 24, 14, 2, 64, 4864, 151936),
}  # fmt: skip
BENCH_NAMES = {"qwen3-4b": "Qwen/Qwen3-4B", "qwen2.5-0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct"}
