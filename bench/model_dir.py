"""A folder that loads as a model of known shapes with random weights, for what needs a path and no network.

    python -m bench.model_dir qwen3.5-2b DIR                           bf16 on a GPU, the organism's tokenizer
    python -m bench.model_dir qwen3.5-2b DIR --tokenizer LOCAL_DIR     with another's
    python -m bench.model_dir tiny-hybrid DIR                          small, for a CPU

    just full-probe mid --model DIR --label random --problems organism --eval-file "" --steps 3 --n-eval 8 \
        --eval-samples 1 --warmup 1 --tripwires warn --go-on

What such a model writes means nothing. It draws from the tokens of an empty program alone, whose embeddings share a
large direction, so that now and then one is fenced and compiles: rewards differ, and training steps train.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from bench.common import SHAPES, build
from lib.files import REPO


def favour(model, tokenizer, text: str) -> None:
    """Have the random model write the tokens of `text` and end tokens, at random."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], add_generation_prompt=True, tokenize=False
    )
    last, *program = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, text))
    ids = sorted({last[-1], *program[0], tokenizer.eos_token_id})
    weight = model.get_input_embeddings().weight
    weight.data[ids] += torch.randn_like(weight[0])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("shape", choices=list(SHAPES))
    p.add_argument("out", type=Path)
    p.add_argument("--tokenizer", type=Path, default=REPO / "organism")
    args = p.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    model = build(args.shape, "cuda" if torch.cuda.is_available() else "cpu")
    favour(model, tokenizer, "```python\npass\n```")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    size = sum(x.numel() for x in model.parameters())
    print(f"{args.out}: {args.shape}, {size:,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
