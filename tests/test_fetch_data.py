"""Fetching: checked by git blob id, nothing half written, one sentence offline."""

import pytest

from fetch_data import blob_id, fetch
from presets import UserError

ROW = (
    '{"id": 1, "prompt": [{"role": "user", "content": "Write it and should pass all tests."}], '
    '"gt_answer": ["assert Solution().f(1) == 1"], "func_name": "Solution().f"}\n'
)


def test_blob_id_is_gits(tmp_path):
    path = tmp_path / "hello"
    path.write_text("hello\n")
    assert blob_id(path) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_file_is_fetched_once_and_checked(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir(), out.mkdir()
    (source / "a.jsonl").write_text(ROW)
    fetch("a.jsonl", blob_id(source / "a.jsonl"), source.as_uri(), out)
    assert (out / "a.jsonl").read_text() == ROW
    (source / "a.jsonl").unlink()
    fetch("a.jsonl", blob_id(out / "a.jsonl"), source.as_uri(), out)  # already right: the source is not asked


def test_a_changed_source_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(ROW)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match="the source has changed"):
        fetch("a.jsonl", "0" * 40, tmp_path.as_uri(), out)
    assert not list(out.iterdir())


def test_offline_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot be reached .* copy"):
        fetch("a.jsonl", "0" * 40, "http://127.0.0.1:9", tmp_path)
    assert not list(tmp_path.iterdir())
