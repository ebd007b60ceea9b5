"""Watching runs: what stands on the screen follows the files, new runs appear, q quits."""

import fcntl
import json
import math
import sys
from pathlib import Path

import pytest
from synthetic_runs import make_run

from tools.watch import Watch
from tools.watched import Tail, Watched, curve

terminal = pytest.importorskip("tools.terminal", reason="pyte is a development dependency: `just setup`")
REPO = Path(__file__).resolve().parents[2]


def finished(folder: Path, arm: str, seed: int, hack: float) -> Path:
    run = make_run(folder, arm, seed, hack, 0.1, preset="dev", steps=100)
    (run / "summary.json").write_text(json.dumps({"seed": seed}))
    return run


def test_only_what_was_added_is_read(tmp_path):
    path = tmp_path / "steps.tsv"
    path.write_text("step\thack\n0\t0.5\n1\t0.")
    tail = Tail(path)
    tail.read()
    assert tail.numbers("hack") == [0.5] and tail.at == len("step\thack\n0\t0.5\n")
    with open(path, "a") as f:
        f.write("25\n")
    tail.read()
    assert tail.numbers("hack") == [0.5, 0.25] and math.isnan(tail.last("gone"))
    path.write_text("step\thack\n0\t0.75\n")
    tail.read()
    assert tail.numbers("hack") == [0.75], "a file that a resume cut back is read again"


def test_a_curve_has_no_more_characters_than_asked():
    assert curve([0.0, 0.5, 1.0, math.nan]) == "▁▅█" and len(curve([0.1] * 999, 10)) == 10 and curve([]) == ""


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_a_row_a_run_that_fits_the_window(columns, tmp_path):
    for arm in ("vanilla", "projected"):
        finished(tmp_path, arm, 0, 0.5)
    command = [sys.executable, "-m", "tools.watch", tmp_path / "dev", "--once"]
    window = terminal.Terminal(command, columns, PYTHONPATH=str(REPO))
    assert window.finish() == 0
    lines = [line for line in window.text() if line]
    assert lines[0].split()[0] == "run" and [line.split()[0] for line in lines[1:]] == ["projected_s0", "vanilla_s0"]
    assert not any("…" in line for line in lines) and all(len(line) <= columns for line in lines)


def test_it_follows_new_runs_until_q(tmp_path):
    finished(tmp_path, "vanilla", 0, 0.5)
    command = [sys.executable, "-m", "tools.watch", tmp_path / "dev", "--every", "0.2"]
    window = terminal.Terminal(command, 120, PYTHONPATH=str(REPO))
    window.until(lambda: any("vanilla_s0" in line for line in window.text()))
    finished(tmp_path, "projected", 1, 0.1)
    window.until(lambda: any("projected_s1" in line for line in window.text()))
    window.press("q")
    assert window.finish() == 0


@pytest.mark.parametrize(("rows", "evaluations", "state"), [
    (0, [], "evaluating"), (0, [0], "running"), (3, [0], "running"), (4, [0], "evaluating"), (4, [0, 4], "running"),
    (10, [0, 4, 8], "evaluating"),
])  # fmt: skip
def test_a_run_whose_next_row_is_an_evaluation_is_evaluating(rows, evaluations, state, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"arm": "vanilla", "steps": 10, "eval_every": 4}))
    for name, steps in (("steps.tsv", range(rows)), ("evals.tsv", evaluations)):
        (tmp_path / name).write_text("step\thack\n" + "".join(f"{i}\t0.5\n" for i in steps))
    run = Watched(tmp_path)
    run.look()
    with open(tmp_path / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run.state() == state


def test_runs_that_a_study_moved_aside_are_left_out(tmp_path):
    finished(tmp_path, "vanilla", 0, 0.5)
    (tmp_path / "dev/vanilla_s0").rename(tmp_path / "dev/vanilla_s0.old1")
    watch = Watch((tmp_path,))
    watch.look()
    assert watch.runs == {}
