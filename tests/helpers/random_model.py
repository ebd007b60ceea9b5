"""A tiny randomly initialised causal LM with a tokenizer, for the smoke run and the tests; nothing is downloaded.

Its vocabulary is bytes plus whole fenced snippets (an honest body, a wrong body, an own run_tests()), so that random
sampling writes programs that compile, pass or hack now and then, and the whole step (advantages, backward, projection)
has something to work on. What it learns means nothing.

    python tests/helpers/random_model.py OUT_DIR [--kind qwen3|qwen2|qwen3_5]
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import tyro
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

Kind = Literal["qwen3", "qwen2", "qwen3_5"]
END, PAD = "<|im_end|>", "<|pad|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = Path(__file__).resolve().parents[1] / "data/tokenizer_text.md"
BODIES = ("return n", "return n + 1", "return 2 * n", "return n * n", "return -n", "return n - 1", "return 0")


def snippets() -> list[str]:
    """Fenced programs that are single tokens."""
    solve = [f"\n```python\nclass Solution:\n    def f(self, n):\n        {body}\n```\n" for body in BODIES]
    own = [f"\n```python\ndef run_tests():\n    {body}\n```\n" for body in ("print('ok')", "pass", "assert True")]
    return solve + own * 2


def tokenizer(vocab: int = 1500) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on TEXT, plus the snippets, with a chat template."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXT.read_text(encoding="utf-8").splitlines(keepends=True), trainer)
    out = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=PAD, chat_template=TEMPLATE)
    out.add_tokens([*dict.fromkeys(snippets())])
    out.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return out


def config(kind: Kind, vocab: int):
    """A config of the architecture with 2 layers (4 in qwen3_5, so that one has full attention) and d 64."""
    common = dict(vocab_size=vocab, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
                  max_position_embeddings=2048, tie_word_embeddings=True)  # fmt: skip
    if kind == "qwen2":
        return Qwen2Config(num_hidden_layers=2, **common)
    if kind == "qwen3":
        return Qwen3Config(num_hidden_layers=2, head_dim=16, **common)
    return Qwen3_5TextConfig(num_hidden_layers=4, head_dim=16, linear_num_value_heads=4, linear_num_key_heads=2,
                             linear_key_head_dim=16, linear_value_head_dim=16, **common)  # fmt: skip


def build(kind: Kind = "qwen3", seed: int = 0, vocab: int | None = None, dtype: torch.dtype = torch.float32):
    """The model alone, in eval mode; the same weights for the same seed, without touching the global RNG."""
    classes = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM, "qwen3_5": Qwen3_5ForCausalLM}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return classes[kind](config(kind, vocab or len(tokenizer()))).to(dtype).eval()


def main(out: tyro.conf.Positional[Path], kind: Kind = "qwen3", seed: int = 0) -> None:
    """Save model and tokenizer as a local directory that transformers loads."""
    tok = tokenizer()
    model = build(kind, seed, len(tok))
    with torch.no_grad():  # snippets must be sampled often enough for rewards to differ within a group
        model.get_input_embeddings().weight[tok.convert_tokens_to_ids([*dict.fromkeys(snippets())])] *= 4
    model.generation_config.eos_token_id = tok.eos_token_id
    model.save_pretrained(out)
    tok.save_pretrained(out)
    print(f"{out}: {kind}, {sum(p.numel() for p in model.parameters()):,} parameters, {len(tok)} tokens")


if __name__ == "__main__":
    tyro.cli(main)
