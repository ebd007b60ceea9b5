"""The doctor: what is missing is named with what to do, and decides the exit status."""

import sys

import pytest

from lib.errors import SandboxError
from tools import doctor
from tools.doctor import DoctorConfig


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["doctor", *words])
    return doctor.main()


def test_preset_tiny_can_run_here(monkeypatch, capsys):
    assert run(monkeypatch, "--preset", "tiny", "--isolation", "rlimits") == 0
    out = capsys.readouterr().out
    assert "LACKS" not in out and "model organism: a local directory" in out


def test_problem_files_that_are_missing_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = list(doctor.problems(DoctorConfig(preset="full")))
    assert [f.word for f in found] == ["LACKS", "LACKS"] and "just data" in found[0].advice
    (tmp_path / "data").mkdir()
    for f in ("leetcode_train_medhard_filtered.jsonl", "leetcode_test_medhard.jsonl"):
        (tmp_path / "data" / f).touch()
    assert {f.word for f in doctor.problems(DoctorConfig(preset="full"))} == {"ok"}


def test_refused_namespaces_name_the_flag_that_every_recipe_takes(monkeypatch):
    import rewards

    def refuse(**_):
        raise SandboxError("the sandbox does not work here (bwrap: No permissions)")

    monkeypatch.setattr(rewards, "Grader", refuse)
    (found,) = doctor.sandbox(DoctorConfig())
    assert found.word == "LACKS" and "add --isolation rlimits to every recipe" in found.advice


def test_a_model_that_is_nowhere_stops_a_run(monkeypatch, tmp_path):
    from lib import models

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(models, "hub_answers", lambda: False)
    (found,) = doctor.model(DoctorConfig(preset="dev", model="nobody/nothing"))
    assert found.word == "LACKS" and "local directory" in found.advice
    (found,) = doctor.model(DoctorConfig(model=str(tmp_path)))
    assert found.word == "LACKS" and "no config.json there" in found.what


@pytest.mark.parametrize("preset", ["dev", "full"])
def test_a_gpu_preset_without_a_gpu_lacks_it(preset, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = doctor.gpu(DoctorConfig(preset=preset))
    assert found.word == "LACKS" and "--device cpu" in found.advice
