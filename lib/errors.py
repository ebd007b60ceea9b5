"""One tree of errors, and the handler that turns them into one sentence and an exit status.

UserError and its children carry a sentence that says what to do. Nothing else is caught but the disk's, the GPU's and
the reader's own: what is left is a bug, and its traceback is wanted. This file does not import torch; where a script
has, its errors are known by sys.modules.
"""

from __future__ import annotations
from lib.interrupt import INTERRUPTED, STATUS, is_interrupt

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable

from loguru import logger


class UserError(ValueError):
    """Input or environment that the user can mend; the message is one sentence saying how."""


class DataError(UserError):
    """A problem file or pair set that cannot be used."""


class AdapterError(UserError):
    """A model, cache or delta_S file that cannot be used."""


class TestError(UserError):
    """A problem's test that cannot be taken apart, so that no program could be graded."""

    __test__ = False  # pytest would take the name for a test class


class SandboxError(UserError):
    """The sandbox cannot be had on this machine; the message says why and which flag accepts less."""


class ReportError(UserError):
    """Runs that no report can be made of."""


AGAIN = "then run the same command again: a run continues from its last checkpoint"
OS_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free some space, {AGAIN}"),
    **dict.fromkeys((errno.EFBIG,), f"raise the limit on file sizes (ulimit -f), {AGAIN}"),
    **dict.fromkeys((errno.ENOENT,), "it is not there, or no longer: check the path; a run without its folder is lost"),
    **dict.fromkeys((errno.EISDIR,), "give the path of a file"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
                    "give a path that can be written, or mend its permissions"),
}  # fmt: skip
GPU_ERROR = re.compile(r"CUDA error|CUBLAS_STATUS|CUDNN_STATUS|NCCL", re.IGNORECASE)


# Temporary paths, and what the user knows them by (lib/archives.py).
KNOWN_AS: dict[str, str] = {}

# What is called with the exit status when a script ends, whatever ended it.
AT_END: list[Callable[[int], None]] = []


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script: errors of the user, the disk or the GPU become one sentence on stderr and exit status 2.

    So does Ctrl-C, with status 130.
    """
    configure_logging()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to lose a run
    status = 1
    try:
        main_or_sentence(main)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        raise
    finally:
        for call in AT_END:
            call(status)


def main_or_sentence(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its status, or with a sentence for an error that someone can mend."""
    status = 2
    try:
        ended = main()
        sys.stdout.flush()
        sys.exit(ended or 0)
    except KeyboardInterrupt:
        status, text = STATUS, INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        text = f"whoever read stdout (head, a pager) closed it: send it to a file or to cat, {AGAIN}"
    except UserError as error:
        text = str(error)
    except OSError as error:
        text = disk_sentence(error)
    except Exception as error:
        text = gpu_sentence(error) if isinstance(error, RuntimeError) else ""
        if is_interrupt(error):  # wrapped by whatever was being imported
            status, text = STATUS, INTERRUPTED
        if not text:
            raise
    for path, known in KNOWN_AS.items():
        text = text.replace(path, known)
    print(f"error: {text}", file=sys.stderr)
    sys.exit(status)


def configure_logging() -> None:
    """loguru to stderr, one short line each; rows go to stdout, so the two can be piped apart."""
    logger.remove()
    logger.add(sys.stderr, format="<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}", level="INFO")


def disk_sentence(error: OSError) -> str:
    """What the system refused, where, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    advice = f"; {OS_ADVICE[error.errno]}" if error.errno in OS_ADVICE else ""
    return f"{where}{error.strerror or error}{advice}"


def gpu_sentence(error: RuntimeError) -> str:
    """What became of the GPU, and what to do; "" where the error is none of its."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, torch.OutOfMemoryError):
        asked = re.search(r"Tried to (allocate [\d.]+ \w+)", first)
        what = asked.group(1) if asked else first
        return (
            f"the GPU is out of memory ({what}): lower {memory_flags(error)}, which a started run accepts, "
            f"or --group or --max-new, {AGAIN}"
        )
    if isinstance(error, torch.AcceleratorError) or GPU_ERROR.search(first):
        return f"the GPU failed ({first}): see whether nvidia-smi still lists it, {AGAIN}"
    return ""


def memory_flags(error: RuntimeError) -> str:
    """The flags that make what did not fit smaller, by where it was asked for."""
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if {"_chunk_logprobs", "_chunk_gradient"} & set(frames):  # lib/logprobs.py: the logits of a chunk, in either pass
        return "--logprob-chunk or --micro-batch"
    if frames[-1:] == ["_engine_run_backward"]:  # autograd's own kernels, of the logits or of a layer
        return "--micro-batch or --logprob-chunk"
    return "--micro-batch"
