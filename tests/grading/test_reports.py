"""Reports are read with distrust, and cost the trainer little."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from grading.asserts import failure, judge_of, split_tests
from grading.execution import MAX_LISTS, Execution, parse_report
from lib.errors import SandboxError

GOOD = b'["c", true]\n["l", false]\n["v", [1]]\n["f", true]\n'
ONE = Execution("", "", (("x",),))


def read(output: bytes, job: Execution = ONE, judge=lambda i, values: True, stop: str = ""):
    return parse_report(job, judge, stop, 0.0, 0.0, output)


def test_an_honest_report():
    report = read(GOOD)
    assert report.finished and report.compiled and report.tested == 1 and not report.wrong


@pytest.mark.parametrize(
    "output",
    [b"", GOOD[:-1], GOOD + b"junk\n", GOOD.replace(b"f", b"g"), b"\n" + GOOD,
     GOOD.replace(b"[1]", b"1"), b"\xff\n" + GOOD,
     GOOD.replace(b'["v", [1]]\n', b""), GOOD.replace(b'["l", false]\n', b""), GOOD + GOOD],
)  # fmt: skip
def test_malformed_reports_pass_nothing(output):
    report = read(output)
    assert failure(report, split_tests(("assert Solution().f() == 1",), "Solution().f"))


def test_a_stopped_run_is_not_finished():
    assert not read(GOOD, stop="time").finished


def test_what_was_said_before_the_program_is_compiled_alone():
    assert not read(GOOD[12:]).compiled


def test_a_child_that_could_not_be_locked_down_is_an_error_of_the_sandbox():
    with pytest.raises(SandboxError):
        read(b'["x", "no"]\n')
    assert read(b'["c", true]\n["x", "no"]\n').error == "malformed report"


def test_results_after_the_first_wrong_one_are_not_looked_at():
    judged = []
    job = Execution("", "", (("x",),) * 4)
    read(b'["c", true]\n["l", false]\n' + b'["v", [1]]\n' * 4, job, lambda i, values: judged.append(i) or i < 1)
    assert judged == [0, 1]


def test_results_of_too_many_lists_are_wrong_unread():
    judged = []
    for count in (MAX_LISTS - 3, MAX_LISTS):
        line = b'["v", [["l"' + b',["l"]' * (count - 1) + b"]]]\n"
        report = read(b'["c", true]\n["l", false]\n' + line, judge=lambda i, values: judged.append(i) or True)
        assert report.tested == 1
    assert judged == [0] and report.wrong == 1


def test_a_run_without_tests_reports_no_results():
    call = Execution("", "", call="run_tests")
    report = read(GOOD, call, lambda i, values: pytest.fail("judged"))
    assert not report.finished and report.error == "malformed report"


def test_no_report_can_make_the_trainer_fail():
    rng = random.Random()
    tests = split_tests(("assert Solution().f() == [1]", "assert abs(Solution().f() - 1) < 2"), "Solution().f")
    job = Execution("", "", tuple(test.calls for test in tests))
    good = b'["c", true]\n["l", false]\n["v", [["l", 1]]]\n["v", [["d", [["t", 1, "a"], 2]]]]\n["f", true]\n'
    words = b'[ ] "l" "i" "d" "r" "n" "s" "w" { } 1 null NaN 1e999 , - "v" "f" "c" \xff "\\ud800" "b"'.split()
    words += [b"\n", b"9" * 5000, b"[" * 3000]
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(12, len(data))
            data[at : at + rng.randint(0, 8)] = rng.choice(words)
        assert failure(read(bytes(data) + b"\n", job, judge_of(tests)), tests), data


# Outputs of one MiB that were made to take the trainer's memory or time.
COLLIDING = ",".join(f'["i", "{hex(i * (2**61 - 1))}"]' for i in range(1, 3900))
COSTLY = {
    "nested lists": '["v", [' + ",".join(['["l", ["l", ["l"]]]'] * 50_000) + "]]",
    "deep": '["v", [' + ",".join(['["l", ' * 90 + "1" + "]" * 90] * 1900) + "]]",
    "colliding sets": '["v", [["l",' + ",".join([f'["s", {COLLIDING}]'] * 8) + "]]]",
    "large integers": '["v", [' + ",".join(['["i", "0x' + "f" * 19_000 + '"]'] * 50) + "]]",
    "long error": '["e", "' + "x" * 1_000_000 + '"]',
    "error of lists": '["e", [' + "[]," * 300_000 + "1]]",
    "lines": "\n".join(['["v", [1]]'] * 90_000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_reading_costs_little(name):
    """The trainer's memory stays what it was; its CPU is bounded as by one pass over the output."""
    tests = split_tests(("assert Solution().f() == 7",) * 3, "Solution().f")
    job = Execution("", "", tuple(test.calls for test in tests))
    output = b'["c", true]\n["l", false]\n' + COSTLY[name].encode()[: 1 << 20] + b"\n"
    start = time.process_time()
    report = read(output, job, judge_of(tests))
    spent = time.process_time() - start
    assert failure(report, tests)
    assert spent < 2.0, spent  # of CPU: about 0.3 s for the worst
    tracemalloc.start()
    kept = [read(output, job, judge_of(tests)) for _ in range(3)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 3 and size < 100_000
