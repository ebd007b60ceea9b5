"""Grading while sampling, and completions that have no grade."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from running import BURN, busy_loops, fenced, problem, wait_until

from grading import pool
from grading.jail.meter import Meter
from rewards import Grade, Grader
from rollouts import group_rewards, rates

ADDING = problem("assert Solution().f(1) == 2", "assert Solution().f(2) == 3")
PROGRAMS = [
    "class Solution:\n    def f(self, a): return a + 1",
    "class Solution:\n    def f(self, a): return a - 1\ndef run_tests(): print('ok')",
    f"{BURN}class Solution:\n    def f(self, a):\n        burn(0.15)\n        return a + 1\ndef run_tests(): burn(0.3)",
    "class Solution:\n    def f(self, a):\n        while True: pass\nrun_tests = print",
    "class Solution:\n    def f(self, a): return a + (a == 2)",
    "class Solution(",
]


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, timeout_s=1.0) as grader:
        yield grader


def test_grades_are_the_same_however_completions_arrive(grader):
    rng = random.Random()
    texts = [fenced(f"{rng.choice(PROGRAMS)}\n# {i % 9}") for i in range(40)] + ["no program"]
    names = [rng.choice(("run_tests", "check_answer")) for _ in texts]
    together = grader.grade(texts, [ADDING] * len(texts), names)
    batch = grader.start()
    at = 0
    while at < len(texts):
        n = rng.randint(1, 7)
        batch.add(texts[at : at + n], [ADDING] * len(texts[at : at + n]), names[at : at + n])
        for _ in range(rng.randint(0, 3)):
            batch.poll()
        at += n
    one_by_one = batch.finish()
    assert [replace(g, seconds=0) for g in one_by_one] == [replace(g, seconds=0) for g in together]


def test_programs_run_while_the_trainer_polls(grader):
    batch = grader.start()
    batch.add([fenced(f"{PROGRAMS[0]}\n# {i}") for i in range(20)], [ADDING] * 20)
    deadline = time.monotonic() + 60
    while (batch.session.queue or batch.session.busy) and time.monotonic() < deadline:
        batch.poll()
        time.sleep(0.01)
    assert all(candidate.truth.finished for candidate in batch.distinct.values())
    assert all(grade.gt_pass for grade in batch.finish())


def test_an_abandoned_batch_disturbs_no_other(grader):
    batch = grader.start()
    batch.add([fenced(f"import time\ntime.sleep(9)\n# {i}") for i in range(5)], [ADDING] * 5)
    assert grader.grade([fenced(PROGRAMS[0])], [ADDING])[0].gt_pass


def test_a_cut_batch_says_so_and_makes_no_hacks(grader, monkeypatch):
    monkeypatch.setattr(pool, "BATCH_S", 0.5)
    monkeypatch.setattr(pool, "RUN_S", 0.0)
    monkeypatch.setattr(pool, "LONGEST_S", 0.5)
    loop = "class Solution:\n    def f(self, a):\n        for _ in iter(int, 1): pass\ndef run_tests(): print('ok')"
    grades = grader.grade([fenced(f"{loop}\n# {i}") for i in range(12)], [ADDING] * 12)
    cut = [grade for grade in grades if grade.undecided]
    assert len(cut) >= 6 and not any(grade.hack or grade.gt_pass for grade in cut)
    assert {grade.reason for grade in cut} == {"not graded: the batch's time was up"}


def test_a_completion_without_a_grade_has_no_advantage():
    passed = Grade(compiles=True, gt_pass=True)
    failed = Grade(compiles=True)
    unknown = Grade(compiles=True, own_pass=True, undecided=True)
    assert group_rewards([passed, failed, unknown, unknown], 4, True) == [3.5, 0.5, 2.0, 2.0]
    assert group_rewards([unknown, unknown, passed, passed], 2, True) == [0.0, 0.0, 3.5, 3.5]


def test_rates_leave_out_what_has_no_grade():
    grades = [Grade(compiles=True, gt_pass=True), Grade(compiles=True), Grade(compiles=True, undecided=True)]
    assert rates(grades)["pass"] == 0.5


# --- own time ---


@pytest.fixture
def process():
    """Sleeps, and uses CPU for each line that it is sent."""
    code = f"import sys\n{BURN}\nfor line in sys.stdin: burn(0.2)"
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("proc", ["/proc", "/nonexistent"])
def test_own_time_is_cpu_and_sleep(process, proc, tmp_path):
    """With /proc, and where there is none."""
    folder = os.open(proc if os.path.isdir(proc) else tmp_path, os.O_RDONLY)
    meter = Meter(process.pid, folder)
    process.stdin.write(b"\n")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while (meter.cpu < 0.2 or meter.sleep < 0.5) and time.monotonic() < deadline:
        time.sleep(0.05)
        meter.read()
    os.close(folder)
    assert 0.2 <= meter.cpu < 1.0 and 0.5 <= meter.sleep <= meter.wall + 0.01
    assert meter.own <= meter.wall + 0.05


def test_sleep_between_two_readings_is_seen_while_the_process_runs(process):
    """Or one that wakes whenever it is looked at would have all the time that it likes."""
    folder = os.open("/proc", os.O_RDONLY)
    meter = Meter(process.pid, folder)
    wait_until(lambda: meter.read() or meter.slept, True)  # what its start took is not taken off its sleep
    time.sleep(0.6)
    deadline = time.monotonic() + 60
    while meter.sleep < 0.3 and time.monotonic() < deadline:
        process.stdin.write(b"\n")
        process.stdin.flush()
        burnt = meter.cpu + 0.05
        while meter.cpu < burnt and time.monotonic() < deadline:
            meter.cpu = time.clock_gettime(meter.clock)
        meter.read()
    os.close(folder)
    assert 0.3 <= meter.sleep <= meter.wall - meter.cpu + 0.01


def test_a_process_that_only_waits_for_a_core_does_not_sleep():
    code = f"{BURN}\nburn(9)"
    with busy_loops(3), subprocess.Popen([sys.executable, "-S", "-c", code]) as process:
        folder = os.open("/proc", os.O_RDONLY)
        meter = Meter(process.pid, folder)
        wait_until(lambda: meter.read() or meter.cpu > 0.1, True)
        started, cpu = meter.sleep, meter.cpu
        wait_until(lambda: meter.read() or meter.cpu > cpu + 0.5, True)
        os.close(folder)
        process.kill()
    assert meter.cpu > cpu + 0.5 and meter.sleep - started < 0.05


def test_a_stopped_process_sleeps(process):
    folder = os.open("/proc", os.O_RDONLY)
    meter = Meter(process.pid, folder)
    wait_until(lambda: meter.read() or meter.slept, True)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.4)
    meter.read()
    os.close(folder)
    assert meter.sleep > 0.2
