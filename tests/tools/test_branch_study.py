"""A study of branches: what is next, never the same branch twice, and one small study with real processes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import tyro
from run_files import rows

from branch import BranchConfig
from config import Config, parse
from diagnose_vhack import DiagnoseConfig
from lib.errors import UserError
from tools.branch_study.__main__ import BranchStudy, environment
from tools.branch_study.plan import BranchStudyConfig, StudyPoint, diagnosed, parents, preparations, settle
from tools.branch_study.studies import STUDIES
from tools.sweep.local import note_end

REPO = Path(__file__).resolve().parents[2]
AT_STEP_3 = "from record import takeoff; takeoff.RULES['takeoff'] = lambda attempt, hack: True"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def study_of(**settings) -> BranchStudy:
    cfg = settle(BranchStudyConfig("tiny", **{"arms": ["vanilla", "self-k4-update"], "seeds": [0, 1], **settings}))
    return BranchStudy(cfg, 1, preparations(cfg), parents(cfg, 1), diagnosed(cfg))


def begun(study: BranchStudy) -> list:
    """What the free slots would begin now."""
    out = []
    while len(study.busy) < study.cfg.slots and (part := study.next_part()) is not None:
        study.occupy(len(study.busy), part, None)
        out.append(part)
    return out


def end(study: BranchStudy) -> None:
    """What runs ends well."""
    for job in study.busy:
        for marker in job.part.markers:
            touch(marker)
    study.busy.clear()


def test_parts_come_in_order(elsewhere):
    study = study_of(jobs=9)
    order = []
    for _ in range(4):
        order.append([part.name for part in begun(study)])
        end(study)
    assert order[0] == ["extract_organism"]
    assert order[1] == ["self_pairs", "vanilla_s0", "vanilla_s1"]
    assert order[2] == ["extract_self_k4"] and order[3] == []
    touch(study.cfg.folder / "vanilla_s1/takeoff-takeoff.safetensors")
    assert [part.name for part in begun(study)] == [
        "vanilla_s1_takeoff_1",
        "vanilla_s1_takeoff_2",
        "vanilla_s1_takeoff_diagnose",
    ]


def test_no_two_processes_make_the_same_branch_and_the_last_portions_are_small(elsewhere):
    labels = ["vanilla", "random-v", *(f"random-v+draw{n}" for n in range(1, 19))]
    study = study_of(arms=labels, rules=["early", "takeoff"], jobs=5, most=6)
    for part in [*study.preparations, *study.parents]:
        touch(part.markers[0])
    for seed in (0, 1):
        for rule in ("early", "takeoff"):
            touch(study.cfg.folder / f"vanilla_s{seed}/takeoff-{rule}.safetensors")
    made, sizes = [], []
    while parts := begun(study):
        held = [path for part in parts for path in part.markers if part.labels]
        assert len(set(held)) == len(held) and not set(held) & set(made)
        made += held
        sizes += [len(part.labels) for part in parts if part.labels]
        # The first to end makes room; the others go on.
        first = study.busy.pop(0)
        for marker in first.part.markers:
            touch(marker)
        for job in study.busy:
            for marker in job.part.markers[:1]:
                touch(marker)
        if len(made) > 60:
            end(study)
    assert len(made) >= 80 and sizes[0] == 6 and sizes[-1] == 1


def test_no_more_parents_are_begun_than_points_are_wanted(elsewhere):
    study = study_of(seeds=list(range(9)), points=2, jobs=3, arms=["vanilla"])
    for part in study.preparations:
        touch(part.markers[0])
    assert [part.name for part in begun(study)] == ["vanilla_s0", "vanilla_s1"]
    end(study)  # neither has reached the rule
    assert [part.name for part in begun(study)] == ["vanilla_s2", "vanilla_s3"]
    touch(study.cfg.folder / "vanilla_s2/takeoff-takeoff.safetensors")
    end(study)
    assert "vanilla_s4" in [part.name for part in begun(study)]


def test_a_process_that_fails_is_made_branch_by_branch_and_the_one_at_fault_left_out(elsewhere):
    study = study_of(arms=["vanilla", "random-v", "shuffled-v"], seeds=[0], diagnose="no")
    for part in [*study.preparations, *study.parents]:
        touch(part.markers[0])
    touch(study.cfg.folder / "vanilla_s0/takeoff-takeoff.safetensors")
    together = study.next_part()
    assert len(together.labels) > 1
    study.note_failure(together, "it broke")  # because of shuffled-v, as nobody can know yet
    tried = []
    while (part := study.next_part()) is not None:
        tried += part.labels
        if part.labels == ("shuffled-v",):
            study.note_failure(part, "it broke")
        else:
            touch(part.markers[0])
    assert tried == ["vanilla", "random-v", "shuffled-v", "shuffled-v"]
    assert [name for name in study.said if study.failed(name)] == ["vanilla_s0_takeoff/shuffled-v"]


def test_what_ran_out_of_memory_is_tried_again_with_fewer_rows(elsewhere, monkeypatch):
    started = []
    monkeypatch.setattr("tools.branch_study.__main__.start_logged", lambda command, log, **_: started.append(command))
    study = study_of(seeds=[0], arms=["vanilla"], diagnose="no")
    touch(study.preparations[0].markers[0])
    for _ in range(4):
        study.begin(study.next_part(), 0)
        part = study.busy.pop().part
        study.note_failure(part, "error: the GPU is out of memory (allocate 94.00 MiB): lower --micro-batch")
    assert [command[-2:] for command in started[1:]] == [["--micro-batch", n] for n in ("4", "2", "2")]
    assert "--micro-batch" not in started[0] and study.next_part() is None and study.failed("vanilla_s0")


def test_every_script_of_a_point_takes_the_flag_of_a_second_attempt(elsewhere):
    study = study_of(seeds=[0])
    diagnosis = study.diagnosis(StudyPoint(study.cfg.folder / "vanilla_s0", "takeoff"))
    words = [*diagnosis.command[2:], "--micro-batch", "4"]
    assert tyro.cli(DiagnoseConfig, args=words).micro_batch == 4
    assert tyro.cli(BranchConfig, args=["DIR", "--micro-batch", "4"]).micro_batch == 4


def test_a_refused_flag_is_the_reason_and_not_the_frame_around_it(elsewhere, python):
    log = elsewhere / "a.log"
    with log.open("w") as f:
        subprocess.run([python, REPO / "diagnose_vhack.py", "DIR", "--rows", "4"], stdout=f, stderr=f)
    assert "--rows" in note_end(log, 2, 0.1)


def test_every_gpu_has_its_processes(elsewhere, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cfg = study_of(gpus=2, per_gpu=2).cfg
    assert [environment(cfg, slot, True)["CUDA_VISIBLE_DEVICES"] for slot in range(cfg.slots)] == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert environment(cfg, 3, True)["CUDA_VISIBLE_DEVICES"] == "7"
    assert cfg.extra == ["--micro-batch", "8", "--memory-share", "0.5"]


@pytest.mark.parametrize("name", STUDIES)
def test_named_studies_can_be_run(name, elsewhere):
    named = STUDIES[name]
    cfg = settle(BranchStudyConfig(named.preset, study=name))
    for part in parents(cfg, 1):
        run = parse(Config, part.command[2:])
        assert (run.schedule, run.arm, run.stop_after) == ("constant", "vanilla", f"{cfg.rules[-1]}+0")


@pytest.mark.parametrize(("settings", "says"), [
    ({"arms": ["nonsense"]}, "there is no arm nonsense"),
    ({"arms": ["projected+draw1"]}, "is no branch"),
    ({"arms": []}, "name a --study"),
    ({"extra": ["--seed", "3"]}, "--seed cannot follow --"),
    ({"minutes": 1.0}, "leaves nothing"),
    ({"study": "coder"}, "is of preset coder"),
])  # fmt: skip
def test_what_cannot_be_a_study_is_refused(settings, says, elsewhere):
    with pytest.raises(UserError, match=says):
        study_of(**settings)


def test_a_small_study_from_its_parent_to_the_report(organism_flags, trainer, python, tmp_path):
    """Cut by its time limit first; the same command continues it."""
    out = tmp_path / "study"
    flags = [*map(str, organism_flags[2:]), "--eval-every", "1000"]
    small = ["--svd-cache", organism_flags[3], "--preset", "tiny", "--artifacts", out]
    plant = """
