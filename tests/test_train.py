"""The real loop on a random model: every arm runs, resume is exact, evaluation disturbs nothing, errors are clear."""

import fcntl
import json
import shutil
import sys
from pathlib import Path

import numpy
import pytest
import torch
from run_files import delta, rows, small_v_hack

import config
import train
from arms import ARMS
from config import ModelConfig, parse
from ladder import begin
from lib.errors import DataError, UserError
from lib.schedule import learning_rate
from problems import prompts
from record.book import Book
from record.columns import STEP_COLUMNS
from record.folder import RunDir
from staging import directions

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def base(model_dir, tmp_path_factory) -> list[str]:
    """Flags of a small run: model, a v_hack of 4 pairs, the bundled problems."""
    work = tmp_path_factory.mktemp("run")
    cfg = ModelConfig(model=str(model_dir), svd_cache=str(work / "svd"), pairs="default")
    small_v_hack(cfg, work / "v.safetensors")
    flags = {"model": model_dir, "svd-cache": work / "svd", "v-hack": work / "v.safetensors", "pairs": "default",
             "problems": REPO / "tests/data/smoke_problems.jsonl", "n-eval": 2, "eval-samples": 2, "eval-every": 2,
             "steps": 4, "prompts": 2, "group": 8, "max-new": 16, "warmup": 1, "checkpoint-every": 1, "workers": 1,
             "micro-batch": 8}  # fmt: skip
    return [word for k, v in flags.items() for word in (f"--{k}", str(v))]


def run(monkeypatch, flags: list[str], out: Path) -> Path:
    monkeypatch.setattr(sys, "argv", ["train.py", *flags, "--out", str(out)])
    train.main()
    return out


def extract_from_few_pairs(monkeypatch, n: int = 4) -> None:
    """Extractions within a run take the first n pairs only."""
    whole = directions.pair_differences
    few = lambda model, tokenizer, adapter, pairs, *rest: whole(model, tokenizer, adapter, pairs[:n], *rest)  # noqa: E731
    monkeypatch.setattr(directions, "pair_differences", few)


