"""report.evidence"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np

from lib.errors import ReportError
from report.runs import Run


def read_flavours(run: Run) -> dict[int, dict]:
    """{step: {"n": completions sampled with write access, "attempt": Counter, "hack": Counter}} from rollouts.jsonl.

    Split `eval` where the file has it; else every line that is neither training nor without write access. A torn
    line is passed over: the file is a sample.
    """
    path = run.path / "rollouts.jsonl"
    if not path.is_file():
        return {}
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # splitlines() would also cut at U+2028
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    splits = {str(line.get("split")) for line in lines}
    if "eval" in splits:
        lines = [line for line in lines if line.get("split") == "eval"]
    elif len(splits - {"train", "eval-no-access"}):
        lines = [line for line in lines if line.get("split") not in ("train", "eval-no-access")]
    out: dict[int, dict] = {}
    for line in lines:
        at = out.setdefault(int(line["step"]), {"n": 0, "attempt": Counter(), "hack": Counter()})
        at["n"] += 1
        flavour = str(line.get("flavour") or "other")
        if line.get("attempt") or line.get("hack"):
            at["attempt"][flavour] += 1
        if line.get("hack"):
            at["hack"][flavour] += 1
    return out


def arm_flavours(used: list[Run]) -> dict[str, dict[int, dict]]:
    """{arm: {step: as read_flavours, seeds pooled}}; only arms with any sample."""
    out: dict[str, dict[int, dict]] = {}
    for run in used:
        for step, at in read_flavours(run).items():
            pooled = out.setdefault(run.arm, {}).setdefault(step, {"n": 0, "attempt": Counter(), "hack": Counter()})
            pooled["n"] += at["n"]
            pooled["attempt"] += at["attempt"]
            pooled["hack"] += at["hack"]
    return out


def remaining(flavours: dict[int, dict]) -> str:
    """What the strict hacks of the last sampled evaluation are made of: `print 62%, swallow 38% of 41`."""
    if not flavours:
        return "-"
    hacks = flavours[max(flavours)]["hack"]
    total = sum(hacks.values())
    if not total:
        return f"none in {flavours[max(flavours)]['n']} sampled"
    ranked = sorted(hacks.items(), key=lambda kv: (-kv[1], kv[0]))
    return ", ".join(f"{name} {100 * k / total:.0f}%" for name, k in ranked) + f" of {total}"


def find_heldout(cfg, runs: list[Run]) -> list[Path]:
    """The held-out tables: those given, else heldout.tsv beside the runs or in a folder beside their v_hack."""
    for path in cfg.heldout:
        if not path.is_file():
            raise ReportError(f"--heldout {path} does not exist: run `python verify_vhack_heldout.py` or leave it out")
    if cfg.heldout:
        return list(cfg.heldout)
    folders = {run.path.parent for run in runs}
    folders |= {Path(run.config["v_hack"]).parent for run in runs if run.config.get("v_hack")}
    found = {
        p.resolve(): p for f in sorted(folders) for p in [*f.glob("heldout.tsv"), *f.glob("*_heldout/heldout.tsv")]
    }
    return sorted(found.values(), key=lambda p: (heldout_name(p), p.as_posix()))


def read_heldout(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(cos, null) [modules] of a held-out table; null may be empty."""
    with open(path, encoding="utf-8") as f:
        rows = list(csv.DictReader((line for line in f if not line.startswith("#")), delimiter="\t"))
    try:
        cos, null = (np.array([float(r[k]) for r in rows if r.get(k) not in (None, "")]) for k in ("cos", "null"))
    except ValueError as error:
        raise ReportError(f"{path} is torn ({error}): run verify_vhack_heldout.py again") from error
    if not len(cos):
        raise ReportError(f"{path} has no column cos: it is not a table of verify_vhack_heldout.py")
    return cos[np.isfinite(cos)], null[np.isfinite(null)]


def heldout_name(path: Path) -> str:
    folder = path.parent.name.removesuffix("_heldout")
    return folder.removeprefix("v_hack_") if path.parent.name.endswith("_heldout") else "v_hack"
