"""A sweep in a real pueue daemon, where pueue is installed (README): queued, killed with its daemon, resumed."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from lib.tables import read_table
from tools.sweep import pueue

REPO = Path(__file__).resolve().parents[2]
RUNS = ("vanilla_s0", "projected_s0", "vanilla_s1", "projected_s1")
STEPS = 20

pytestmark = pytest.mark.skipif(
    not (shutil.which("pueue") and shutil.which("pueued")),
    reason="pueue is not installed: `cargo install pueue --locked` (README)",
)


class Daemon:
    """pueued with a folder of its own for state, logs and socket."""

    def __init__(self, folder: Path, monkeypatch):
        """folder: a short path, since a socket's may have 107 characters."""
        shared = {name: str(folder) for name in ("pueue_directory", "runtime_directory")}
        shared |= {"use_unix_socket": True, "unix_socket_path": str(folder / "s")}
        (folder / "pueue.yml").write_text(json.dumps({"shared": shared, "client": {}, "daemon": {}}))  # JSON is YAML
        monkeypatch.setenv("PUEUE_CONFIG_PATH", str(folder / "pueue.yml"))
        self.folder = folder
        self.start()

    def start(self) -> None:
        with open(self.folder / "daemon.log", "a") as log:
            self.process = subprocess.Popen(["pueued"], stdout=log, stderr=log, start_new_session=True)
        until(lambda: subprocess.run(["pueue", "status"], capture_output=True).returncode == 0, "the daemon's answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def until(condition, what: str, seconds: float = 1800):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(
        f"waited in vain for {what}: {subprocess.run(['pueue', 'status'], capture_output=True, text=True).stdout}"
    )


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    folder = Path(tempfile.mkdtemp(prefix="pq"))
    monkeypatch.chdir(tmp_path)
    started = Daemon(folder, monkeypatch)
    yield started
    subprocess.run(["pueue", "kill", "--all"], capture_output=True)
    started.kill()
    for run in RUNS:  # what outlived the daemon
        if pid := run_process(run):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def run_process(run: str) -> int:
    """Process id of a run of this test's folder, 0 where none runs."""
    script, (arm, seed) = str(REPO / "train.py"), run.split("_s")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, folder = (entry / "cmdline").read_text().split("\0"), (entry / "cwd").resolve()
        except OSError:
            continue
        given = words[words.index(script) + 3 :] if script in words else []
        if given[:4] == ["--arm", arm, "--seed", seed] and folder == Path.cwd():
            return int(entry.name)
    return 0


@pytest.fixture
def sweep(python):
    """sweep(*words) -> the sweep of RUNS with these words of its own."""

    def run(*words: str) -> subprocess.CompletedProcess:
        flags = ["--svd-cache", str(Path("svd").resolve()), "--n-eval", "2", "--eval-samples", "1", "--eval-every",
                 "99", "--steps", str(STEPS), "--prompts", "2", "--group", "2", "--max-new", "16", "--warmup", "1",
                 "--checkpoint-every", "1", "--workers", "1", "--tripwires", "warn"]  # fmt: skip
        command = [python, "-m", "tools.sweep", "--arms", "vanilla", "projected", "--seeds", "0", "1", *words]
        environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        return subprocess.run([*command, "--", *flags], capture_output=True, text=True, timeout=900, env=environment)

    return run


def step_rows(run: str) -> list[int]:
    table = read_table(Path("outputs/tiny") / run / "steps.tsv")
    return [int(step) for step in table["step"]] if len(table) else []


def ended() -> bool:
    return all(state.startswith("Done") for _, state in pueue.pueue_tasks().values())


def test_a_sweep_outlives_its_daemon_and_ends_in_a_report(daemon, sweep, python):
    queue = ["--submit", "pueue", "--groups", "gpu0", "gpu1"]
    queued = sweep(*queue)
    assert queued.returncode == 0, queued.stderr

    # Groups, order and labels, as pueue itself has them.
    state = json.loads(pueue.pueue("status", "--json"))
    assert {name: group["parallel_tasks"] for name, group in state["groups"].items()} == {
        "default": 1,
        "gpu0": 1,
        "gpu1": 1,
    }
    by_run = {task["label"].split("resolve: ")[1].split("/")[-2]: task for task in state["tasks"].values()
              if task["label"].endswith("summary.json")}  # fmt: skip
    assert sorted(by_run) == sorted(RUNS) and {task["group"] for task in by_run.values()} == {"gpu0", "gpu1"}
    (verify,) = (number for number, task in state["tasks"].items() if "held-out" in task["label"])
    assert all(task["dependencies"] == [int(verify)] for task in by_run.values())

    # The machine goes down in the midst of the first runs.
    until(lambda: len(step_rows(RUNS[0])) >= 3, "the third step of the first run")
    daemon.kill()
    for run in RUNS:
        if pid := run_process(run):
            os.kill(pid, signal.SIGKILL)
    assert not Path(f"outputs/tiny/{RUNS[0]}/summary.json").exists()
    daemon.start()
    assert "stopped" in (status := sweep("--status").stdout) or "failed" in status

    # The same command again, and pueue's own word to go on: what was running is queued anew, what waited is kept.
    again = sweep(*queue)
    assert again.returncode == 0 and "already queued" in again.stderr, again.stderr
    assert f"tiny/{RUNS[0]}: already queued" not in again.stderr
    pueue.pueue("start", "--all")
    until(ended, "the end of the queue")
    for run in RUNS:
        assert step_rows(run) == list(range(STEPS)), run
        assert Path(f"outputs/tiny/{run}/summary.json").exists()
    (number,) = (n for label, (n, _) in pueue.pueue_tasks().items() if label.endswith(f"{RUNS[0]}/summary.json"))
    assert f"resuming outputs/tiny/{RUNS[0]} at step" in pueue.pueue("log", "--full", number)
    assert "4 of 4 done" in sweep("--status").stdout

    report = [python, str(REPO / "plot_pareto.py"), "outputs/tiny", "--out", "report"]
    assert subprocess.run(report, capture_output=True, timeout=900).returncode == 0
    assert "projected" in Path("report/report.md").read_text()
