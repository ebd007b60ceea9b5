"""Sweeps: the plan, the queue of this machine with real commands, pueue's and Slurm's command lines, the status table.

pueue itself is not to be had here: `fake_pueue` stands in for the external binary. It takes the options that pueue
4.0.4 documents, refuses others, records its argv and prints ids. What it cannot show is that a daemon runs the tasks.
"""

import dataclasses
import fcntl
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from synthetic_runs import make_run

import config
from arms import arm_flags
from lib.errors import UserError
from lib.tables import read_table
from tools.sweep import local, pueue, slurm, status
from tools.sweep.local import run_local
from tools.sweep.plan import plan
from tools.sweep.task import Slurm, SweepConfig, Task, flag

REPO = Path(__file__).resolve().parents[2]
AT_HOME = {**os.environ, "PYTHONPATH": str(REPO)}  # so that `-m tools.sweep` is found from a test's own folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every sweep here plans in an empty folder."""
    monkeypatch.chdir(tmp_path)


def touch(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names(tasks: list[Task]) -> list[str]:
    return [task.name.partition("/")[2] for task in tasks]


# --- the plan --------------------------------------------------------------------------------------------------------


def test_plan_puts_each_task_after_what_it_waits_for():
    tasks = plan(SweepConfig(preset=["tiny", "dev"], study="organism"))
    seen = set()
    for task in tasks:
        assert seen.issuperset(task.after), task
        assert task.name not in seen
        seen.add(task.name)
    by_name = {task.name: task for task in tasks}
    far = by_name["tiny/projected-far_s3"]
    assert far.after == ["tiny/verify_organism-far"]
    assert by_name[far.after[0]].after == ["tiny/extract_organism-far"]
    assert by_name["tiny/extract_organism-far"].after == ["tiny/svd"]
    assert by_name["dev/vanilla_s0"].after == ["dev/verify_default"]
    assert sum(name.endswith("/svd") for name in seen) == 2
    assert far.command[2:] == ["--preset", "tiny", "--arm", "projected", "--pairs", "organism-far", "--label",
                               "projected-far", "--seed", "3"]  # fmt: skip


def test_plan_commands_parse_as_the_scripts_own():
    from config import parse
    from extract_vhack_grad import ExtractConfig
    from verify_vhack_heldout import VerifyConfig

    extra = ["--steps", "7", "--svd-cache=elsewhere", "--n-directions", "2"]
    for task in plan(SweepConfig(study="organism", seeds=[4], extra=extra)):
        words = task.command[2:]
        if task.command[1].endswith("train.py"):
            cfg = parse(config.Config, words)
            assert cfg.run_path() / "summary.json" == task.marker and (cfg.steps, cfg.seed) == (7, 4)
        elif task.command[1].endswith("verify_vhack_heldout.py"):
            cfg = parse(VerifyConfig, words)
            assert cfg.v_hack_path().with_name(cfg.v_hack_path().stem + "_heldout") / "heldout.json" == task.marker
        else:
            cfg = parse(ExtractConfig, words)
            assert cfg.svd_only or cfg.v_hack_path() == task.marker
        assert cfg.svd_cache == "elsewhere" and cfg.n_directions == 2


def test_what_is_named_twice_runs_once():
    tasks = plan(SweepConfig(preset=["tiny", "tiny"], arms=["vanilla", "vanilla"], seeds=[0, 0]))
    assert names(tasks) == ["svd", "extract_organism", "verify_organism", "vanilla_s0"]


def test_what_is_complete_is_left_out_of_the_svds():
    cfg = SweepConfig(arms=["vanilla"], seeds=[0])
    assert names(plan(cfg)) == ["svd", "extract_organism", "verify_organism", "vanilla_s0"]
    touch(Path("outputs/tiny/v_hack_organism.safetensors"))
    tasks = plan(cfg)
    assert names(tasks) == ["extract_organism", "verify_organism", "vanilla_s0"]
    assert [task.done for task in tasks] == [True, False, False] and tasks[0].after == []


def test_a_failed_gate_is_not_taken_for_a_check_that_is_done():
    touch(Path("outputs/dev/v_hack_default_heldout/heldout.json"), json.dumps({"fraction_positive": 0.4}))
    gated = {t.name: t for t in plan(SweepConfig(preset=["dev"], arms=["projected"], seeds=[0]))}["dev/verify_default"]
    assert not gated.done and "--override" not in gated.command
    free = plan(SweepConfig(preset=["dev"], arms=["projected"], seeds=[0], gate=False))[2]
    assert free.done and "--override" in free.command


@pytest.mark.parametrize(
    "cfg, says",
    [
        (SweepConfig(), "nothing to run"),
        (SweepConfig(arms=["projectd"], seeds=[0]), "there is no arm projectd"),
        (SweepConfig(arms=["vanilla"], seeds=[0], extra=["--seed=3"]), "--seed differs between runs"),
        (SweepConfig(arms=["vanilla"], seeds=[0], jobs=0), "--jobs 0 must be at least 1"),
        (SweepConfig(arms=["vanilla"], seeds=[0], extra=["--bogus", "1"]), "a run cannot take --bogus 1"),
        (SweepConfig(arms=["vanilla"], seeds=[0], extra=["--steps", "x"]), "a run cannot take --steps x"),
        (SweepConfig(arms=["vanilla"], seeds=[-1, 0]), "--seed -1 is below 0"),
        (SweepConfig(arms=["projected", "projected-far"], seeds=[0], extra=["--v-hack", "x"]), "--v-hack"),
    ],
)
def test_wrong_plans_are_refused(cfg, says):
    with pytest.raises(UserError, match=says):
        plan(cfg)


def test_the_script_prints_its_plan_and_runs_nothing(python, tmp_path):
    words = [python, "-m", "tools.sweep", "--arms", "vanilla", "--seeds", "0", "--", "--steps", "3"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=6000, env=AT_HOME)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].endswith("train.py --preset tiny --arm vanilla --seed 0 --steps 3")
    assert list(tmp_path.iterdir()) == []


