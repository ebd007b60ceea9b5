"""The direction that an arm begins with: v_hack of its pairs, random unit vectors, or of pairs with shuffled labels.

v of pairs is extract_vhack_grad.py's, read from its artifact or, where an arm wants another, extracted here.
"""

from __future__ import annotations

from contextlib import nullcontext

from loguru import logger

from antipasto import Adapter
from arms import ARMS
from config import Config
from extract_vhack_grad import directions, pair_differences
from lib.errors import UserError
from lib.files import file_sha256
from pairs import shuffled_labels, training_pairs
from project import random_directions
from record.v_hack import load_v_hack


def directions_for(cfg: Config, model, tokenizer, adapter: Adapter, refresh: bool = False):
    """(v_hack of the run's arm or None, SHA-256 of its file or ""), on the devices of delta_S.

    From the artifact, at random, or, for shuffled-v and a refresh, extracted here at the current delta_S. Arms that do
    not need an artifact may lack one: their cosines are nan then. {} for an oracle, which `begin` makes.
    """
    arm = ARMS[cfg.arm]
    if arm.v in ("oracle", "live"):
        return {}, ""
    pairs = training_pairs(cfg.pairs)
    if arm.v == "shuffled":
        pairs = shuffled_labels(pairs, cfg.seed)
    if refresh or arm.v == "shuffled":
        # Permuted labels are those of the base model, whatever delta_S an earlier run of this process has left.
        with nullcontext() if refresh else adapter.at_zero():
            v = directions(pair_differences(model, tokenizer, adapter, pairs, "v_hack"), cfg.n_directions)
        return {n: t.to(p.device) for (n, t), p in zip(v.items(), adapter.delta().values(), strict=True)}, ""
    path = cfg.v_hack_path()
    try:
        v, _ = load_v_hack(path, adapter, cfg)
    except UserError as error:
        if arm.needs_v:
            raise
        logger.warning(f"cos and fired will be nan: {error}")
        return None, ""
    if arm.v == "random":
        v = random_directions(v, cfg.seed + 1_000_003 * cfg.draw)
    return {n: v[n].to(p.device) for n, p in adapter.delta().items()}, file_sha256(path)
