"""Data-parallel runs under torchrun: which rank this process is, and the collectives that a run needs.

    torchrun --nproc-per-node N train.py ...        N divides P, the prompts of a step

Rank k samples and grades the k-th block of a step's rows, with the seeds that the rows have in a single process; all
ranks then hold all graded rows, so that rewards, rates and the choice of live groups are a single process's. Each rank
runs some of the live rows forward and backward, and

    grad delta_S = sum over ranks of grad_k delta_S          exact: the loss is normalised by the fixed P G T_max

is summed before anything reads it. Projection, clip and AdamW then do the same thing on every rank, and delta_S stays
equal; checkpoints verify that. Rows travel as objects through gloo, the gradient as one buffer through NCCL on GPUs.
Without torchrun the world is 1, there is no process group, and every method of Ranks is a no-op.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from loguru import logger
from torch import Tensor

from lib.errors import UserError

# Of a collective: the others wait while rank 0 makes the SVDs. A rank that ends is noticed at once.
TIMEOUT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """This process among `world`."""

    rank: int = 0
    world: int = 1

    def part(self, n: int) -> slice:
        """This rank's block of n rows; the blocks of all ranks follow one another."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def workers(self, asked: int) -> int:
        """Grading processes of this rank: `asked`, or for 0 its share of the host's cores."""
        if asked or self.world == 1:
            return asked
        return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", self.world)))

    def gather(self, rows: list) -> list:
        """The rows (any picklable objects, tensors on the CPU) of all ranks in rank order, on every rank.

        Raises UserError where a rank is gone.
        """
        if self.world == 1:
            return rows
        parts: list[list] = [[] for _ in range(self.world)]
        try:
            dist.all_gather_object(parts, rows)
        except RuntimeError as error:
            raise UserError(
                f"rank {self.rank} waited for one that was killed or hangs: run the same command again, it "
                "continues from the last checkpoint"
            ) from error
        return [row for part in parts for row in part]

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the ranks."""
        return [sum(column) for column in zip(*self.gather([values]), strict=True)]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """All gradients summed over the ranks as one fp32 buffer; zeros from a rank that had no row."""
        if self.world == 1:
            return
        parameters = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        dist.all_reduce(flat)
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = grad.view_as(p)

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite in place by rank 0's values, for what kernels without a fixed summation order have made."""
        if self.world > 1:
            for tensor in tensors:
                values = tensor.contiguous()
                dist.broadcast(values, 0)
                tensor.copy_(values)

    def check_equal(self, tensors: Iterable[Tensor], what: str) -> None:
        """Raises UserError where the ranks hold different bits."""
        if self.world == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        if len(set(self.gather([digest.hexdigest()]))) > 1:
            raise UserError(
                f"{what} differs between ranks, which only a faulty device or kernel can do: run the same "
                "command again, it continues from the last checkpoint"
            )

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gather([])

    @contextmanager
    def first(self) -> Iterator[None]:
        """Rank 0 runs the block before the others, which then find the files that it made."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()


@functools.cache
def _store() -> dist.Store:
    """torchrun's key-value store; it outlives every rank."""
    return next(dist.rendezvous("env://"))[0]


def join(device: torch.device, prompts: int) -> Ranks:
    """This process's place under torchrun, with the process group up; Ranks() without torchrun.

    Ranks other than 0 lose their stdout and log from warnings on. Raises UserError where the world does not divide
    `prompts`, or `device` is a GPU that the host has not.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Ranks()
    if prompts % world:
        fits = ", ".join(str(n) for n in range(1, prompts + 1) if prompts % n == 0)
        raise UserError(
            f"{world} ranks cannot share --prompts {prompts} evenly: pass torchrun --nproc-per-node one of "
            f"{fits}, or other --prompts"
        )
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"torchrun starts more ranks than the {torch.cuda.device_count()} GPUs here: lower --nproc-per-node"
            )
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_store(), rank=rank, world_size=world, timeout=TIMEOUT)
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the life of the process)
        logger.remove()
        form = f"<dim>{{time:HH:mm:ss}} rank {rank}</dim> <level>{{level: <7}}</level> {{message}}"
        logger.add(sys.stderr, format=form, level="WARNING")
    return Ranks(rank, world)


def reports_once(main: Callable[[], None]) -> Callable[[], None]:
    """main() under torchrun: of the ranks that fail, the first says why; the others, which fail alike or miss it in a
    collective, exit with status 2 and no word."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except Exception:
            if int(os.environ.get("WORLD_SIZE", 1)) > 1 and _store().add("failed", 1) > 1:
                sys.exit(2)
            raise
        except SystemExit:
            _leave()
            raise
        _leave()

    return wrapped


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
