"""Runs that are killed, cut off or sabotaged: SIGKILL at any moment changes nothing, and a failure is one sentence."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from run_files import rows

from lib.errors import DataError
from lib.tensors import load_tensors
from problems.leetcode import load_problems

FEW_PAIRS = """
whole = extract_vhack_grad.pair_differences
extract_vhack_grad.pair_differences = lambda m, t, a, pairs, *rest: whole(m, t, a, pairs[:4], *rest)"""
KILLS = [{"plant": "die_at('fsync', 'checkpoint.safetensors')"},
         {"plant": "die_at('replace', 'checkpoint.safetensors', 2)"},
         {"plant": "die_at('replace', 'checkpoint.safetensors', after=True)"},
         {"plant": "die_at('fsync', 'checkpoint.json')"},
         {"plant": "die_at('write', 'evals.tsv')"}]  # fmt: skip
"""Moments within a write: a torn temporary file, one not yet renamed, between the two files, half a row."""
WALL = """
import pathlib, time
real, steps = train.make_batch, []
def up_to_the_wall(run, step):
    steps.append(step)
    if len(steps) == 1:
        pathlib.Path({begun!r}).touch()
    if len(steps) == 5:
        time.sleep(3600)
    return real(run, step)
train.make_batch = up_to_the_wall"""
"""The fifth step of a process does not end, so that a kill from outside always finds it alive."""


@pytest.fixture(scope="module")
def flags(organism_flags, trainer, tmp_path_factory) -> list:
    """A small projected run, with a v_hack of 4 pairs."""
    v_hack = tmp_path_factory.mktemp("survive") / "v.safetensors"
    words = [*organism_flags[:4], "--out", v_hack]
    assert trainer(*words, script="extract_vhack_grad", plant=FEW_PAIRS).status == 0
    return [*organism_flags, "--arm", "projected", "--v-hack", v_hack]


def contents(run: Path) -> dict:
    """What a run leaves, but for what a clock says."""
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    same = ("evals.tsv", "strata.tsv", "prompts.jsonl", "modules.f32", "modules.json", "delta_S.safetensors")
    return {
        "steps": rows(run / "steps.tsv"),
        "rollouts": [{k: v for k, v in r.items() if k != "seconds"} for r in rollouts],
        **{name: (run / name).read_bytes() for name in same},
    }


def step_of(run: Path) -> int:
    """The step that a resumption begins with, by the checkpoint itself: checkpoint.json may lag behind it."""
    if not (run / "checkpoint.safetensors").exists():
        return 0
    return json.loads(load_tensors(run / "checkpoint.safetensors")[1]["state"])["step"]


def test_a_run_killed_ten_times_ends_as_one_that_was_not(flags, trainer, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert trainer(*flags, "--out", whole).status == 0
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    delays = [rng.uniform(0, 0.7) for _ in range(5)]
    kills = [*KILLS, *delays]
    rng.shuffle(kills)
    for number, kill in enumerate(kills):
        if isinstance(kill, float):
            begun = tmp_path / f"begun{number}"
            kill = {"plant": WALL.format(begun=str(begun)), "kill": {"file": str(begun), "delay": kill}}
        if step_of(broken) > 7:  # too near the end for one that goes on
            kill = KILLS[0]
        done = trainer(*flags, "--out", broken, **kill)
        assert done.status == -9 and done.strays == 0, (seed, number, kill, done)
        assert not (broken / "summary.json").exists()
    (broken / "checkpoint.json").write_text('{"step": 99}')  # only a person reads it
    done = trainer(*flags, "--out", broken)
    assert done.status == 0, (seed, done.err)
    assert contents(broken) == contents(whole), seed
    left = {p.name for p in broken.iterdir()}
    assert left == {p.name for p in whole.iterdir()}, (seed, left)
    assert json.loads((broken / "checkpoint.json").read_text())["step"] == 12


def test_a_refused_write_keeps_what_was_there_and_the_run_goes_on_afterwards(flags, trainer, tmp_path):
    """RLIMIT_FSIZE: the kernel refuses to let a file grow, in the middle of a write if need be."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
    run = [*flags, "--steps", 4, "--out", tmp_path / "run"]
    line = trainer(*run, plant=limit.format(40_000)).sentence
    assert "checkpoint.safetensors: File too large" in line and "ulimit -f" in line
    line = trainer(*run, "--checkpoint-every", 100, plant=limit.format(7_000)).sentence
    assert "rollouts.jsonl: File too large" in line
    assert all(json.loads(text) for text in (tmp_path / "run/rollouts.jsonl").read_text().splitlines())
    assert not [p for p in (tmp_path / "run").iterdir() if "tmp" in p.name or p.name.startswith("checkpoint")]
    assert trainer(*run).status == 0
    assert trainer(*flags, "--steps", 4, "--out", tmp_path / "whole").status == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_full_disk_is_one_sentence(flags, trainer, tmp_path):
    """A file system of 64 KiB in a mount namespace of the run's own."""
    out = tmp_path / "run"
    out.mkdir()
    mount = (f"import ctypes; c = ctypes.CDLL(None); c.unshare(0x20000)\n"
             f"if c.mount(b'none', b'/', None, 1 << 14 | 1 << 18, None) "
             f"or c.mount(b'tmpfs', {str(out).encode()}, b'tmpfs', 0, b'size=64k'): raise SystemExit(77)")  # fmt: skip
    done = trainer(*flags, "--out", out, plant=mount)
    if done.status == 77:
        pytest.skip("mounting is not permitted here")
    assert f"{out}/" in done.sentence and "No space left on device; free some space" in done.sentence


