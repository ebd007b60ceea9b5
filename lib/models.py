"""Models and tokenizers: loading, devices, attention, chat prompts as token ids."""

from __future__ import annotations
from lib.interrupt import is_interrupt

import os
import sys
import threading
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import torch
from jinja2 import TemplateError
from loguru import logger

from lib.errors import UserError
from lib.files import REPO


def pick_device(device: str, preset: str, threads: int = 1) -> torch.device:
    """Resolve --device and set --threads. Raises UserError where a GPU is needed and none is visible."""
    torch.set_num_threads(threads)
    if device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if device == "cuda" or preset != "tiny":
        what = "--device cuda" if device == "cuda" else f"preset {preset}"
        raise UserError(
            f"{what} needs a CUDA GPU and torch sees none: run where nvidia-smi lists one, "
            "or pass --device cpu (slow), or --preset tiny"
        )
    return torch.device("cpu")


def pick_attention(dtype: str, device: torch.device) -> str:
    """transformers' name of the attention for `dtype` on `device`: flash-attn where it is there and runs, or sdpa."""
    from transformers.utils import is_flash_attn_2_available

    half = dtype in ("bfloat16", "float16")
    if half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"
    return "sdpa"


def load(name: str, revision: str | None, dtype: str, attention: str = "sdpa"):
    """(model, tokenizer) on the CPU, in eval mode (no dropout in any pass); attention: transformers' name of it.

    Raises UserError where the model or its chat template is missing.
    """
    # Where it is: a directory, the hub, or the hub's cache.
    where = f"--model {name}"
    source = str(local) if (local := local_model(name)) else name
    if local is None and (name.startswith(("/", ".", "~")) or Path(name).exists()):
        raise UserError(f"{where}: no config.json there; pass a hub id or a directory made by save_pretrained")
    offline = local is None and not hub_answers()
    if offline:
        use_hub_cache()

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    # Load, with every failure as a sentence.
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model, info = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and what it stands on raise whatever a damaged file leads them to
        if is_interrupt(error):  # wrapped by whatever was being imported
            raise KeyboardInterrupt from error
        if offline:
            raise UserError(
                f"{where}: the hub does not answer and its cache here (HF_HOME) does not hold the model: load it once "
                "where there is a network and copy that folder, or pass a local directory"
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where} could not be loaded ({first}): check the id, the network or the directory") from error

    # What loads and is still no model to train.
    if missing := sorted(info["missing_keys"]):  # transformers would leave them at random values
        raise UserError(
            f"{where} lacks the weight {missing[0]} and {len(missing) - 1} more: its config.json does not "
            "fit its weights, or a file is missing"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"{where}: its tokenizer has no end token (eos_token), so no completion would end")
    if tokenizer.chat_template is None:
        raise UserError(f"{where}: its tokenizer has no chat template; use an instruct model")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    logger.info(f"attention: {attention}")
    return model.eval(), tokenizer


# Kernels of Qwen3.5's gated delta nets by module: the package, and what its lack costs on a GPU. Decoding has its own.
DELTA_KERNELS = {
    "fla": ("flash-linear-attention", "prompts and training run their recurrence in plain torch"),
    "causal_conv1d": ("causal-conv1d", "training rows that do not share a prompt run their convolution in plain torch"),
}


def missing_kernels(config) -> str | None:
    """What a model with gated delta nets would run faster with on a GPU, in one line; None where nothing is missing."""
    if "linear_attention" not in (getattr(config, "layer_types", None) or ()):
        return None
    missing = [f"{name} ({cost})" for module, (name, cost) in DELTA_KERNELS.items() if find_spec(module) is None]
    return f"gated delta nets without {', without '.join(missing)}" if missing else None


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub says anything within `seconds`; a name server that does not answer counts as no."""
    from huggingface_hub import constants

    answered = threading.Event()

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError):
            return
        answered.set()

    if constants.HF_HUB_OFFLINE:
        return False
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def use_hub_cache() -> None:
    """Make the hub's client read its cache alone: its own attempts and their log lines take most of a minute."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def local_model(name: str) -> Path | None:
    """The directory that `name` means, relative to here or to this repository; None for a hub id."""
    for path in (Path(name).expanduser(), REPO / name):
        if (path / "config.json").exists():
            return path
    return None


def model_slug(name: str, revision: str | None, dtype: str) -> str:
    """Folder name of a model's SVDs: its id or directory name, revision and dtype."""
    local = local_model(name)
    base = "--".join(local.resolve().parts[-2:]) if local else name.replace("/", "--")
    return "_".join(filter(None, [base, revision, dtype]))


def chat_text(tokenizer, messages) -> str:
    """A chat prompt up to where the assistant begins, thinking off. Raises UserError on its template."""
    try:
        return tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except TemplateError as error:
        raise UserError(
            f"the model's chat template fails on a prompt ({error}): use an instruct model whose template "
            "takes system and user messages"
        ) from error


def chat_ids(tokenizer, messages) -> list[int]:
    """Token ids of chat_text. Raises UserError on the tokenizer's template."""
    return tokenizer(chat_text(tokenizer, messages), add_special_tokens=False)["input_ids"]


def completion_ids(tokenizer, text: str) -> list[int]:
    """Token ids of an assistant turn written by hand, its end token included."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def end_ids(model, tokenizer) -> list[int]:
    """Token ids that end a completion: the tokenizer's and the generation config's."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    ids = ids if isinstance(ids, list) else [ids] if ids is not None else []
    return sorted({*ids, tokenizer.eos_token_id})
