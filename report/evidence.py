"""What lies beside the rates: flavours among the sampled completions, held-out cosines of v_hack."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from lib.errors import ReportError
from lib.tables import read_table
from report.runs import RunRecord


def read_samples(run: RunRecord) -> pd.DataFrame:
    """Completions of the evaluations with write access in rollouts.jsonl, or its .gz: step, flavour, attempt, hack.

    Split `eval` where the file has it; else every line that is neither training nor without write access. A torn
    line is passed over: the file is a sample. `flavour` is "other" where the line names none; a hack is an attempt.
    """
    lines = []
    # Only a newline ends a line: str.splitlines would also cut at U+2028.
    for text in rollouts_text(run.path).split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append({**line, "split": str(line.get("split"))})

    splits = {line["split"] for line in lines}
    if "eval" in splits:
        lines = [line for line in lines if line["split"] == "eval"]
    elif len(splits - {"train", "eval-no-access"}):
        lines = [line for line in lines if line["split"] not in ("train", "eval-no-access")]
    rows = [
        {
            "step": line["step"],
            "flavour": str(line.get("flavour") or "other"),
            "attempt": bool(line.get("attempt") or line.get("hack")),
            "hack": bool(line.get("hack")),
        }
        for line in lines
    ]
    return pd.DataFrame(rows, columns=["step", "flavour", "attempt", "hack"])


def rollouts_text(folder: Path) -> str:
    """rollouts.jsonl of a run, or rollouts.jsonl.gz, which is how docs/results keeps them; "" where it has neither.

    Raises ReportError where the .gz is torn.
    """
    plain, packed = folder / "rollouts.jsonl", folder / "rollouts.jsonl.gz"
    if plain.is_file():
        return plain.read_text(encoding="utf-8", errors="replace")
    if not packed.is_file():
        return ""
    try:
        return gzip.decompress(packed.read_bytes()).decode(errors="replace")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ReportError(f"{packed} is torn ({error}): delete it, or copy it again") from error


def arm_samples(used: list[RunRecord]) -> dict[str, pd.DataFrame]:
    """{arm: as read_samples, seeds pooled}; only arms with any sample."""
    pooled: dict[str, list[pd.DataFrame]] = {}
    for run in used:
        pooled.setdefault(run.arm, []).append(read_samples(run))
    whole = {arm: pd.concat(samples, ignore_index=True) for arm, samples in pooled.items()}
    return {arm: samples for arm, samples in whole.items() if len(samples)}


def remaining(samples: pd.DataFrame | None) -> str:
    """What the strict hacks of the last sampled evaluation are made of: `print 62%, swallow 38% of 41`."""
    if samples is None or not len(samples):
        return "-"
    last = samples[samples["step"] == samples["step"].max()]
    hacks = last["flavour"][last["hack"]]
    if not len(hacks):
        return f"none in {len(last)} sampled"
    ranked = ranked_counts(hacks)
    return ", ".join(f"{name} {100 * k / len(hacks):.0f}%" for name, k in ranked.items()) + f" of {len(hacks)}"


def ranked_counts(names: pd.Series) -> pd.Series:
    """How often each name stands, most often first, ties by name."""
    return names.value_counts().sort_index().sort_values(ascending=False, kind="stable")


def find_heldout(given: tuple[Path, ...], runs: list[RunRecord]) -> list[Path]:
    """The held-out tables: those given, else heldout.tsv beside the runs or in a folder beside their v_hack."""
    for path in given:
        if not path.is_file():
            raise ReportError(f"--heldout {path} does not exist: run `python verify_vhack_heldout.py` or leave it out")
    if given:
        return list(given)
    folders = {run.path.parent for run in runs}
    folders |= {Path(run.config["v_hack"]).parent for run in runs if run.config.get("v_hack")}
    found: dict[Path, Path] = {}
    for folder in sorted(folders):
        for path in [*folder.glob("heldout.tsv"), *folder.glob("*_heldout/heldout.tsv")]:
            found[path.resolve()] = path
    return sorted(found.values(), key=lambda p: (heldout_name(p), p.as_posix()))


def read_heldout(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(cos, null) [modules] of a held-out table, finite; null may be empty."""
    table = read_table(path)
    if "cos" not in table or not len(table):
        raise ReportError(f"{path} has no column cos: it is not a table of verify_vhack_heldout.py")
    try:
        cos, null = (pd.to_numeric(table.get(name, pd.Series(dtype=float))) for name in ("cos", "null"))
    except ValueError as error:
        raise ReportError(f"{path} is torn ({error}): run verify_vhack_heldout.py again") from error
    return cos[np.isfinite(cos)].to_numpy(), null[np.isfinite(null)].to_numpy()


def heldout_name(path: Path) -> str:
    """The name of the pair set that a held-out table is about, from its folder."""
    folder = path.parent.name.removesuffix("_heldout")
    return folder.removeprefix("v_hack_") if path.parent.name.endswith("_heldout") else "v_hack"
