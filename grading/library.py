"""What of this machine a program can read: the standard library, and the shared libraries that it needs; nothing else.

Every file of it is read and, where this process may lock memory, held there. A page that is not in memory, and that a
program then reads, would be a bit that another program can find by the time its own read takes.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

# Folders of the standard library that no solution needs.
LEFT_OUT = ("site-packages", "dist-packages", "test", "idlelib", "lib2to3", "ensurepip", "turtledemo", "tkinter",
            "config-*")  # fmt: skip
# Where the loader and the libraries may be looked for under other names than their own.
LOADER_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
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
def library_files() -> tuple[list[str], list[str]]:
    """(files and folders that can be read, folders in them that are left out); real paths. All are held in memory."""
    command = [find_interpreter(), "-I", "-S", "-W", "ignore", "-c", MAPPED]
    folders, mapped = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    stdlib = set(map(os.path.realpath, folders))
    left_out = sorted(str(path) for folder in stdlib for name in LEFT_OUT for path in Path(folder).glob(name))
    shared = [path for path in mapped if not any(is_below(path, folder) for folder in stdlib)]
    hold(files_of([*stdlib, *shared, find_interpreter()], left_out))
    return [*sorted(stdlib), *shared], left_out


def is_below(path: str, folder: str) -> bool:
    """Whether a path is the folder or in it."""
    return path == folder or path.startswith(folder + "/")


def files_of(paths: list[str], left_out: list[str]) -> list[str]:
    """The files among the paths, and those in the folders among them."""
    files = [path for path in paths if os.path.isfile(path)]
    for top in paths:
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in left_out]
            files += [os.path.join(folder, name) for name in names]
    return files


def hold(files: list[str]) -> None:
    """Bring files into memory, and lock their pages there for the life of this process if it may."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    may_lock = True
    for path in files:
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if may_lock and size:
                    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
                    may_lock = libc.mlock(address, size) == 0
                while not may_lock and file.read(1 << 20):
                    pass
        except OSError:  # a file that this user cannot read, no program can
            continue


def other_names(path: str) -> list[str]:
    """Names by which the loader may look for a library: links to it beside it, and in the folders of the loader."""
    folders = {os.path.dirname(path), *map(os.path.realpath, LOADER_FOLDERS)}
    found = []
    for folder in sorted(folders):
        stem = os.path.basename(path).split(".so")[0].split("-")[0]
        for link in Path(folder).glob(f"{stem}*"):
            if link.is_symlink() and os.path.realpath(link) == path:
                found.append(str(link))
    return found


def bind_arguments() -> list[str]:
    """Arguments of bubblewrap that show the library, read-only."""
    readable, left_out = library_files()
    arguments = []
    for folder in LOADER_FOLDERS:
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
    for path in readable:
        arguments += ["--ro-bind", path, path]
        for name in other_names(path) if os.path.isfile(path) else ():
            arguments += ["--symlink", path, name]
    for folder in left_out:
        arguments += ["--tmpfs", folder, "--remount-ro", folder]
    return arguments


def landlock_paths() -> list[str]:
    """The same for Landlock, which knows no exceptions within a folder."""
    readable, left_out = library_files()
    paths = []
    for path in readable:
        inner = sorted(os.path.join(path, name) for name in os.listdir(path)) if os.path.isdir(path) else [path]
        paths += [p for p in inner if p not in left_out]
    return [*paths, *filter(os.path.isfile, ["/etc/ld.so.cache"])]
