"""One configuration for each kernel of flash-linear-attention, in its own format: python -m bench.fla_configs DIR

Its autotuning compiles some hundred variants, minutes on a bare machine before the first step. With FLA_CACHE_MODE=full
and FLA_CONFIG_DIR=DIR every kernel takes what stands here: of its own list the one nearest to 4 warps, 2 stages and
blocks of 64. For short sessions; a run of hours tunes once and keeps the result in Triton's cache.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fla.ops.gated_delta_rule  # noqa: F401


def distance(config) -> tuple[int, ...]:
    """From 4 warps, 2 stages, blocks of 64."""
    return abs(config.num_warps - 4), abs(config.num_stages - 2), sum(abs(n - 64) for n in config.kwargs.values())


def tuned_kernels() -> dict[str, list]:
    """{kernel: its configurations} of every module of fla that is loaded."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("fla."):
            for value in vars(module).values():
                while value is not None and not hasattr(value, "kernel_name"):  # heuristics wrap it
                    value = getattr(value, "fn", None)
                if value is not None and hasattr(value, "configs"):
                    found[value.kernel_name] = value.configs
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for kernel, configs in tuned_kernels().items():
        best = min(configs, key=distance)
        default = {"kwargs": best.kwargs, "num_warps": best.num_warps, "num_stages": best.num_stages, "num_ctas": 1}
        (folder / f"{kernel}.json").write_text(json.dumps({"kernel_name": kernel, "default_config": default}))
        print(kernel, default)


if __name__ == "__main__":
    main()
