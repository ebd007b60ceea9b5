"""Fields of config.json that do not make a run another one: whoever resumes or compares runs asks here."""

from __future__ import annotations

# Fields that may differ between a run and its resumption, or between two runs that are compared.
RESUMABLE = {"device", "threads", "workers", "fresh", "out", "svd_cache", "checkpoint_every", "sample_rollouts",
             "share_prefix", "micro_tokens", "micro_batch", "logprob_chunk", "engine", "tripwires", "max_kl", "show",
             "then", "memory_share", "track", "rate", "rollouts_mb",
             "artifacts", "score_rollouts", "stop_after"}  # fmt: skip
# What config.json says beside the flags: how a run was made, and not what it is.
PROVENANCE = {"argv", "attention", "packages", "sandbox", "hardware", "world", "git_commit", "git_diff_sha"}
