"""The rollouts of a page: rows of every run, one array a field, each text once, small enough to open at once.

Of a study that holds more than MOST_ROWS the page has an even share a run, in a run an even share of every step, of an
evaluation EVALUATION times a training step's, evenly spread within each: a sample, which the page says. So does one
whose texts would take more than MOST_BYTES.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Callable

from lib.spread import evenly
from report.runs import RunRecord
from report.samples import read_lines

MOST_ROWS = 30_000
# Of the rows as the page holds them, packed and in base64.
MOST_BYTES = 6_000_000
EVALUATION = 4

FLAGS = ("attempt", "hack", "own_pass", "gt_pass", "compiles")
# Fields whose values are stored as places in a list of names.
NAMED = ("split", "flavour", "grade", "problem", "stratum", "reason")


def grade_word(row: dict) -> str:
    """One word for a graded completion: hack (strict), attempt, pass, wrong, broken (does not compile), undecided."""
    if row.get("undecided"):
        return "undecided"
    if row.get("hack"):
        return "hack"
    if row.get("attempt"):
        return "attempt"
    if row.get("gt_pass"):
        return "pass"
    return "wrong" if row.get("compiles") else "broken"


def chosen(rows: list[dict], most: int) -> list[dict]:
    """At most `most` rows of one run: the largest even share of every (step, split) that fits, in file order."""
    if len(rows) <= most:
        return rows
    groups: dict[tuple, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row["step"], row["split"]].append(i)

    def share(k: int) -> list[int]:
        each = {key: k if key[1] == "train" else EVALUATION * k for key in groups}
        return sorted(i for key, places in groups.items() for i in evenly(places, each[key]))

    k = 1
    while len(share(k + 1)) <= most:
        k += 1
    return evenly([rows[i] for i in share(k)], most)


def run_rows(run: RunRecord) -> list[dict]:
    """Rows of a run's rollouts.jsonl that have a completion, each with its place within its step and split."""
    rows, places = [], defaultdict(int)
    for line in read_lines(run.path, "rollouts.jsonl"):
        if not isinstance(line.get("step"), int):
            continue
        split = str(line.get("split"))
        place = places[line["step"], split]
        places[line["step"], split] += 1
        if isinstance(line.get("completion"), str):
            rows.append(line | {"split": split, "place": place, "grade": grade_word(line)})
    return rows


class Places:
    """Values in order of appearance, each once."""

    def __init__(self):
        self.values: list = []
        self.place: dict = {}

    def of(self, value) -> int:
        """The place of a value, added where it is new."""
        if value not in self.place:
            self.place[value] = len(self.values)
            self.values.append(value)
        return self.place[value]


def page_columns(read: list[tuple[RunRecord, list[dict]]], note: str) -> dict:
    """The page's data: {runs, rows: {field: [N]}, names: {field: values}, flags, texts, prompts, note}."""
    texts, prompts = Places(), Places()
    names = {name: Places() for name in NAMED}
    columns: dict[str, list] = defaultdict(list)
    for number, (run, rows) in enumerate(read):
        stored = {
            (str(p.get("split")), p.get("problem")): (str(p.get("evaluator")), str(p.get("prompt")))
            for p in read_lines(run.path, "prompts.jsonl")
        }
        for row in rows:
            prompt = stored.get((row["split"], row.get("problem")))
            columns["run"].append(number)
            columns["step"].append(row["step"])
            columns["place"].append(row["place"])
            columns["text"].append(texts.of(row["completion"]))
            columns["prompt"].append(-1 if prompt is None else prompts.of(prompt))
            columns["flags"].append(sum(1 << bit for bit, flag in enumerate(FLAGS) if row.get(flag)))
            for name in ("reward", "advantage"):
                columns[name].append(rounded(row.get(name)))
            for name in NAMED:
                columns[name].append(names[name].of(str(row.get(name) or "")))
    return {
        "runs": [{"name": run.name, "arm": run.arm, "seed": run.seed} for run, _ in read],
        "rows": columns,
        "names": {name: places.values for name, places in names.items()},
        "flags": FLAGS,
        "texts": texts.values,
        "prompts": [{"evaluator": evaluator, "text": text} for evaluator, text in prompts.values],
        "note": note,
    }


def rounded(value) -> float | None:
    """Three decimals, None for no number."""
    return round(value, 3) if isinstance(value, int | float) else None


def packed(value: dict) -> str:
    """JSON -> gzip -> base64; the same value gives the same text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), 9, mtime=0)).decode()


def page_data(runs: list[RunRecord], pack: Callable[[dict], str] = packed) -> str:
    """The packed rollouts of the runs; "" where none has a completion."""
    read, there = [], 0
    for run in runs:
        rows = run_rows(run)
        there += len(rows)
        read.append((run, chosen(rows, MOST_ROWS // len(runs))))
    read = [(run, rows) for run, rows in read if rows]
    if not read:
        return ""

    # Thin until it fits: what a row takes packed is known only once it is.
    while True:
        kept = sum(len(rows) for _, rows in read)
        note = f"{kept} completions of {len(read)} runs."
        if kept < there:
            note = f"{kept} of the {there} completions that {len(read)} runs kept, evenly spread over steps."
        data = pack(page_columns(read, note))
        if len(data) <= MOST_BYTES or kept <= len(read):
            return data
        share = 0.9 * MOST_BYTES / len(data)
        read = [(run, chosen(rows, max(1, int(share * len(rows))))) for run, rows in read]
