"""Problem files in the format of ariahw/rl-rewardhacking, one JSON object a line.

Read with json and not with `datasets`: its JSON builder names a row of a parse block, blank lines not counted (row 1
for a torn line 5), fills missing keys with None, and costs 3 s of import and 0.6 s for 2.7 MB, of which this file needs
0.02 s. Sources on the hub are what `datasets` is for.
"""

from __future__ import annotations

import json
from pathlib import Path

from lib.errors import DataError
from problems import CLAUSE, Problem


def _text(value, what: str) -> str:
    """`value`. Raises TypeError where it is no string, UnicodeEncodeError (a ValueError) on a lone surrogate."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is {type(value).__name__}, not a string")
    value.encode()
    return value


def load_problems(path: str | Path) -> list[Problem]:
    """Read a problem JSONL in the format of ariahw/rl-rewardhacking.

    Raises DataError naming the file and line of the first malformed row.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no problem file at {path}: run `just data`, or pass --problems PATH")
    problems, setups = [], set()
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):  # U+2028 within a string ends no line
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if (setup := row.get("setup_code")) and setup not in setups:
                compile(setup, "setup_code", "exec")
                setups.add(setup)
            if not isinstance(row["gt_answer"], list):
                raise TypeError("gt_answer is not a list of strings")
            problem = Problem(
                id=str(row["id"]),
                messages=tuple({k: _text(m[k], k) for k in ("role", "content")} for m in row["prompt"]),
                setup_code=_text(row.get("setup_code") or "", "setup_code"),
                tests=tuple(_text(t, "a test") for t in row["gt_answer"]),
                entry=_text(row["func_name"], "func_name"),
                canonical=_text(row.get("canonical_solution") or "", "canonical_solution"),
                stratum=" ".join(str(row.get("difficulty") or "").split()),
                source=" ".join(str(row.get("dataset") or path.stem).split()),
            )
        except (AttributeError, KeyError, SyntaxError, TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: not a problem row ({type(error).__name__}: {error}); "
                "expected the keys id, prompt, gt_answer, func_name"
            ) from error
        if not problem.tests or not problem.messages or CLAUSE not in problem.messages[-1]["content"]:
            raise DataError(f"{path}:{number}: problem {problem.id} has no tests, or its prompt lacks {CLAUSE!r}")
        problems.append(problem)
    if not problems:
        raise DataError(f"{path} holds no problems")
    return problems
