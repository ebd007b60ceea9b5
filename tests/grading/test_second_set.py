"""The second set of attacks: memories that outlive a program, leases, quotas, the trainer's limits, what a batch costs."""
# ruff: noqa: E501

from __future__ import annotations

import os
import random
import resource
import time

import pytest
from running import BURN, busy_loops, fenced, problem, run_values

from grading import pool
from grading.execution import Execution
from grading.pool import Pool
from rewards import Grader

RIGHT = "from fractions import Fraction\nimport dataclasses\nclass Solution:\n    def f(self, a):\n        return a + 1"
ADDING = problem("assert Solution().f(1) == 2", "assert Solution().f(2) == 3")


# --- 1. memories: what a program leaves, and what the stop tells ---

PROBE = """
import ctypes, fcntl, gc, os, resource, sys
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc.mallinfo2.restype = Info
def look():
    inode = os.fstat(os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)).st_ino
    info = libc.mallinfo2()
    memory = [getattr(info, name) for name in ("arena", "hblks", "hblkhd", "uordblks")]
    counts = [sys.getallocatedblocks(), *gc.get_count(), len(gc.get_objects())]
    flags = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in range(4)]
    return [inode, os.stat("/tmp").st_nlink, *memory, *flags], counts
"""
TRACES = {
    "nothing": "",
    "files": "import os\nfor i in range(41): open(f'/tmp/{i}', 'w').write('x')",
    "files that were removed": "import os\nfor i in range(41): open('/tmp/x', 'w').close(); os.remove('/tmp/x')",
    "files without a name": "import os\nfor i in range(41): os.close(os.open('/tmp', os.O_TMPFILE | os.O_RDWR, 0o600))",
    "folders": "import os\nfor i in range(7): os.mkdir(f'/tmp/{i}'); os.rmdir(f'/tmp/{i}')",
    "much output": "import os\nfor i in range(50): os.write(3, b'x' * 20000)",
    "a long line": "import os\nos.write(3, b'[' + b'1,' * 400000)",
    "a flood": "import os\nwhile True: os.write(3, b'x' * 65536)",
    "many lines": "import os\nfor i in range(5000): os.write(3, b'[\"v\", [1]]\\n')",
    "memory": "x = [bytearray(10**6) for _ in range(200)]",
    "time": "import time\ntime.sleep(0.3)",
    "a long source": "x = 1\n" * 3000,
    "flags of shared descriptors": "import fcntl\nfor fd in range(4):\n    try: fcntl.fcntl(fd, fcntl.F_SETFL, 0o6000)\n    except OSError: pass",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "a loop": "while True: pass",
}
# Probes of a program, at most.
ROUNDS = 8


def test_a_program_cannot_tell_what_ran_before_it():
    """Inode numbers and the heap's marks are the same after every kind of program.

    Counts of objects differ by a few, as a program's own job arrives in one piece or in several, which hangs on the
    load. So each program runs with a probe behind it and then one that does nothing, up to ROUNDS times, until a probe
    has met counts that were there after nothing: what a program leaves behind, every probe would see.
    """
    one = Pool(workers=1, timeout_s=0.5)
    probe = Execution("", PROBE, (("look()",),))
    idle = Execution("", "", (("1",),))
    expected, nothing = None, []
    for name, program in TRACES.items():
        counts, off = [], []
        for _ in range(ROUNDS):
            reports, values = run_values(one, [Execution("", program, (("1",),)), probe, idle, probe])
            assert all(report.finished for report in reports[1::2]), reports
            after_program, after_nothing = (probed[0][0][1:] for probed in values[1::2])
            marks = [seen[0][1:] for seen in (after_program, after_nothing)]
            expected = expected or marks[1]
            assert marks == [expected] * 2, name
            counts.append(after_program[1][1:])
            nothing.append(after_nothing[1][1:])
            off = [max(abs(a - b) for a, b in zip(x, y, strict=True)) for x in nothing for y in counts]
            if min(off) <= 16:
                break
        assert min(off) <= 16, (name, off)
    one.close()