whole = extract_vhack_grad.pair_differences
extract_vhack_grad.pair_differences = lambda m, t, a, pairs, *rest: whole(m, t, a, pairs[:4], *rest)"""
    assert trainer(*small, script="extract_vhack_grad", plant=plant).status == 0
    parent = ["--preset", "tiny", *flags, "--artifacts", out, "--out", out / "vanilla_s0", "--schedule", "constant"]
    done = trainer(*parent, "--stop-after", "takeoff+1", plant=AT_STEP_3)
    assert done.status == 0, done.err
    assert len(rows(out / "vanilla_s0/steps.tsv")) == 4 and "steps=4" in done.out

    command = [python, "-m", "tools.branch_study", "tiny", "--seeds", "0", "--arms", "vanilla"]
    command += ["random-v+mzero", "--steps", "6", "--out", str(out), "--diagnose", "no", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}

    def run(*more: str):
        return subprocess.run(
            [*command, *more, "--", *flags], cwd=tmp_path, capture_output=True, text=True, env=environment
        )

    cut = run("--minutes", "1e-3", "--reserve", "0")
    assert cut.returncode == 0 and cut.stdout.startswith("out of time: 0 of 2 branches of 1 points"), cut.stderr
    whole = run()
    assert whole.returncode == 0 and whole.stdout.startswith("complete: 2 of 2 branches"), whole.stderr
    status = json.loads((out / "status.json").read_text())
    assert status["points"]["vanilla_s0_takeoff"] == {"done": 2, "of": 2, "diagnosed": False, "missing": []}
    assert "2 branches of 1 branch points count" in (out / "report/report.md").read_text()
    costs = [line.split("\t")[:2] for line in (out / "minutes.tsv").read_text().splitlines()]
    assert costs[0] == ["stage", "name"]  # what the limit cut has a row too, where it had begun
    assert costs[-2:] == [["branch", "vanilla_s0_takeoff_1"], ["report", "report"]]
    assert rows(out / "branches/vanilla_s0_takeoff/vanilla/steps.tsv")[0] == rows(out / "vanilla_s0/steps.tsv")[3]
