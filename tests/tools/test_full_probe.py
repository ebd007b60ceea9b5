"""The probe: flags are checked before any work, H4's gate stops it before projected, and the flags reach every gate."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest
from synthetic_runs import make_run

from config import Config, ModelConfig
from lib.errors import UserError
from tools import full_probe
from tools.h4_gate import judge

REPO = Path(__file__).resolve().parents[2]
SMALL = ["--steps", "2", "--prompts", "2", "--group", "4", "--n-eval", "4", "--eval-samples", "1", "--max-new", "24",
         "--warmup", "1", "--workers", "1"]  # fmt: skip


@pytest.fixture
def probe(python, tmp_path):
    """probe(*words) -> the probe in an empty folder."""

    def run(*words: str) -> subprocess.CompletedProcess:
        command = [python, "-m", "tools.full_probe", *words, "--svd-cache", str(tmp_path / "svd")]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800, env=environment)

    return run


def finished(folder: Path, hack: float) -> Path:
    run = make_run(folder, "vanilla", 0, hack, 0.1, preset="dev", steps=100)
    (run / "summary.json").write_text(json.dumps({"seed": 0}))
    return run


@pytest.mark.parametrize(("hack", "passes"), [(0.31, True), (0.30, False), (0.05, False)])
def test_h4_is_decided_at_thirty_percent(hack, passes, tmp_path):
    assert judge(finished(tmp_path, hack))[0] is passes


def test_a_failed_h4_names_the_next_model_and_its_command(tmp_path):
    _, sentence = judge(finished(tmp_path, 0.05))
    assert "strict hack rate is 5.0% at step 100, threshold 30%" in sentence
    assert "Qwen3.5-2B" in sentence and "`just full-probe mid`" in sentence


def test_a_run_without_an_end_is_not_judged(tmp_path):
    run = finished(tmp_path, 0.5)
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="is not complete"):
        judge(run)


@pytest.mark.parametrize("words, says", [
    (["--stepz", "4"], "--stepz"),
    (["--steps"], "--steps"),
    (["--arm", "rebound"], "is for just train"),
    (["--out=x"], "is for just train"),
    (["--pairs", "nonsense"], "nonsense"),
    (["--lr", "0"], "--lr 0.0 must be above 0"),
])  # fmt: skip
def test_flags_are_checked_before_any_work(words, says, probe, tmp_path):
    done = probe("--preset", "tiny", *words)
    assert done.returncode == 2 and says in done.stdout + done.stderr
    assert "gate 0" not in done.stdout and not list(tmp_path.iterdir())


def test_the_probe_stops_at_vanilla_and_goes_on_when_told(probe, tmp_path):
    words = ["--preset", "tiny", *SMALL, "--seed", "41", "--label", "short", "--isolation", "rlimits", "--lr", "0.01"]
    stopped = probe(*words, "--then", 'echo "$STATUS $OUT" >>ended')
    study = tmp_path / "outputs/tiny-short"
    assert stopped.returncode == 1, stopped.stderr
    assert "full-probe stopped at gate 3: vanilla's strict hack rate is" in stopped.stderr
    assert "`just full-probe dev --seed 41`" in stopped.stderr and "--go-on" in stopped.stderr
    assert (tmp_path / "ended").read_text() == "1 outputs/tiny-short\n"
    assert (study / "vanilla_s41/summary.json").exists() and not (study / "projected_s41").exists()

    went_on = probe(*words, "--go-on")
    assert went_on.returncode == 0, went_on.stderr
    assert "vanilla_s41 is complete: nothing to do" in went_on.stderr
    assert "is of these weights and pairs already: nothing to do" in went_on.stderr
    for arm in ("vanilla", "projected"):
        config = json.loads((study / f"{arm}_s41/config.json").read_text())
        assert (config["arm"], config["seed"], config["lr"], config["steps"]) == (arm, 41, 0.01, 2)
        assert config["sandbox"].startswith("rlimits")
    assert "isolation rlimits" in went_on.stdout and (study / "report/report.md").exists()


FIELDS = {f.name: f for f in dataclasses.fields(Config)}
OF_MODEL = {f.name for f in dataclasses.fields(ModelConfig)}


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("arm", "out", "label", "then")])
def test_a_flag_reaches_every_gate_that_knows_it(name):
    default = FIELDS[name].default
    flag = f"--{name.replace('_', '-')}"
    words = [flag] if isinstance(default, bool) else [flag, str(default)]
    cfg = full_probe.FullProbeConfig(seed=41, fresh=name == "fresh", isolation="rlimits")
    grader, extraction, check, vanilla, projected = full_probe.gates(["--preset", "dev", *words], cfg)
    assert grader.words == ["--isolation", "rlimits"]
    for gate in (extraction, check):
        assert gate.words[:2] == ["--preset", "dev"]
        assert (flag in gate.words) == (name in OF_MODEL or (name == "fresh" and gate is extraction))
    for arm, gate in (("vanilla", vanilla), ("projected", projected)):
        assert gate.words == ["--preset", "dev", *words, "--arm", arm, "--out", f"outputs/tiny/{arm}_s41"]


def test_the_command_at_the_end_is_called_once_and_not_after_vanilla():
    words = ["--preset", "tiny", "--then", "sudo poweroff", "--seed", "3"]
    cfg = full_probe.FullProbeConfig(seed=3, then="sudo poweroff")
    assert not [gate.name for gate in full_probe.gates(words, cfg) if "sudo poweroff" in gate.words]


def test_what_is_the_probes_own_is_not_handed_on():
    words = ["--preset", "tiny", "--go-on", "--label", "a", "--seed", "3", "--no-go-on", "--label=b", "--fresh"]
    assert full_probe.without(words, "go_on", "label") == ["--preset", "tiny", "--seed", "3", "--fresh"]