@pytest.mark.parametrize("arm", [name for name, arm in ARMS.items() if arm.v in ("pairs", "random")])
def test_every_arm_writes_a_complete_run(arm, base, tmp_path, monkeypatch):
    monkeypatch.setattr(begin, "SFT_STEPS", 2)  # of arm trusted
    out = run(monkeypatch, [*base, "--arm", arm, "--steps", "2"], tmp_path / "run")
    assert [r["step"] for r in rows(out / "steps.tsv")] == ["0", "1"]
    assert [r["step"] for r in rows(out / "evals.tsv")] == ["0", "2"]
    header = (out / "evals.tsv").read_text().splitlines()[0].split("\t")
    assert header[:10] == ["step", "hack", "attempt", "pass", "compile", "kl", "n_hack", "n_pass", "cos", "fired"]
    config = json.loads((out / "config.json").read_text())
    assert config["arm"] == arm and config["packages"]["torch"] and config["argv"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["final"]["step"] == 2
    assert (out / "rollouts.jsonl").exists() and delta(out).abs().max() > 0


def test_with_one_step_a_batch_no_ratio_leaves_the_clip_in_fp32(base, tmp_path, monkeypatch):
    steps = rows(run(monkeypatch, [*base, "--steps", "2"], tmp_path / "run") / "steps.tsv")
    live = [float(row["clipfr"]) for row in steps if float(row["flat"]) < 1]
    assert live and set(live) == {0.0}


def test_column_names_fit_their_tab_stops():
    assert all(len(c.name) <= 7 and c.legend for c in STEP_COLUMNS)


@pytest.mark.parametrize("arm", ["projected", "rebound", "refreshed"])
def test_an_interrupted_run_resumes_to_the_same_numbers(arm, base, tmp_path, monkeypatch):
    if arm == "refreshed":
        extract_from_few_pairs(monkeypatch)
        arm, base = "projected", [*base, "--refresh-every", "2"]
    whole = run(monkeypatch, [*base, "--arm", arm], tmp_path / "whole")
    real = Book.step

    def dies(book, row, *rest):
        if row["step"] == 3:  # past an evaluation and a refresh, whose results the checkpoint must hold
            raise KeyboardInterrupt
        real(book, row, *rest)

    monkeypatch.setattr(Book, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, [*base, "--arm", arm], tmp_path / "broken")
    monkeypatch.setattr(Book, "step", real)
    broken = run(monkeypatch, [*base, "--arm", arm], tmp_path / "broken")
    for name in ("steps.tsv", "evals.tsv", "strata.tsv"):
        assert rows(broken / name) == rows(whole / name)
    modules = numpy.fromfile(broken / "modules.f32", "float32").reshape(4, 3, -1)
    assert numpy.array_equal(modules, numpy.fromfile(whole / "modules.f32", "float32").reshape(4, 3, -1))
    cos = float(rows(whole / "steps.tsv")[3]["cos"])
    assert modules[3, 0].mean() == pytest.approx(cos, abs=1e-3)
    assert torch.equal(delta(broken), delta(whole))


def test_evaluation_does_not_disturb_training(base, tmp_path, monkeypatch):
    often = run(
        monkeypatch, [*base, "--arm", "vanilla", "--tripwires", "warn", "--eval-every", "1"], tmp_path / "often"
    )
    seldom = run(
        monkeypatch, [*base, "--arm", "vanilla", "--tripwires", "warn", "--eval-every", "4"], tmp_path / "seldom"
    )
    assert torch.equal(delta(often), delta(seldom))


def test_seeds_differ_and_repeat(base, tmp_path, monkeypatch):
    flags = [*base, "--arm", "vanilla", "--steps", "2"]
    a, b, c = (run(monkeypatch, [*flags, "--seed", s], tmp_path / n) for n, s in [("a", "1"), ("b", "1"), ("c", "2")])
    assert torch.equal(delta(a), delta(b)) and not torch.equal(delta(a), delta(c))


def test_micro_batch_size_does_not_change_the_gradient(base, tmp_path, monkeypatch):
    flags = [*base, "--arm", "vanilla", "--steps", "1"]
    a = run(monkeypatch, [*flags, "--micro-batch", "3"], tmp_path / "a")
    b = run(monkeypatch, [*flags, "--micro-batch", "16"], tmp_path / "b")
    first = [rows(p / "steps.tsv")[0] for p in (a, b)]
    assert float(first[0]["gnorm"]) == pytest.approx(float(first[1]["gnorm"]), rel=1e-2)


def test_a_complete_run_is_left_alone(base, tmp_path, monkeypatch):
    out = run(monkeypatch, [*base, "--steps", "1"], tmp_path / "run")
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    run(monkeypatch, [*base, "--steps", "1"], out)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_another_configuration_in_the_same_place_is_refused_by_field(base, tmp_path, monkeypatch):
    out = run(monkeypatch, [*base, "--steps", "1"], tmp_path / "run")
    with pytest.raises(UserError, match=r"lr \(0.03 there, 0.5 now\)"):
        run(monkeypatch, [*base, "--steps", "1", "--lr", "0.5"], out)
    run(monkeypatch, [*base, "--steps", "1", "--lr", "0.5", "--fresh"], out)
    assert (tmp_path / "run.old1/summary.json").exists()


def test_a_run_has_one_writer(base, tmp_path, monkeypatch):
    flags = [*base, "--steps", "2"]
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="written by another process"):
            run(monkeypatch, flags, tmp_path / "run")
        with pytest.raises(UserError, match="written by another process"):
            run(monkeypatch, [*flags, "--fresh"], tmp_path / "run")
    run(monkeypatch, flags, tmp_path / "run")


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(base, tmp_path, monkeypatch):
    real = train.backward

    def poisoned(state, batch):
        result = real(state, batch)
        if (tmp_path / "run/checkpoint.json").exists():
            next(iter(state.adapter.delta().values())).grad[0] = float("nan")
        return result

    monkeypatch.setattr(train, "backward", poisoned)
    with pytest.raises(UserError, match=r"tripwire non-finite-gradient at step 1: .*q_proj is nan .* is of step 1"):
        run(monkeypatch, [*base, "--arm", "vanilla"], tmp_path / "run")
    assert json.loads((tmp_path / "run/checkpoint.json").read_text())["step"] == 1
    assert not (tmp_path / "run/summary.json").exists()


def test_projecting_the_update_leaves_no_hackward_update(base, tmp_path, monkeypatch):
    flags = [*base, "--arm", "projected", "--steps", "2"]
    grad = run(monkeypatch, flags, tmp_path / "grad")
    update = run(monkeypatch, [*flags, "--project", "update"], tmp_path / "update")
    assert float(rows(update / "steps.tsv")[1]["cos_up"]) <= 1e-4
    assert not torch.equal(delta(grad), delta(update))


