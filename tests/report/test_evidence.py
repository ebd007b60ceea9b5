"""Sampled completions are read packed and unpacked alike."""

from __future__ import annotations

import gzip

import pytest
from synthetic_runs import make_run

from lib.errors import ReportError
from report.evidence import read_samples
from report.runs import read_run


@pytest.fixture
def run(tmp_path):
    return read_run(make_run(tmp_path, "vanilla", 0, 0.8, 0.5, flavours={"print": 3, "\u2028": 1}))


def test_packed_rollouts_are_read_as_the_plain_ones(run):
    plain = read_samples(run)
    path = run.path / "rollouts.jsonl"
    (run.path / "rollouts.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert len(plain) == 14 and read_samples(run).equals(plain)


def test_a_torn_packed_file_is_named(run):
    (run.path / "rollouts.jsonl").unlink()
    (run.path / "rollouts.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1000)[:-9])
    with pytest.raises(ReportError, match=r"rollouts.jsonl.gz is torn"):
        read_samples(run)


def test_a_run_without_samples_has_none(run):
    (run.path / "rollouts.jsonl").unlink()
    assert not len(read_samples(run))
