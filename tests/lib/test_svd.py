"""SVDs by the Gram matrix against LAPACK, and their cache on disk."""

import pytest
import torch
from safetensors.torch import save_file

from lib.svd import cached_svd, svd_gram
from lib.tensors import load_tensors


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64)])
def test_gram_svd_is_as_good_as_lapack(shape):
    W = torch.randn(shape)
    U, S, Vh = svd_gram(W)
    reference = torch.linalg.svdvals(W.double())
    assert (S.double() - reference).abs().max() < 1e-5 * reference[0]
    ours = ((U.double() * S.double()) @ Vh.double() - W.double()).norm() / W.double().norm()
    L = torch.linalg.svd(W, full_matrices=False)
    lapack = ((L.U.double() * L.S.double()) @ L.Vh.double() - W.double()).norm() / W.double().norm()
    assert ours <= max(2 * lapack, 1e-6)


def test_gram_svd_falls_back_where_the_weight_is_singular():
    W = torch.randn(30, 5) @ torch.randn(5, 50)
    U, S, Vh = svd_gram(W)
    eye = torch.eye(30)
    assert (U.T @ U - eye).abs().max() < 1e-4 and (Vh @ Vh.T - eye).abs().max() < 1e-4
    assert ((U * S) @ Vh - W).norm() < 1e-5 * W.norm()


def hit(weight, path) -> bool:
    return cached_svd(weight, path, torch.device("cpu"))[-1]


def test_cache_hits_on_the_same_weight_only(tmp_path):
    W, path = torch.randn(12, 20), tmp_path / "m.safetensors"
    assert not hit(W, path) and hit(W, path)
    assert not hit(W + 1e-3, path)  # stale: rebuilt
    assert not hit(W, path)


def test_torn_or_corrupted_cache_is_rebuilt(tmp_path):
    W, path = torch.randn(12, 20), tmp_path / "m.safetensors"
    hit(W, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not hit(W, path) and hit(W, path)
    tensors, metadata = load_tensors(path)
    tensors["U"][3, 4] += 0.5
    save_file(tensors, path, metadata)
    assert not hit(W, path)
