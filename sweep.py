"""Plan a sweep, presets x arms x seeds, and run it: here, in a pueue queue, or on a Slurm cluster.

    python sweep.py --preset tiny --study organism                    prints the plan and runs nothing
    python sweep.py --preset tiny --study organism --submit local     runs it here, --jobs at a time
    python sweep.py --preset full --study preregistered --submit pueue --groups gpu0 gpu1    queues it, a group a GPU
    python sweep.py --preset full --study preregistered --submit slurm --slurm.partition gpu
    python sweep.py --preset tiny --study organism --status           rates so far, time left, failures
    python sweep.py --preset full --arms vanilla projected --seeds 0 1 -- --steps 100        flags of every run after --

Order: SVDs -> extraction -> held-out check, once for each pair set that an arm needs, then the runs that need it. What
is complete is skipped, and train.py resumes, so the same command continues a sweep that stopped anywhere. A run that
fails does not stop the others; what depends on it is left out.

Interrupting --submit local (Ctrl-C, SIGTERM, SIGHUP) sends SIGTERM to the runs and waits for their checkpoints; a
second time kills them. In pueue, `pueue kill --signal sigterm ID` does the first; a plain kill loses what came after
the last checkpoint.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from loguru import logger

from presets import PRESETS, REPO, ModelConfig, Preset, UserError, parse, run_main
from rundir import read_json
from train import Config, check

# A variant is an arm with flags and a label of its own.
VARIANTS: dict[str, list[str]] = {
    "projected-same": ["--arm", "projected", "--pairs", "organism-same"],
    "projected-far": ["--arm", "projected", "--pairs", "organism-far"],
    "projected-update": ["--arm", "projected", "--project", "update"],
}
STUDIES: dict[str, tuple[list[str], list[int]]] = {
    # Order matters where a study is cut short: the comparisons of the headline come first.
    "organism": (
        ["vanilla", "projected", "random-v", "projected-same", "projected-far", "reversed", "projected-nomag",
         "projected-update", "rebound", "rebound-zscore", "shuffled-v", "no-loophole"], [0, 1, 2, 3, 4]),
    "preregistered": (["vanilla", "projected", "projected-nomag", "rebound", "rebound-zscore"], [0, 1, 2]),
}  # fmt: skip
# Why a run exists, for the queue's labels.
WHY = {
    "vanilla": "H4, and the baseline of H1",
    "projected": "H1",
    "projected-nomag": "H1 without rescaling",
    "rebound": "H3",
    "rebound-zscore": "H3 as published",
    "random-v": "control, does any direction do",
    "shuffled-v": "control, do the labels matter",
    "reversed": "control, does the sign matter",
    "no-loophole": "control, no write access",
    "projected-same": "easy case, flavours shared with the pairs",
    "projected-far": "hard case, flavours far from the pairs",
    "projected-update": "variant, AdamW's update projected",
}
OWN_FLAGS = ("preset", "arm", "seed", "label", "out", "fresh")
PUEUE_MISSING = (
    "--submit pueue needs pueue on PATH: install your distribution's package or `cargo install --locked pueue`, or put "
    "the release binaries pueue and pueued of github.com/Nukesor/pueue there; then `pueued -d`"
)


@dataclass
class Slurm:
    """What each job asks the cluster for."""

    partition: str = ""
    """Partition; empty: the cluster's default."""
    minutes: int = 1440
    """Time limit. A job that meets it writes its checkpoint and queues again."""
    gpus: int | None = None
    """GPUs a job; None: 1, and 0 in preset tiny."""
    cpus: int = 8
    """CPU cores a job, for grading."""
    mem_gb: int = 0
    """Memory a job in GiB; 0: the cluster's default."""
    grace: int = 180
    """Seconds before the time limit at which a job is told to stop; longer than a step and an evaluation."""
    requeues: int = 10
    """Times that a job may meet its time limit."""
    options: list[str] = field(default_factory=list)
    """Further sbatch options as name=value, such as account=lab qos=long."""


