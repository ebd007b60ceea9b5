"""Sizes of the known models, for what is computed without loading one: benches with random weights, `just estimate`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal


def kv_bytes(layers: int, kv_heads: int, head_dim: int, itemsize: int = 2) -> int:
    """Bytes of keys and values a token; layers: those with attention."""
    return 2 * layers * kv_heads * head_dim * itemsize


def state_bytes(layers: int, net: DeltaNet, itemsize: int = 2) -> int:
    """Bytes of a row's state in `layers` gated delta nets: S in fp32, the last inputs of the convolution."""
    state = 4 * net.value_heads * net.key_dim * net.value_dim
    return layers * (state + itemsize * (net.taps - 1) * net.channels)


@dataclass(frozen=True)
class DeltaNet:
    """Of Qwen3.5's gated delta nets."""

    key_heads: int
    value_heads: int
    key_dim: int = 128
    value_dim: int = 128
    taps: int = 4
    """Of the convolution."""

    @property
    def channels(self) -> int:
        """Of the convolution: q, k and v."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim


# Of four layers three have a gated delta net.
HYBRID = ("linear_attention", "linear_attention", "linear_attention", "full_attention")


@dataclass(frozen=True)
class Shape:
    """A decoder of transformers' Qwen2, Qwen3 or Qwen3.5 architecture, its embedding tied to its head."""

    family: Literal["qwen2", "qwen3", "qwen3_5_text"]
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
    net: DeltaNet | None = None
    """Of Qwen3.5: three of four layers have it in attention's place."""

    @property
    def q(self) -> int:
        """Width of the queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def delta_layers(self) -> int:
        """Layers with a gated delta net."""
        return self.layers * 3 // 4 if self.net else 0

    def linears(self) -> Counter[tuple[int, int]]:
        """How many adapted Linears there are of each (d_out, d_in)."""
        d, m, q = self.d, self.mlp, self.q
        found = Counter({(m, d): 2 * self.layers})
        found[d, m] += self.layers

        # Attention; Qwen3.5's queries come with a gate.
        attention = self.layers - self.delta_layers
        for d_out, d_in in ((2 * q if self.net else q, d), (self.kv, d), (self.kv, d), (d, q)):
            found[d_out, d_in] += attention

        # in_proj_qkv, z, b, a and out_proj.
        if net := self.net:
            values = net.value_heads * net.value_dim
            for size in ((net.channels, d), (values, d), (net.value_heads, d), (net.value_heads, d), (d, values)):
                found[size] += self.delta_layers
        return found

    def weights(self) -> int:
        """Parameters of the adapted Linears."""
        return sum(n * o * i for (o, i), n in self.linears().items())

    def factors(self) -> int:
        """Elements of their U and Vh."""
        return sum(n * (o + i) * min(o, i) for (o, i), n in self.linears().items())

    def kv_bytes(self) -> int:
        """Bytes of cache a token, bf16."""
        return kv_bytes(self.layers - self.delta_layers, self.kv_heads, self.head_dim)

    def state_bytes(self) -> int:
        """Bytes of cache a row, whatever its length."""
        return state_bytes(self.delta_layers, self.net) if self.net else 0

    def config(self) -> dict:
        """Arguments of the transformers config."""
        common = {
            "hidden_size": self.d,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.positions,
            "tie_word_embeddings": True,
        }
        if self.family != "qwen2":
            common["head_dim"] = self.head_dim
        if net := self.net:
            common |= {
                "layer_types": [HYBRID[i % 4] for i in range(self.layers)],
                "linear_num_key_heads": net.key_heads,
                "linear_num_value_heads": net.value_heads,
                "linear_key_head_dim": net.key_dim,
                "linear_value_head_dim": net.value_dim,
                "linear_conv_kernel_dim": net.taps,
            }
        return common


# Hub ids, and the names that benches and their tables have for them. Qwen3.5: as published configs of the family have
# it (0.8B, 4B); the 2B is the shape whose 186 Linears have the preregistration's 289 thousand singular values.
SHAPES = {
    "Qwen/Qwen3-4B": Shape("qwen3", 2560, 36, 32, 8, 128, 9728, 151936, 40960),
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": Shape("qwen2", 896, 24, 14, 2, 64, 4864, 151936),
    "Qwen/Qwen3.5-0.8B": Shape("qwen3_5_text", 1024, 24, 8, 2, 256, 3584, 248320, 262144, DeltaNet(16, 16)),
    "Qwen/Qwen3.5-2B": Shape("qwen3_5_text", 2048, 24, 8, 2, 256, 6144, 248320, 262144, DeltaNet(16, 16)),
    "Qwen/Qwen3.5-4B": Shape("qwen3_5_text", 2560, 32, 16, 4, 256, 9216, 248320, 262144, DeltaNet(16, 32)),
}  # fmt: skip
BENCH_NAMES = {
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
    "qwen3.5-2b": "Qwen/Qwen3.5-2B",
    "qwen3.5-4b": "Qwen/Qwen3.5-4B",
}
