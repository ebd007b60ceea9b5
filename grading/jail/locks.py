"""What a child can no longer do once `Lockdown.apply` has run: rlimits, no capabilities, Landlock, seccomp."""

import ctypes
import os
import resource
import signal
import struct

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
LIBC = ctypes.CDLL(None, use_errno=True)


def raise_errno(result: int, what: str) -> None:
    """Turn a C call's -1 into OSError."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


# --- seccomp ---

# System call numbers (x86_64, aarch64; None where the architecture lacks it). What stands in neither table is refused:
# processes and threads, programs, pipes (the machine numbers them in one row), sockets, locks and leases, flags of open
# files (children of a zygote share the result pipe), shared memory, attributes of files, the page cache, other
# processes' signals, limits and memory, asynchronous I/O, watches, namespaces, mounts, keys, modules.
ALLOWED = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "open": (2, None), "openat": (257, 56),
    "openat2": (437, 437), "creat": (85, None), "stat": (4, None), "lstat": (6, None),
    "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "getdents": (78, None),
    "getdents64": (217, 61), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "truncate": (76, 45), "ftruncate": (77, 46),
    "fallocate": (285, 47), "umask": (95, 166), "sendfile": (40, 71), "getxattr": (191, 8), "lgetxattr": (192, 9),
    "fgetxattr": (193, 10), "listxattr": (194, 11), "llistxattr": (195, 12), "flistxattr": (196, 13),
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd": (284, None), "eventfd2": (290, 19),
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "restart_syscall": (219, 128), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "getrusage": (98, 165), "uname": (63, 160), "getrandom": (318, 278), "close_range": (436, 436), "exit": (60, 93),
    "exit_group": (231, 94),
}  # fmt: skip
# Calls of which some are allowed: numbers, which argument decides, and its values; OWN_PID is the child's process id.
OWN_PID = -1
FILTERED = [
    ((62, 129), 0, (OWN_PID,)),  # kill
    ((200, 130), 0, (OWN_PID,)),  # tkill
    ((234, 131), 0, (OWN_PID,)),  # tgkill
    ((302, 261), 0, (0,)),  # prlimit64: its own
    ((72, 25), 1, (0, 1, 2, 3, 1030)),  # fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
    ((16, 29), 1, (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)),  # ioctl: TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX
    ((28, 233), 2, (4, 8, 10, 14, 15, 16)),  # madvise: DONTNEED, FREE, DONTFORK, (NO)HUGEPAGE, DONTDUMP
]
# Refused as if the kernel did not have them, so that the C library takes an older one: clone3, preadv2, pwritev2.
UNKNOWN = [(435, 435), (327, 286), (328, 287)]
# Column of the tables, and the architecture's number in an audit.
ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Actions of a filter, and the instructions of classic BPF that it needs.
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
LOAD, RETURN, IF_EQUAL, IF_AT_LEAST = 0x20, 0x06, 0x15, 0x35
# Offsets in struct seccomp_data; arguments follow from 16, each with its low half first.
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16


def seccomp_program(pid: int) -> bytes:
    """The filter of the child `pid` as struct sock_filter[]: ALLOWED, FILTERED, and nothing else.

    Raises OSError on an architecture whose system call numbers are not listed.
    """
    machine = os.uname().machine
    if machine not in ARCHES:
        raise OSError(f"no seccomp table for {machine}: programs can be graded on x86_64 or aarch64")
    column, audit = ARCHES[machine]

    # An instruction is (code, skip if true, skip if false, operand).
    code = [(LOAD, 0, 0, ARCH), (IF_EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    for numbers in UNKNOWN:
        code += [(IF_EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ENOSYS)]
    for numbers, argument, values in FILTERED:
        code += [(IF_EQUAL, 0, len(values) + 3, numbers[column]), (LOAD, 0, 0, FIRST_ARGUMENT + 8 * argument)]
        for i, value in enumerate(values):
            code += [(IF_EQUAL, len(values) - i, 0, pid if value == OWN_PID else value)]
        code += [(RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]

    # The table as ranges, in order: what lies before the next one is refused, what lies in it is allowed.
    allowed = sorted({numbers[column] for numbers in ALLOWED.values()} - {None})
    starts = [n for n in allowed if n - 1 not in allowed]
    ends = [n for n in allowed if n + 1 not in allowed]
    for start, end in zip(starts, ends, strict=True):
        code += [(IF_AT_LEAST, 1, 0, start), (RETURN, 0, 0, EPERM)]
        code += [(IF_AT_LEAST, 1, 0, end + 1), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in [*code, (RETURN, 0, 0, EPERM)])


# --- Landlock ---

# System calls, the same on all architectures, and bits of access rights.
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FOLDER = 8
READ, READ_WRITE, TRUNCATE = 4 | READ_FOLDER | 1, 4 | 2, 1 << 14


def landlock_version() -> int:
    """The kernel's Landlock ABI, 0 where it has none or this process may not use it."""
    return max(0, LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def landlock_rules(readable: list[str], version: int) -> int:
    """File descriptor of a rule set: reading beneath `readable`, /dev/null, and nothing else of the file system."""
    rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    rules = LIBC.syscall(LANDLOCK_CREATE, struct.pack("Q", (1 << rights) - 1), ctypes.c_size_t(8), 0)
    raise_errno(rules, "landlock")
    null = READ_WRITE | (TRUNCATE if rights > 14 else 0)
    for path, allowed in [*((path, READ) for path in readable), (os.devnull, null)]:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed &= -1 if os.path.isdir(path) else ~READ_FOLDER
        raise_errno(LIBC.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, fd), 0), f"landlock {path}")
        os.close(fd)
    return os.dup2(rules, 300)  # above what a child closes first


# --- all of it ---


class Lockdown:
    """What every child applies before the program; built by the zygote, so that the child itself has little to do."""

    def __init__(self, config: dict) -> None:
        self.namespaces = config["namespaces"]
        limits = {
            resource.RLIMIT_AS: config["memory_mb"] << 20,
            resource.RLIMIT_CPU: config["cpu_s"],
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 16 << 20,
            resource.RLIMIT_NOFILE: 64,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_SIGPENDING: 8,
        }
        hard = {what: resource.getrlimit(what)[1] for what in limits}  # it can be lowered only
        self.limits = [(what, limit if hard[what] < 0 else min(limit, hard[what])) for what, limit in limits.items()]
        self.prctl, self.capset, self.syscall = LIBC.prctl, LIBC.capset, LIBC.syscall
        self.rules = landlock_rules(config["readable"], config["landlock"]) if config["landlock"] else -1
        self.no_capabilities = struct.pack("Ii", 0x20080522, 0), bytes(24)
        self.load_filter(1)

    def load_filter(self, pid: int) -> None:
        """Build the seccomp filter of process `pid`."""
        program = seccomp_program(pid)
        self.buffer = ctypes.create_string_buffer(program)
        self.filter = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self.buffer))

    def apply(self) -> None:
        """Working directory, rlimits, no capabilities, seccomp; not reversible. Raises OSError."""
        if self.namespaces:
            os.chdir("/tmp")
        else:
            self.load_filter(os.getpid())
        for what, limit in self.limits:
            resource.setrlimit(what, (limit, limit))
        raise_errno(self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
        raise_errno(self.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if self.rules >= 0:
            raise_errno(self.syscall(LANDLOCK_RESTRICT, self.rules, 0), "landlock")
            os.close(self.rules)
        raise_errno(self.capset(*self.no_capabilities), "capset")
        raise_errno(self.prctl(PR_SET_SECCOMP, 2, self.filter, 0, 0), "seccomp")