@dataclass
class SweepConfig:
    """What to run, and how."""

    preset: list[Preset] = field(default_factory=lambda: ["tiny"])
    """Presets of the runs."""
    study: Literal["", "organism", "preregistered"] = ""
    """A named list of arms and seeds; --arms and --seeds override its halves."""
    arms: list[str] = field(default_factory=list)
    """Arms, or the variants projected-same, projected-far, projected-update."""
    seeds: list[int] = field(default_factory=list)
    """Seeds."""
    submit: Literal["plan", "local", "pueue", "slurm"] = "plan"
    """plan prints the commands; local runs them here; pueue and slurm queue them."""
    dry_run: bool = False
    """With --submit pueue: print the pueue commands, as a shell script, and run none."""
    status: bool = False
    """Print how far the sweep is, and run nothing."""
    gate: bool | None = None
    """Whether a failed held-out check stops the runs of its pairs; None: yes, but in preset tiny, which studies it."""
    jobs: int = 2
    """Runs side by side (local)."""
    groups: list[str] = field(default_factory=lambda: ["default"])
    """pueue groups, one a GPU: the number that a name ends in becomes CUDA_VISIBLE_DEVICES. Missing ones are made."""
    slurm: Slurm = field(default_factory=Slurm)
    """What each job asks the cluster for (slurm)."""
    extra: tyro.conf.Suppress[list[str]] = field(default_factory=list)
    """What follows `--`: flags for every run; those of the model go to extraction and verification too."""


@dataclass
class Task:
    """One command, what it waits for, and the file that says that it is done."""

    name: str
    """<preset>/<what>, unique in the sweep."""
    command: list[str]
    marker: Path | None
    """None: done only in that its command ended well."""
    after: list[str] = field(default_factory=list)
    """Names of the tasks that must have ended well before it."""
    why: str = ""
    """Why it exists, for the queue's label."""

    @property
    def done(self) -> bool:
        return self.marker is not None and self.marker.exists()

    @property
    def log(self) -> Path:
        preset, _, leaf = self.name.partition("/")
        return Path("outputs") / preset / "logs" / f"{leaf}.log"

    @property
    def label(self) -> str:
        """Why the task exists and what resolves it."""
        return f"why: {self.why}; resolve: {self.marker or 'exit status 0'}"


# --- the plan --------------------------------------------------------------------------------------------------------


def flag(words: list[str], name: str, default: str) -> str:
    """The last value of `name` in a list of flags, written `--name V` or `--name=V`."""
    for i in reversed(range(len(words))):
        if words[i] == name and i + 1 < len(words):
            return words[i + 1]
        if words[i].startswith(f"{name}="):
            return words[i].partition("=")[2]
    return default


def flag_name(word: str) -> str:
    """Field name of `--a-field` or `--a-field=V`; empty for a value."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""


def model_flags(words: list[str]) -> list[str]:
    """Those flags, with their values, that extraction and verification share with a run."""
    known, out, keep = {f.name for f in dataclasses.fields(ModelConfig)}, [], False
    for word in words:
        keep = flag_name(word) in known if word.startswith("--") else keep
        out += [word] * keep
    return out


def script(name: str) -> str:
    """A script's path as a command from here names it."""
    return name if Path.cwd() == REPO else str(REPO / name)


def plan(cfg: SweepConfig) -> list[Task]:
    """Every task of the sweep, each after those it waits for. Raises UserError where nothing is named, or wrongly."""
    arms, seeds = STUDIES.get(cfg.study, ([], []))
    arms, seeds = (list(dict.fromkeys(named)) for named in (cfg.arms or arms, cfg.seeds or seeds))
    if not arms or not seeds or not cfg.preset:
        raise UserError("nothing to run: name a --study, or --arms and --seeds")
    if cfg.jobs < 1 or not cfg.groups:
        raise UserError(f"--jobs {cfg.jobs} must be at least 1, and --groups must name one")
    if unknown := [arm for arm in arms if arm not in WHY]:
        raise UserError(f"there is no arm {unknown[0]}: the arms are {', '.join(WHY)}")
    if taken := [name for word in cfg.extra if (name := flag_name(word)) in OWN_FLAGS]:
        raise UserError(f"--{taken[0]} differs between runs and cannot follow --: sweep.py sets it itself")
    presets = list(dict.fromkeys(cfg.preset))
    for preset, arm in itertools.product(presets, arms):
        words = ["--preset", preset, *arm_flags(arm), "--seed", str(min(seeds)), *cfg.extra]
        try:
            check(parse(Config, words))
        except SystemExit:  # tyro has said what is wrong
            raise UserError(f"a run cannot take {shlex.join(cfg.extra)}: `train.py --help` lists its flags") from None
    return [task for preset in presets for task in plan_preset(cfg, preset, arms, seeds)]


