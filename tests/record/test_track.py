"""Trackers: what was told can be read back, and one that fails, hangs or is missing costs a sentence and no run."""

import json
import sqlite3
import time
from pathlib import Path

import pytest
from loguru import logger
from run_files import rows

from lib.errors import UserError
from record import track
from record.track import ROOM, Tracker, check_tracker

ROLLOUT = {"step": 0, "split": "eval", "problem": "p7", "prompt": "Add them.", "completion": "```python\nx = 1\n```",
           "reward": 3.5, "hack": True, "gt_pass": False, "flavour": "print"}  # fmt: skip
STRATA = [{"step": 0, "access": 1, "stratum": "solvable", "n": 8, "hack": 0.25}]


@pytest.fixture
def folder(tmp_path) -> Path:
    run = tmp_path / "tiny/vanilla_s3"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"arm": "vanilla", "seed": 3, "lr": 0.03}))
    return run


@pytest.fixture
def warnings():
    said: list[str] = []
    sink = logger.add(said.append, format="{message}", level="WARNING")
    yield said
    logger.remove(sink)


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch):
    """Importing a tracker can take a minute where tests run side by side."""
    monkeypatch.setattr(track, "PATIENCE", 240.0)


def tell(kind: str, folder: Path) -> Tracker:
    """A short run's messages."""
    tracker = Tracker(kind, folder)
    tracker.evaluation({"step": 0, "hack": 0.25, "kl": float("nan")}, STRATA, [ROLLOUT] * 40)
    for step in range(5):
        tracker.step({"step": step, "hack": step / 10, "eta": "0:00:01", "loss": float("nan")})
    tracker.rollouts(4, [ROLLOUT | {"split": "train"}])
    tracker.finish()
    return tracker


def test_tensorboard_has_rows_tables_and_rollouts(folder, warnings):
    pytest.importorskip("tensorboard", reason="tensorboard is a development dependency: `just setup`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell("tensorboard", folder)
    assert warnings == []
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(e.step, round(e.value, 3)) for e in found.Scalars("train/hack")] == [(i, i / 10) for i in range(5)]
    assert set(found.Tags()["scalars"]) == {"train/hack", "eval/hack"}, "what is no number is left out"
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert "lr: 0.03" in texts["config/text_summary"] and "| solvable |" in texts["eval/strata/text_summary"]
    assert sum(tag.startswith("rollouts eval/") for tag in texts) == track.TRACES
    assert (
        "Add them." in texts["rollouts train/0/text_summary"]
        and "flavour print" in texts["rollouts train/0/text_summary"]
    )


def test_trackio_has_rows_tables_and_traces(folder, warnings, tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is an optional extra: uv pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    tell("trackio", folder)
    assert warnings == [], (folder / "track.log").read_text()
    (file,) = (tmp_path / "trackio").glob("*.db")
    base = sqlite3.connect(file)
    tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    cells = [cell for table in tables for row in base.execute(f"SELECT * FROM {table}") for cell in row]
    whole = "\n".join(cell.decode() if isinstance(cell, bytes) else str(cell) for cell in cells)
    assert "tiny/vanilla_s3" in whole and "train/hack" in whole and "solvable" in whole
    traces = [path.read_text() for path in (tmp_path / "trackio/traces").rglob("*.jsonl")]
    assert len(traces) == track.TRACES + 1 and all("Add them." in text for text in traces)


INTERFACE = "import time\nTable = Trace = dict\ndef init(**_): pass\ndef finish(): pass\n"


def stand_in(tmp_path: Path, monkeypatch, body: str) -> Path:
    """A package called trackio that does `body`, first on the path of a tracker's process."""
    package = tmp_path / "stand_in/trackio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"{INTERFACE}{body}\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(package.parent)
    return package.parent


@pytest.mark.parametrize("body", [
    "raise ImportError('it does not fit this Python')",
    "def init(**_): raise RuntimeError('it does not fit this Python')",
    "def log(*_, **__): raise RuntimeError('it does not fit this Python')",
])  # fmt: skip
def test_a_tracker_that_fails_costs_one_warning(body, folder, warnings, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, body)
    tell("trackio", folder)
    assert len(warnings) == 1 and "it does not fit this Python" in warnings[0] and "goes on without it" in warnings[0]


@pytest.mark.parametrize("body", [
    "time.sleep(3600)",
    "def init(**_): time.sleep(3600)",
    "def finish(): time.sleep(3600)\ndef log(*_, **__): time.sleep(3600)",
])  # fmt: skip
def test_a_tracker_that_hangs_costs_one_warning_and_no_time(body, folder, warnings, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, body)
    monkeypatch.setattr(track, "PATIENCE", 0.5)
    tracker = Tracker("trackio", folder)
    longest = 0.0
    for step in range(3 * ROOM):
        began = time.thread_time()
        tracker.rollouts(step, [ROLLOUT] * 16)
        longest = max(longest, time.thread_time() - began)
    tracker.finish()
    assert tracker.dropped >= ROOM, "what it has no room for is dropped"
    assert longest < 0.1, "seconds of CPU, so that no other process counts"
    assert len(warnings) == 1 and "was stopped" in warnings[0]
    assert tracker.child.poll() is not None


def test_a_missing_package_is_a_sentence_before_any_work(trainer, organism_flags, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match="--track wandb needs the package wandb: `uv pip install"):
        check_tracker("wandb")
    check_tracker("off")
    plant = "import sys; sys.modules['wandb'] = None"
    done = trainer(*organism_flags, "--track", "wandb", "--model", "./nowhere", "--out", tmp_path / "run", plant=plant)
    assert "--track wandb needs the package" in done.sentence and not (tmp_path / "run").exists()


def test_a_run_with_a_failing_tracker_is_the_same_run(trainer, organism_flags, tmp_path, monkeypatch):
    path = stand_in(tmp_path, monkeypatch, "def log(*_, **__): raise RuntimeError('no')")
    plant = f"import os, sys; os.environ['PYTHONPATH'] = {str(path)!r}; sys.path.insert(0, {str(path)!r})"
    words = [*organism_flags, "--steps", 3]
    bare = trainer(*words, "--out", tmp_path / "bare")
    told = trainer(*words, "--out", tmp_path / "told", "--track", "trackio", plant=plant)
    assert (bare.status, told.status, told.strays) == (0, 0, 0), told.err
    assert told.err.count("--track trackio failed") == 1
    for name in ("steps.tsv", "evals.tsv"):
        assert rows(tmp_path / "bare" / name) == rows(tmp_path / "told" / name)
    assert told.out.splitlines()[-1].replace("told", "bare") == bare.out.splitlines()[-1]
