"""safetensors files: written atomically, and read with one sentence where they are missing or torn."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lib.errors import AdapterError
from lib.files import atomic


def save_atomic(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """safetensors through `atomic`, into a folder that exists: one that vanished is not begun again half empty."""
    data = save(tensors, metadata)  # save_file would report a full disk as an error of its own, without a number
    with atomic(Path(path)) as f:
        f.write(data)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header metadata of a safetensors file; AdapterError where it is missing or torn."""
    if not Path(path).is_file():
        raise AdapterError(f"{path} does not exist" if not Path(path).exists() else f"{path} is not a file")
    try:
        with safe_open(path, framework="pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{path} is torn or not a safetensors file ({error}): check the path, or delete it and make it again"
        ) from error