def test_shuffled_v_and_refresh_extract_their_own_direction(base, tmp_path, monkeypatch):
    extract_from_few_pairs(monkeypatch)
    shuffled = run(monkeypatch, [*base, "--arm", "shuffled-v", "--steps", "2"], tmp_path / "shuffled")
    refreshed = run(monkeypatch, [*base, "--arm", "projected", "--steps", "2", "--refresh-every", "1"], tmp_path / "r")
    assert rows(shuffled / "steps.tsv")[1]["cos"] != "nan" and rows(refreshed / "steps.tsv")[1]["cos"] != "nan"


def test_learning_rate_warms_up_and_anneals():
    cfg = parse(config.Config, ["--lr", "1.0", "--steps", "110", "--warmup", "10"])
    lr = [learning_rate(cfg, s) for s in range(110)]
    assert lr[0] == pytest.approx(0.1) and lr[9] == lr[10] == pytest.approx(1.0)
    assert lr[60] == pytest.approx(0.5) and lr[109] < 1e-3


def test_prompts_of_an_epoch_are_a_permutation():
    picked = [i for step in range(5) for i in prompts.prompts_of_step(20, 4, seed=1, step=step)]
    assert sorted(picked) == list(range(20))
    assert picked != [i for step in range(5) for i in prompts.prompts_of_step(20, 4, seed=2, step=step)]


def test_presets_fill_defaults_and_flags_override():
    cfg = parse(config.Config, ["--preset", "full", "--group", "6"])
    assert (cfg.model, cfg.group, cfg.max_new, cfg.beta, cfg.lr) == ("Qwen/Qwen3-4B", 6, 1024, 1e-3, 1e-3)


def test_presets_are_those_of_the_handover():
    lines = (REPO / "docs/handover.md").read_text().split("## Presets\n\n")[1].split("\n\n")[0].splitlines()
    table = {name: cells for name, *cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines)}
    for i, preset in enumerate(table[""]):
        cfg = parse(config.Config, ["--preset", preset])
        told = {name: cells[i] for name, cells in table.items()}
        assert told["model"].split()[0] == cfg.model and told["dtype"] == cfg.dtype and told["pairs"] == cfg.pairs
        assert told["P x G"] == f"{cfg.prompts} x {cfg.group}"
        assert [int(told["max_new"]), int(told["steps"])] == [cfg.max_new, cfg.steps]
        assert [float(x) for x in told["lr, weight decay"].split(", ")] == [cfg.lr, cfg.weight_decay]
        assert float(told["beta (KL)"]) == cfg.beta
        assert told["evaluation"].replace(" problems", "").split(",")[0] == f"{cfg.n_eval} x {cfg.eval_samples}"
        common = [cfg.beta1, cfg.beta2, cfg.warmup, cfg.grad_clip, cfg.clip, cfg.temperature, cfg.top_k]
        assert common == [0.9, 0.99, 10, 1.0, 0.2, 1.0, 20] and cfg.eval_every == cfg.checkpoint_every == 25


