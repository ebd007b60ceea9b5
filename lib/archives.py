"""A folder of runs as one file, NAME.tar.xz: packed the same way each time, unpacked for whoever reads it. No torch.

What was unpacked lies in a temporary folder until the process ends, and in sentences (lib/errors.py) it has the
archive's path.
"""

from __future__ import annotations

import atexit
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from lib.errors import KNOWN_AS, UserError
from lib.files import atomic

ENDING = ".tar.xz"

# Archive -> the folder that it was unpacked into, absolute paths without links.
UNPACKED: dict[Path, Path] = {}


def is_archive(path: Path) -> bool:
    """Whether a path has an archive's name."""
    return path.name.endswith(ENDING)


def unpacked(path: Path) -> Path:
    """The folder that an archive holds, its several in one where it holds several; any other path as it is.

    An archive is unpacked once a process. Raises UserError where it is torn, or no archive of files.
    """
    if not is_archive(path) or not path.is_file():
        return path
    if (archive := path.resolve()) not in UNPACKED:
        work = Path(tempfile.mkdtemp(prefix="runs-")).resolve()
        atexit.register(remove, work, os.getpid())
        folder = work / f"{len(UNPACKED):03}" / path.name.removesuffix(ENDING)  # sorted as they were given
        unpack(path, folder)
        UNPACKED[archive] = folder
        KNOWN_AS[str(folder)] = str(path)
    folder = UNPACKED[archive]
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into a new folder. Raises UserError where it is torn, or has members that are not files."""
    try:
        with tarfile.open(path, "r:xz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): restore it, or pass a folder of runs") from error
    folder.mkdir(parents=True, exist_ok=True)  # an archive of nothing


def remove(folder: Path, owner: int) -> None:
    """Remove a folder where this is the process that made it: a fork has the same list of what to do at exit."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def packed_in(path: Path) -> Path | None:
    """The folder that holds the archive which a path was unpacked from; None where it was not."""
    return next((archive.parent for archive, folder in UNPACKED.items() if path.is_relative_to(folder)), None)


def pack(folder: Path, target: Path) -> None:
    """Every file of `folder` as `target`: the same files give the same bytes.

    A .gz is packed as what it holds: xz then finds more in it. Files of one name lie side by side for the same reason.
    """
    names = {path.relative_to(folder.parent).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    best = 9 | lzma.PRESET_EXTREME
    with atomic(target) as f, lzma.open(f, "wb", preset=best) as xz, tarfile.open(fileobj=xz, mode="w") as tar:
        for name, path in sorted(names.items(), key=lambda item: (item[1].name, item[0])):
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            member = tarfile.TarInfo(name.removesuffix(".gz"))  # of owner 0 and time 0
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
