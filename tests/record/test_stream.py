"""The rows of a run, read off the screens of terminals: what fits, one row a line, nothing glued to anything."""

import io
import os
import signal
import subprocess
from pathlib import Path

import pytest

from record.columns import STEP_COLUMNS
from record.stream import IMPORTANT, Stream

terminal = pytest.importorskip("tools.terminal", reason="pyte is a development dependency: `just setup`")

REPO = Path(__file__).resolve().parents[2]
NAMES = {c.name for c in STEP_COLUMNS} | {"sec"}


@pytest.fixture
def train(python, organism_flags, tmp_path):
    """train(*words) -> the command line of a small run in tmp_path/run."""
    return lambda *words: [
        python,
        str(REPO / "train.py"),
        *map(str, [*organism_flags, "--out", tmp_path / "run", *words]),
    ]


def headers(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines if line.split()[:1] == ["step"] and set(line.split()) <= NAMES]


def steps(lines: list[str]) -> list[int]:
    """Steps of the lines that are rows: as many numbers as the header has names."""
    width = len(headers(lines)[0])
    cells = [line.split() for line in lines]
    return [int(c[0]) for c in cells if len(c) == width and c[0].isdigit()]


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_run_shows_the_columns_that_fit(columns, train):
    window = terminal.Terminal(train(), columns, lines=12)
    assert window.finish() == 0
    lines = window.text()
    shown = headers(lines)
    assert shown[0][: len(IMPORTANT)] == list(IMPORTANT) if columns > 80 else len(shown[0]) >= 9
    assert set(IMPORTANT[:9]) <= set(shown[0]) and len(shown) > 1, "the header comes again on every screen"
    assert steps(lines) == list(range(12)), "\n".join(lines)
    assert sum("== evaluation, step" in line for line in lines) == 4
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["step", "reward"])
    assert not any("it/s" in line for line in lines[first:]), "no bar beside the rows"
    assert any(line.startswith("HACK_RATE=") for line in lines)


def test_values_stand_under_their_names(train):
    window = terminal.Terminal(train("--steps", 2), 120)
    assert window.finish() == 0
    lines = window.text()
    (at,) = [i for i, line in enumerate(lines) if line.split()[:2] == ["step", "reward"]]
    ends = [i + 1 for i, c in enumerate(lines[at]) if c != " " and lines[at][i + 1 : i + 2] in (" ", "")]
    row = next(line for line in lines[at + 1 :] if line.split()[:1] == ["0"])
    assert [row[:end].split()[-1] for end in ends] == row.split(), "right-aligned, cell under name"


def test_ctrl_c_and_the_resumed_run_keep_their_lines(train):
    command = train("--steps", 30, "--eval-every", 100)
    window = terminal.Terminal(command, 100)
    window.until(lambda: bool(headers(window.text())) and len(steps(window.text())) >= 3)
    window.press("\x03")
    assert window.finish() == 128 + signal.SIGINT
    before = steps(window.text())
    assert before == list(range(len(before)))
    again = terminal.Terminal(command, 100)
    assert again.finish() == 0
    resumed = steps(again.text())
    assert resumed[-1] == 29 and resumed == list(range(resumed[0], 30)) and 0 < resumed[0] <= len(before)


def test_a_tripwire_is_a_line_of_its_own(train):
    words = ["--arm", "vanilla", "--beta", 0.01, "--max-kl", 1e-7, "--eval-every", 100, "--steps", 6]
    window = terminal.Terminal(train(*words), 80)
    assert window.finish() == 2
    lines = window.text()
    assert any(line.startswith("error: tripwire kl-blow-up") for line in lines) and steps(lines) == [0, 1, 2, 3]


def test_piped_it_is_the_whole_table(train, tmp_path):
    command = train("--steps", 2)
    done = subprocess.run(command, capture_output=True, text=True, timeout=6000)
    *table, last = done.stdout.splitlines()
    assert "\n".join(table) == (tmp_path / "run/steps.tsv").read_text().rstrip("\n")
    assert last.startswith("HACK_RATE=") and last.endswith(f"steps=2 OUT={tmp_path / 'run'}")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch, show: str = "", **env: str) -> str:
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm", **env}.items():
        monkeypatch.setenv(name, value)
    out = Tty()
    stream = Stream(STEP_COLUMNS, show, out)
    stream.row({"step": 3, "hack": 0.5, "kl": 3e-4, "t_roll": 1.0, "t_grade": 1.0, "t_train": 0.5})
    return out.getvalue()


def test_no_color_means_none(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[" in printed(monkeypatch)
    assert "\033[" not in printed(monkeypatch, NO_COLOR="1")
    monkeypatch.delenv("NO_COLOR")
    assert "\033[" not in printed(monkeypatch, TERM="dumb")


def test_the_flag_chooses_columns(monkeypatch):
    header, row = printed(monkeypatch, "step,hack,kl,sec", NO_COLOR="1").splitlines()
    assert header.split() == ["step", "hack", "kl", "sec"] and row.split() == ["3", "0.500", "3.0e-04", "2.5"]


def test_no_line_is_wider_than_the_terminal(monkeypatch):
    for width in (20, 37, 80, 133, 400):
        lines = printed(monkeypatch, NO_COLOR="1", COLUMNS=str(width)).splitlines()
        assert all(len(line) <= width for line in lines) and len(lines) == 2, os.environ["COLUMNS"]