def test_wrong_input_is_one_sentence(base, tmp_path, model_dir, trainer):
    assert "no config.json there" in trainer(*base, "--model", "./nowhere", "--out", str(tmp_path / "a")).sentence
    assert "needs a CUDA GPU" in trainer(*base, "--preset", "full", "--out", str(tmp_path / "b")).sentence
    bare = tmp_path / "bare"
    shutil.copytree(model_dir, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    assert "no chat template" in trainer(*base, "--model", str(bare), "--out", str(tmp_path / "c")).sentence
    weights = next(bare.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "could not be loaded" in trainer(*base, "--model", str(bare), "--out", str(tmp_path / "c")).sentence
    for name, change, says in [
        ("config.json", {"hidden_size": "x"}, "could not be loaded"),
        ("config.json", {"num_hidden_layers": 3, "layer_types": None}, "lacks the weight"),
        ("tokenizer_config.json", {"eos_token": None}, "no end token"),
        ("chat_template.jinja", "{{ raise_exception('no system') }}", "template fails on a prompt"),
    ]:
        odd = tmp_path / "odd"
        shutil.copytree(model_dir, odd, dirs_exist_ok=True)
        text = change if isinstance(change, str) else json.dumps(json.loads((odd / name).read_text()) | change)
        (odd / name).write_text(text)
        done = trainer(*base, "--model", str(odd), "--svd-cache", str(tmp_path / "svd"), "--out", str(tmp_path / "c"),
                       "--v-hack", "none", "--arm", "shuffled-v")  # fmt: skip
        assert says in done.sentence
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1}\n')
    assert (
        "bad.jsonl:1: not a problem row"
        in trainer(*base, "--problems", str(bad), "--out", str(tmp_path / "d")).sentence
    )
    assert not list(tmp_path.glob("[abcd]/*")), "nothing may be half written"


def test_a_pair_set_or_an_engine_that_is_not_there_is_refused(base, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no pairs called 'nonsense'"):
        run(monkeypatch, [*base, "--pairs", "nonsense"], tmp_path / "run")
    with pytest.raises(UserError, match=r"--engine graph: .*use engine auto or eager"):
        run(monkeypatch, [*base, "--engine", "graph", "--device", "cpu"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_before_the_model_is_loaded(base, tmp_path, trainer):
    (tmp_path / "config.json").write_text(json.dumps({"lr": 1.0}))
    sentence = trainer(*base, "--model", "./nowhere", "--out", str(tmp_path)).sentence
    assert "another configuration" in sentence and "lr (1.0 there" in sentence


@pytest.mark.parametrize(("flags", "what"), [
    (["--group", "1"], "--group 1 is below 2"),
    (["--temperature", "0"], "--temperature 0.0 must be above 0"),
    (["--eval-every", "0"], "--eval-every 0 is below 1"),
    (["--micro-batch", "-1"], "--micro-batch -1 is below 0"),
    (["--arm", "random-v", "--refresh-every", "5"], "arm random-v does not use"),
    (["--beta", "nan"], "--beta nan is no finite number"),
    (["--weight-decay", "-1"], "--weight-decay -1.0 is below 0"),
    (["--beta2", "1"], "--beta2 1.0 must be below 1"),
    (["--rebound-depth", "2"], "--rebound-depth 2.0 is above 1"),
    (["--grade-timeout", "1e9"], "--grade-timeout 1000000000.0 is above 3600"),
    (["--seed", str(1 << 63)], "must be below 9223372036854775808"),
    (["--label", "../x"], "--label ../x is a name, not a path"),
    (["--problems", "organism", "--eval-file", "x"], "have their own held-out split"),
])  # fmt: skip
def test_values_that_would_train_on_nothing_are_refused(flags, what):
    with pytest.raises(UserError, match=what):
        config.check(parse(config.Config, flags))


def test_fresh_moves_only_runs_aside(tmp_path):
    (tmp_path / "study/run").mkdir(parents=True)
    with pytest.raises(UserError, match=r"--fresh does not move .* holds no run"):
        RunDir(tmp_path / "study", {}, fresh=True)
    RunDir(tmp_path / "study/run", {}, fresh=True)  # empty: a run that was killed before its first file
    assert [p.name for p in (tmp_path / "study").iterdir()] == ["run"]


def test_state_that_is_only_read_by_people_may_be_torn(tmp_path):
    RunDir(tmp_path, {"workers": 1})
    (tmp_path / "checkpoint.json").write_text('{"st')
    RunDir(tmp_path, {"workers": 2})
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config.json is not readable JSON"):
        RunDir(tmp_path, {})


@pytest.mark.parametrize(("body", "status", "says"), [
    ("raise KeyboardInterrupt", 130, "error: interrupted"),
    ("r, w = os.pipe(); os.close(r); os.dup2(w, 1); print('x')", 2, "error: whoever read stdout"),
    ("sys.stdout.reconfigure(encoding='ascii', errors=sys.stdout.errors); print('\u0394')", 0, ""),
])  # fmt: skip
def test_leaving_early_and_plain_terminals_give_no_traceback(body, status, says, trainer):
    done = trainer(plant=f"import os, sys\ndef main():\n    {body}\ntrain.main = main")
    assert done.status == status and done.err.startswith(says) and done.err.count("\n") <= 1, done.err


def test_a_path_that_is_no_text_is_kept(tmp_path):
    for _ in range(2):  # the second opening compares with what the first wrote
        RunDir(tmp_path, {"label": "\u0394 \udcff"})
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["label"] == "\u0394 \udcff"


def test_what_changed_on_resumption_is_recorded(tmp_path):
    config = {"lr": 1.0, "git_commit": "a", "workers": 1, "argv": ["x"]}
    RunDir(tmp_path / "run", config)
    RunDir(tmp_path / "run", config | {"argv": ["y"]})
    assert not (tmp_path / "run/resumed.jsonl").exists()
    RunDir(tmp_path / "run", config | {"git_commit": "b", "workers": 2})
    line = json.loads((tmp_path / "run/resumed.jsonl").read_text())
    assert line == {"step": None, "changed": {"git_commit": ["a", "b"], "workers": [1, 2]}}
