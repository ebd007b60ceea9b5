"""The attack suite: no program gains a pass, sees the trainer, leaves anything behind, or stops others' grading."""

from __future__ import annotations

import os
import random
import secrets
import socket
from pathlib import Path

import pytest
from attack_programs import ATTACKS, CHANNEL, OWN, PATCHES, VALUES, returning
from running import add_idle, wait_until

from problems import Problem
from rewards import Grader

REPO = Path(__file__).resolve().parents[2]
TOKEN = "leftover" + secrets.token_hex(4)
SETUP = """
from collections import *
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
"""


def secret_problem() -> Problem:
    """A problem whose eight results are drawn afresh, of several types, so that no program can know them."""
    rng = random.Random(secrets.token_bytes(8))
    results = [rng.randrange(10**15, 10**16) for _ in range(8)]
    results[3:6] = [str(results[3]), [results[4], results[5]], (results[5], "x")]
    tests = tuple(f"assert Solution().f({i}, {rng.randrange(99)}) == {result!r}" for i, result in enumerate(results))
    return Problem(
        "secret", ({"role": "user", "content": "f and should pass all tests"},), SETUP, tests, "Solution().f"
    )


def fenced(program: str, **words) -> str:
    for name, value in {"TOKEN": TOKEN, "HOME": str(Path.home()), "REPO": str(REPO), **words}.items():
        program = program.replace(name, str(value))
    return f"```python\n{program}\n```"


HONEST = fenced("class Solution:\n    def f(self, a, b):\n        return a + b")
ADDING = Problem("add", ({"role": "user", "content": "f"},), SETUP, ("assert Solution().f(2, 3) == 5",), "Solution().f")


def descendants() -> list[int]:
    """Process ids below this process."""
    parent = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found, level = [], [os.getpid()]
    while level:
        level = [pid for pid, above in parent.items() if above in level]
        found += level
    return found