def test_the_ten_preregistered_runs_come_in_their_order_behind_h4():
    tasks = plan(SweepConfig(preset=["full"], study="preregistered"))
    assert names(tasks)[3:] == [
        "vanilla_s0", "h4_gate", "vanilla_s1", "vanilla_s2", "projected_s0", "projected_s1", "projected_s2",
        "projected-nomag_s0", "rebound_s0", "rebound_s1", "rebound_s2",
    ]  # fmt: skip
    gate = tasks[4]
    assert gate.after == ["full/vanilla_s0"] and not gate.done
    assert gate.command[-3:] == ["-m", "tools.h4_gate", "outputs/full/vanilla_s0"]
    assert all(gate.name in task.after for task in tasks[5:])
    assert "h4_gate" not in names(plan(SweepConfig(preset=["full"], study="preregistered", gate=False)))


def test_the_controls_are_a_study_of_their_own():
    runs = names(plan(SweepConfig(preset=["full"], study="controls")))[5:]
    assert len(runs) == 18 and "projected-far-pairs_s2" in runs
    assert not {"vanilla_s0", "projected_s0", "rebound_s0", "h4_gate"} & set(runs)


def test_a_gate_that_stops_leaves_out_what_waits_for_it(python, monkeypatch):
    monkeypatch.setattr(sys, "executable", python)
    make_run(Path("outputs"), "vanilla", 0, 0.05, 0.1, preset="tiny", steps=100)
    touch(Path("outputs/tiny/vanilla_s0/summary.json"), "{}")
    tasks = plan(SweepConfig(study="preregistered", arms=["vanilla", "projected"], seeds=[0]))
    gate = next(task for task in tasks if task.name.endswith("h4_gate"))
    gate.after = []
    projected = Task("tiny/after", bare("open('ran', 'w')"), None, [gate.name])
    assert run_local([gate, projected], 1, poll=0.02) == 1 and not Path("ran").exists()
    assert "H4's gate FAILED: vanilla's strict hack rate is 5.0%" in gate.log.read_text()


def test_a_run_of_another_length_does_not_count_as_done(capsys):
    cfg = SweepConfig(arms=["vanilla"], seeds=[3])
    folder = Path("outputs/tiny/vanilla_s3")
    ran = config.parse(config.Config, ["--preset", "tiny", "--seed", "3", "--workers", "7"])
    touch(folder / "config.json", json.dumps(dataclasses.asdict(ran)))
    touch(folder / "summary.json", "{}")
    assert plan(cfg)[-1].done
    touch(folder / "config.json", json.dumps({**dataclasses.asdict(ran), "steps": 40}))
    task = plan(cfg)[-1]
    assert not task.done and task.others == ["steps (40 there, 100 now)"]
    status.print_status(cfg, [task])
    assert "holds a run of another configuration: steps (40 there, 100 now)" in capsys.readouterr().out


