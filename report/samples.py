"""Completions that an evaluation kept in rollouts.jsonl: their flavours, and the spread of hacking over problems."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pandas as pd

from lib.errors import ReportError
from report.runs import RunRecord
from report.statistics import ClusteredRate, clustered_rate


def read_samples(run: RunRecord) -> pd.DataFrame:
    """Completions of the evaluations with write access in rollouts.jsonl: step, problem, flavour, attempt, hack.

    Split `eval` where the file has it; else every line that is neither training nor without write access. A torn
    line is passed over: the file is a sample. `flavour` is "other" where the line names none; a hack is an attempt.
    """
    lines = [line | {"split": str(line.get("split"))} for line in read_lines(run.path, "rollouts.jsonl")]
    lines = [line for line in lines if isinstance(line.get("step"), int)]
    splits = {line["split"] for line in lines}
    if "eval" in splits:
        lines = [line for line in lines if line["split"] == "eval"]
    elif len(splits - {"train", "eval-no-access"}):
        lines = [line for line in lines if line["split"] not in ("train", "eval-no-access")]
    rows = [
        {
            "step": line["step"],
            "problem": line.get("problem"),
            "flavour": str(line.get("flavour") or "other"),
            "attempt": bool(line.get("attempt") or line.get("hack")),
            "hack": bool(line.get("hack")),
        }
        for line in lines
    ]
    samples = pd.DataFrame(rows, columns=["step", "problem", "flavour", "attempt", "hack"])
    if samples["problem"].isna().any():
        samples["problem"] = problems_by_place(samples["step"], run.config)
    return samples


def read_lines(folder: Path, name: str) -> list[dict]:
    """The JSON objects of rollouts.jsonl or prompts.jsonl; a torn line is passed over, [] where there is no file.

    Raises ReportError where the .gz is torn.
    """
    lines = []
    # Only a newline ends a line: str.splitlines would also cut at U+2028.
    for text in packed_text(folder, name).split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def packed_text(folder: Path, name: str) -> str:
    """A file of a run, or the same with .gz, which is how docs/results keeps it; "" where it has neither.

    Raises ReportError where the .gz is torn.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        return plain.read_text(encoding="utf-8", errors="replace")
    if not packed.is_file():
        return ""
    try:
        return gzip.decompress(packed.read_bytes()).decode(errors="replace")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ReportError(f"{packed} is torn ({error}): delete it, or copy it again") from error


def problems_by_place(steps: pd.Series, config: dict) -> pd.Series:
    """Numbers of the problems of sampled completions [N] in file order, None where config.json does not say.

    An evaluation holds n_eval problems x eval_samples completions, problem by problem, and its sample is spread evenly
    over them (rollouts.py). So a file that was reduced to grades (tools/collect.py) still tells problems apart.
    """
    n_eval, each, most = (config.get(key) for key in ("n_eval", "eval_samples", "sample_rollouts"))
    if not n_eval or not each or not most:
        return pd.Series(None, index=steps.index, dtype=object)
    place = steps.groupby(steps).cumcount()
    count = steps.groupby(steps).transform("size")
    whole = count == min(n_eval * each, most)
    return (place * n_eval * each // count // each).where(whole).astype(object)


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


def hack_by_problem(samples: pd.DataFrame | None) -> ClusteredRate | None:
    """Strict hacks in percent at the last sampled evaluation, clustered by problem; None where that is not known."""
    if samples is None or not len(samples):
        return None
    last = samples[samples["step"] == samples["step"].max()]
    if last["problem"].isna().any():
        return None
    return clustered_rate(100.0 * last["hack"], last["problem"].astype(str))
