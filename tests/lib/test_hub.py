"""A hub id where no hub answers: one sentence, soon, and no attempts again and again."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
LOAD = """
import time
from lib.errors import run_main
from lib.models import load
import transformers
begun = time.perf_counter()
try:
    run_main(lambda: load("nobody/nothing", None, "float32"))
finally:
    print("seconds", time.perf_counter() - begun)
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_an_unreachable_hub_is_one_sentence(hangs, tmp_path):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    if not hangs:
        server.close()
    env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "PYTHONPATH": str(REPO)}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", LOAD], env=env, capture_output=True, text=True, timeout=1800)
    server.close()
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and "the hub does not answer" in lines[-1], done.stderr
    assert not any("retry" in line.lower() or "attempt" in line.lower() for line in lines), done.stderr


def test_a_hub_that_says_no_still_answers(monkeypatch):
    import http.server
    import threading

    from huggingface_hub import constants

    from lib.models import hub_answers

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    begun = time.monotonic()
    assert hub_answers(60) and time.monotonic() - begun < 60
    server.shutdown()
