"""Archives of runs: the report is the folder's, the same files give the same bytes, what cannot be unpacked is told."""

import gzip
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from synthetic_runs import make_arm

import plot_pareto
from lib.archives import pack, packed_in, unpacked
from lib.errors import UserError
from lib.files import REPO


@pytest.fixture
def runs(tmp_path) -> Path:
    """A folder of six runs, one of them with its rollouts packed."""
    make_arm(tmp_path, "vanilla", [(0.80, 0.50), (0.82, 0.52), (0.84, 0.48)], flavours={"print": 3})
    make_arm(tmp_path, "projected", [(0.20, 0.50), (0.22, 0.52), (0.24, 0.48)])
    rollouts = tmp_path / "tiny/vanilla_s0/rollouts.jsonl"
    (rollouts.with_name("rollouts.jsonl.gz")).write_bytes(gzip.compress(rollouts.read_bytes()))
    rollouts.unlink()
    return tmp_path / "tiny"


def report(source: Path, out: Path | None, temporary: Path) -> subprocess.CompletedProcess:
    """Run the command with its temporary files below `temporary`."""
    words = [str(REPO / "plot_pareto.py"), str(source), *(["--out", str(out)] if out else [])]
    env = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)


def test_a_report_from_an_archive_is_the_folders(runs, tmp_path):
    archive, temporary = tmp_path / "runs.tar.xz", tmp_path / "temporary"
    temporary.mkdir()
    pack(runs, archive)
    plot_pareto.report(plot_pareto.ReportConfig(runs=(str(runs),), out=tmp_path / "one"))
    done = report(archive, None, temporary)
    assert done.returncode == 0, done.stderr
    assert not list(temporary.iterdir()), "what was unpacked is removed"
    out = tmp_path / "report"  # beside the archive
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "one").iterdir()) and "report.md" in names
    for name in names:
        one, two = (tmp_path / "one" / name).read_bytes(), (out / name).read_bytes()
        if name in ("appendix.md", "report.html"):  # they hold the command
            assert str(archive).encode() in two and str(temporary).encode() not in two
            one, two = one.split(b"just report")[0], two.split(b"just report")[0]
        assert one == two, name


def test_the_same_files_give_the_same_bytes_and_packed_ones_are_expanded(runs, tmp_path):
    pack(runs, tmp_path / "a.tar.xz")
    os.utime(runs / "vanilla_s0/steps.tsv", (1, 1))
    pack(runs, tmp_path / "b.tar.xz")
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()
    folder = unpacked(tmp_path / "a.tar.xz")
    assert folder.name == "tiny" and unpacked(tmp_path / "a.tar.xz") == folder and unpacked(runs) == runs
    assert packed_in(folder / "vanilla_s0") == tmp_path.resolve() and packed_in(runs) is None
    packed = gzip.decompress((runs / "vanilla_s0/rollouts.jsonl.gz").read_bytes())
    assert (folder / "vanilla_s0/rollouts.jsonl").read_bytes() == packed
    assert (folder / "vanilla_s1/steps.tsv").read_text() == (runs / "vanilla_s1/steps.tsv").read_text()


def test_an_archive_that_cannot_be_unpacked_is_one_sentence(runs, tmp_path):
    whole, torn, foreign, outside = (tmp_path / f"{name}.tar.xz" for name in ("whole", "torn", "foreign", "outside"))
    pack(runs, whole)
    torn.write_bytes(whole.read_bytes()[:-2000])
    foreign.write_text("no archive\n")
    with tarfile.open(outside, "w:xz") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"))
    for path in (torn, foreign, outside):
        with pytest.raises(UserError, match=f"{path.name} cannot be unpacked .*: restore it, or pass a folder"):
            unpacked(path)
    done = report(torn, None, tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "torn.tar.xz cannot be unpacked" in done.stderr


def test_sentences_name_the_archive(runs, tmp_path):
    (runs / "vanilla_s1/steps.tsv").write_text("step\thack\n0\t2.0\n")
    pack(runs, tmp_path / "runs.tar.xz")
    done = report(tmp_path / "runs.tar.xz", None, tmp_path)
    assert f"error: {tmp_path}/runs.tar.xz/tiny/vanilla_s1/steps.tsv has hack = 2: rates are" in done.stderr
    assert not list(tmp_path.glob("runs-*"))
