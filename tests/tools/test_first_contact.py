"""What a new user meets first: refused sandboxes, Ctrl-C during imports, commands that can be repeated."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import config
from config import parse
from lib.errors import UserError
from lib.isolation import usual_isolation
from lib.recipes import as_recipe
from report.appendix import report_command, shown_path
from tools.dashboard import DashboardConfig, command
from tools.sweep.__main__ import shown

REPO = Path(__file__).resolve().parents[2]


# --- a container that refuses namespaces ---


@pytest.fixture
def refused(tmp_path) -> dict[str, str]:
    """The environment of a container in which bubblewrap fails as it does without user namespaces."""
    program = tmp_path / "bin/bwrap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(python):
    """run(words, env, folder): python with these words."""
    return lambda words, env, folder: subprocess.run(
        [python, *words], env=env, cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_a_refused_sandbox_is_not_a_matrix_that_failed(refused, run, tmp_path):
    done = run(["-m", "tools.full_probe", "--preset", "tiny"], refused, tmp_path)
    assert done.returncode == 1 and "No permissions to create a new namespace" in done.stderr
    assert "the sandbox was refused" in done.stderr and "--isolation rlimits" in done.stderr
    assert "matrix failed" not in done.stderr


@pytest.mark.parametrize("words, more", [(["--isolation", "rlimits"], {}), ([], {"ISOLATION": "rlimits"})])
def test_the_flag_and_the_variable_take_the_weaker_sandbox(words, more, refused, run, tmp_path):
    done = run([REPO / "rewards.py", *words], refused | more, tmp_path)
    assert done.returncode == 0 and "all cells as they should be, isolation rlimits" in done.stdout, done.stderr


def test_the_variable_reaches_every_configuration_and_a_flag_wins(monkeypatch):
    monkeypatch.setenv("ISOLATION", "rlimits")
    assert parse(config.Config, []).isolation == "rlimits"
    assert parse(config.Config, ["--isolation", "bwrap"]).isolation == "bwrap"
    monkeypatch.setenv("ISOLATION", "none")
    with pytest.raises(UserError, match="ISOLATION=none in the environment is no sandbox"):
        usual_isolation()
    monkeypatch.delenv("ISOLATION")
    assert parse(config.Config, []).isolation == "bwrap"


# --- Ctrl-C before main ---


@pytest.mark.parametrize("script, library", [("train.py", "torch"), ("plot_pareto.py", "matplotlib")])
def test_ctrl_c_while_a_library_is_imported_is_one_sentence(script, library, tmp_path):
    """The signal comes once the library's first shared object is mapped, which is amid its import."""
    command = [sys.executable, str(REPO / script), "--out", "made"]
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while (
        f"/{library}/" not in Path(f"/proc/{child.pid}/maps").read_text()
        and child.poll() is None
        and time.monotonic() < end
    ):
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 128 + signal.SIGINT, said
    assert said.strip().splitlines()[-1].startswith("error: interrupted") and "Traceback" not in said, said
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("body, status", [
    ("try:\n  raise KeyboardInterrupt\n except BaseException as e:\n  raise RuntimeError('no import') from e", 130),
    ("raise RuntimeError('a bug')", 1),
])  # fmt: skip
def test_ctrl_c_that_an_import_has_wrapped_is_ctrl_c(body, status, run, tmp_path):
    program = f"from lib.errors import run_main\ndef main():\n {body}\nrun_main(main)"
    done = run(["-c", program], {**os.environ, "PYTHONPATH": str(REPO)}, tmp_path)
    assert done.returncode == status and ("error: interrupted" in done.stderr) == (status == 130), done.stderr


# --- commands that are printed ---


@pytest.mark.parametrize("words, recipe", [
    ("train.py --preset tiny --arm projected --seed 3 --steps 40", "just train tiny projected 3 --steps 40"),
    ("train.py --arm rebound --seed=1 --preset=full", "just train full rebound 1"),
    ("train.py --seed 1 --lr 1e-3", "just train tiny --seed 1 --lr 1e-3"),
    ("extract_vhack_grad.py --svd-only --preset dev --pairs default", "just svd-cache dev --pairs default"),
    ("verify_vhack_heldout.py --preset tiny --override", "just verify-vhack tiny --override"),
    ("plot_pareto.py outputs/tiny --out /elsewhere/report", "just report outputs/tiny --out /elsewhere/report"),
    ("rewards.py", "python rewards.py"),
])  # fmt: skip
def test_a_command_is_printed_as_its_recipe(words, recipe):
    script, *flags = words.split()
    assert as_recipe(script, flags) == recipe.split()


def test_a_run_on_several_gpus_is_printed_with_their_number():
    assert as_recipe("train.py", ["--preset", "dev", "--arm", "vanilla"], gpus=4) == [
        "just",
        "train-dp",
        "4",
        "dev",
        "vanilla",
    ]