def arm_flags(arm: str) -> list[str]:
    """What train.py is told of an arm or variant."""
    return [*VARIANTS[arm], "--label", arm] if arm in VARIANTS else ["--arm", arm]


def plan_preset(cfg: SweepConfig, preset: str, arms: list[str], seeds: list[int]) -> list[Task]:
    """SVDs, extractions, held-out checks, runs."""
    out = Path("outputs") / preset
    words = {arm: arm_flags(arm) for arm in arms}
    base = PRESETS[preset]["pairs"]
    pairs = {arm: flag([*words[arm], *cfg.extra], "--pairs", base) for arm in arms}
    if flag(cfg.extra, "--v-hack", "") and len(set(pairs.values())) > 1:
        raise UserError("--v-hack after -- is one file, but these arms need a v_hack for each of their pair sets")
    checks = preparations(cfg, preset, sorted(set(pairs.values())))
    runs = []
    for seed in seeds:
        for arm in arms:
            command = [
                sys.executable,
                script("train.py"),
                "--preset",
                preset,
                *words[arm],
                "--seed",
                str(seed),
                *cfg.extra,
            ]
            runs.append(Task(f"{preset}/{arm}_s{seed}", command, out / f"{arm}_s{seed}" / "summary.json",
                             [f"{preset}/verify_{pairs[arm]}"], f"{WHY[arm]}; {preset} {arm} seed {seed}"))  # fmt: skip
    return checks + runs


def preparations(cfg: SweepConfig, preset: str, pair_sets: list[str]) -> list[Task]:
    """The SVDs once, where an extraction still needs them, then extraction and check of each pair set."""
    gate = cfg.gate if cfg.gate is not None else preset != "tiny"
    extract, verify, svd = script("extract_vhack_grad.py"), script("verify_vhack_heldout.py"), f"{preset}/svd"
    shared = ["--preset", preset, *model_flags(cfg.extra)]
    artifacts = {pairs: ModelConfig(preset=preset, pairs=pairs, v_hack=flag(cfg.extra, "--v-hack", ""),
                                    n_directions=int(flag(cfg.extra, "--n-directions", "1"))).v_hack_path()
                 for pairs in pair_sets}  # fmt: skip
    tasks = []
    if not all(path.exists() for path in artifacts.values()):
        command = [sys.executable, extract, "--svd-only", *shared, "--pairs", pair_sets[0]]
        tasks.append(Task(svd, command, None, [], f"SVD cache for {preset}"))
    first = [task.name for task in tasks]
    for pairs, artifact in artifacts.items():
        name, check = f"{preset}/extract_{pairs}", artifact.with_name(f"{artifact.stem}_heldout") / "heldout.json"
        tasks.append(Task(name, [sys.executable, extract, *shared, "--pairs", pairs], artifact, first,
                          f"v_hack of pairs {pairs} for {preset}"))  # fmt: skip
        command = [sys.executable, verify, *shared, "--pairs", pairs, *(["--override"] * (not gate))]
        tasks.append(Task(f"{preset}/verify_{pairs}", command, None if gate and below_gate(check) else check, [name],
                          f"does v_hack of {pairs} hold on held-out pairs, {preset}"))  # fmt: skip
    return tasks


def below_gate(check: Path) -> bool:
    """Whether an earlier held-out check failed the gate; its file is written all the same."""
    return check.exists() and not read_json(check).get("fraction_positive", 0) > 0.5  # torn: check again