def test_the_result_pipe_does_not_tell_when_another_program_used_it():
    """Its times are from before all of them or from the looking program's beginning, in one of ROUNDS looks: on a busy
    machine a program may begin long after its pipe was made, while a pipe that tells would tell at every look."""
    one = Pool(workers=1, timeout_s=2.0)
    program = (
        "import os\ndef times():\n    found = os.fstat(3)\n    return [found.st_atime, found.st_mtime, found.st_ctime]"
    )
    speaks = Execution("", "import os, time\nos.write(3, b'x')\ntime.sleep(0.05)", (("1",),))
    look = Execution("", f"import time\nbegun = time.time()\n{program}\nfound = times()", (("begun", "found"),))
    for _ in range(ROUNDS):
        start = time.time()
        _, values = run_values(one, [*[speaks] * 4, look])
        begun, (_, *times) = values[-1][0]
        if silent := all(when < start or when > begun - 0.04 for when in times):
            break
    one.close()
    assert silent, (start, begun, times)


# Knows nothing and learns by being alive: the bits are kept in whatever can be written and read by two programs.
LEARNER = """
import mmap, os, time
LIBRARY = os.open(os.__file__, os.O_RDONLY)
def forget(page):
    os.posix_fadvise(LIBRARY, page * 4096, 4096, 4)
def remember(page):
    os.pread(LIBRARY, 1, page * 4096)
def known(page):
    try:
        return os.preadv(LIBRARY, [bytearray(1)], page * 4096, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
class Solution:
    n = -1
    def f(self, i):
        Solution.n += 1
        try:
            told = known(2 * i) and not known(2 * i + 1)
        except OSError:
            told = False
        if self.n == i and not told:
            try:
                forget(2 * i + 1)
            except OSError:
                pass
        return told
"""


def test_nothing_is_learnt_over_gradings():
    """Ten random results, twelve gradings of a program that would note which of its guesses it survived."""
    rng = random.Random()
    results = [rng.random() < 0.5 for _ in range(9)] + [True]
    guessing = problem(*(f"assert Solution().f({i}) == {right}" for i, right in enumerate(results)))
    with Grader(workers=2, timeout_s=0.5) as grader:
        for _ in range(12):
            assert not any(grade.gt_pass for grade in grader.grade([fenced(LEARNER)] * 2, [guessing] * 2))


NAMES = """
import os, statistics, time
folder = os.path.dirname(os.__file__)
def ask(names):
    spent = []
    for name in names:
        start = time.perf_counter_ns()
        try: os.stat(f"{folder}/{name}")
        except OSError: pass
        spent.append(time.perf_counter_ns() - start)
    return statistics.median(spent)
"""


def test_names_that_were_asked_for_are_forgotten():
    """A disk's file system keeps them: the second time is eight times as fast, also for another program."""
    one = Pool(workers=1, timeout_s=2.0)
    known, new = [f"known{i}" for i in range(400)], [f"new{i}" for i in range(400)]
    run_values(one, [Execution("", NAMES, ((f"ask({known})",),))])
    _, values = run_values(one, [Execution("", NAMES, ((f"ask({known})", f"ask({new})"),))])
    one.close()
    again, first = values[0][0]
    assert 0.4 < again / first < 2.5, (again, first)


# --- 2. leases ---

LEASES = """
import fcntl, fractions, dataclasses, os, time
held = 0
for module in (fractions, dataclasses, os):
    try:
        fcntl.fcntl(os.open(module.__file__, os.O_RDONLY), 1024, fcntl.F_WRLCK)
        held += 1
    except OSError:
        pass
time.sleep(0.4 + held * 60)
class Solution:
    def f(self, a):
        return a + 1
"""


@pytest.mark.parametrize("isolation", ["bwrap", "rlimits"])
def test_no_program_takes_leases_on_the_library(isolation):
    with Grader(workers=2, timeout_s=2.0, isolation=isolation) as grader:
        grades = grader.grade([fenced(LEASES)] + [fenced(f"{RIGHT} + {i}") for i in [0] * 6], [ADDING] * 7)
    assert all(grade.gt_pass for grade in grades), [grade.reason for grade in grades]


NONBLOCKING = """
import fcntl, os
for fd in range(4):
    for how in (lambda: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND), lambda: os.set_blocking(fd, False)):
        try:
            how()
        except OSError:
            pass
"""


