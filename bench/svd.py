"""Seconds of the SVD of a whole model's Linears by each route, and how well the factors multiply back.

    python -m bench.svd --out bench/svd.tsv          both shapes, random bf16 weights, one GPU
    python -m bench.svd --tiny                       the same code on the CPU, seconds

One Linear of each distinct shape is timed and multiplied by how many the model has. Routes: gram (lib.svd.svd_gram:
float64 eigh of the smaller Gram matrix) and direct (torch.linalg.svd in fp32). error: |U diag(S) Vh - W| / |W|;
orthonormal: the largest entry of |U^T U - I| and |Vh Vh^T - I|.
"""

from __future__ import annotations

import torch

from bench.common import SHAPES, Report, parser, pick_device, sync
from lib.svd import svd_gram

COLUMNS = ["model", "route", "shape", "count", "s", "model_s", "error", "orthonormal"]
ROUTES = {"gram": svd_gram, "direct": lambda w: torch.linalg.svd(w.float(), full_matrices=False)}


def errors(W: torch.Tensor, U: torch.Tensor, S: torch.Tensor, Vh: torch.Tensor) -> tuple[float, float]:
    W, U, S, Vh = (t.double() for t in (W, U, S, Vh))
    eye = torch.eye(len(S), dtype=W.dtype, device=W.device)
    off = max(float((U.T @ U - eye).abs().max()), float((Vh @ Vh.T - eye).abs().max()))
    return float(((U * S) @ Vh - W).norm() / W.norm()), off


def timed(route: str, shape: tuple[int, int], device: str) -> tuple[float, float, float]:
    """(seconds, reconstruction error, departure from orthonormal) of one random Linear."""
    W = (torch.randn(shape, device=device, generator=torch.Generator(device).manual_seed(0)) * 0.02).bfloat16()
    ROUTES[route](W[:64, :64])  # loads the library
    start = sync(device)
    U, S, Vh = ROUTES[route](W)
    return sync(device) - start, *errors(W, U, S, Vh)


def main() -> None:
    p = parser(__doc__, out="write the TSV here, row by row")
    p.add_argument("--models", default="qwen2.5-0.5b,qwen3-4b")
    args = p.parse_args()
    device = pick_device(args, models="tiny")
    emit = Report(COLUMNS, device, args.out, append=False).emit
    for name in args.models.split(","):
        for route in ROUTES:
            total = 0.0
            for shape, count in SHAPES[name].linears().items():
                s, error, off = timed(route, shape, device)
                total += s * count
                size = "x".join(map(str, shape))
                emit(f"{name}\t{route}\t{size}\t{count}\t{s:.3f}\t{s * count:.1f}\t{error:.1e}\t{off:.1e}")
            emit(f"{name}\t{route}\tall\t{sum(SHAPES[name].linears().values())}\t\t{total:.1f}\t\t")


if __name__ == "__main__":
    main()
