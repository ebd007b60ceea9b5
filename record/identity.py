"""What makes a run the run that it is: the fields of config.json in which two runs of one experiment may differ.

A field of config.json that is neither free to change nor about how the run was made makes it another run. No torch, so
that a sweep can ask.
"""

from __future__ import annotations

import dataclasses

from config import Config

# Fields that may differ between a run and its resumption without making it another experiment.
RESUMABLE = {
    "device",
    "threads",
    "workers",
    "fresh",
    "out",
    "svd_cache",
    "checkpoint_every",
    "sample_rollouts",
    "share_prefix",
    "micro_tokens",
    "micro_batch",
    "logprob_chunk",
    "engine",
    "tripwires",
    "max_kl",
    "show",
    "artifacts",
    "score_rollouts",
    "stop_after",
    "then",
    "memory_share",
}
# Fields of config.json that say how a run was made, and not what it is.
PROVENANCE = {"argv", "attention", "packages", "sandbox", "hardware", "world", "git_commit", "git_diff_sha"}

DEFAULTS = dataclasses.asdict(Config())


def differing(before: dict, config: dict) -> list[str]:
    """Fields of `config` in which a run with config.json `before` is another one, each with both of its values.

    A field that is younger than the run had the value that it has by default.
    """
    there = DEFAULTS | before
    fields = [k for k in config if k not in RESUMABLE | PROVENANCE and there.get(k) != config[k]]
    return [f"{k} ({there.get(k)!r} there, {config[k]!r} now)" for k in fields]
