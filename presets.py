"""Presets, the configuration that every script shares, and model loading.

A preset only sets defaults; any flag overrides it. `python SCRIPT.py --preset P --help` shows the resulting values.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
import tyro
from jinja2 import TemplateError
from loguru import logger

from antipasto import AdapterError, wrap
from problems import DataError

REPO = Path(__file__).resolve().parent
Preset = Literal["tiny", "dev", "mid", "full"]

_LEETCODE = dict(
    problems="data/leetcode_train_medhard_filtered.jsonl",
    eval_file="data/leetcode_test_medhard.jsonl",
    pairs="default",
    dtype="bfloat16",
    prompts=8,
    steps=200,
    eval_every=25,
    lr=7e-5,
    beta=1e-3,
    n_eval=119,
    eval_samples=2,
)
PRESETS: dict[str, dict] = {
    # The organism on a CPU; every figure of its row is measured in docs/results/organism.
    "tiny": dict(
        model="organism",
        problems="organism",
        eval_file="",
        pairs="organism",
        dtype="float32",
        prompts=8,
        group=8,
        max_new=80,
        steps=100,
        eval_every=25,
        lr=3e-2,
        weight_decay=0.0,
        beta=0.0,
        n_eval=256,
        eval_samples=2,
        micro_batch=32,
        grad_checkpoint=False,
    ),
    # lr, steps and max_new tuned once, on vanilla alone (docs/results/dev/tuning). A program that hangs costs the step
    # its time limit: at 2 s 79 of 80 canonical solutions pass on two cores, 76 beside other load (at 4 s all), and this
    # model solves next to none.
    "dev": dict(
        _LEETCODE,
        model="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        group=8,
        max_new=384,
        steps=100,
        lr=2e-3,
        grad_checkpoint=False,
        grade_timeout=2.0,
    ),
    "mid": dict(_LEETCODE, model="Qwen/Qwen3.5-2B", group=8, max_new=1024, beta=0.04),
    "full": dict(_LEETCODE, model="Qwen/Qwen3-4B", group=12, max_new=1024),
}


class UserError(ValueError):
    """Input or environment that the user can mend; the message is one sentence saying how."""


@dataclass
class ModelConfig:
    """What extraction, verification and training must agree on."""

    preset: Preset = "tiny"
    """Sets the defaults of every other field."""
    model: str = ""
    """Hub id or local directory of a transformers causal LM."""
    revision: str | None = None
    """Hub revision (commit or tag); None: the default branch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the frozen weights and activations; delta_S is always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda where there is one; presets other than tiny insist on it."""
    pairs: str = "default"
    """Contrastive pair set (pairs.py): default, or organism, organism-same, organism-far."""
    threads: int = 1
    """CPU threads of torch; the organism is too small to gain from a second, so runs go side by side instead."""
    svd_cache: str = "svd_cache"
    """Folder of cached SVDs, one subfolder a model."""
    v_hack: str = ""
    """The v_hack artifact; empty: outputs/<preset>/v_hack_<pairs>.safetensors."""
    n_directions: int = 1
    """Hack directions per module: 1 is the preregistered mean difference, k > 1 the top-k of the SVD of differences."""

    def v_hack_path(self) -> Path:
        """Where the v_hack artifact of this configuration lies."""
        if self.v_hack:
            return Path(self.v_hack)
        suffix = "" if self.n_directions == 1 else f"_k{self.n_directions}"
        return Path("outputs") / self.preset / f"v_hack_{self.pairs}{suffix}.safetensors"


C = TypeVar("C", bound=ModelConfig)


def parse(cls: type[C], argv: list[str] | None = None, description: str | None = None) -> C:
    """Command line -> config: the preset's values as defaults, then the flags."""
    argv = list(sys.argv[1:] if argv is None else argv)
    preset = "tiny"
    for i, word in enumerate(argv):
        if word == "--preset" and i + 1 < len(argv):
            preset = argv[i + 1]
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
    known = {f.name for f in dataclasses.fields(cls)}
    values = {k: v for k, v in PRESETS.get(preset, {}).items() if k in known}
    default = cls(**({"preset": preset, **values} if preset in PRESETS else {}))
    return tyro.cli(cls, args=argv, default=default, description=description)


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


def run_main(main: Callable[[], int | None]) -> None:
    """Run a script: errors of the user, the disk or the GPU become one sentence on stderr and exit status 2.

    So does Ctrl-C, with status 130. Nothing else is caught: what is left is a bug, and its traceback is wanted.
    """
    from rewards import TestError
    from sandbox import SandboxError

    configure_logging()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to lose a run
    status = 2
    try:
        ended = main()
        sys.stdout.flush()
        sys.exit(ended or 0)
    except KeyboardInterrupt:
        status, text = 128 + signal.SIGINT, f"interrupted; no file is half written, {AGAIN.removeprefix('then ')}"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        text = f"whoever read stdout (head, a pager) closed it: send it to a file or to cat, {AGAIN}"
    except (UserError, DataError, AdapterError, SandboxError, TestError) as error:
        text = str(error)
    except OSError as error:
        text = disk_sentence(error)
    except RuntimeError as error:
        if not (text := gpu_sentence(error)):
            raise
    print(f"error: {text}", file=sys.stderr)
    sys.exit(status)


