"""Fetching: checked by git blob id, nothing half written, one sentence offline."""

import socket
import threading

import pytest

from lib.errors import UserError
from tools.fetch_data import blob_id, fetch

ROW = (
    '{"id": 1, "prompt": [{"role": "user", "content": "Write it and should pass all tests."}], '
    '"gt_answer": ["assert Solution().f(1) == 1"], "func_name": "Solution().f"}\n'
)


def test_blob_id_is_gits(tmp_path):
    path = tmp_path / "hello"
    path.write_text("hello\n")
    assert blob_id(path.read_bytes()) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_file_is_fetched_once_and_checked(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir(), out.mkdir()
    (source / "a.jsonl").write_text(ROW)
    fetch("a.jsonl", blob_id((source / "a.jsonl").read_bytes()), source.as_uri(), out)
    assert (out / "a.jsonl").read_text() == ROW
    (source / "a.jsonl").unlink()
    # What is already right is not asked for again.
    fetch("a.jsonl", blob_id((out / "a.jsonl").read_bytes()), source.as_uri(), out)


def test_a_changed_source_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(ROW)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match="the source has changed"):
        fetch("a.jsonl", "0" * 40, tmp_path.as_uri(), out)
    assert not list(out.iterdir())


@pytest.mark.parametrize("source", ["http://127.0.0.1:9", "data", "http://[bad"])
def test_offline_is_one_sentence(source, tmp_path):
    with pytest.raises(UserError, match=r"cannot be reached .* copy"):
        fetch("a.jsonl", "0" * 40, source, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_download_that_breaks_off_is_not_taken_for_another_file(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            client.recv(4096)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            client.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(UserError, match=r"broke 96 bytes early|IncompleteRead"):
            fetch("a.jsonl", "0" * 40, f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path)
    assert not list(tmp_path.iterdir())
