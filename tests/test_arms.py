"""One table of arms: a row added to it is an arm everywhere."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
WITH_A_ROW = """
import sys
import arms
arms.ARMS["tenth"] = arms.Arm("control, added by a test", arms.Mark("#123456", "d"), removes="hackward")
"""


def python(body: str, *argv: str) -> str:
    """What a fresh process says that had a tenth arm before anything else was imported."""
    done = subprocess.run([sys.executable, "-c", WITH_A_ROW + body, *argv], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plan_of_a_sweep_takes_it():
    body = "from tools.sweep.__main__ import main\nsys.argv = ['sweep', *sys.argv[1:]]\nmain()"
    assert "just train tiny tenth 3" in python(body, "--arms", "tenth", "--seeds", "3")


def test_the_help_of_a_run_lists_it():
    body = "from config import Config, parse\nparse(Config, ['--help'])"
    assert "tenth" in python(body)


def test_the_report_orders_and_draws_it():
    body = """
from report.figures import style_of
print(sorted(["other", "tenth", "reversed", "vanilla"], key=arms.table_order), style_of(["tenth"])["tenth"])"""
    assert python(body).strip() == "['vanilla', 'reversed', 'tenth', 'other'] ('#123456', 'd', '-')"


def test_names_of_arms_stand_in_the_table_alone():
    """Elsewhere only the hypotheses name them, and what the README's recipes run."""
    names = ("projected", "random-v", "shuffled-v", "no-loophole")
    for path in [*REPO.glob("*.py"), *REPO.glob("record/*.py"), *REPO.glob("sampling/*.py"), *REPO.glob("lib/*.py")]:
        if path.name not in ("arms.py", "config.py"):
            text = path.read_text()
            assert not any(f'"{name}"' in text for name in names), path