def test_every_recipe_that_is_printed_is_in_the_justfile():
    printed = {as_recipe(script, [])[1] for script in ("train.py", "extract_vhack_grad.py", "verify_vhack_heldout.py",
               "plot_pareto.py", "branch.py", "diagnose_vhack.py")} | {"train-dp", "svd-cache"}  # fmt: skip
    assert printed <= set(re.findall(r"^([a-z][a-z-]*)", (REPO / "justfile").read_text(), re.M))


def test_the_plan_prints_recipes_where_they_run(monkeypatch, tmp_path):
    command = [sys.executable, "train.py", "--preset", "tiny", "--arm", "vanilla", "--seed", "0"]
    monkeypatch.chdir(REPO)
    assert shown(command) == ["just", "train", "tiny", "vanilla", "0"]
    monkeypatch.chdir(tmp_path)
    assert shown([command[0], str(REPO / "train.py")])[1] == str(REPO / "train.py")


def test_paths_of_a_report_can_be_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_path(str(tmp_path / "outputs/tiny")) == "outputs/tiny"
    assert shown_path("/mnt/disk/runs/report") == "/mnt/disk/runs/report"
    made = report_command((str(tmp_path / "a"),), Path("/mnt/disk/runs/report"), True)
    assert made == "just report a --out /mnt/disk/runs/report --include-incomplete"


@pytest.mark.skipif(not shutil.which("just"), reason="needs just: `pip install rust-just`")
def test_just_adds_nothing_under_the_useful_line():
    """A recipe that fails says why in its last line; `just` would add "recipe ... failed"."""
    text = (REPO / "justfile").read_text()
    recipes = re.findall(r"^(\[no-exit-message\]\n)?([a-z][a-z-]*)( [^:=\n]*)?: setup$", text, re.M)
    assert len(recipes) > 20 and [name for attribute, name, _ in recipes if not attribute] == []


# --- flags, before any work ---


def test_a_missing_v_hack_is_found_before_the_model(trainer, tmp_path):
    words = ["--preset", "tiny", "--model", "./nowhere", "--v-hack", tmp_path / "gone", "--out", tmp_path / "run"]
    assert "no v_hack at" in trainer(*words, "--arm", "projected").sentence
    assert "no v_hack at" in trainer(*words, script="verify_vhack_heldout").sentence
    assert "nonsense" in trainer(*words[:4], "--pairs", "nonsense", script="verify_vhack_heldout").sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words, says", [
    (["--group", "100000000"], "--group 100000000 is above 4096"),
    (["--group", "4096", "--prompts", "4096"], "more than 65536 rollouts a step"),
    (["--memory-share", "0"], "--memory-share 0.0 must be above 0"),
    (["--rate", "-1"], "--rate -1.0 is below 0"),
])  # fmt: skip
def test_numbers_that_would_run_until_they_are_killed_are_refused(words, says):
    with pytest.raises(UserError, match=re.escape(says)):
        config.check(parse(config.Config, words))


@pytest.mark.parametrize("words", [["--device"], ["--stepz", "4"], ["--track", "paper"]])
def test_a_flag_that_is_none_ends_with_its_name(words, run, tmp_path):
    done = run([REPO / "train.py", "--preset", "tiny", *words, "--out", "made"], dict(os.environ), tmp_path)
    assert done.returncode == 2 and words[0] in done.stderr + done.stdout and "Traceback" not in done.stderr
    assert not (tmp_path / "made").exists()


# --- the end of a run, and what opens beside it ---


def test_the_end_of_a_run_says_time_money_and_tokens(trainer, organism_flags, tmp_path):
    done = trainer(*organism_flags, "--steps", 2, "--rate", 3600, "--out", tmp_path / "run")
    assert done.status == 0, done.err
    spent = re.search(r"([\d.]+) h so far, ([\d.]+) USD at 3600 an hour; ([\d,]+) sampled tokens a second", done.err)
    seconds = float(re.search(r'"seconds": ([\d.]+)', (tmp_path / "run/summary.json").read_text())[1])
    assert spent and float(spent[2]) == pytest.approx(seconds, abs=0.1)
    tokens = int(re.search(r'"tokens": (\d+)', (tmp_path / "run/summary.json").read_text())[1])
    rows = [line.split("\t") for line in (tmp_path / "run/steps.tsv").read_text().splitlines()]
    assert tokens == pytest.approx(sum(8 * float(row[rows[0].index("len")]) for row in rows[1:]), abs=1)


def test_the_dashboard_opens_what_was_tracked(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        command(DashboardConfig(tmp_path / "gone"))
    pytest.importorskip("tensorboard", reason="tensorboard is a development dependency: `just setup`")
    with pytest.raises(UserError, match="was tracked with tensorboard"):
        command(DashboardConfig(tmp_path, "tensorboard"))
    (tmp_path / "vanilla_s0/tensorboard").mkdir(parents=True)
    (tmp_path / "vanilla_s0/tensorboard/events.out.tfevents.1").touch()
    assert command(DashboardConfig(tmp_path))[1:] == ["-m", "tensorboard.main", "--logdir", str(tmp_path)]


def test_the_readme_says_where_it_runs():
    assert "Linux only" in (REPO / "README.md").read_text()