# --- here ------------------------------------------------------------------------------------------------------------


def start(command: list[str], log: Path, **options) -> subprocess.Popen:
    """Start a command with its output appended to `log`; options are Popen's."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as f:
        f.write(f"sweep: {shlex.join(command)}\n")
        f.flush()
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, **options)


def note_end(log: Path, status: int, minutes: float) -> str:
    """Append how the command ended to its log; the last line that it had written itself."""
    last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
    with open(log, "a") as f:
        f.write(f"sweep: exit status {status} after {minutes:.1f} min\n")
    return last


class Stop:
    """SIGINT, SIGTERM or SIGHUP: SIGTERM to the running commands and nothing new; a second time SIGKILL."""

    def __init__(self):
        self.signal, self.times, self.told = 0, 0, 0
        self.before = {n: signal.signal(n, self) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def __call__(self, number: int, frame) -> None:
        self.signal, self.times = number, self.times + 1

    def tell(self, running: dict[str, subprocess.Popen]) -> None:
        """Pass a signal on that has come since; outside the handler, so that no command starts meanwhile."""
        if self.told == self.times:
            return
        again, self.told = self.told > 0, self.times
        for child in running.values():
            if again:
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.terminate()
        what = "killed" if again else "asked for a checkpoint, waiting for it (again: kill)"
        logger.warning(f"{signal.Signals(self.signal).name}: {len(running)} running commands {what}")

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run_local(tasks: list[Task], jobs: int, poll: float = 0.2) -> int:
    """Run what is not done, at most `jobs` at a time, each task after those it waits for; the exit status."""
    # A session of its own keeps the terminal's Ctrl-C from a run: that and the SIGTERM from here would be two signals,
    # and a run takes the second as an order to end at once. Side by side, none may spread over all cores.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if jobs > 1 else {}
    options = {"start_new_session": True, "env": {**os.environ, **threads}}
    done = {task.name for task in tasks if task.done}
    waiting, failed = {task.name: task for task in tasks if task.name not in done}, {}
    logger.info(f"{len(done)} of {len(tasks)} tasks are complete, {len(waiting)} to run")
    running, clocks, stop, begun = {}, {}, Stop(), (time.perf_counter(), len(done))
    try:
        while running or (waiting and not stop.signal):
            for name, task in list(waiting.items()):
                if lost := [a for a in task.after if a in failed]:
                    failed[name] = f"left out, since {lost[0]} failed"
                    del waiting[name]
                elif done.issuperset(task.after) and len(running) < jobs and not stop.signal:
                    running[name], clocks[name] = start(task.command, task.log, **options), (task, time.perf_counter())
                    del waiting[name]
            stop.tell(running)
            for name in [name for name, child in running.items() if child.poll() is not None]:
                problem = ending(*clocks[name], running.pop(name).returncode)
                if not problem:
                    done.add(name)
                    each = (time.perf_counter() - begun[0]) / (len(done) - begun[1]) / 60
                    left = each * (len(waiting) + len(running))
                    logger.info(f"{len(done)} of {len(tasks)} tasks are complete, about {left:.0f} min left")
                elif not stop.signal:
                    failed[name] = problem
                    logger.error(f"{name} failed: {problem}")
            time.sleep(poll)
    finally:
        stop.restore()
        for child in running.values():
            child.terminate()
    if stop.signal:
        logger.warning("stopped; the same command continues the sweep")
        return 128 + stop.signal
    if failed:
        logger.error(f"{len(failed)} of {len(tasks)} tasks failed: {', '.join(failed)}; the same command retries them")
    return 1 if failed else 0


def ending(task: Task, started: float, status: int) -> str:
    """Note in its log how a task ended; what went wrong, empty where nothing did."""
    minutes = (time.perf_counter() - started) / 60
    last = note_end(task.log, status, minutes)
    logger.info(f"{task.name}: {minutes:.1f} min, {last if status else 'done'}")
    return "" if status == 0 and (task.marker is None or task.done) else f"{last} (exit status {status}; {task.log})"


# --- pueue -----------------------------------------------------------------------------------------------------------


def pueue_add(task: Task, group: str, after: list[str]) -> list[str]:
    """The pueue command that queues a task. pueue hands one string to a shell, hence the quoting inside."""
    gpu = re.search(r"\d+$", group)
    command = (f"CUDA_VISIBLE_DEVICES={gpu.group()} " if gpu else "") + shlex.join(task.command)
    return ["pueue", "add", "--print-task-id", "--group", group, "--label", task.label,
            *(["--after", *after] if after else []), "--", command]  # fmt: skip


def pueue(*words: str) -> str:
    """Run pueue and return what it prints. Raises UserError with its complaint."""
    ended = subprocess.run(["pueue", *words], capture_output=True, text=True)
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"`pueue {words[0]}` failed ({said}): is the daemon running? `pueued -d` starts it")
    return ended.stdout


def pueue_tasks() -> dict[str, tuple[str, str]]:
    """{label: (id, state)} of the tasks queued from this folder, the newest of each label; Done carries its result."""
    out = {}
    for number, task in json.loads(pueue("status", "--json"))["tasks"].items():
        state = task["status"]
        kind, detail = (state, {}) if isinstance(state, str) else next(iter(state.items()))
        result = detail.get("result", "") if isinstance(detail, dict) else detail
        if Path(task["path"]) == Path.cwd():
            out[task["label"]] = (number, kind if kind != "Done" else f"Done {result}")
    return out


def submit_pueue(tasks: list[Task], groups: list[str]) -> None:
    """Queue what is neither done nor queued, spread over the groups. Raises UserError where pueue is not to be had."""
    if shutil.which("pueue") is None:
        raise UserError(PUEUE_MISSING)
    have = json.loads(pueue("group", "--json"))
    for group in groups:
        if group not in have:
            pueue("group", "add", group, "--parallel", "1")
    queued = {label: number for label, (number, state) in pueue_tasks().items() if not state.startswith("Done")}
    ids: dict[str, str] = {}
    for task, group in assign(tasks, groups):
        if task.label in queued:
            ids[task.name] = queued[task.label]
            logger.info(f"{task.name}: already queued as {ids[task.name]}")
            continue
        words = pueue_add(task, group, [ids[name] for name in task.after if name in ids])
        ids[task.name] = pueue(*words[1:]).strip()
        logger.info(f"{task.name}: {ids[task.name]} in {group}")
    print(f"{len(ids)} tasks in pueue; `pueue status` shows them, `sweep.py --status` with these flags the rates")


def assign(tasks: list[Task], groups: list[str]) -> list[tuple[Task, str]]:
    """Tasks that are not done with their groups, in turn, so that each group gets every arm before the next seed."""
    left = [task for task in tasks if not task.done]
    return [(task, groups[i % len(groups)]) for i, task in enumerate(left)]


def pueue_script(tasks: list[Task], groups: list[str]) -> str:
    """The same as a shell script that can be read, or piped to sh."""
    lines, variables = [f"pueue group add {shlex.quote(g)} --parallel 1 || true" for g in groups if g != "default"], {}
    for i, (task, group) in enumerate(assign(tasks, groups)):
        after = [variables[name] for name in task.after if name in variables]
        words = [w if w in after else shlex.quote(w) for w in pueue_add(task, group, after)]
        variables[task.name] = f"$t{i}"
        lines.append(f"t{i}=$({' '.join(words)})")
    return "\n".join(lines)


# --- Slurm -----------------------------------------------------------------------------------------------------------


class Job:
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
        self.child = start(self.command, Path(self.log), preexec_fn=ignore)
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
        return DelayedSubmission(Job(self.command, self.log))


def slurm_parameters(slurm: Slurm, task: Task, after: list[str]) -> dict:
    """submitit's parameters of one job."""
    preset = task.name.partition("/")[0]
    gpus = slurm.gpus if slurm.gpus is not None else int(preset != "tiny")
    options = {"kill-on-invalid-dep": "yes"}
    for option in slurm.options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--slurm.options {option}: write name=value, such as account=lab")
        options[name.lstrip("-")] = value
    return {"job_name": task.name.replace("/", "_"), "time": slurm.minutes, "nodes": 1, "ntasks_per_node": 1,
            "cpus_per_task": slurm.cpus, "signal_delay_s": slurm.grace, "comment": task.label.replace("'", ""),
            # srun does not inherit sbatch's --cpus-per-task since Slurm 22.05
            "srun_args": [f"--cpus-per-task={slurm.cpus}"],
            **({"partition": slurm.partition} if slurm.partition else {}),
            **({"gpus_per_node": gpus} if gpus else {}), **({"mem": f"{slurm.mem_gb}GB"} if slurm.mem_gb else {}),
            **({"dependency": "afterok:" + ":".join(after)} if after else {}),
            "additional_parameters": options}  # fmt: skip