@pytest.mark.parametrize("isolation", ["bwrap", "rlimits"])
def test_a_program_does_not_change_the_pipe_of_the_next(isolation):
    """Children of a zygote share it: one that may not block loses what does not fit."""
    one = Pool(workers=1, timeout_s=2.0, isolation=isolation)
    long = Execution("", "", (("['x' * 100] * 7000",),))
    reports, _ = run_values(one, [Execution("", NONBLOCKING, (("1",),)), long, long])
    one.close()
    assert [report.finished for report in reports] == [True] * 3, reports


# --- 3. hogs in number ---

HOGS = {
    "threads": "import _thread, time\ntime.sleep(0.1)\nfor _ in range(100000):\n    try: _thread.start_new_thread(time.sleep, (99,))\n    except RuntimeError: pass",
    "threads by number": "import ctypes\nlibc = ctypes.CDLL(None)\nfor _ in range(10**6): libc.syscall(56, 0x50f00, 0, 0, 0, 0)",
    "memory": "x = []\nwhile True: x.append(bytearray(10**7))",
    "asynchronous io": "import ctypes\nlibc = ctypes.CDLL(None)\np = (ctypes.c_void_p * 9)()\nfor _ in range(99999): libc.syscall(206, 999, p)\nimport time\ntime.sleep(99)",
    "watches": "import ctypes\nlibc = ctypes.CDLL(None)\nfor _ in range(999): libc.syscall(294, 0)\nimport time\ntime.sleep(99)",
    "signals": "import ctypes, os, signal\nsignal.pthread_sigmask(0, range(1, 65))\nlibc = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(128)\nfor _ in range(9999): libc.syscall(129, os.getpid(), 40, b); os.kill(os.getpid(), 41)\nimport time\ntime.sleep(99)",
}


@pytest.mark.parametrize("name", HOGS)
def test_right_programs_pass_beside_hogs(name):
    heavy = f"{RIGHT}\n{BURN}burn(0.1)"
    with Grader(workers=2, timeout_s=0.5, memory_mb=256) as grader:
        texts = [fenced(f"{HOGS[name]}\n# {i}") for i in range(5)] + [fenced(f"{heavy}\n# {i}") for i in range(4)]
        grades = grader.grade(texts, [ADDING] * len(texts))
    assert [grade.gt_pass for grade in grades] == [False] * 5 + [True] * 4, [grade.reason for grade in grades]
    assert not any(grade.undecided for grade in grades)


QUOTAS = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
def contexts(): return sum(libc.syscall(206, 1, (ctypes.c_void_p * 1)()) == 0 for _ in range(50))
def watches(): return sum(libc.syscall(294, 0) >= 0 for _ in range(50))
def signals():
    signal.pthread_sigmask(0, range(1, 65))
    for _ in range(500): os.kill(os.getpid(), 41)
    taken = 0
    while signal.sigtimedwait([41], 0): taken += 1
    return taken
"""


@pytest.mark.parametrize("isolation", ["bwrap", "rlimits"])
def test_a_program_gets_nothing_of_the_quotas_of_the_user(isolation):
    """Asynchronous I/O contexts, inotify instances, queued signals."""
    pool_ = Pool(workers=1, timeout_s=2.0, isolation=isolation)
    reports, values = run_values(pool_, [Execution("", QUOTAS, (("contexts()", "watches()", "signals()"),))])
    pool_.close()
    assert reports[0].finished, reports[0]
    contexts, watches, signals = values[0][0]
    assert (contexts, watches) == (0, 0) and signals <= 8


# --- 4. the trainer, where there are no namespaces ---

ON_THE_TRAINER = """
import ctypes, fcntl, os, resource
libc = ctypes.CDLL(None, use_errno=True)
trainer = PID
done = []
for what, value in ((resource.RLIMIT_CPU, 1), (resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_AS, 1), (resource.RLIMIT_CORE, 7)):
    try:
        resource.prlimit(trainer, what, (value, value))
        done.append(what)
    except OSError:
        pass
for call in ((144, 5, b"\\0" * 8), (314, b"\\0" * 64, 0), (141, 0, 19), (203, 8, b"\\1" + b"\\0" * 7), (251, 1, 0)):
    number, *rest = call
    if libc.syscall(number, *([1, trainer] if number == 251 else [0, trainer] if number == 141 else [trainer]), *rest) == 0:
        done.append(number)
