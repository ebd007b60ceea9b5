"""A sweep as Slurm jobs, through submitit: dependencies for order, and a job that meets its time limit queues again."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from loguru import logger

from lib.errors import UserError
from lib.files import REPO
from tools.sweep.local import note_end, start_logged
from tools.sweep.task import Slurm, Task


class SlurmJob:
    """What submitit runs on a node: the command, which writes its checkpoint on SIGTERM and resumes when run again.

    Slurm sends each signal to every process of a job. So SIGTERM (scancel, preemption) reaches the command without
    being passed on, and SIGUSR2, the warning before the time limit, must be ignored there: it is meant for submitit,
    which calls `checkpoint` and then queues the job again.
    """

    def __init__(self, command: list[str], log: str):
        self.command, self.log, self.child = command, log, None

    def __call__(self) -> int:
        begun = time.perf_counter()
        ignore = lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # noqa: E731
        self.child = start_logged(self.command, Path(self.log), preexec_fn=ignore)
        self.wait()
        status = self.child.wait()
        last = note_end(Path(self.log), status, (time.perf_counter() - begun) / 60)
        if status:
            raise RuntimeError(f"{last} (exit status {status}; {self.log})")
        return status

    def wait(self) -> None:
        """Until the command has ended, leaving it to be reaped; without Popen's lock, since a handler waits too."""
        os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)

    def checkpoint(self):
        """submitit's hook, called in its signal handler: the job to queue once the command has ended."""
        from submitit.helpers import DelayedSubmission

        self.child.terminate()
        self.wait()
        return DelayedSubmission(SlurmJob(self.command, self.log))


def slurm_parameters(slurm: Slurm, task: Task, after: list[str]) -> dict:
    """submitit's parameters of one job."""
    gpus = slurm.gpus if slurm.gpus is not None else int(task.preset != "tiny")
    options = {"kill-on-invalid-dep": "yes"}
    for option in slurm.options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--slurm.options {option}: write name=value, such as account=lab")
        options[name.lstrip("-")] = value
    parameters = {
        "job_name": task.name.replace("/", "_"),
        "time": slurm.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": slurm.cpus,
        "signal_delay_s": slurm.grace,
        # what the job runs is this repository's, wherever it was submitted from
        "setup": [f"export PYTHONPATH={shlex.quote(str(REPO))}${{PYTHONPATH:+:$PYTHONPATH}}"],
        "comment": task.label.replace("'", ""),
        # srun does not inherit sbatch's --cpus-per-task since Slurm 22.05
        "srun_args": [f"--cpus-per-task={slurm.cpus}"],
        "additional_parameters": options,
    }
    if slurm.partition:
        parameters["partition"] = slurm.partition
    if gpus:
        parameters["gpus_per_node"] = gpus
    if slurm.mem_gb:
        parameters["mem"] = f"{slurm.mem_gb}GB"
    if after:
        parameters["dependency"] = "afterok:" + ":".join(after)
    return parameters


def slurm_queue() -> dict[str, tuple[str, str]]:
    """{job name: (id, state)} of the jobs submitted from this folder. Raises UserError without an answer."""
    try:
        ended = subprocess.run(["squeue", "-h", "-o", "%i|%T|%j|%Z"], capture_output=True, text=True, timeout=30)
        trouble = (ended.stderr.strip() or "no message") if ended.returncode else ""
    except subprocess.TimeoutExpired:
        trouble = "no answer in 30 s"
    if trouble:
        raise UserError(f"squeue failed ({trouble.splitlines()[0]}): submit where the cluster answers")
    rows = [line.split("|", 3) for line in ended.stdout.splitlines()]
    return {name: (number, state) for number, state, name, folder in rows if Path(folder) == Path.cwd()}


def submit_slurm(tasks: list[Task], slurm: Slurm) -> None:
    """Submit what is neither done nor queued. Raises UserError without submitit or without a cluster."""
    try:
        import submitit
    except ImportError as error:
        raise UserError("--submit slurm needs submitit: `uv pip install submitit` (the extra `slurm`)") from error
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("--submit slurm needs sbatch and srun on PATH: run it on a login node of the cluster")
    queued = slurm_queue()
    ids: dict[str, str] = {}
    for task in tasks:
        if task.done:
            continue
        parameters = slurm_parameters(slurm, task, [ids[name] for name in task.after if name in ids])
        if parameters["job_name"] in queued:
            ids[task.name] = queued[parameters["job_name"]][0]
            logger.info(f"{task.name}: already queued as {ids[task.name]}")
            continue
        executor = submitit.SlurmExecutor(task.log.parent / "slurm", max_num_timeout=slurm.requeues)
        executor.update_parameters(**parameters)
        try:
            ids[task.name] = executor.submit(SlurmJob(task.command, str(task.log.resolve()))).job_id
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"sbatch refused {task.name}: {str(error).strip().splitlines()[-1]}") from error
        logger.info(f"{task.name}: job {ids[task.name]}")
    print(f"{len(ids)} jobs in Slurm; `squeue` shows them, `just sweep-status` with these flags the rates")
