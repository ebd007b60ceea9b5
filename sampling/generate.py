"""transformers generate with our noise, so that a seed means the same in every engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sampling.noise import draw, row_keys


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    max_new: int,
    *,
    eos_ids: list[int],
    pad_id: int,
    temperature: float,
    top_k: int,
) -> tuple[Tensor, Tensor]:
    """Tokens [B, T] int64 and logprobs [B, T] fp32 as sampled; prompts are padded on the left.

    A logits processor draws the token and leaves transformers a single choice. Rows go on past their end.
    """
    device = model.get_input_embeddings().weight.device
    width = max(map(len, prompts))
    pad = [width - len(p) for p in prompts]
    ids = torch.tensor([[pad_id] * w + list(p) for w, p in zip(pad, prompts, strict=True)], device=device)
    attention = torch.tensor([[0] * w + [1] * (width - w) for w in pad], device=device)
    keys = row_keys(torch.tensor(list(seeds), dtype=torch.long, device=device))
    drawn: list[tuple[Tensor, Tensor]] = []

    def processor(input_ids: Tensor, logits: Tensor) -> Tensor:
        drawn.append(draw(logits, keys, len(drawn), temperature, top_k))
        return torch.full_like(logits, float("-inf")).scatter_(1, drawn[-1][0][:, None], 0.0)

    training = model.training
    model.eval()
    try:
        model.generate(
            ids,
            attention_mask=attention,
            max_new_tokens=max_new,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            logits_processor=[processor],
            eos_token_id=eos_ids,
            pad_token_id=pad_id,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
        )
    finally:
        model.train(training)
    tokens, logprobs = (torch.stack([d[i] for d in drawn], 1) for i in (0, 1))
    return tokens, logprobs
