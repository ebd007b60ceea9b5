"""Files that are whole or not there: atomic writes, appends that leave nothing half done, JSON, hashes. No torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within the context an OSError names `path`: a full disk names no file, and a temporary one means nothing."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A file written to a temporary name, synced, renamed: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            # A path that is no text keeps its bytes as \udcXX, which JSON reads back.
            text = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace"}
            with open(temporary, mode, **text) as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)  # or a power cut may take the new name back
            os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder filled beside `path`, synced, renamed in its place; nothing of it is left where that fails.

    An older folder at `path` is there until the new one is whole, and again where the renaming fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        if path.exists():
            os.rename(path, aside)
        os.rename(temporary, path)
    finally:
        if aside.exists() and not path.exists():
            os.rename(aside, path)
        for left in (temporary, aside):
            shutil.rmtree(left, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


REPO = Path(__file__).resolve().parent.parent


def refuse_unwritable(folder: Path) -> None:
    """Raises OSError where `folder` is not there and cannot be made, or cannot be written."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    number = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK) else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(folder))


def append(path: Path, data: bytes) -> None:
    """Add to a file that exists, all of `data` or nothing. Raises OSError naming it."""
    with naming(path):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(fd).st_size
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            os.ftruncate(fd, size)
            raise
        finally:
            os.close(fd)


def jsonl(records: list[dict]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode(errors="replace")


def read_json(path: Path) -> dict:
    """A JSON object; {} where the file is missing or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict) -> None:
    """Write a value as JSON, atomically."""
    with atomic(path, "w") as f:
        json.dump(value, f, indent=1, ensure_ascii=False, default=str)
        f.write("\n")
