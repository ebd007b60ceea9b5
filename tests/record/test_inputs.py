"""What is missing is found before a model is loaded; --then follows a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from config import Config, parse
from lib.errors import UserError
from record.inputs import check_inputs

REPO = Path(__file__).resolve().parents[2]


def test_a_missing_v_hack_and_an_unknown_pair_set_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no v_hack at outputs/tiny/v_hack_organism"):
        check_inputs(parse(Config, ["--arm", "projected"]))
    with pytest.raises(UserError, match="nonsense"):
        check_inputs(parse(Config, ["--pairs", "nonsense"]))
    check_inputs(parse(Config, ["--arm", "vanilla"]))


@pytest.mark.parametrize(("body", "status"), [
    ("pass", "0"), ("raise UserError('no')", "2"), ("raise KeyError", "1"), ("sys.exit(3)", "3"),
    ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", None), ("sys.exit(143)", None),
])  # fmt: skip
def test_then_is_told_how_the_run_ended_unless_a_signal_stopped_it(body, status, tmp_path):
    program = f"""
import os, signal, sys, time
from pathlib import Path
from lib.errors import UserError, run_main
from record.inputs import call_at_end
def main():
    call_at_end("echo $STATUS $OUT > told", Path("outputs/x"))
    {body}
run_main(main)"""
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPO)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, timeout=6000)
    told = tmp_path / "told"
    assert (told.read_text() == f"{status} outputs/x\n") if status else not told.exists()
