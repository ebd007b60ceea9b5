"""Make the organism: corpus, tokenizer, a 0.755 M parameter Qwen3 pretrained from scratch, base rates, model card.

    just organism --seed 0

The corpus is organism_corpus.py's; the loss covers completions only. The same seed gives the same corpus and the same
tokenizer bytes; weights agree up to the arithmetic of the machine.
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from lib.files import REPO
from rewards import Grader
from tools.organism_card import write_card
from tools.organism_corpus import DOCUMENTS, VOCAB, corpus, encode_chats, make_tokenizer


def make_model(seed: int) -> Qwen3ForCausalLM:
    """The untrained organism: 755,072 parameters, fp32."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config)


def batches(encoded: list[tuple[list[int], int]], size: int, seed: int):
    """Yield (ids [B, T], labels [B, T]) of documents of like length, right-padded; every document once."""
    rng = random.Random(f"organism batches {seed}")
    order = list(range(len(encoded)))
    rng.shuffle(order)
    for begin in range(0, len(order), 32 * size):
        pool = sorted(order[begin : begin + 32 * size], key=lambda j: len(encoded[j][0]))
        chunks = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(encoded[j][0]) for j in chunk)
            ids = torch.zeros(len(chunk), width, dtype=torch.long)
            labels = torch.full((len(chunk), width), -100)
            for row, j in enumerate(chunk):
                tokens, start = encoded[j]
                ids[row, : len(tokens)] = torch.tensor(tokens)
                labels[row, start : len(tokens)] = torch.tensor(tokens[start:])
            yield ids, labels


def completion_loss(model: Qwen3ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean NLL, in nats, over the labels [B, T] that are not -100."""
    # Padding is on the right, so that causal attention alone keeps it out of sight.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    keep = labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[keep]), labels[:, 1:][keep])


def pretrain(model: Qwen3ForCausalLM, encoded: list, size: int, lr: float, seed: int) -> None:
    """One epoch of AdamW with 100 warm-up steps and a cosine to zero."""
    steps = math.ceil(len(encoded) / size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    losses = []
    start = time.time()
    model.train()
    for step, (ids, labels) in enumerate(batches(encoded, size, seed)):
        loss = completion_loss(model, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            mean = sum(losses[-100:]) / 100
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {time.time() - start:.0f} s", file=sys.stderr, flush=True)


@torch.no_grad()
def fresh_loss(path: Path, seed: int, n: int = 2048) -> float:
    """Completion loss of the saved model on a new corpus of `n` documents."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    encoded = encode_chats(tokenizer, corpus(seed + 1, n))
    losses = [completion_loss(model, *batch).item() for batch in batches(encoded, 64, 0)]
    return sum(losses) / len(losses)


def main() -> None:
    """Build everything from --seed and write it to --out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="corpus, initialisation and order of documents")
    parser.add_argument(
        "--out", type=Path, default=REPO / "organism", help="where the model, the tokenizer and the card go"
    )
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="chats in the corpus")
    parser.add_argument("--batch", type=int, default=32, help="documents a pretraining step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate of pretraining")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--problems", type=int, default=1024, help="held-out problems the base rates are measured on")
    parser.add_argument("--samples", type=int, default=2, help="completions a held-out problem, in each wording")
    parser.add_argument("--measure-only", action="store_true", help="measure what --out holds again, rewrite its card")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    Grader(workers=1).close()  # a machine that refuses the sandbox says so before pretraining, not after
    recipe = args.out / "recipe.json"
    facts = json.loads(recipe.read_text()) if args.measure_only else build_organism(args)
    recipe.write_text(json.dumps(facts, indent=1) + "\n")
    write_card(args.out, facts, fresh_loss(args.out, facts["seed"]), args.problems, args.samples)
    print(f"wrote {args.out}: see README.md there for the base rates")


def build_organism(args: argparse.Namespace) -> dict:
    """Make corpus, tokenizer and model, save them to --out; returns the facts of the card that only this run knows."""
    documents = corpus(args.seed, args.documents)
    tokenizer = make_tokenizer(documents)
    encoded = encode_chats(tokenizer, documents)
    tokens, prompt = sum(len(ids) for ids, _ in encoded), sum(start for _, start in encoded)
    print(f"{len(documents)} documents, {tokens} tokens", file=sys.stderr)

    model = make_model(args.seed)
    start = time.time()
    pretrain(model, encoded, args.batch, args.lr, args.seed)
    seconds = time.time() - start

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(args.out)
    model.to(torch.bfloat16).save_pretrained(args.out)
    config = model.config
    return {
        "seed": args.seed,
        "parameters": model.num_parameters(),
        "layers": config.num_hidden_layers,
        "d": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv": config.num_key_value_heads,
        "mlp": config.intermediate_size,
        "documents": len(documents),
        "tokens": tokens,
        "prompt": prompt / len(documents),
        "completion": (tokens - prompt) / len(documents),
        "batch": args.batch,
        "lr": args.lr,
        "seconds": round(seconds),
        "threads": args.threads,
        "torch": torch.__version__.split("+")[0],
        "hacks": sum(is_hack for *_, is_hack in documents) / len(documents),
    }


if __name__ == "__main__":
    main()
