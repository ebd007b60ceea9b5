"""One table of arms: a row added to it is an arm everywhere."""

import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
WITH_A_ROW = """
import sys
import arms
arms.ARMS["tenth"] = arms.Arm("control, added by a test", arms.Mark("#123456", "d"), removes="hackward")
"""


@pytest.fixture
def said(python):
    """said(body, *argv): what a process prints that had a tenth arm before anything else of this repository."""

    def run(body: str, *argv: str) -> str:
        command = [python, "-c", WITH_A_ROW + body, *argv]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_plan_of_a_sweep_takes_it(said):
    body = "from tools.sweep.__main__ import main\nsys.argv = ['sweep', *sys.argv[1:]]\nmain()"
    assert "just train tiny tenth 3" in said(body, "--arms", "tenth", "--seeds", "3")


def test_the_help_of_a_run_lists_it(said):
    body = "from config import Config, parse\nparse(Config, ['--help'])"
    assert "tenth" in said(body)


def test_the_report_orders_and_draws_it(said):
    body = """
from report.figures import style_of
print(sorted(["other", "tenth", "reversed", "vanilla"], key=arms.table_order), style_of(["tenth"])["tenth"])"""
    assert said(body).strip() == "['vanilla', 'reversed', 'tenth', 'other'] ('#123456', 'd', '-')"


def test_names_of_arms_stand_in_the_table_alone():
    """Elsewhere only the hypotheses name them, and what the README's recipes run."""
    names = ("projected", "random-v", "shuffled-v", "no-loophole")
    for path in [*REPO.glob("*.py"), *REPO.glob("record/*.py"), *REPO.glob("sampling/*.py"), *REPO.glob("lib/*.py")]:
        if path.name not in ("arms.py", "config.py"):
            text = path.read_text()
            assert not any(f'"{name}"' in text for name in names), path