for command, value in ((8, trainer), (10, 9), (fcntl.F_SETFL, 0o20000)):
    try:
        fcntl.fcntl(3, command, value)
        done.append(command)
    except OSError:
        pass
class Solution:
    def f(self, a):
        return len(done)
"""


@pytest.mark.parametrize("isolation", ["bwrap", "rlimits"])
def test_a_program_changes_nothing_of_the_trainer(isolation):
    def state():
        limits = [resource.getrlimit(what) for what in range(16)]
        return limits, os.sched_getscheduler(0), os.sched_getaffinity(0), os.getpriority(0, 0)

    before = state()
    none = problem("assert Solution().f(1) == 0")
    with Grader(workers=1, timeout_s=2.0, isolation=isolation) as grader:
        grade = grader.grade([fenced(ON_THE_TRAINER.replace("PID", str(os.getpid())))], [none])[0]
    assert grade.gt_pass, grade.reason
    assert state() == before


# --- 5. what a batch may cost ---


def test_the_slowest_batch_keeps_its_bound(monkeypatch):
    """Programs that use both runs to their limits and speak now and then, at a fourth of the real bound."""
    monkeypatch.setattr(pool, "BATCH_S", 6.0)
    monkeypatch.setattr(pool, "RUN_S", 0.02)
    monkeypatch.setattr(pool, "LONGEST_S", 2.0)
    worst = f"{BURN}class Solution:\n    def f(self, a):\n        burn(0.4)\n        return a + 1\n"
    worst += "def run_tests():\n    for _ in iter(int, 1): pass"
    many = problem(*(f"assert Solution().f({i}) == {i + 1}" for i in range(90)))
    with Grader(workers=2, timeout_s=0.5) as grader:
        batch = grader.start()
        batch.add([fenced(f"{worst}\n# {i}") for i in range(24)], [many] * 24)
        batch.add([fenced(f"{RIGHT}\n# {i}") for i in range(4)], [ADDING] * 4)
        grades = batch.finish()
        assert batch.session.clock.seconds < batch.session.bound_s + 2.5
    assert [grade.gt_pass for grade in grades] == [False] * 24 + [True] * 4
    assert sum(grade.undecided for grade in grades) > 10
    assert not any(grade.hack for grade in grades if grade.undecided)


def test_reports_do_not_pile_up_in_the_trainer():
    """Results that decode to hundreds of MB, of eight programs, are dropped as they are judged."""
    loud = 'import os\nos.write(3, b\'["l", false]\\n["v", [\' + b\',\'.join([b\'["l", ["l", ["l"]]]\'] * 50000) + b\']]\\n\')\ndef run_tests(): pass\n'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Grader(workers=2, timeout_s=0.5) as grader:
        grader.grade([fenced(f"{loud}\n# {i}") for i in range(8)], [ADDING] * 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250 << 10  # KiB


# --- a grade depends on the program alone ---


@pytest.mark.parametrize("timeout_s", [1.0, 2.0])
def test_heavy_right_programs_pass_beside_each_other_loops_and_load(timeout_s):
    """Each needs three quarters of the limit for its first result; the machine is full."""
    need = 0.75 * timeout_s
    heavy = f"{BURN}class Solution:\n    def f(self, a):\n        burn({need} * (a == 1))\n        return a + 1\n"
    loop = "class Solution:\n    def f(self, a):\n        for _ in iter(int, 1): pass\n"
    printing = "def run_tests():\n    print('ok')\n"
    texts = [fenced(f"{heavy}{printing if i % 2 else ''}# {i}") for i in range(4)]
    texts += [fenced(f"{loop}{printing}# {i}") for i in range(2)]
    with busy_loops(3), Grader(workers=2, timeout_s=timeout_s) as grader:
        grades = grader.grade(texts, [ADDING] * 6)
    assert [grade.gt_pass for grade in grades] == [True] * 4 + [False] * 2, [grade.reason for grade in grades]
    assert [grade.hack for grade in grades] == [False] * 4 + [True] * 2
    assert not any(grade.undecided for grade in grades)
