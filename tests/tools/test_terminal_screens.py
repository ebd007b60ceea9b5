"""docs/screens is what a terminal shows today, and fits the windows that it names."""

from pathlib import Path

import pytest

from lib.archives import unpacked

REPO = Path(__file__).resolve().parents[2]
SCREENS = sorted((REPO / "docs/screens").glob("*-*.txt"))


def test_no_line_is_wider_than_its_window():
    assert len(SCREENS) >= 7
    for path in SCREENS:
        width = int(path.stem.rpartition("-")[2])
        assert max(map(len, path.read_text().splitlines())) <= width, path


def test_the_committed_screen_is_the_drawing_of_today(tmp_path):
    pytest.importorskip("tools.terminal", reason="pyte is a development dependency: `just setup`")
    from tools.terminal_screens import RUNS, screen

    words = ["-m", "tools.terminal_screens", "--replay", str(unpacked(RUNS) / "vanilla_s0")]
    assert screen(words, 80, tmp_path) == (REPO / "docs/screens/stream-80.txt").read_text(), "`just screens`"