def slurm_queue() -> dict[str, tuple[str, str]]:
    """{job name: (id, state)} of the jobs submitted from this folder. Raises UserError without an answer."""
    try:
        ended = subprocess.run(["squeue", "-h", "-o", "%i|%T|%j|%Z"], capture_output=True, text=True, timeout=30)
        said = ended.stderr.strip() or "no message"
    except subprocess.TimeoutExpired:
        ended, said = None, "no answer in 30 s"
    if ended is None or ended.returncode:
        raise UserError(f"squeue failed ({said.splitlines()[0]}): submit where the cluster answers")
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
    queued, ids = slurm_queue(), {}
    for task in [task for task in tasks if not task.done]:
        parameters = slurm_parameters(slurm, task, [ids[name] for name in task.after if name in ids])
        if parameters["job_name"] in queued:
            ids[task.name] = queued[parameters["job_name"]][0]
            logger.info(f"{task.name}: already queued as {ids[task.name]}")
            continue
        executor = submitit.SlurmExecutor(task.log.parent / "slurm", max_num_timeout=slurm.requeues)
        executor.update_parameters(**parameters)
        try:
            ids[task.name] = executor.submit(Job(task.command, str(task.log.resolve()))).job_id
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"sbatch refused {task.name}: {str(error).strip().splitlines()[-1]}") from error
        logger.info(f"{task.name}: job {ids[task.name]}")
    print(f"{len(ids)} jobs in Slurm; `squeue` shows them, `sweep.py --status` with these flags the rates")