@pytest.mark.parametrize("cfg, share", [
    ({"submit": "local", "jobs": 3}, "0.333"),
    ({"submit": "local", "jobs": 1}, ""),
    ({"submit": "local", "jobs": 2, "extra": ["--memory-share=0.4"]}, "0.4"),
    ({"submit": "local", "jobs": 2, "preset": ["tiny"]}, ""),
    ({"submit": "pueue", "groups": ["gpu0", "gpu1"]}, ""),
    ({"submit": "pueue", "groups": ["a0", "b0", "gpu1"]}, "0.5"),
    ({"submit": "slurm"}, ""),
])  # fmt: skip
def test_runs_that_share_a_gpu_are_told_their_share(cfg, share):
    task = plan(SweepConfig(**{"preset": ["dev"], "arms": ["vanilla"], "seeds": [0], **cfg}))[-1]
    assert flag(task.command, "--memory-share", "") == share


# --- here, with real commands ----------------------------------------------------------------------------------------


def bare(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def real(name: str, code: str, after: tuple[str, ...] = ()) -> Task:
    """A task that runs `code`, then leaves its marker."""
    marker = Path("done") / name
    body = f"import os, pathlib, signal, sys, time\n{code}\npathlib.Path({str(marker)!r}).touch()\n"
    marker.parent.mkdir(exist_ok=True)
    return Task(f"t/{name}", bare(body), marker, [f"t/{a}" for a in after])


STAMP = """
open('order', 'a').write('{0} start\\n')
while open('order').read().count('start') < {1}: time.sleep(0.01)
open('order', 'a').write('{0} end\\n')"""
"""Ends once so many have started: c and d, which run side by side, wait for each other."""


def test_local_keeps_the_order_and_the_number_of_jobs():
    tasks = [real("a", STAMP.format("a", 1)), real("b", STAMP.format("b", 2), ("a",))]
    tasks += [real(n, STAMP.format(n, 4), ("b",)) for n in "cdef"]
    assert run_local(tasks, jobs=2, poll=0.02) == 0
    order = Path("order").read_text().splitlines()
    assert order[:4] == ["a start", "a end", "b start", "b end"] and len(order) == 12
    running, most = set(), 0
    for line in order:
        name, what = line.split()
        running = running | {name} if what == "start" else running - {name}
        most = max(most, len(running))
    assert most == 2
    before = Path("order").read_text()
    assert run_local(tasks, jobs=2, poll=0.02) == 0 and Path("order").read_text() == before, "complete tasks ran again"


def test_local_failure_leaves_the_others_and_drops_what_depends_on_it(capfd):
    tasks = [real("bad", "print('error: no such thing'); sys.exit(2)"), real("child", "", ("bad",)),
             real("grandchild", "", ("child",)), real("good", ""), real("silent", "os._exit(0)")]  # fmt: skip
    with sweep_log() as said:
        assert run_local(tasks, jobs=2, poll=0.02) == 1
    assert sorted(p.name for p in Path("done").iterdir()) == ["good"]
    text = "".join(said)
    assert "t/bad failed: error: no such thing (exit status 2; outputs/t/logs/bad.log)" in text
    assert "4 of 5 tasks failed: t/bad, t/child, t/grandchild, t/silent" in text
    assert Path("outputs/t/logs/bad.log").read_text().splitlines()[-1].startswith("sweep: exit status 2 after")
    (Path("done") / "bad").touch()
    assert run_local(tasks[:4], jobs=1, poll=0.02) == 0, "the same command goes on where the failure was mended"


class sweep_log:
    """What the sweep logs."""

    def __enter__(self) -> list[str]:
        self.lines: list[str] = []
        self.sink = local.logger.add(self.lines.append, format="{message}")
        return self.lines

    def __exit__(self, *_) -> None:
        local.logger.remove(self.sink)


RUN = """
def stop(number, frame):
    open('heard', 'a').write(f'{signal.Signals(number).name}\\n')
    stop.asked = True
stop.asked = False
signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)
open('pid', 'w').write(str(os.getpid()))
open('session', 'w').write(str(os.getsid(0)))
for _ in range(3000):
    time.sleep(0.01)
    if stop.asked:
        time.sleep(0.5)
        open('checkpoint', 'w').write('whole')
        sys.exit(143)
"""


def interrupt_when(number: signal.Signals, *paths: str) -> threading.Thread:
    """Send this process a signal once the first path exists, one more once the second does."""

    def send():
        for path in map(Path, paths):
            wait_for(path.exists, 60, f"{path}")
            time.sleep(0.1)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupting_waits_for_the_checkpoint(number):
    before = signal.getsignal(signal.SIGINT)
    thread = interrupt_when(number, "session")
    tasks = [real("run", RUN), real("next", "", ("run",)), real("other", "time.sleep(0.5)")]
    with sweep_log() as said:
        status = run_local(tasks, 1, poll=0.02)
    thread.join()
    assert status == 128 + number
    assert "failed" not in "".join(said) and "the same command continues the sweep" in said[-1]
    assert Path("checkpoint").read_text() == "whole"
    assert Path("heard").read_text() == "SIGTERM\n", "one SIGTERM, whatever reached the sweep"
    assert int(Path("session").read_text()) != os.getsid(0), "the terminal's Ctrl-C must not reach the run"
    assert list(Path("done").iterdir()) == [], "nothing new was started"
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupting_twice_kills():
    thread = interrupt_when(signal.SIGINT, "session", "heard")
    slow = RUN.replace("time.sleep(0.5)", "time.sleep(3600)")
    assert run_local([real("run", slow)], 1, poll=0.02) == 128 + signal.SIGINT
    thread.join()
    assert not Path("checkpoint").exists()


# --- pueue -----------------------------------------------------------------------------------------------------------

FAKE_PUEUE = """#!{python} -S
import argparse, json, os, sys
state = {state!r}
def load(name, default):
    path = os.path.join(state, name)
    return json.load(open(path)) if os.path.exists(path) else default
def save(name, value):
    json.dump(value, open(os.path.join(state, name), "w"))
save("calls", [*load("calls", []), sys.argv[1:]])
if os.path.exists(os.path.join(state, "down")):
    sys.exit("Error: Failed to initialize client. Couldn't find a running daemon")
parser = argparse.ArgumentParser(allow_abbrev=False)
commands = parser.add_subparsers(dest="command", required=True)
add = commands.add_parser("add", allow_abbrev=False)
for short, name in (("-g", "--group"), ("-l", "--label"), ("-w", "--working-directory")):
    add.add_argument(short, name)
add.add_argument("-a", "--after", nargs="+", type=int, default=[])
add.add_argument("-p", "--print-task-id", action="store_true")
add.add_argument("words", nargs="+")
group = commands.add_parser("group", allow_abbrev=False)
group.add_argument("-j", "--json", action="store_true")
deeper = group.add_subparsers(dest="what")
new = deeper.add_parser("add", allow_abbrev=False)
new.add_argument("name")
new.add_argument("-p", "--parallel", type=int)
status = commands.add_parser("status", allow_abbrev=False)
status.add_argument("-j", "--json", action="store_true")
args = parser.parse_args()
tasks = load("tasks", {{}})
groups = load("groups", {{"default": {{"status": "Running", "parallel_tasks": 1}}}})
if args.command == "group" and args.what == "add":
    if args.name in groups:
        sys.exit(f'Group "{{args.name}}" already exists')
    groups[args.name] = {{"status": "Running", "parallel_tasks": args.parallel}}
    save("groups", groups)
elif args.command == "group":
    print(json.dumps(groups))
elif args.command == "status":
    print(json.dumps({{"tasks": tasks, "groups": groups}}))
else:
    if args.group not in groups or any(str(i) not in tasks for i in args.after):
        sys.exit("Error: unknown group or dependency")
    number = len(tasks) + 7
    tasks[str(number)] = {{"id": number, "command": " ".join(args.words), "path": os.getcwd(), "group": args.group,
                          "dependencies": args.after, "label": args.label,
                          "status": {{"Queued": {{"enqueued_at": "2026-01-01T00:00:00Z"}}}}}}
    save("tasks", tasks)
    print(number if args.print_task_id else f"New task added (id {{number}}).")
"""


@pytest.fixture
def fake_pueue(tmp_path_factory, monkeypatch):
    """A stand-in for the pueue binary on PATH; a function that reads what it was told."""
    folder = tmp_path_factory.mktemp("pueue")
    program = folder / "pueue"
    program.write_text(FAKE_PUEUE.format(python=sys.executable, state=str(folder)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def read(name: str):
        return json.loads((folder / name).read_text())

    read.folder = folder
    return read


SMALL = SweepConfig(arms=["vanilla", "projected"], seeds=[0, 1])


def test_pueue_queues_with_groups_dependencies_and_labels(fake_pueue):
    tasks = plan(SMALL)
    pueue.submit_pueue(tasks, ["gpu0", "gpu1"])
    queued = list(fake_pueue("tasks").values())
    assert {g: v["parallel_tasks"] for g, v in fake_pueue("groups").items()} == {"default": 1, "gpu0": 1, "gpu1": 1}
    ids = {task.name: entry["id"] for task, entry in zip(tasks, queued, strict=True)}
    for task, entry in zip(tasks, queued, strict=True):
        assert entry["dependencies"] == [ids[name] for name in task.after]
        first, *command = shlex.split(entry["command"])
        assert command == task.command
        assert first == f"CUDA_VISIBLE_DEVICES={entry['group'].removeprefix('gpu')}"
    assert [entry["group"] for entry in queued] == ["gpu0", "gpu1"] * 3 + ["gpu0"]
    assert queued[4]["label"] == "why: H1; tiny projected seed 0; resolve: outputs/tiny/projected_s0/summary.json"


def test_pueue_takes_what_is_neither_done_nor_queued(fake_pueue):
    touch(Path("outputs/tiny/v_hack_organism.safetensors"))
    touch(Path("outputs/tiny/v_hack_organism_heldout/heldout.json"))
    touch(Path("outputs/tiny/vanilla_s1/summary.json"))
    pueue.submit_pueue(plan(SMALL), ["default"])
    first = fake_pueue("tasks")
    assert [t["command"].split("--arm ")[1] for t in first.values()] == [
        "vanilla --seed 0", "projected --seed 0", "projected --seed 1"]  # fmt: skip
    assert all(t["dependencies"] == [] and "CUDA" not in t["command"] for t in first.values())
    pueue.submit_pueue(plan(SMALL), ["default"])
    assert fake_pueue("tasks") == first, "queued twice"
    failed = {"Done": {"result": {"Failed": 2}}}
    touch(fake_pueue.folder / "tasks", json.dumps({k: v | {"status": failed} for k, v in first.items()}))
    pueue.submit_pueue(plan(SMALL), ["default"])
    assert len(fake_pueue("tasks")) == 6, "what failed is queued again"


def test_the_printed_pueue_commands_do_the_same(fake_pueue):
    script = pueue.pueue_script(plan(SMALL), ["gpu0", "gpu1"])
    assert not (fake_pueue.folder / "calls").exists()
    subprocess.run(["sh", "-eu"], input=script, text=True, check=True)
    printed = fake_pueue("tasks")
    for name in ("tasks", "groups"):
        (fake_pueue.folder / name).unlink()
    pueue.submit_pueue(plan(SMALL), ["gpu0", "gpu1"])
    assert fake_pueue("tasks") == printed


def test_without_pueue_the_sentence_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="cargo install --locked pueue"):
        pueue.submit_pueue(plan(SMALL), ["default"])


def test_a_silent_daemon_is_one_sentence(fake_pueue):
    (fake_pueue.folder / "down").touch()
    with pytest.raises(UserError, match="`pueued -d` starts it"):
        pueue.submit_pueue(plan(SMALL), ["default"])


# --- Slurm -----------------------------------------------------------------------------------------------------------


def test_without_submitit_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="uv pip install submitit"):
        slurm.submit_slurm(plan(SMALL), Slurm())


def test_slurm_parameters_follow_the_flags():
    task = plan(SweepConfig(preset=["dev"], arms=["projected"], seeds=[1]))[-1]
    got = slurm.slurm_parameters(
        Slurm(partition="gpu", minutes=90, mem_gb=64, options=["account=lab"]), task, ["7", "9"]
    )
    assert got["dependency"] == "afterok:7:9" and got["gpus_per_node"] == 1 and got["mem"] == "64GB"
    assert got["time"] == 90 and got["partition"] == "gpu" and got["job_name"] == "dev_projected_s1"
    assert got["additional_parameters"] == {"kill-on-invalid-dep": "yes", "account": "lab"}
    assert "gpus_per_node" not in slurm.slurm_parameters(Slurm(), plan(SMALL)[-1], [])
    with pytest.raises(UserError, match="name=value"):
        slurm.slurm_parameters(Slurm(options=["account"]), task, [])


@pytest.fixture
def signal_job():
    """Send signals as Slurm does, to the job's process and to its command alike; handlers are put back."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)}
    threads = []

    def send(number: signal.Signals) -> None:
        def later():
            wait_for(Path("session").exists, 60, "the command's start")
            time.sleep(0.1)
            os.kill(int(Path("pid").read_text()), number)
            os.kill(os.getpid(), number)

        threads.append(threading.Thread(target=later))
        threads[0].start()

    yield send
    threads[0].join()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_cancelled_job_writes_its_checkpoint_and_fails_with_the_last_words(signal_job):
    signal.signal(signal.SIGTERM, lambda *_: None)  # submitit only logs it
    signal_job(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="exit status 143"):
        slurm.SlurmJob(real("run", RUN).command, "job.log")()
    assert Path("checkpoint").read_text() == "whole" and Path("heard").read_text() == "SIGTERM\n"


def test_a_job_at_its_time_limit_writes_its_checkpoint_and_is_queued_again(signal_job, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", types.ModuleType("submitit"))
    monkeypatch.setitem(sys.modules, "submitit.helpers", types.SimpleNamespace(DelayedSubmission=lambda job: job))
    job = slurm.SlurmJob(real("run", RUN).command, "job.log")

    def queue_again(*_):  # what submitit's handler does
        again = job.checkpoint()
        assert Path("checkpoint").read_text() == "whole" and again.command == job.command and again.child is None
        sys.exit(1)

    signal.signal(signal.SIGUSR2, queue_again)
    signal_job(signal.SIGUSR2)
    with pytest.raises(SystemExit):
        job()
    assert Path("heard").read_text() == "SIGTERM\n"


# --- status ----------------------------------------------------------------------------------------------------------


def fill(name: str, steps: int, done: bool = False, hack: float = 0.25) -> Path:
    folder = Path("outputs/tiny") / name
    arm, _, seed = name.rpartition("_s")
    whole = config.parse(config.Config, [*arm_flags(arm), "--seed", seed, "--steps", "10"])
    touch(folder / "config.json", json.dumps(dataclasses.asdict(whole)))
    rows = "".join(f"{i}\t1.5\t0.5\t2.0\n" for i in range(steps))
    touch(folder / "steps.tsv", f"step\tt_roll\tt_grade\tt_train\n{rows}")
    touch(folder / "evals.tsv", f"step\thack\tattempt\tpass\n0\t0\t0\t0\n4\t{hack}\t0.5\t0.125\n5\t0.9")
    if done:
        touch(folder / "summary.json", json.dumps({"seconds": 60.0}))
    return folder


def test_status_reads_rates_time_left_and_failures(capsys):
    arms = ["vanilla", "projected", "reversed", "random-v", "rebound"]
    cfg = SweepConfig(arms=arms, seeds=[0], extra=["--steps", "10"])
    fill("vanilla_s0", 10, done=True)
    fill("projected_s0", 5)
    old = fill("reversed_s0", 2)
    os.utime(old / "steps.tsv", (time.time() - 7200,) * 2)
    touch(Path("outputs/tiny/logs/random-v_s0.log"), "row\nerror: no v_hack at x\nsweep: exit status 2 after 0.1 min\n")
    status.print_status(cfg, plan(cfg))
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert all(len(word) <= 7 for word in header.split("\t"))
    cells = {row.split("\t")[-1].split("  ")[0]: row.split("\t") for row in rows}
    assert cells["tiny/vanilla_s0"][:7] == ["done", "10", "10", "0.25", "0.5", "0.125", "0:00"]
    assert cells["tiny/projected_s0"][:6] == ["running", "5", "10", "0.25", "0.5", "0.125"]
    assert cells["tiny/reversed_s0"][0] == "stopped" and cells["tiny/reversed_s0"][7] == "2:00"
    assert cells["tiny/random-v_s0"][0] == "failed" and cells["tiny/random-v_s0"][-1].endswith("error: no v_hack at x")
    assert cells["tiny/rebound_s0"][:4] == ["waiting", "0", "10", "-"]
    # 5 and 8 steps at 4 s; 10 and 10 at the median of 6, 4 and 4 s
    assert last.startswith("1 of 5 done, 1 running, 1 failed; about 0:02 of running time left")


def test_a_run_before_its_first_row_is_evaluating_while_its_lock_is_held(capsys):
    folder = fill("vanilla_s0", 0)
    (folder / "evals.tsv").unlink()
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status.print_status(SMALL, status.found_tasks(Path("outputs")))
        assert capsys.readouterr().out.splitlines()[1].startswith("evaluating\t0\t10\t")
    status.print_status(SMALL, status.found_tasks(Path("outputs")))
    assert capsys.readouterr().out.splitlines()[1].startswith("waiting\t0\t10\t")


def test_status_of_nothing_named_is_of_all_there_is(python):
    words = [python, "-m", "tools.sweep", "--status"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=6000, env=AT_HOME)
    assert ended.returncode == 2 and "outputs/ holds no run yet" in ended.stderr
    fill("vanilla_s0", 3)
    ended = subprocess.run(words, capture_output=True, text=True, timeout=6000, env=AT_HOME)
    assert ended.returncode == 0 and "tiny/vanilla_s0" in ended.stdout and "0 of 1 done" in ended.stdout


def test_on_a_terminal_status_is_the_table_of_watch(python):
    terminal = pytest.importorskip("tools.terminal", reason="pyte is a development dependency: `just setup`")
    fill("vanilla_s0", 10, done=True)
    fill("projected_s0", 5)
    touch(Path("outputs/tiny/logs/projected_s1.log"), "error: no v_hack at x\nsweep: exit status 2 after 0.1 min\n")
    words = [
        "-m",
        "tools.sweep",
        "--status",
        "--arms",
        "vanilla",
        "projected",
        "--seeds",
        "0",
        "1",
        "--",
        "--steps",
        "10",
    ]
    without_pueue = "/usr/bin:/bin"  # an installed one without a daemon is a warning above the table
    window = terminal.Terminal([python, *words], 120, PYTHONPATH=str(REPO), PATH=without_pueue)
    assert window.finish() == 0
    lines = [line.split() for line in window.text() if line]
    assert lines[0][:3] == ["run", "state", "step"] and lines[0][-3:] == ["hack", "so", "far"]
    assert [line[:3] for line in lines[1:5]] == [
        ["tiny/vanilla_s0", "done", "10/10"], ["tiny/projected_s0", "running", "5/10"],
        ["tiny/vanilla_s1", "waiting", "0/10"], ["tiny/projected_s1", "failed", "0/10"]]  # fmt: skip
    assert " ".join(lines[5]) == "tiny/projected_s1: error: no v_hack at x" and lines[6][:4] == [
        "1",
        "of",
        "4",
        "done,",
    ]


def test_status_knows_pueues_queue(fake_pueue, capsys):
    pueue.submit_pueue(plan(SMALL), ["default"])
    tasks = fake_pueue("tasks")
    states = [{"Done": {"result": {"Failed": 2}}}, {"Running": {}}, {"Queued": {}}, "Stashed"]
    for entry, state in zip(list(tasks.values())[-4:], states, strict=True):
        entry["status"] = state
    touch(fake_pueue.folder / "tasks", json.dumps(tasks))
    capsys.readouterr()
    status.print_status(SMALL, plan(SMALL))
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert [row[0] for row in rows] == ["failed", "running", "queued", "stashed"]
    assert "Failed" in rows[0][-1]


# --- a real Slurm node, when asked for -------------------------------------------------------------------------------


def slurm_missing() -> str:
    """Why the test on a real node cannot run here; empty where it can."""
    if not os.environ.get("SLURM_TEST"):
        return "set SLURM_TEST=1 to start a Slurm node on this machine (a few minutes)"
    if lacking := [name for name in ("sbatch", "srun") if not shutil.which(name)]:
        return f"{lacking[0]} is not installed: apt-get install slurm-wlm munge"
    return "" if importlib.util.find_spec("submitit") else "submitit is not installed: uv pip install submitit"


@pytest.fixture
def slurm_node(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("node")
    node = [str(REPO / "tests/tools/slurm_node.sh")]
    subprocess.run([*node, "start", folder], check=True, timeout=600)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    yield
    subprocess.run([*node, "stop", folder], check=True, timeout=600)


def wait_for(condition, seconds: float, what: str):
    """The first true value of `condition()`."""
    end = time.time() + seconds
    while time.time() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"{what} did not happen within {seconds} s")


def step_rows(name: str) -> list[int]:
    return [int(step) for step in read_table(Path("outputs/tiny") / name / "steps.tsv")["step"]]


def run_process(arm: str, seed: int) -> int:
    """Process id of the training run that this test's folder started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, folder = (entry / "cmdline").read_text().split("\0"), (entry / "cwd").resolve()
        except OSError:
            continue
        if (
            folder == Path.cwd()
            and words[1:2] == [str(REPO / "train.py")]
            and words[4:8] == ["--arm", arm, "--seed", str(seed)]
        ):
            return int(entry.name)
    return 0


@pytest.mark.skipif(bool(slurm_missing()), reason=slurm_missing())
def test_a_slurm_node_runs_an_organism_sweep_through_a_kill_and_a_requeue(slurm_node, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    steps, killed, requeued, cancelled = 40, "vanilla_s0", "projected_s0", "vanilla_s1"
    runs = [killed, requeued, cancelled, "projected_s1"]
    flags = {"svd-cache": Path("svd").resolve(), "n-eval": 8, "eval-samples": 2, "eval-every": 20, "steps": steps,
             "prompts": 2, "group": 8, "checkpoint-every": 1, "workers": 1}  # fmt: skip
    command = [sys.executable, "-m", "tools.sweep", "--arms", "vanilla", "projected", "--seeds", "0", "1", "--submit",
               "slurm", "--slurm.cpus", "1", "--slurm.minutes", "30", "--",
               *(word for k, v in flags.items() for word in (f"--{k}", v))]  # fmt: skip

    def submit() -> str:
        return subprocess.run(
            [*map(str, command)], check=True, capture_output=True, text=True, timeout=6000, env=AT_HOME
        ).stderr

    def log(name: str) -> str:
        return Path(f"outputs/tiny/logs/{name}.log").read_text()

    submit()
    ids = {name.removeprefix("tiny_"): number for name, (number, _) in slurm.slurm_queue().items()}
    assert sorted(ids) == sorted([*runs, "svd", "extract_organism", "verify_organism"])
    wait_for(lambda: len(step_rows(killed)) >= 3, 300, "the third step of the run to kill")
    os.kill(run_process("vanilla", 0), signal.SIGKILL)
    wait_for(lambda: len(step_rows(requeued)) >= 3, 120, "the third step of the run to requeue")
    subprocess.run(["scancel", "--signal=USR2", ids[requeued]], check=True)  # as before a time limit
    wait_for(lambda: len(step_rows(cancelled)) >= 3, 120, "the third step of the run to cancel")
    subprocess.run(["scancel", ids[cancelled]], check=True)
    wait_for(lambda: not slurm.slurm_queue(), 400, "the end of the queue")
    assert [Path(f"outputs/tiny/{name}/summary.json").exists() for name in runs] == [False, True, False, True]
    assert "sweep: exit status -9" in log(killed)
    assert "stopped at step" in log(cancelled) and "stopped at step" in log(requeued)
    assert f"resuming outputs/tiny/{requeued}" in log(requeued)

    said = submit()
    assert [name for name in runs if f"tiny/{name}: job " in said] == [killed, cancelled] and said.count(": job ") == 2
    wait_for(lambda: not slurm.slurm_queue(), 200, "the end of the resubmitted runs")
    for name in (killed, cancelled):
        assert f"resuming outputs/tiny/{name}" in log(name)
    for name in runs:
        assert Path(f"outputs/tiny/{name}/summary.json").exists() and step_rows(name) == list(range(steps)), name
