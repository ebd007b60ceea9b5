"""What the preregistration covers, and which runs may be compared.

A verdict is one only for runs of a preregistered model, rate and length on the preregistered problems (docs/spec.md).
Everything else is a pilot: the same rules applied to another experiment.
"""

from __future__ import annotations

import json
from pathlib import PurePath

from config import PRESETS
from lib.run_fields import PROVENANCE, RESUMABLE
from report.runs import RunRecord

# H4's substrate, and the one that it falls back on, which amendment (c) of the preregistration made the main one.
MODELS = ("Qwen3.5-2B", "Qwen3-4B")

# Amendment (b) and section 4.
RATE = 7e-5
STEPS = 200

# The rate of the presets: where it is another, a departure with a date in docs/spec.md, and the run still a pilot.
DEPARTED_RATE = PRESETS["full"]["lr"]

# The benchmark's training file, and the source that is the same.
PROBLEMS = PurePath(PRESETS["full"]["problems"]).name
PROBLEMS_SOURCE = "leetcode"

# Weights that are not what their model's name says: {SHA-256 of the file: what they are}.
WEIGHTS = {
    "4a428cf710609a741c89a6bc0f8d43fe1c44cb108a61113c309f6637bd2fcadc": "weights dequantised from Q4_K_M",
}

# Fields of config.json that say where and how a run was computed, and do not change what is computed; `collapse` is of
# older runs.
MACHINE_FIELDS = RESUMABLE | PROVENANCE | {"collapse", "isolation"}

# Fields in which arms differ by their nature: the name, the seed, and the artifact that follows from both.
ARM_FIELDS = {"arm", "seed", "label", "v_hack", "v_hack_sha256"}

# Fields that a label stands for: a variant (arms.VARIANTS) is an arm with other values of these under its own name.
LABEL_FIELDS = {"pairs", "project", "n_directions", "refresh_every", "rebound_alpha", "rebound_depth"}


def pilot_reasons(runs: list[RunRecord]) -> list[str]:
    """How the runs depart from the preregistered experiment, one phrase each; [] where it covers them."""
    reasons = []
    models = sorted({PurePath(str(run.config.get("model") or "not recorded")).name for run in runs})
    if not set(models) <= set(MODELS) or len(models) > 1:
        reasons.append(f"model {' and '.join(models)} (preregistered: {', then '.join(MODELS)})")
    rates = sorted({str(run.config.get("lr", "not recorded")) for run in runs})
    if any(run.config.get("lr") != RATE for run in runs):
        departure = f"; {DEPARTED_RATE:g} departs by docs/spec.md" if rates == [str(DEPARTED_RATE)] else ""
        reasons.append(f"learning rate {' and '.join(rates)} (preregistered: {RATE:g}{departure})")
    lengths = sorted({run.config.get("steps", run.end) for run in runs})
    if lengths != [STEPS]:
        reasons.append(f"{' and '.join(map(str, lengths))} steps (preregistered: {STEPS})")
    problems = sorted({PurePath(str(run.config["problems"])).name for run in runs if run.config.get("problems")})
    if not set(problems) <= {PROBLEMS, PROBLEMS_SOURCE}:
        reasons.append(f"problems {' and '.join(problems)} (preregistered: {PROBLEMS})")
    return reasons


def model_name(run: RunRecord) -> str:
    """The model with what is known of its weights."""
    name = PurePath(str(run.config.get("model") or "not recorded")).name
    known = WEIGHTS.get(str(run.config.get("weights_sha256")))
    return f"{name} ({known})" if known else name


def unlike_fields(run: RunRecord, other: RunRecord) -> list[str]:
    """`field value / value` for every field in which two runs differ that should be the same experiment but for arm and
    seed. A field that one of them does not record counts as equal.
    """
    free = MACHINE_FIELDS | ARM_FIELDS
    if is_variant(run) or is_variant(other):
        free = free | LABEL_FIELDS
    keys = sorted((run.config.keys() & other.config.keys()) - free)
    return [
        f"{key} {json.dumps(run.config[key])} / {json.dumps(other.config[key])}"
        for key in keys
        if run.config[key] != other.config[key]
    ]


def is_variant(run: RunRecord) -> bool:
    """Whether the run's name in tables is not that of its arm."""
    return run.arm != run.config.get("arm", run.arm)
