"""One reader for every table that the project writes."""

import subprocess
import sys

from lib.files import REPO
from lib.tables import read_blocks, read_table


def test_cells_are_text_and_rows_are_numbered_by_line(tmp_path):
    (tmp_path / "a.tsv").write_text("# about\nstep\thack\n\n0\t nan\n1\t0.10\t\nstep\thack\n2\ta\u2028b\n")
    table = read_table(tmp_path / "a.tsv")
    assert table.to_dict("index") == {
        4: {"step": "0", "hack": "nan"},
        5: {"step": "1", "hack": "0.10"},
        7: {"step": "2", "hack": "a\u2028b"},
    }


def test_a_torn_row_is_left_out_and_told(tmp_path):
    (tmp_path / "a.tsv").write_text("step\thack\n0\t0.1\n1")
    told = []
    assert list(read_table(tmp_path / "a.tsv", lambda *what: told.append(what))["step"]) == ["0"]
    assert told == [(3, "1 cells under 2 columns")]


def test_a_missing_or_empty_file_has_no_row(tmp_path):
    (tmp_path / "empty.tsv").touch()
    assert read_table(tmp_path / "empty.tsv").empty and read_table(tmp_path / "none.tsv").empty


def test_blocks_are_the_runs_of_a_bench_table(tmp_path):
    (tmp_path / "bench.tsv").write_text("# first\na\tb\n1\t2\n# second\na\tc\n3\t4\n5\t6\n")
    (first, one), (second, two) = read_blocks(tmp_path / "bench.tsv")
    assert (first, second) == ("first", "second") and list(one["b"]) == ["2"] and list(two["c"]) == ["4", "6"]


def test_pandas_is_loaded_at_the_first_read():
    code = "import sys, lib.tables; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0
