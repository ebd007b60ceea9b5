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
CLONE = (56, 220)
CLONE3 = 435
CLONE_THREAD = 0x10000
# Column of the tables above, and the architecture's number in an audit.
ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Actions of a filter, and the instructions of classic BPF that it needs.
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
LOAD, RETURN, IF_EQUAL, IF_AT_LEAST, IF_BITS = 0x20, 0x06, 0x15, 0x35, 0x45
# Offsets in struct seccomp_data; arguments follow from 16, each with its low half first.
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16


def seccomp_program(pid: int) -> bytes:
    """The child's filter as struct sock_filter[]: threads but no processes, signals only to `pid`, itself.

    Raises OSError on an architecture whose system call numbers are not listed.
    """
    machine = os.uname().machine
    if machine not in ARCHES:
        raise OSError(f"no seccomp table for {machine}: programs can be graded on x86_64 or aarch64")
    column, audit = ARCHES[machine]

    # An instruction is (code, skip if true, skip if false, operand).
    code = [(LOAD, 0, 0, ARCH), (IF_EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if column == 0:  # the x32 numbers would slip past the table
        code += [(IF_AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, EPERM)]

    # Processes: clone for threads only; clone3's flags lie in memory, so glibc is made to fall back to clone.
    code += [(IF_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ENOSYS)]
    code += [(IF_EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, FIRST_ARGUMENT), (IF_BITS, 1, 0, CLONE_THREAD)]
    code += [(RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]
    for numbers in SIGNALS.values():
        code += [(IF_EQUAL, 0, 4, numbers[column]), (LOAD, 0, 0, FIRST_ARGUMENT), (IF_EQUAL, 1, 0, pid)]
        code += [(RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]

    # The table, by eights: the kernel tries every call number when a filter is installed, so it must be able to skip.
    denied = sorted({numbers[column] for numbers in DENIED.values()} - {None})
    for i in range(0, len(denied), 8):
        chunk = denied[i : i + 8]
        code += [(IF_AT_LEAST, len(chunk) + 2, 0, chunk[-1] + 1)]
        code += [(IF_EQUAL, len(chunk) - j, 0, number) for j, number in enumerate(chunk)]
        code += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]
    return b"".join(struct.pack("HBBI", *line) for line in [*code, (RETURN, 0, 0, ALLOW)])


# --- Landlock ---

# System calls, the same on all architectures, and bits of access rights.
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ, READ_WRITE, TRUNCATE = 4 | 8 | 1, 4 | 2, 1 << 14


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
