"""SVDs of a model's weights, one at a time, cached on disk.

    W [d_out, d_in] = U [d_out, r] diag(S [r]) Vh [r, d_in],   r = min(d_out, d_in)

On a CPU by LAPACK; on a GPU from the eigenvectors of the smaller Gram matrix in float64 (bench/svd.tsv). The cache
holds U, Vh in the weight's dtype and S in fp32 with the SHA-256 of the weight, as
svd_cache/<model>/<module>.safetensors. A file that is stale, torn or does not multiply back to W is rebuilt.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from lib.errors import AdapterError
from lib.tensors import load_tensors, save_atomic

RECONSTRUCTION_TOL = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def weight_sha256(weight: Tensor) -> str:
    """SHA-256 of dtype, shape and bytes."""
    data = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{data.dtype} {tuple(data.shape)}".encode())
    digest.update(data.view(torch.uint8).numpy())
    return digest.hexdigest()


def svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [d_out, r], S [r], Vh [r, d_in] in fp32, S descending; on CPU by LAPACK, on CUDA by `svd_gram`."""
    if weight.is_cuda:
        return svd_gram(weight)
    return torch.linalg.svd(weight.float(), full_matrices=False)


def svd_gram(weight: Tensor, tol: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """SVD from the eigenvectors of the smaller Gram matrix in float64.

    Squaring costs half the digits, which float64 has to spare for weights of bf16 or fp32; where a weight is so ill
    conditioned that the derived singular vectors are not orthonormal to `tol`, the direct SVD is taken.
    """
    A = weight.double()
    wide = A.shape[0] <= A.shape[1]
    A = A if wide else A.T
    U = torch.linalg.eigh(A @ A.T).eigenvectors  # ascending
    U = U.flip(1)
    Vh = U.T @ A
    S = Vh.norm(dim=1)
    Vh = Vh / S.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    off = (Vh @ Vh.T - torch.eye(len(S), dtype=Vh.dtype, device=Vh.device)).abs().max()
    if not off < tol:
        return torch.linalg.svd(weight.float(), full_matrices=False)
    S, order = S.sort(descending=True)
    U, Vh = U[:, order], Vh[order]
    if not wide:
        U, Vh = Vh.T, U.T
    return U.float().contiguous(), S.float(), Vh.float().contiguous()


def multiplies_back(weight: Tensor, U: Tensor, S: Tensor, Vh: Tensor) -> bool:
    """Whether U diag(S) Vh x = W x for a random x, to the dtype's resolution: catches flipped bytes cheaply."""
    if U.shape != (weight.shape[0], len(S)) or Vh.shape != (len(S), weight.shape[1]):
        return False
    x = torch.randn(weight.shape[1], 2, generator=torch.Generator().manual_seed(0)).to(weight.device)
    got, want = U.float() @ (S[:, None] * (Vh.float() @ x)), weight.float() @ x
    return bool((got - want).norm() <= RECONSTRUCTION_TOL[weight.dtype] * want.norm())


def cached_svd(weight: Tensor, path: Path, device: torch.device) -> tuple[Tensor, Tensor, Tensor, str, bool]:
    """U, Vh (dtype of the weight), S (fp32) on CPU, the weight's SHA-256, and whether the cache had them."""
    sha = weight_sha256(weight)
    if path.exists():
        try:
            tensors, metadata = load_tensors(path)
            U, S, Vh = tensors["U"], tensors["S"], tensors["Vh"]
            if metadata.get("weight_sha256") == sha and multiplies_back(weight.cpu(), U, S, Vh):
                return U, S, Vh, sha, True
            logger.warning(f"{path} is stale or damaged: rebuilding it")
        except (AdapterError, KeyError):
            logger.warning(f"{path} is torn: rebuilding it")
    U, S, Vh = (t.cpu().contiguous() for t in svd(weight.to(device)))
    U, Vh = U.to(weight.dtype), Vh.to(weight.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_atomic({"U": U, "S": S, "Vh": Vh}, path, {"weight_sha256": sha, "dtype": str(weight.dtype)})
    return U, S, Vh, sha, False
