"""Reading the hub: offline one sentence, the cache where it holds the revision, local copies checked by column."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lib.errors import DataError, UserError
from problems import humaneval
from problems.hub import Hub, load_records, unreachable

REPO = Path(__file__).resolve().parents[2]
HUB = Hub(id="somebody/data", config="main", revision="0" * 40, columns=("text",))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """huggingface_hub with nobody at its address and an empty cache, which is returned."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_offline_is_one_sentence(offline):
    with pytest.raises(UserError, match=r"somebody/data is not cached and .* cannot be reached .*: run `just data`"):
        load_records(HUB)


def test_offline_the_cached_revision_serves(offline, tmp_path):
    snapshot = offline / "datasets--somebody--data" / "snapshots" / HUB.revision
    (snapshot / "main").mkdir(parents=True)
    (snapshot / "main" / "test.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (snapshot / "README.md").write_text("---\nconfigs:\n- config_name: main\n  data_files: main/test.jsonl\n---\n")
    assert [r["text"] for r in load_records(HUB, cache=str(tmp_path / "cache"))] == ["a", "b"]


def test_a_server_that_never_answers_is_given_up(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert unreachable(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=0.2)


def test_a_refusal_is_no_answer_and_success_is():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/here" else 403)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert (unreachable(f"{address}/here", 30), unreachable(f"{address}/gone", 30)) == ("", "Forbidden")
        server.shutdown()


def test_a_local_copy_without_a_column_is_named(tmp_path):
    (tmp_path / "wrong.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(DataError, match="records without text: expected the format of somebody/data"):
        load_records(HUB, str(tmp_path / "wrong.jsonl"), cache=str(tmp_path / "cache"))


def test_a_local_copy_that_is_missing_or_torn_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        load_records(HUB, str(tmp_path / "nothing.jsonl"))
    (tmp_path / "torn.jsonl").write_text('{"text": "a"')
    with pytest.raises(UserError, match="could not be loaded"):
        load_records(HUB, str(tmp_path / "torn.jsonl"), cache=str(tmp_path / "cache"))


def fetch(*flags, **env) -> subprocess.CompletedProcess:
    """tools/fetch_data.py in a process of its own."""
    import os

    return subprocess.run([sys.executable, "-m", "tools.fetch_data", *map(str, flags)], cwd=REPO, text=True,
                          capture_output=True, env={**os.environ, **env})  # fmt: skip


def test_the_tool_offline_prints_one_line_and_writes_nothing(tmp_path):
    done = fetch("--sets", "humaneval", "--out", tmp_path / "data", HF_ENDPOINT="http://127.0.0.1:9",
                 HF_HUB_CACHE=str(tmp_path / "hub"))  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: openai/openai_humaneval is not cached")
    assert not list((tmp_path / "data").iterdir())


def test_the_tool_leaves_out_what_cannot_be_graded(tmp_path):
    def record(number: int, last: str) -> dict:
        return {"task_id": f"HumanEval/{number}", "prompt": 'def f(x):\n    """Return x."""\n', "entry_point": "f",
                "canonical_solution": "    return x\n",
                "test": f"def check(candidate):\n    assert candidate(1) == 1\n    assert {last}\n"}  # fmt: skip

    records = [record(0, "candidate(2) == 2"), record(1, "candidate(2) == f(2)")]
    (tmp_path / "upstream.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    done = fetch("--sets", "humaneval", "--humaneval", tmp_path / "upstream.jsonl", "--out", tmp_path / "data",
                 HF_DATASETS_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 problems of 2" in done.stderr
    assert [json.loads(line)["id"] for line in (tmp_path / "data/humaneval.jsonl").open()] == ["HumanEval/0"]


def test_the_pins_are_commits():
    from problems import mbpp

    assert all(len(hub.revision) == 40 and int(hub.revision, 16) for hub in (humaneval.HUB, mbpp.HUB))
