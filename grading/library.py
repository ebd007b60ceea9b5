"""What of this machine a program can read: the standard library, and the shared libraries that it needs; nothing else.

A file system remembers what was read and what was asked for: a page that is in memory, a name that was looked up, are
bits that one program could write and another read by the time that its own access takes. A tmpfs remembers neither, so
programs see a copy in one. Where there is none to be had, the files themselves are held in memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from loguru import logger

from lib.errors import SandboxError

# Folders of the standard library, and in it, that no solution needs, and compiled files that are not looked for.
LEFT_OUT = ("site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo",
            "tkinter", "config-*", "*.opt-*.pyc")  # fmt: skip
# Where the loader and the libraries may be looked for under other names than their own.
LOADER_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
LOADER_CACHE = "/etc/ld.so.cache"
# Where a tmpfs for the copy is looked for.
TMPFS_FOLDERS = ("/dev/shm", f"/run/user/{os.getuid()}", "/tmp")
# Run by the interpreter: its standard library, and the files that it has mapped once every module of C is loaded.
MAPPED = """
import glob, importlib, json, os, sys, sysconfig
for path in glob.glob(os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload", "*.so")):
    name = os.path.basename(path).split(".")[0]
    if not name.startswith(("_test", "xx", "_xx", "_tkinter")):
        try:
            importlib.import_module(name)
        except Exception:
            pass
lines = open("/proc/self/maps").read().splitlines()
mapped = sorted({line.split(None, 5)[5] for line in lines if ".so" in line.split(None, 5)[-1]})
print(json.dumps([[sysconfig.get_path(name) for name in ("stdlib", "platstdlib")], mapped]))
"""


def find_interpreter() -> str:
    """The interpreter behind a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@lru_cache(maxsize=1)
def library_paths() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(folders of the standard library, files beside them: shared libraries, the interpreter, the loader's cache)."""
    command = [find_interpreter(), "-I", "-S", "-W", "ignore", "-c", MAPPED]
    folders, mapped = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    folders = tuple(sorted(set(map(os.path.realpath, folders))))
    files = [path for path in mapped if not any(path.startswith(folder + "/") for folder in folders)]
    return folders, (*files, find_interpreter(), *filter(os.path.isfile, [LOADER_CACHE]))


def is_left_out(path: str) -> bool:
    """Whether a file or folder of the standard library is not shown."""
    return any(Path(path).match(pattern) for pattern in LEFT_OUT)


def files_below(folder: str) -> list[str]:
    """The files of a folder that are shown."""
    found = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_left_out(os.path.join(top, name))]
        found += [path for name in names if not is_left_out(path := os.path.join(top, name))]
    return found


# --- the copy ---


@lru_cache(maxsize=1)
def library_copy() -> str | None:
    """Folder of a tmpfs with a copy of the library below it, by their own paths; None where there is no room for one.

    It is made once for an interpreter and user, and stays for later processes.
    """
    folders, beside = library_paths()
    files = [path for folder in folders for path in files_below(folder)] + list(beside)
    sizes = {path: os.stat(path) for path in files if os.access(path, os.R_OK)}
    state = hashlib.sha256(repr([(path, s.st_size, s.st_mtime_ns) for path, s in sorted(sizes.items())]).encode())
    place = find_tmpfs(2 * sum(s.st_size for s in sizes.values()))
    target = os.path.join(place or "", f"grading-{os.getuid()}-{state.hexdigest()[:16]}")
    if place is None or not (os.path.isdir(target) or make_copy(list(sizes), target)):
        logger.warning("no tmpfs has room for a copy of the standard library: programs see the files themselves")
        hold(list(sizes))
        return None
    owner = os.lstat(target)
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077:
        raise SandboxError(f"{target} can be written by others than this user: remove it")
    return target


def make_copy(files: list[str], target: str) -> bool:
    """Copy files below a folder, by their own paths: aside and renamed, so that the copy is whole or not there."""
    work = tempfile.mkdtemp(prefix="grading-", dir=os.path.dirname(target))
    try:
        for path in files:
            os.makedirs(os.path.dirname(work + path), exist_ok=True)
            shutil.copy2(path, work + path)
        os.rename(work, target)
    except OSError:  # no room after all, or another process was faster
        shutil.rmtree(work, ignore_errors=True)
    return os.path.isdir(target)


def find_tmpfs(size: int) -> str | None:
    """A folder in a tmpfs with so many bytes to spare from which programs may be run."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for folder in TMPFS_FOLDERS:
        options = [mount[3].split(",") for mount in mounts if mount[1] == folder and mount[2] == "tmpfs"]
        if not options or "noexec" in options[-1] or not os.access(folder, os.W_OK):
            continue
        if shutil.disk_usage(folder).free >= size:
            return folder
    return None


def hold(files: list[str]) -> None:
    """Bring files into memory, and lock their pages there for the life of this process if it may."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    may_lock = True
    for path in files:
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if may_lock and size:
                address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
                may_lock = libc.mlock(address, size) == 0
            while not may_lock and file.read(1 << 20):
                pass


# --- what the sandbox is told ---


def other_names(path: str) -> list[str]:
    """Names by which the loader may look for a library: links to it beside it, and in the folders of the loader."""
    found = []
    stem = os.path.basename(path).split(".so")[0].split("-")[0]
    for folder in sorted({os.path.dirname(path), *map(os.path.realpath, LOADER_FOLDERS)}):
        links = [link for link in Path(folder).glob(f"{stem}*") if link.is_symlink()]
        found += [str(link) for link in links if os.path.realpath(link) == path]
    return found


@lru_cache(maxsize=1)
def bind_arguments() -> list[str]:
    """Arguments of bubblewrap that show the library, read-only."""
    folders, files = library_paths()
    copy = library_copy() or ""
    arguments = []
    for folder in LOADER_FOLDERS:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
    for path in (*folders, *files):
        arguments += ["--ro-bind", copy + path, path]
        if ".so" in path:
            for name in other_names(path):
                arguments += ["--symlink", path, name]
    for path in () if copy else [str(p) for folder in folders for p in Path(folder).iterdir()]:
        if is_left_out(path) and os.path.isdir(path):
            arguments += ["--tmpfs", path, "--remount-ro", path]
    return arguments


def landlock_paths() -> list[str]:
    """The same for Landlock, which knows no exceptions within a folder; these are the files themselves."""
    folders, files = library_paths()
    inner = [str(path) for folder in folders for path in sorted(Path(folder).iterdir())]
    hold([path for folder in folders for path in files_below(folder)] + list(files))
    return [*(path for path in inner if not is_left_out(path)), *files]