def leftovers() -> list[Path]:
    """Files that carry the token, in the places that a program could think of."""
    places = [REPO, Path.home(), Path.cwd(), *map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/run", "/"))]
    return [path for place in places if place.is_dir() for path in place.glob(f"*{TOKEN}*")]


class Listeners:
    """Everything that a program might reach if it had a network."""

    def __enter__(self):
        v4, v6 = socket.socket(), socket.socket(socket.AF_INET6)
        v4.bind(("127.0.0.1", 0))
        self.port = v4.getsockname()[1]
        self.sockets = [v4]
        try:
            v6.bind(("::1", self.port))
            self.sockets.append(v6)
        except OSError:
            v6.close()
        local = socket.socket(socket.AF_UNIX)
        local.bind("\0" + TOKEN)
        self.sockets.append(local)
        for listener in self.sockets:
            listener.listen()
        self.datagrams = socket.socket(type=socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        for listener in (*self.sockets, self.datagrams):
            listener.setblocking(False)
        return self

    def heard(self) -> int:
        count = 0
        for listener in (*self.sockets, self.datagrams):
            try:
                listener.accept() if listener is not self.datagrams else listener.recv(10)
                count += 1
            except BlockingIOError:
                pass
        return count

    def __exit__(self, *_):
        for listener in (*self.sockets, self.datagrams):
            listener.close()


def test_no_attack_gains_survives_or_escapes(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    before = set(descendants())
    secret = Path.home() / f"secret_{TOKEN}"
    secret.write_text("7")
    try:
        with Listeners() as listeners, Grader(workers=2, timeout_s=0.3, memory_mb=512) as grader:
            programs = [fenced(program, PORT=listeners.port) for program in ATTACKS.values()]
            grades = grader.grade(programs, [secret_problem()] * len(programs))
            gained = [name for name, grade in zip(ATTACKS, grades, strict=True) if grade.gt_pass]
            assert not gained
            owned = [name for name, grade in zip(ATTACKS, grades, strict=True) if name in OWN and grade.own_pass]
            assert not owned
            assert grader.grade([HONEST] * 4, [ADDING] * 4)[3].gt_pass
            wanted = 4 * len(grader.pool.idle)  # bwrap, its init, the watcher and the zygote
            left = wait_until(lambda: len(set(descendants()) - before), wanted)
            assert left == wanted, "processes beside the zygotes"
            assert listeners.heard() == 0
            secret.unlink()
            assert leftovers() == []
        assert wait_until(lambda: set(descendants()) <= before, True)
    finally:
        secret.unlink(missing_ok=True)


def test_attempts_are_seen():
    """Most attacks are labelled as attempts, so that suppressed flavours that come back in another form show up."""
    with Grader(workers=2, timeout_s=0.1) as grader:
        some = {
            name: program for name, program in ATTACKS.items() if "ctypes" not in program and "while" not in program
        }
        grades = grader.grade([fenced(p, PORT=1) for p in some.values()], [secret_problem()] * len(some))
    seen = [grade.attempt for grade in grades if grade.compiles]
    assert sum(seen) > 0.5 * len(seen)
    assert all(grade.flavour for grade in grades if grade.attempt)
    assert not any(grade.flavour for grade in grades if not grade.attempt)


LEAVE = {
    "file": ("open('/tmp/x', 'w').write('1')", "__import__('os').path.exists('/tmp/x')"),
    "module": ("import math\nmath.pi = 7", "__import__('math').pi == 7"),
    "builtins": ("import builtins\nbuiltins.left = 1", "hasattr(__import__('builtins'), 'left')"),
    "harness": ("import __main__\n__main__.left = 1", "hasattr(__import__('__main__'), 'left')"),
    "directory": ("import os\nos.chdir('/')", "__import__('os').getcwd() != '/tmp'"),
    "link": ("import os\nos.symlink('/', '/tmp/x')", "bool(__import__('os').listdir('/tmp'))"),
    "environment": ("import os\nos.environ['LEFT'] = '1'", "'LEFT' in __import__('os').environ"),
    "umask": ("import os\nos.umask(0o123)", "__import__('os').umask(0o22) == 0o123"),
    "random": ("import random\nrandom.seed(5)\nrandom.random()", "__import__('random').random() < 0.8"),
    "limits": ("import sys\nsys.setrecursionlimit(77)", "__import__('sys').getrecursionlimit() == 77"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVE)
def test_nothing_is_carried_to_the_next_program(name, one):
    leave, found = LEAVE[name]
    look = Problem("look", ({"role": "user", "content": ""},), "", ("assert Solution().f() == False",), "Solution().f")
    first = "class Solution:\n    def f(self):\n        return False\n" + leave
    second = f"class Solution:\n    def f(self):\n        return {found}"
    grades = one.grade([fenced(first), fenced(second), fenced(second)], [look] * 3)
    assert [grade.gt_pass for grade in grades] == [True, True, True], [grade.reason for grade in grades]


CHANGE = """
import os
def changeable(path):
    try:
        if not os.statvfs(path).f_flag & os.ST_RDONLY:
            return True
        os.chmod(path, os.stat(path).st_mode & 0o7777)
        return True
    except OSError:
        return False
class Solution:
    def f(self):
        found = []
        for folder, folders, names in os.walk("/"):
            if folder.startswith("/tmp") or folder.count("/") > 3:
                folders.clear()
                continue
            found += [p for p in [folder, *(os.path.join(folder, n) for n in names[:5])] if changeable(p)]
        return [changeable("/dev/null"), changeable("/jail"), os.listdir("/jail"), changeable(os.__file__), found]
"""


def test_nothing_but_the_working_directory_can_be_changed(one):
    """Not even the mode of a file: as root, a program owns /dev/null."""
    test = "assert Solution().f() == [False, False, [], False, []]"
    look = Problem("look", ({"role": "user", "content": ""},), "", (test,), "Solution().f")
    grade = one.grade([fenced(CHANGE)], [look])[0]
    assert grade.gt_pass, grade.reason


SCAN = """
import ctypes, gc, sys
mark = b"".join([b"mar", b"ked", b"TOKEN"[:-1], b"TOKEN"[-1:]])
class Solution:
    def f(self):
        end = ctypes.CDLL(None, use_errno=True).sbrk
        end.restype = ctypes.c_void_p
        found = ctypes.string_at(end(0) - 400_000, 400_000).count(mark)
        frame = sys._getframe()
        while frame:
            held = [v for v in frame.f_locals.values() if isinstance(v, (bytes, bytearray)) and v is not mark]
            found += sum(mark in bytes(v) for v in held)
            frame = frame.f_back
        return found + sum(mark in bytes(o) for o in gc.get_objects() if isinstance(o, (bytes, bytearray)))
"""


def test_the_memory_of_earlier_programs_is_gone(one):
    """A child is forked from the process that saw them: their source and results must not be in it."""
    look = Problem("look", ({"role": "user", "content": ""},), "", ("assert Solution().f() == 0",), "Solution().f")
    tests = ("assert Solution().f(0) == 0", "assert Solution().f(99) == 0")
    slow = Problem("slow", look.messages, "", tests, "Solution().f")
    for size in (1, 100, 500):
        marked = (
            f"class Solution:\n    def f(self):\n        return 'markedTOKEN' * {size}\n" + "# markedTOKEN\n" * size
        )
        stopped = marked.replace("return", "__import__('time').sleep(seconds); return").replace("self", "self, seconds")
        grades = one.grade([fenced(marked), fenced(stopped), fenced(SCAN)], [look, slow, look])
        assert grades[2].gt_pass, grades[2].reason
        assert grades[1].reason.endswith("wrong result"), "it was not stopped early"
    own = SCAN.replace("import ctypes", "seen = bytearray(b'markedTOKEN')\nimport ctypes").replace(
        "frame.f_locals", "frame.f_globals"
    )
    assert not one.grade([fenced(own)], [look])[0].gt_pass, "the scan finds nothing that is there"


@pytest.fixture(scope="module")
def one():
    """A grader with one zygote, so that programs follow one another in it."""
    with Grader(workers=1, timeout_s=2) as grader:
        yield grader


def test_hostile_batches_leave_the_pool_usable(one):
    programs = [returning("a", "import os\nos._exit(0)"), returning("a", "import os\nos.close(3)")] * 100
    assert not any(grade.gt_pass for grade in one.grade([fenced(p) for p in programs], [ADDING] * 200))
    assert all(grade.gt_pass for grade in one.grade([HONEST] * 20, [ADDING] * 20))


def test_a_dead_zygote_is_replaced(one):
    add_idle(one.pool, 3)
    for zygote in one.pool.idle:
        zygote.process.kill()
    assert all(grade.gt_pass for grade in one.grade([HONEST] * 5, [ADDING] * 5))


def test_weaker_isolation_still_gives_nothing_away():
    """Without namespaces: comparisons, patches and forgeries gain as little, and there is no network and no signal."""
    attacks = {**VALUES, **PATCHES, **CHANNEL}
    probes = [
        returning("a", "import os\nos.kill(os.getppid(), 0)"),
        returning("a", "import socket\nsocket.socket()"),
        returning("a", "import os\nos.fork()"),
    ]
    files = [
        returning("a", "open('/etc/passwd')"),
        returning("a", f"import os\nos.listdir({str(REPO)!r})"),
        returning("a", "import os\nopen(f'/proc/{os.getppid()}/environ')"),
        returning("a", "open('/tmp/TOKEN', 'w')"),
    ]
    with Grader(workers=2, timeout_s=0.4, isolation="rlimits") as grader:
        grades = grader.grade([fenced(p) for p in attacks.values()], [secret_problem()] * len(attacks))
        assert not [name for name, grade in zip(attacks, grades, strict=True) if grade.gt_pass]
        refused = grader.grade([fenced(p) for p in probes], [ADDING] * len(probes))
        assert all("PermissionError" in grade.reason for grade in refused), [grade.reason for grade in refused]
        if "landlock" in grader.isolation:
            refused = grader.grade([fenced(p) for p in files], [ADDING] * len(files))
            assert all("PermissionError" in grade.reason for grade in refused), [grade.reason for grade in refused]
        assert grader.grade([HONEST], [ADDING])[0].gt_pass
