"""The command: the same bytes for the same runs, one sentence for bad input, a page that reads as a result."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from report_helpers import PROJECTED, VANILLA
from synthetic_runs import PREREGISTERED, make_arm, make_run

import plot_pareto
from lib.errors import ReportError
from lib.files import REPO
from report.activity import activity
from report.appendix import activity_text
from report.numbers import select
from report.runs import load_runs
from report.tables import arm_rows


@pytest.fixture
def run_cli(python):
    """run_cli(*args): the command."""
    return lambda *args: subprocess.run(
        [python, str(REPO / "plot_pareto.py"), *map(str, args)], capture_output=True, text=True
    )


def test_same_runs_give_identical_bytes_and_verdicts_come_last(run_cli, tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA, flavours={"print": 3})
    make_arm(tmp_path, "projected", PROJECTED)
    dirs = sorted((tmp_path / "tiny").iterdir())
    first = run_cli(*dirs, "--out", tmp_path / "one")
    plot_pareto.report(plot_pareto.ReportConfig(runs=tuple(map(str, reversed(dirs))), out=tmp_path / "two"))
    assert first.returncode == 0, first.stderr
    for name in ("table.md", "table.csv", "table.tex", "verdict.md", "verdict.json", "pareto.svg", "pareto.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    last = first.stdout.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["H1", "H3", "H4"]
    assert all(line.endswith(f"[{tmp_path / 'one' / 'verdict.md'}]") for line in last)
    assert str(tmp_path) not in (tmp_path / "one" / "report.md").read_text()
    page = (tmp_path / "one" / "report.html").read_text()
    assert "<h1>Results, preset tiny</h1>" in page and page.count('src="data:image/png') >= 4


def test_no_complete_run_still_reports(tmp_path):
    make_run(tmp_path, "vanilla", 0, 0.8, 0.5, complete=False)
    out, decided, _ = plot_pareto.report(plot_pareto.ReportConfig(runs=(str(tmp_path),)))
    assert {v.status for v in decided} == {"undecided"} and "incomplete" in (out / "report.md").read_text()


def test_relative_and_absolute_paths_mix_and_odd_samples_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, there = (make_run(tmp_path / name, "vanilla", seed, 0.8, 0.5) for seed, name in enumerate("ab"))
    (here / "rollouts.jsonl").write_text('{"step": "x"}\n{"step": 1, "split": ["a"]}\nnull\n')
    out, _, _ = plot_pareto.report(plot_pareto.ReportConfig(runs=("a", str(there))))
    assert out == tmp_path / "report" and (out / "report.md").exists()


def test_bad_input_is_one_sentence_and_writes_nothing(run_cli, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    torn = make_run(tmp_path / "torn", "vanilla", 0, 0.8, 0.5)
    (torn / "evals.tsv").write_text((torn / "evals.tsv").read_text().rstrip("\n").rpartition("\t")[0] + "\n")
    percent = make_run(tmp_path / "percent", "vanilla", 0, 0.8, 0.5, curve=[(200, 80, 0.5)])
    word = make_run(tmp_path / "text", "vanilla", 0, 0.8, 0.5, curve=[(200, 0.8, "0.5x")])
    seed = make_run(tmp_path / "seed", "vanilla", 0, 0.8, 0.5)
    (seed / "config.json").write_text('{"arm": "vanilla", "seed": "abc"}')
    for args, said in (
        ([empty], "no run directory at or below"),
        ([tmp_path / "nowhere", torn], "does not exist"),
        ([torn], "evals.tsv line 10 is torn (9 cells under 10 columns)"),
        ([percent], "hack = 80: rates are fractions"),
        ([word], "pass is '0.5x'"),
        ([seed], "does not say its arm and seed"),
    ):
        with pytest.raises(ReportError) as error:
            plot_pareto.report(plot_pareto.ReportConfig(runs=tuple(map(str, args)), out=tmp_path / "out"))
        assert said in str(error.value) and "\n" not in str(error.value)
    done = run_cli(torn, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert run_cli().returncode != 0


def test_a_refused_write_keeps_the_earlier_report(python, tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    out = plot_pareto.report(plot_pareto.ReportConfig([str(tmp_path)]))[0]
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    make_arm(tmp_path, "projected", VANILLA)
    code = """if True:
        import resource
        import plot_pareto
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        plot_pareto.run_main(plot_pareto.main)
    """
    done = subprocess.run([python, "-c", code, tmp_path], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and "File too large" in done.stderr and len(done.stderr.splitlines()) == 1
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_activity_is_judged_by_large_reductions_of_runs_that_met_hacks(tmp_path):
    sizes = {"prompts": 4, "group": 4}
    for arm, rates in {
        "vanilla": (0.5, 0.51, 0.52),
        "projected": (0.1, 0.1, 0.12),
        "projected-nomag": (0.0, 0.1, 0.1),
        "random-v": (0.48, 0.49, 0.5),
    }.items():
        for seed, hack in enumerate(rates):
            make_run(tmp_path, arm, seed, hack, 0.5, config=sizes)
    used, _ = select(load_runs([tmp_path]))
    projected, nomag, random_v = activity_text(used, arm_rows(used)).splitlines()[:3]
    assert projected.endswith("so here the flag is wrong about its effect")
    assert "too few strict hacks were sampled in training to test suppression, 0 in seed 0, so that" in nomag
    assert "is wrong" not in nomag  # what could not be tested contradicts nothing
    assert random_v.endswith("0.600 ± 0.000)")  # 2 pp less than vanilla in every seed is no effect


@pytest.mark.parametrize(
    "cos, fired, flag",
    [(0.21, 0.41, "active"), (0.2, 0.9, "silent no-op"), (0.3, 0.4, "silent no-op"), (math.nan, 0.5, "not logged")],
)
def test_activity_flag(cos, fired, flag):
    assert activity(cos, fired) == flag


def test_the_page_says_what_was_run_and_what_came_out(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA, config=PREREGISTERED, flavours={"print": 3})
    make_arm(tmp_path, "projected", PROJECTED, config=PREREGISTERED)
    out, _, _ = plot_pareto.report(plot_pareto.ReportConfig(runs=(str(tmp_path),)))
    page = (out / "report.md").read_text()
    assert "These runs are the preregistered experiment" in page and "Model Qwen3-4B; lr 7e-05" in page
    assert "- **H1 supported, evidence undecided.**" in page and "At matched pass rate ±5 pp" in page
    assert "(pareto.png)" in page and "| projected | 20.0, 22.0, 24.0 |" in page
    appendix = (out / "appendix.md").read_text()
    for name in ("trajectories", "flavours", "cosine"):
        assert f"({name}.png)" in appendix and (out / f"{name}.svg").exists()
    assert len(page.split()) < 1000


def test_a_pilot_says_so_first_and_names_the_stopped_runs(tmp_path):
    make_arm(tmp_path, "vanilla", VANILLA)
    path = make_run(tmp_path, "projected", 0, 0.1, 0.1, complete=False)
    (path / "tripwire-pass-collapse-200.json").write_text("{}")
    out, _, _ = plot_pareto.report(plot_pareto.ReportConfig(runs=(str(tmp_path),)))
    page = (out / "report.md").read_text().splitlines()
    assert page[2].startswith("**A pilot**")
    assert "1 stopped by a tripwire and counted at the last evaluation (projected_s0: pass-collapse" in page[4]
    machine = json.loads((out / "verdict.json").read_text())
    assert machine["stopped"] == {"tiny/projected_s0": "pass-collapse at step 200"} and machine["pilot"]


def test_no_torch_is_imported():
    code = "import sys, plot_pareto; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0