def disk_sentence(error: OSError) -> str:
    """What the system refused, where, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    advice = f"; {OS_ADVICE[error.errno]}" if error.errno in OS_ADVICE else ""
    return f"{where}{error.strerror or error}{advice}"


def gpu_sentence(error: RuntimeError) -> str:
    """What became of the GPU, and what to do; "" where the error is none of its."""
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, torch.OutOfMemoryError):
        asked = re.search(r"Tried to (allocate [\d.]+ \w+)", first)
        return (f"the GPU is out of memory ({asked.group(1) if asked else first}): lower {memory_flags(error)}, which "
                f"a started run accepts, or --group or --max-new, {AGAIN}")  # fmt: skip
    if isinstance(error, torch.AcceleratorError) or GPU_ERROR.search(first):
        return f"the GPU failed ({first}): see whether nvidia-smi still lists it, {AGAIN}"
    return ""


def memory_flags(error: torch.OutOfMemoryError) -> str:
    """The flags that make what did not fit smaller, by where it was asked for."""
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "_chunk_logprobs" in frames:  # grpo.py: the logits of a chunk, in forward or in their recompute
        return "--logprob-chunk or --micro-batch"
    if frames[-1:] == ["_engine_run_backward"]:  # autograd's own kernels, of the logits or of a layer
        return "--micro-batch or --logprob-chunk"
    return "--micro-batch"


def configure_logging() -> None:
    """loguru to stderr, one short line each; rows go to stdout, so the two can be piped apart."""
    logger.remove()
    logger.add(sys.stderr, format="<dim>{time:HH:mm:ss}</dim> <level>{level: <7}</level> {message}", level="INFO")


def pick_device(cfg: ModelConfig) -> torch.device:
    """Resolve --device and set --threads. Raises UserError where a GPU is needed and none is visible."""
    if cfg.threads < 1 or cfg.n_directions < 1:
        raise UserError(f"--threads {cfg.threads} and --n-directions {cfg.n_directions} must be at least 1")
    torch.set_num_threads(cfg.threads)
    if cfg.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if cfg.device == "cuda" or cfg.preset != "tiny":
        what = "--device cuda" if cfg.device == "cuda" else f"preset {cfg.preset}"
        raise UserError(f"{what} needs a CUDA GPU and torch sees none: run where nvidia-smi lists one, "
                        "or pass --device cpu (slow), or --preset tiny")  # fmt: skip
    return torch.device("cpu")


def load_model(cfg: ModelConfig, device: torch.device):
    """(model, tokenizer, adapter): loaded, wrapped and on `device`, in eval mode (no dropout in any pass).

    Raises UserError where the model or its chat template is missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    where = f"--model {cfg.model}"
    source = str(local) if (local := local_model(cfg.model)) else cfg.model
    if local is None and (cfg.model.startswith(("/", ".", "~")) or Path(cfg.model).exists()):
        raise UserError(f"{where}: no config.json there; pass a hub id or a directory made by save_pretrained")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=cfg.revision)
        model, info = AutoModelForCausalLM.from_pretrained(
            source, revision=cfg.revision, dtype=getattr(torch, cfg.dtype), attn_implementation="sdpa",
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers and what it stands on raise whatever a damaged file leads them to
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} could not be loaded ({first}): check the id, the network or the directory") from error
    if missing := sorted(info["missing_keys"]):  # transformers would leave them at random values
        raise UserError(f"{where} lacks the weight {missing[0]} and {len(missing) - 1} more: its config.json does not "
                        "fit its weights, or a file is missing")  # fmt: skip
    if tokenizer.eos_token_id is None:
        raise UserError(f"{where}: its tokenizer has no end token (eos_token), so no completion would end")
    if tokenizer.chat_template is None:
        raise UserError(f"{where}: its tokenizer has no chat template; use an instruct model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    adapter = wrap(model.eval(), Path(cfg.svd_cache) / model_slug(cfg), device)
    return model, tokenizer, adapter


def local_model(name: str) -> Path | None:
    """The directory that `name` means, relative to here or to this repository; None for a hub id."""
    for path in (Path(name).expanduser(), REPO / name):
        if (path / "config.json").exists():
            return path
    return None


def model_slug(cfg: ModelConfig) -> str:
    """Folder name of a model's SVDs: its id or directory name, revision and dtype."""
    local = local_model(cfg.model)
    name = "--".join(local.resolve().parts[-2:]) if local else cfg.model.replace("/", "--")
    return "_".join(filter(None, [name, cfg.revision, cfg.dtype]))


def chat_ids(tokenizer, messages) -> list[int]:
    """Token ids of a chat prompt up to where the assistant begins, thinking off. Raises UserError on its template."""
    try:
        text = tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except TemplateError as error:
        raise UserError(f"the model's chat template fails on a prompt ({error}): use an instruct model whose template "
                        "takes system and user messages") from error  # fmt: skip
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def completion_ids(tokenizer, text: str) -> list[int]:
    """Token ids of an assistant turn written by hand, its end token included."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
