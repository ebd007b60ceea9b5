"""The kernels of the ragged convolution against plain torch and its autograd, in Triton's interpreter on a CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from lib.delta_kernels import RaggedConvolution, largest_error
from lib.shared_delta import convolve
from lib.shared_prefix import Layout
torch.manual_seed(0)
assert largest_error(torch.device("cpu")) < 1e-5
for K, C in ((4, 40), (3, 70)):
    layout = Layout([1, 2, 7], [[3, 1], [2], [9, 4, 1]], "cpu")
    taps = torch.randn(C, 1, K)
    x = torch.randn(30, C, requires_grad=True)
    up = torch.randn(30, C)
    want = convolve(x, taps, layout)
    got = RaggedConvolution.apply(x, taps, *layout.sources(K))
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(y, x, up)[0] for y in (got, want)]
    torch.testing.assert_close(*grads)
"""


def test_forward_and_backward_are_those_of_torch():
    pytest.importorskip("triton")
    root = str(Path(__file__).resolve().parents[2])
    env = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    command = [sys.executable, "-c", PROGRAM, root]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
