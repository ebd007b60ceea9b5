"""A sweep as tasks of a pueue daemon: groups for GPUs, --after for order, labels that say why and what resolves it.

The label is a task's identity: what is queued under it already is not queued again, and what has failed is.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from loguru import logger

from lib.errors import UserError
from tools.sweep.task import Task

PUEUE_MISSING = (
    "--submit pueue needs pueue on PATH: install your distribution's package or `cargo install --locked pueue`, or put "
    "the release binaries pueue and pueued of github.com/Nukesor/pueue there; then `pueued -d`"
)


def pueue_add(task: Task, group: str, after: list[str]) -> list[str]:
    """The pueue command that queues a task. pueue hands one string to a shell, hence the quoting inside."""
    command = shlex.join(task.command)
    if gpu := re.search(r"\d+$", group):
        command = f"CUDA_VISIBLE_DEVICES={gpu.group()} {command}"
    words = ["pueue", "add", "--print-task-id", "--group", group, "--label", task.label]
    if after:
        words += ["--after", *after]
    return [*words, "--", command]


def pueue(*words: str) -> str:
    """Run pueue and return what it prints. Raises UserError with its complaint."""
    ended = subprocess.run(["pueue", *words], capture_output=True, text=True)
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"`pueue {words[0]}` failed ({said}): is the daemon running? `pueued -d` starts it")
    return ended.stdout


def pueue_tasks() -> dict[str, tuple[str, str]]:
    """{label: (id, state)} of the tasks queued from this folder, the newest of each label; Done carries its result."""
    out = {}
    for number, task in json.loads(pueue("status", "--json"))["tasks"].items():
        if Path(task["path"]) == Path.cwd():
            out[task["label"]] = (number, state_words(task["status"]))
    return out


def state_words(state: str | dict) -> str:
    """pueue's state, `"Stashed"` or `{"Done": {"result": ...}}`, in a word or two."""
    if isinstance(state, str):
        return state
    kind, detail = next(iter(state.items()))
    if kind != "Done":
        return kind
    result = detail.get("result", "") if isinstance(detail, dict) else detail
    return f"Done {result}"


def submit_pueue(tasks: list[Task], groups: list[str]) -> None:
    """Queue what is neither done nor queued, spread over the groups. Raises UserError where pueue is not to be had."""
    if shutil.which("pueue") is None:
        raise UserError(PUEUE_MISSING)
    # Groups that are missing are made.
    have = json.loads(pueue("group", "--json"))
    for group in groups:
        if group not in have:
            pueue("group", "add", group, "--parallel", "1")
        elif (beside := have[group]["parallel_tasks"]) > 1:
            logger.warning(
                f"group {group} runs {beside} at a time: on a GPU let each know, -- --memory-share {1 / beside:.3g}"
            )

    # What is queued already keeps its number, which those after it wait for.
    queued = {label: number for label, (number, state) in pueue_tasks().items() if not state.startswith("Done")}
    ids: dict[str, str] = {}
    for task, group in assign(tasks, groups):
        if task.label in queued:
            ids[task.name] = queued[task.label]
            logger.info(f"{task.name}: already queued as {ids[task.name]}")
            continue
        words = pueue_add(task, group, [ids[name] for name in task.after if name in ids])
        ids[task.name] = pueue(*words[1:]).strip()
        logger.info(f"{task.name}: {ids[task.name]} in {group}")
    print(f"{len(ids)} tasks in pueue; `pueue status` shows them, `just sweep-status` with these flags the rates")


def assign(tasks: list[Task], groups: list[str]) -> list[tuple[Task, str]]:
    """Tasks that are not done with their groups, in turn, so that each group gets every arm before the next seed."""
    left = [task for task in tasks if not task.done]
    return [(task, groups[i % len(groups)]) for i, task in enumerate(left)]


def pueue_script(tasks: list[Task], groups: list[str]) -> str:
    """The same as a shell script that can be read, or piped to sh."""
    lines = [f"pueue group add {shlex.quote(g)} --parallel 1 || true" for g in groups if g != "default"]
    variables: dict[str, str] = {}  # the shell variable that holds a task's number
    for i, (task, group) in enumerate(assign(tasks, groups)):
        after = [variables[name] for name in task.after if name in variables]
        words = [w if w in after else shlex.quote(w) for w in pueue_add(task, group, after)]
        variables[task.name] = f"$t{i}"
        lines.append(f"t{i}=$({' '.join(words)})")
    return "\n".join(lines)