def test_an_output_folder_that_cannot_be_made_is_one_sentence(flags, trainer, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file/run"):
        assert "give a path that can be written" in trainer(*flags, "--out", out).sentence
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("when", ["train.make_batch", "train.Book._checkpoint"])
def test_a_folder_that_vanishes_stops_the_run_and_is_not_begun_again(when, flags, trainer, tmp_path):
    out = tmp_path / "run"
    plant = f"""
import shutil
real = {when}
def vanishes(*a):
    shutil.rmtree({str(out)!r})
    return real(*a)
{when} = vanishes"""
    line = trainer(*flags, "--out", out, plant=plant).sentence
    assert f"{out}/" in line and "No such file or directory" in line and "a run without its folder is lost" in line
    assert not out.exists()


def test_torn_state_is_refused_and_a_torn_cache_rebuilt(flags, trainer, tmp_path):
    run, cache = tmp_path / "run", Path(flags[flags.index("--svd-cache") + 1])
    assert trainer(*flags, "--out", run, plant="die_at('replace', 'checkpoint.json', after=True)").status == -9
    for name, size, what in [("checkpoint.safetensors", 30_000, "is torn: pass --fresh"),
                             ("steps.tsv", 100, "rows are lost; pass --fresh"),
                             ("config.json", 100, "is not readable JSON: pass --fresh")]:  # fmt: skip
        torn = tmp_path / name
        shutil.copytree(run, torn)
        (torn / name).write_bytes((torn / name).read_bytes()[:size])
        assert what in trainer(*flags, "--out", torn).sentence
        assert (torn / name).stat().st_size == size
    file = next(cache.rglob("*.safetensors"))
    whole = {name: t.clone() for name, t in load_tensors(file)[0].items()}  # off the file, which is torn next
    file.write_bytes(file.read_bytes()[:1000])
    done = trainer("--preset", "tiny", "--svd-cache", cache, "--svd-only", script="extract_vhack_grad")
    assert done.status == 0 and f"{file} is torn: rebuilding it" in done.err
    assert all(torch.equal(t, whole[name]) for name, t in load_tensors(file)[0].items())


def test_a_gpu_that_fails_is_one_sentence_and_the_run_goes_on(flags, trainer, tmp_path):
    """No GPU is at hand, so its real exceptions are raised where it would raise them."""
    plant = """
import torch
real, calls = train.make_batch, []
def fails(*a):
    calls.append(1)
    if len(calls) == 3:
        raise {error}
    return real(*a)
train.make_batch = fails"""
    run = [*flags, "--steps", 8, "--out", tmp_path / "run"]
    lost = "torch.AcceleratorError('CUDA error: unspecified launch failure\\nCUDA kernel errors might be reported')"
    line = trainer(*run, plant=plant.format(error=lost)).sentence
    assert "the GPU failed (CUDA error: unspecified launch failure)" in line and "nvidia-smi" in line
    full = "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of')"
    line = trainer(*run, plant=plant.format(error=full)).sentence
    assert "out of memory (allocate 2.00 GiB): lower --micro-batch" in line
    bug = trainer(*run, plant=plant.format(error="RuntimeError('a bug')"))
    assert bug.status == 1 and "RuntimeError: a bug" in bug.err, "a bug keeps its traceback"
    assert json.loads((tmp_path / "run/checkpoint.json").read_text())["step"] == 6


def test_a_v_hack_of_another_model_or_dtype_is_refused(flags, trainer, model_dir, tmp_path):
    for other in (["--model", model_dir], ["--dtype", "bfloat16"]):
        line = trainer(*flags, *other, "--out", tmp_path / "run").sentence
        assert "was extracted from organism (float32), whose weights are not those of" in line
    assert not (tmp_path / "run").exists()


def test_a_malformed_row_is_named_with_its_line(flags, trainer, tmp_path):
    problems = Path(flags[flags.index("--problems") + 1])
    good = problems.read_bytes().splitlines()[0]
    row = json.loads(good)
    user = row["prompt"][-1]
    bad = [b"{", b"[1]", b"\xff\xfe", b"[" * 200_000, json.dumps(row | {"func_name": None}).encode(),
           json.dumps(row | {"setup_code": "import ("}).encode(),
           json.dumps(row | {"prompt": [user | {"content": None}, user]}).encode(),
           json.dumps(row | {"prompt": [user | {"content": user["content"] + "\ud800"}]}).encode(),
           json.dumps(row | {"gt_answer": "assert f() == 1"}).encode(),
           json.dumps({k: v for k, v in row.items() if k != "prompt"}).encode()]  # fmt: skip
    for line in bad:
        (tmp_path / "bad.jsonl").write_bytes(good + b"\n" + line + b"\n")
        with pytest.raises(DataError, match=r"bad.jsonl:2: not a problem row"):
            load_problems(tmp_path / "bad.jsonl")
    run = [*flags, "--problems", tmp_path / "bad.jsonl", "--out", tmp_path / "run"]
    assert "bad.jsonl:2: not a problem row" in trainer(*run).sentence
    (tmp_path / "bad.jsonl").write_text(json.dumps(row | {"gt_answer": ["assert unknown(1)"]}) + "\n")
    assert "cannot grade by 'assert unknown(1)'" in trainer(*run, "--eval-file", problems).sentence
    for what in ("\r\n", "\ufeff"):
        text = f"{json.dumps(row | {'difficulty': 'a' + chr(9) + 'b'})}\r\n"
        (tmp_path / "odd.jsonl").write_text(what.strip("\r\n") + text, newline="")
        assert load_problems(tmp_path / "odd.jsonl")[0].stratum == "a b", "it goes into a TSV"
    line_separator = row | {"setup_code": "# \u2028"}
    (tmp_path / "odd.jsonl").write_text(json.dumps(line_separator, ensure_ascii=False) + "\n")
    assert len(load_problems(tmp_path / "odd.jsonl")) == 1
