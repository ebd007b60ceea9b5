"""What a Rebound arm holds (grpo.Rebound): its layer, and the concept direction of the training pairs."""

from __future__ import annotations

from antipasto import Adapter
from arms import ARMS
from config import Config
from grpo import Rebound, concept_direction
from lib.models import chat_ids, completion_ids
from lib.packing import Passes
from lib.residuals import layer_at_depth
from pairs import training_pairs


def make_rebound(cfg: Config, model, tokenizer, adapter: Adapter, passes: Passes) -> Rebound | None:
    """The concept direction of the training pairs at the base model, also in a resumed run; None in other arms."""
    arm = ARMS[cfg.arm]
    if arm.pays == "graded":
        return None
    rows = [
        (chat_ids(tokenizer, p.messages), completion_ids(tokenizer, p.hack), completion_ids(tokenizer, p.clean))
        for p in training_pairs(cfg.pairs)
    ]
    layer = layer_at_depth(model.config.num_hidden_layers, cfg.rebound_depth)
    with adapter.reference():
        v = concept_direction(model, rows, layer, passes, unit=arm.pays == "penalty")
    return Rebound(pays=arm.pays, alpha=arm.alpha, layer=layer, v=v, passes=passes)