# --- status ----------------------------------------------------------------------------------------------------------


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV file; a last row that is still being written is left out."""
    if not path.exists():
        return []
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()] or [[]]
    return [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]


@dataclass
class Progress:
    """How far one run is."""

    task: Task
    step: int
    steps: int
    seconds: float
    """Seconds a step, evaluations included where the run is complete; nan where no step is."""
    age: float
    """Seconds since its last row."""
    state: str
    note: str = ""
    rates: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return 0 if self.state == "done" else self.steps - self.step


def progress(task: Task, default_steps: int, queue: dict[str, str]) -> Progress:
    """Read one run's directory, its log and its place in the queue ({label or job name: state})."""
    folder = task.marker.parent
    rows, evals = table(folder / "steps.tsv"), table(folder / "evals.tsv")
    steps = read_json(folder / "config.json").get("steps", default_steps)
    step, age, seconds = 0, float("nan"), float("nan")
    if rows:
        step, age = int(rows[-1]["step"]) + 1, time.time() - (folder / "steps.tsv").stat().st_mtime
        seconds = statistics.fmean(sum(float(row[c]) for c in ("t_roll", "t_grade", "t_train")) for row in rows[-20:])
    state, note = "waiting", ""
    queued = queue.get(task.label) or queue.get(task.name.replace("/", "_")) or ""
    ended, said = last_end(task.log)
    if task.done:
        state, step = "done", steps
        seconds = read_json(task.marker).get("seconds", math.nan) / max(1, steps)
    elif ended and not age < time.time() - task.log.stat().st_mtime - 60:  # no rows since, from elsewhere
        stopped = ended in (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM)
        state, note = ("stopped", "") if stopped else ("failed", said)
    elif rows:
        # An evaluation writes no row, and a long one takes as long as a few steps.
        state = "running" if age < max(300, 20 * seconds) else "stopped"
    if queued and state != "done":
        state, note = ("failed", queued) if queued.startswith("Done") else (queued.lower(), "")
    return Progress(task, step, steps, seconds, age, state, note, evals[-1] if evals else {})


