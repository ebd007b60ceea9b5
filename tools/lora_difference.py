"""What PEFT makes of an exported LoRA on a base in bfloat16, measured: how far its logits are from the run's.

run    round(W x + b + B A x)              PEFT   round(round(W x + b) + B A x)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from antipasto import Adapter
from lib.models import chat_ids, completion_ids
from pairs import load_pairs

# Pairs whose texts are read.
PAIRS_READ = 8


@torch.no_grad()
def lora_difference(model: nn.Module, tokenizer, adapter: Adapter, pairs: str, dtype: torch.dtype) -> dict:
    """How far PEFT's logits are from the run's, on PAIRS_READ pairs' prompts with their clean completions.

    Returns {tokens, logit_max, logit_mean (of absolute differences), logit_spread (the logits' own sd)}.
    """

    # peft 0.21, tuners/lora/layer.py: the base's output, rounded, then the LoRA in fp32 on top of it.
    def as_peft(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        x = inputs[0]
        B = (module.U.float() * module.delta_S).to(dtype).float()
        delta = nn.functional.linear(nn.functional.linear(x.float(), module.Vh.to(dtype).float()), B)
        return (nn.functional.linear(x, module.weight, module.bias) + delta).to(output.dtype)

    # The same tokens through the run's model and through PEFT's.
    worst, total, spread, tokens = 0.0, 0.0, 0.0, 0
    device = next(iter(adapter.delta().values())).device
    for pair in load_pairs(pairs)[:PAIRS_READ]:
        ids = chat_ids(tokenizer, pair.messages) + completion_ids(tokenizer, pair.clean)
        ids = torch.tensor([ids], device=device)
        run = model(input_ids=ids).logits.float()
        hooks = [module.register_forward_hook(as_peft) for module in adapter.modules.values()]
        difference = (model(input_ids=ids).logits.float() - run).abs()
        for hook in hooks:
            hook.remove()
        worst = max(worst, difference.max().item())
        total += difference.mean().item() * ids.numel()
        spread += run.std().item() * ids.numel()
        tokens += ids.numel()
    return {"tokens": tokens, "logit_max": worst, "logit_mean": total / tokens, "logit_spread": spread / tokens}


def difference_sentence(found: dict) -> str:
    """What the figures say to whoever loads the LoRA."""
    return (
        "LoRA on a bfloat16 base: PEFT adds it to an output that is already rounded, so logits differ from the run's "
        f"by up to {found['logit_max']:.2g}, {found['logit_mean']:.2g} in the mean, where they have a spread of "
        f"{found['logit_spread']:.2g} (measured now, {found['tokens']} tokens of {PAIRS_READ} pairs); on a float32 "
        "base it is exact"
    )
