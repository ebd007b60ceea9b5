"""What a GPU run needs, what this machine lacks, and what to do about it. Exit status 1 where something is missing.

just doctor                     everything, for preset full
just doctor --preset dev        for another preset
just doctor --isolation rlimits where a container refuses namespaces and you accept the weaker sandbox

ok     it is there
note   it works without, slower or weaker
LACKS  a run of the preset would stop; the line says what to do
"""

from __future__ import annotations
import lib.interrupt  # noqa: F401 (on top)

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from config import PRESETS, Preset
from lib.errors import UserError, run_main
from lib.isolation import usual_isolation
from lib.shapes import SHAPES

# GiB free that SVDs, models and runs of a preset take.
DISK_GIB = {"tiny": 1, "dev": 8, "coder": 8, "mid": 30, "full": 60}


@dataclass
class DoctorConfig:
    """What to look at."""

    preset: Preset = "full"
    """The preset that is to run."""
    isolation: Literal["bwrap", "rlimits"] = field(default_factory=usual_isolation)
    """Sandbox that the run would take."""
    model: str = ""
    """Model instead of the preset's."""


@dataclass
class Finding:
    """One line."""

    word: Literal["ok", "note", "LACKS"]
    what: str
    advice: str = ""


def python_and_system(cfg: DoctorConfig) -> Iterator[Finding]:
    ok = sys.platform == "linux" and sys.version_info >= (3, 11)
    what = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    yield Finding("ok" if ok else "LACKS", what, "" if ok else "the sandbox needs Linux, the code Python 3.11 or later")


def sandbox(cfg: DoctorConfig) -> Iterator[Finding]:
    """A program graded in the sandbox that the run would take."""
    from rewards import Grader

    try:
        with Grader(workers=1, timeout_s=2.0, isolation=cfg.isolation) as grader:
            yield Finding("ok", f"sandbox: {grader.isolation}")
    except UserError as error:
        advice = (
            "this container refuses namespaces: add --isolation rlimits to every recipe, or export ISOLATION=rlimits, "
            "a weaker sandbox"
        )
        yield Finding("LACKS", f"sandbox: {error}", advice if cfg.isolation == "bwrap" else "")


def gpu(cfg: DoctorConfig) -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        word = "ok" if cfg.preset == "tiny" else "LACKS"
        driver = "nvidia-smi is there" if shutil.which("nvidia-smi") else "there is no nvidia-smi"
        advice = "" if word == "ok" else "run where nvidia-smi lists a GPU, or pass --device cpu (slow), or preset tiny"
        yield Finding(word, f"GPU: torch {torch.__version__} sees none, {driver}", advice)
        return
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    what = f"GPU: {properties.name}, sm_{properties.major}{properties.minor}, {free / 2**30:.0f} of "
    what += f"{total / 2**30:.0f} GiB free, {torch.cuda.device_count()} visible, torch {torch.__version__}"
    known = f"sm_{properties.major}{properties.minor}" in torch.cuda.get_arch_list()
    yield Finding(
        "ok" if known else "note",
        what,
        "" if known else "this torch has no kernels built for it: take a newer one if a run fails",
    )
    shape = SHAPES.get(cfg.model or PRESETS[cfg.preset]["model"])
    if shape:
        held = (2 * (shape.weights() + shape.factors() + shape.vocab * shape.d) + shape.weights()) / 2**30
        enough = held < 0.8 * free / 2**30
        advice = "" if enough else "free it, or take a larger GPU: `just estimate` has the peak"
        yield Finding("ok" if enough else "LACKS", f"weights and SVDs take {held:.0f} GiB of it", advice)


def kernels(cfg: DoctorConfig) -> Iterator[Finding]:
    """Kernels that are used where they are installed."""
    qwen35 = "Qwen3.5" in (cfg.model or PRESETS[cfg.preset]["model"])
    for name, gain, wanted in (
        ("flash-attn", "attention; sdpa is used without it", False),
        ("flash-linear-attention", "Qwen3.5's prompts and training; torch is used without it", qwen35),
        ("causal-conv1d", "convolution of Qwen3.5's padded training rows; torch is used without it", qwen35),
    ):
        try:
            yield Finding("ok", f"{name} {importlib.metadata.version(name)}: {gain.partition(';')[0]}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("note" if wanted else "ok", f"{name} is not installed ({gain})")


def disk(cfg: DoctorConfig) -> Iterator[Finding]:
    free, need = shutil.disk_usage(".").free / 2**30, DISK_GIB[cfg.preset]
    advice = "" if free >= need else "free some, or pass --svd-cache and --out on another disk"
    yield Finding("ok" if free >= need else "LACKS", f"disk: {free:.0f} GiB free here, about {need} are used", advice)


def model(cfg: DoctorConfig) -> Iterator[Finding]:
    """A local model, one in the hub's cache, or a hub that answers."""
    from huggingface_hub import try_to_load_from_cache

    from lib.models import hub_answers, local_model

    name = cfg.model or PRESETS[cfg.preset]["model"]
    if local_model(name):
        yield Finding("ok", f"model {name}: a local directory")
    elif name.startswith(("/", ".", "~")) or Path(name).exists():
        yield Finding("LACKS", f"model {name}: no config.json there", "pass a directory made by save_pretrained")
    elif isinstance(try_to_load_from_cache(name, "config.json"), str):
        yield Finding("ok", f"model {name}: in the hub's cache")
    elif hub_answers():
        yield Finding("ok", f"model {name}: the hub answers, it will be downloaded")
    else:
        advice = "load it where there is a network and copy HF_HOME, or pass --model with a local directory"
        yield Finding("LACKS", f"model {name}: not in the cache, and the hub does not answer", advice)


def problems(cfg: DoctorConfig) -> Iterator[Finding]:
    for key in ("problems", "eval_file"):
        name = PRESETS[cfg.preset][key]
        if name.endswith(".jsonl"):
            there = Path(name).exists()
            yield Finding("ok" if there else "LACKS", f"{key}: {name}", "" if there else "`just data` fetches it")


def queues(cfg: DoctorConfig) -> Iterator[Finding]:
    have = [name for name in ("pueue", "sbatch") if shutil.which(name)]
    what = f"queue: {', '.join(have)}" if have else "queue: none; `--submit local` needs none"
    yield Finding(
        "ok" if have else "note", what, "" if have else "sweeps over GPUs want pueue: cargo install pueue --locked"
    )


CHECKS: tuple[Callable[[DoctorConfig], Iterator[Finding]], ...] = (
    python_and_system, sandbox, gpu, kernels, disk, model, problems, queues)  # fmt: skip


def main() -> int:
    cfg = tyro.cli(DoctorConfig, prog="just doctor", description=__doc__)
    lacking = 0
    for check in CHECKS:
        for found in check(cfg):
            print(f"{found.word:<6} {found.what}" + (f"\n       -> {found.advice}" if found.advice else ""), flush=True)
            lacking += found.word == "LACKS"
    if lacking:
        print(f"preset {cfg.preset} would not run here: {lacking} of these are missing", file=sys.stderr)
        return 1
    print(f"preset {cfg.preset} can run: just full-probe {cfg.preset}" if cfg.preset != "tiny" else "just probe")
    return 0


if __name__ == "__main__":
    run_main(main)