def last_end(log: Path) -> tuple[int, str]:
    """(exit status, last words) of the log's last command; (0, "") where it is running, ended well or has no log."""
    lines = log.read_text(errors="replace").strip().splitlines()[-2:] if log.exists() else []
    ended = re.match(r"sweep: exit status (-?\d+)", lines[-1]) if lines else None
    return (int(ended.group(1)), lines[0].strip()) if ended else (0, "")


def hours(seconds: float) -> str:
    """h:mm, or - where it is not known."""
    return "-" if seconds != seconds else f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}"


def queue_states() -> dict[str, str]:
    """{label or job name: state} of whichever queue answers here."""
    out = {}
    for program, read in (("pueue", pueue_tasks), ("squeue", slurm_queue)):
        if shutil.which(program):
            try:
                out |= {name: state for name, (_, state) in read().items()}
            except (UserError, ValueError, KeyError) as error:
                logger.warning(f"the queue is left out: {error}")
    return out


def status(cfg: SweepConfig, tasks: list[Task]) -> None:
    """Print a row a run: state, steps, rates at the last evaluation, time left, failures; then the sweep's sums."""
    queue = queue_states()
    for task in tasks:
        ended, said = last_end(task.log)
        if not is_run(task) and not task.done and ended:
            print(f"{task.name} failed: {said}")
    found = []
    for task in filter(is_run, tasks):
        preset = PRESETS[task.name.partition("/")[0]]
        found.append(progress(task, int(flag(cfg.extra, "--steps", str(preset["steps"]))), queue))
    known = [p.seconds for p in found if p.seconds == p.seconds]
    usual = statistics.median(known) if known else float("nan")
    print("\t".join(["state", "step", "of", "hack", "attempt", "pass", "left", "age", "run"]))
    for p in found:
        each = p.seconds if p.seconds == p.seconds else usual
        cells = [p.state, p.step, p.steps, *(p.rates.get(k, "-") for k in ("hack", "attempt", "pass")),
                 hours(p.left * each), hours(p.age) if p.left else "-", p.task.name]  # fmt: skip
        print("\t".join(map(str, cells)) + (f"  {p.note}" if p.note else ""))
    count = {s: sum(p.state == s for p in found) for s in ("done", "running", "failed")}
    left = sum(p.left * (p.seconds if p.seconds == p.seconds else usual) for p in found)
    wall = f", {hours(left / count['running'])} at {count['running']} side by side" if count["running"] else ""
    print(f"{count['done']} of {len(found)} done, {count['running']} running, {count['failed']} failed; "
          f"about {hours(left)} of running time left{wall} (h:mm)")  # fmt: skip


def is_run(task: Task) -> bool:
    return task.marker is not None and task.marker.name == "summary.json"


def main() -> int:
    argv = sys.argv[1:]
    split = argv.index("--") if "--" in argv else len(argv)
    cfg = tyro.cli(SweepConfig, args=argv[:split], description=__doc__)
    cfg.extra = argv[split + 1 :]
    tasks = plan(cfg)
    if cfg.status:
        status(cfg, tasks)
    elif cfg.submit == "local":
        return run_local(tasks, cfg.jobs)
    elif cfg.submit == "pueue" and cfg.dry_run:
        print(pueue_script(tasks, cfg.groups))
    elif cfg.submit == "pueue":
        submit_pueue(tasks, cfg.groups)
    elif cfg.submit == "slurm" and not cfg.dry_run:
        submit_slurm(tasks, cfg.slurm)
    else:
        for task in tasks:
            print(f"{'# done: ' if task.done else ''}{shlex.join(['python', *task.command[1:]])}")
    return 0


if __name__ == "__main__":
    run_main(main)
