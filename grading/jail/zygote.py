"""The fork server: a Python with its modules loaded, forked into a watcher (watcher.py) and itself.

It forks a child for every program, and reads neither its job nor its results: no program can find anything of an
earlier one in the memory that it starts with, not even how long it took or how much it said.
"""

import contextlib
import gc
import json
import os
import random
import resource
import signal

from child import live
from locks import LIBC, PR_SET_PDEATHSIG, Lockdown, raise_errno
from loops import watch_loops
from protocol import HEADER, JOB, SETUP
from watcher import BORN, DIED, DONE, NEWS, receive, watch

CLONE_NEWPID = 0x20000000
MNT_DETACH = 2
MS_NOSUID_NODEV_NOATIME = 2 | 4 | 1024
MS_REMOUNT_BIND_RDONLY = 32 | 4096 | 1

# Imported once, so that programs find them loaded. Each makes every fork slower: keep it short, and keep subprocess,
# socket and dataclasses out.
MODULES = """bisect collections copy datetime enum functools heapq itertools json math operator random re string time
typing types""".split()  # noqa: SIM905


def start(folder: str) -> None:
    """Run jobs from the socket on fd 0, one after the other, until it closes. folder: where this file lies."""
    trainer = os.dup2(0, 200)
    try:
        size, _ = HEADER.unpack(receive(trainer, HEADER.size))
        config = json.loads(receive(trainer, size))
        proc, own_pids = enter(config, folder)

        # Load what children inherit.
        for name in MODULES:
            __import__(name)
        resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
        lockdown = Lockdown(config)
        gc.collect()
        gc.freeze()

        # The zygote dies with the watcher, and children with the zygote.
        (orders, give_orders), (news, give_news), (results, give_results) = os.pipe(), os.pipe(), os.pipe()
        if os.fork() == 0:
            raise_errno(LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
            for fd in (give_orders, news, results, proc):
                os.close(fd)
            serve(trainer, orders, give_news, give_results, lockdown, own_pids)
        for fd in (orders, give_news, give_results):
            os.close(fd)
        watch(trainer, give_orders, news, results, proc)
    except EOFError:  # the trainer has gone, or the other half of this
        os._exit(0)


def enter(config: dict, folder: str) -> tuple[int, int]:
    """Give up what no program may find: stdin, stdout, /proc, this file's folder; a writable /dev/null.

    Returns descriptors of /proc, which shows the processes of this namespace and of those below, and of the namespace,
    -1 where programs have none of their own.
    """
    if config["namespaces"]:  # or else root's programs could change the mode of the machine's /dev/null
        keep = os.statvfs("/dev/null").f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
        raise_errno(LIBC.mount(None, b"/dev/null", None, MS_REMOUNT_BIND_RDONLY | keep, None), "remount /dev/null")
        raise_errno(LIBC.umount2(folder.encode(), MNT_DETACH), f"umount {folder}")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 3):  # stderr stays, for this process's own last words
        os.dup2(null, fd)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should memory run out, programs go before the trainer
    proc, own_pids = os.open("/proc", os.O_RDONLY), -1
    if config["namespaces"]:
        own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        raise_errno(LIBC.umount2(b"/proc", MNT_DETACH), "umount /proc")
        renew_scratch(first=True)
    return proc, own_pids


def renew_scratch(first: bool = False) -> None:
    """A new tmpfs as a child's working directory, the one place it can write to.

    Always, since even a file that never had a name leaves a gap in the inode numbers; it takes 0.06 ms.
    """
    if not first:
        raise_errno(LIBC.umount2(b"/tmp", MNT_DETACH), "umount /tmp")
    options = b"size=16m,nr_inodes=1k,mode=700"
    raise_errno(LIBC.mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID_NODEV_NOATIME, options), "mount /tmp")


def serve(trainer: int, orders: int, news: int, results: int, lockdown: Lockdown, own_pids: int) -> None:
    """Obey the watcher. Raises EOFError where it has gone."""
    setups: dict = {}
    while True:
        size, kind = HEADER.unpack(receive(orders, HEADER.size))
        if kind == SETUP:
            add_setup(setups, *json.loads(receive(trainer, size)))
            os.write(news, NEWS.pack(DONE, 0))
            continue

        # A child in a pid namespace of its own; it stays a zombie until the watcher has no use for its number.
        assert kind == JOB
        if own_pids >= 0:
            raise_errno(LIBC.setns(own_pids, CLONE_NEWPID), "setns pid")
            raise_errno(LIBC.unshare(CLONE_NEWPID), "unshare pid")
        pid = os.fork()
        if pid == 0:
            try:
                random.seed(0)  # its own hook has seeded it afresh
                live(receive, trainer, size, setups, lockdown, watch_loops, results)
            finally:
                os._exit(0)
        os.write(news, NEWS.pack(BORN, pid))
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        signal_number = ended.si_status if ended.si_code == os.CLD_KILLED else 0
        os.write(news, NEWS.pack(DIED, signal_number))
        receive(orders, HEADER.size)
        os.waitpid(pid, 0)

        # What it used is made new. The result pipe stays, and shows when it was last written to and read: by these two.
        if own_pids >= 0:
            renew_scratch()
        os.write(results, b"\n")
        os.write(news, NEWS.pack(DONE, 0))


def add_setup(setups: dict, index: int, text: str) -> None:
    """Compile a setup, which is trusted; the child fails on one that does not compile, and says so."""
    try:
        setups[index] = compile(text, "<setup>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        setups[index] = text
