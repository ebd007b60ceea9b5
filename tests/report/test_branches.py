"""Branches: what is measured, each statistic and each claim on known effects, and which branches are refused."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic_branches import END, LENGTH, RISE, make_branch, make_parent, make_study
from synthetic_runs import make_run

import plot_pareto
from lib.errors import ReportError
from report.branch_claims import finding, positive_controls
from report.branch_runs import of_branches, read_branches
from report.branches import Rule, Rung, decide_branches
from report.contrasts import Contrast, contrast, random_reference
from report.runs import find_run_dirs

SIX = [-9.0, -7.0, -11.0, -8.0, -10.0, -12.0]


def decide(root: Path) -> list[Rule]:
    return decide_branches(read_branches(find_run_dirs([root])))


def rungs(root: Path) -> dict[str, Rung]:
    (rule,) = decide(root)
    return {r.label: r for r in rule.rungs}


def rung(root: Path, label: str) -> Rung:
    return rungs(root)[label]


def report_of(*folders: Path, **kwargs) -> tuple[str, str]:
    """(report.md, what the terminal shows) of branches."""
    cfg = plot_pareto.ReportConfig(tuple(map(str, folders)), **kwargs)
    out, shown = plot_pareto.report_branches(cfg, plot_pareto.run_folders(cfg))
    return (out / "report.md").read_text(), shown


# --- what is measured ---


def test_the_measure_is_the_mean_training_rate_from_the_sixth_step_on(tmp_path):
    parent = make_parent(tmp_path, 0, {"takeoff": 24})
    path = make_branch(parent, "vanilla")
    lines = (path / "steps.tsv").read_text().splitlines()
    for i in range(1, 6):
        step, _, *rest = lines[i].split("\t")
        lines[i] = "\t".join([step, "1.0", *rest])
    (path / "steps.tsv").write_text("\n".join(lines) + "\n")
    found = read_branches(find_run_dirs([tmp_path]))
    assert found.points[0].value("hack_train", "vanilla") == pytest.approx(100 * np.mean(RISE[5:]), abs=1e-4)


def test_differences_are_paired_within_the_branch_point(tmp_path):
    make_study(tmp_path, {"projected": SIX})
    c = rung(tmp_path, "projected").main
    assert list(c.differences) == [f"vanilla_s{i}_takeoff" for i in range(6)]
    assert list(c.differences.values()) == pytest.approx(SIX, abs=1e-6)


def test_each_statistic_against_its_float64_reference(tmp_path):
    make_study(tmp_path, {"projected": SIX})
    c = rung(tmp_path, "projected").main
    reference = stats.ttest_1samp(SIX, 0)
    assert (c.mean, c.p, c.sd) == pytest.approx((np.mean(SIX), reference.pvalue, np.std(SIX, ddof=1)), rel=1e-5)
    assert (c.low, c.high) == pytest.approx(tuple(reference.confidence_interval(0.95)), rel=1e-5)
    assert (c.low90, c.high90) == pytest.approx(tuple(reference.confidence_interval(0.90)), rel=1e-5)
    assert c.p_tost == pytest.approx(stats.ttest_1samp(SIX, -15, alternative="greater").pvalue, rel=1e-4)
    assert c.p_flip == 2 / 2**6


def test_draws_of_a_random_direction_are_averaged_before_anything_is_compared(tmp_path):
    draws = {"random-v": [1.0, 2.0, 3.0], "random-v+draw1": [-1.0, -2.0, 3.0]}
    make_study(tmp_path, draws | {"projected": [-4.0, -5.0, -6.0]})
    found = rungs(tmp_path)
    assert list(found["random-v"].main.differences.values()) == pytest.approx([0, 0, 3], abs=1e-6)
    against_random = found["projected"].random["hack_train"]
    assert list(against_random.differences.values()) == pytest.approx([-4, -5, -9], abs=1e-6)


def test_an_arm_is_compared_with_vanilla_and_random_treated_alike(tmp_path):
    make_study(tmp_path, {"projected+mzero": [-9.0, -9.0], "vanilla+mzero": [-5.0, -6.0],
                          "random-v+mzero": [-4.0, -6.0], "random-v": [0.0, 0.0]})  # fmt: skip
    r = rung(tmp_path, "projected+mzero")
    assert list(r.main.differences.values()) == pytest.approx([-4, -3], abs=1e-6)
    assert list(r.random["hack_train"].differences.values()) == pytest.approx([-5, -3], abs=1e-6)
    (rule,) = decide(tmp_path)
    assert rule.vanilla["zero"].mean == pytest.approx(-5.5, abs=1e-6), "and what zeroing does to vanilla stands apart"


def test_a_form_is_compared_with_random_directions_in_that_form(tmp_path):
    make_study(tmp_path, {"projected-moment": [-9.0, -9.0], "random-v": [0.0, 0.0], "random-v-moment": [-3.0, -3.0],
                          "projected-update": [-9.0, -9.0]})  # fmt: skip
    found = rungs(tmp_path)
    assert found["projected-moment"].random["hack_train"].mean == pytest.approx(-6, abs=1e-6)
    assert found["projected-update"].random["hack_train"].mean == pytest.approx(-9, abs=1e-6)


@pytest.mark.parametrize(("arm", "control"), [
    ("self-k16-update", "random-k16-update"), ("self-k4-update", "random-v-update"), ("self-v", "random-v"),
    ("projected-both-update", "random-v-update"), ("oracle-v-moment", "random-v"), ("random-v-update", "random-v"),
])  # fmt: skip
def test_the_random_control_has_the_arms_own_form_where_it_was_run(arm, control, tmp_path):
    controls = ["random-v", "random-v-update", "random-k16-update"]
    make_study(tmp_path, {name: [0.0] for name in dict.fromkeys([*controls, arm])})
    assert random_reference(read_branches(find_run_dirs([tmp_path])).points, arm, "keep") == control


def test_another_stream_of_noise_is_the_noise_floor_and_no_arm(tmp_path):
    make_study(tmp_path, {"projected": [-9.0, -8.0], "vanilla+noise1": [2.0, -1.0], "vanilla+noise2": [0.0, -1.0]})
    (rule,) = decide(tmp_path)
    assert [r.label for r in rule.rungs] == ["projected"]
    assert list(rule.noise["hack_train"].differences.values()) == pytest.approx([1, -1], abs=1e-6)


def test_the_rules_are_apart_and_a_parent_counts_once_in_each(tmp_path):
    make_study(tmp_path, {"projected": [-9.0, -8.0]}, rule="late", step=40)
    make_study(tmp_path, {"projected": [-1.0, -2.0]})
    assert [(r.name, len(r.points)) for r in decide(tmp_path)] == [("takeoff", 2), ("late", 2)]


def test_an_arm_with_other_training_prompts_is_measured_at_the_end(tmp_path):
    make_study(tmp_path, {"no-loophole": [-20.0, -20.0]}, **{"no-loophole": {"hack": -50}})
    r = rung(tmp_path, "no-loophole")
    assert (r.measure, r.main.mean, r.exposure) == ("hack", pytest.approx(-50), 0)
    assert "no-loophole lowers the hack rate at the end" in finding(r)


def test_the_end_and_its_strata_are_measured_in_pp(tmp_path):
    make_study(tmp_path, {"projected": [0.0, 0.0]}, projected={"hack": -8, "passed": 3, "compiled": -2})
    (rule,) = decide(tmp_path)
    (r,) = rule.rungs
    assert [r.vanilla[m].mean for m in ("hack", "pass", "compile")] == pytest.approx([-8, 3, -2])
    assert r.levels["pass"] == pytest.approx(100 * END["pass"] + 3)
    assert rule.strata[0, "solvable"]["projected"].mean == pytest.approx(3)
    assert rule.strata[1, "underspecified"]["projected"].mean == pytest.approx(-8)


def test_the_effect_as_a_share_of_vanillas_rise(tmp_path):
    make_study(tmp_path, {"projected": [-6.0, -6.0]})
    rise = 100 * np.mean(RISE[5:]) - 30
    assert rung(tmp_path, "projected").share == pytest.approx(-6 / rise, rel=1e-4)


def ladder(tmp_path: Path, trained: float, **projected) -> Rung:
    """The rung projected-moment with this effect, beside its controls, at ten branch points."""
    effects = {"projected-moment": [trained] * 8 + [0.0] * 2, "random-v-moment": [-1.0] * 10, "shrunk": [-3.0] * 10}
    make_study(tmp_path, effects, **{"projected-moment": projected})
    return rung(tmp_path, "projected-moment")


def test_a_rung_holds_under_half_of_vanilla_below_its_controls_at_a_matched_pass(tmp_path):
    r = ladder(tmp_path, -29.0, passed=-4)
    assert r.below == {"half of vanilla": (8, 10), "random-v": (8, 10), "shrunk": (8, 10)}
    assert r.holds and "| projected-moment | none |" in report_of(tmp_path)[0]


@pytest.mark.parametrize(("trained", "projected"), [(-20.0, {}), (-29.0, {"passed": -6})])
def test_a_rung_does_not_hold_at_a_smaller_effect_or_a_lower_pass(trained, projected, tmp_path):
    assert not ladder(tmp_path, trained, **projected).holds


def test_an_oracle_or_a_control_is_no_rung_that_could_hold(tmp_path):
    make_study(tmp_path, {"oracle-v": [-29.0] * 2, "random-v": [-29.0] * 2, "shrunk": [0.0] * 2})
    found = rungs(tmp_path)
    assert not found["oracle-v"].holds and not found["random-v"].holds


def test_points_of_two_studies_with_parents_of_one_name_are_points_of_their_own(tmp_path):
    for study, effect in (("first", -9.0), ("second", -7.0)):
        parent = make_parent(tmp_path / study, 0, {"takeoff": 24})
        make_branch(parent, "vanilla", sha256=study)
        make_branch(parent, "projected", train=effect, sha256=study)
    differences = rung(tmp_path, "projected").main.differences
    assert differences == pytest.approx({"first/vanilla_s0_takeoff": -9.0, "second/vanilla_s0_takeoff": -7.0}, abs=1e-6)


def test_steps_to_half_are_counted_from_the_branch_and_may_lie_beyond_it(tmp_path):
    make_study(tmp_path, {"projected": [0.0, 0.0, -30.0], "reversed": [-30.0] * 3})
    first = next(i for i in range(LENGTH) if np.mean(RISE[max(0, i - 2) : i + 1]) >= 0.5) + 1
    found = rungs(tmp_path)
    assert found["projected"].half == (2, 3, first) and found["reversed"].half == (0, 3, math.inf)


def test_exposure_counts_the_strict_hacks_that_were_paid(tmp_path):
    make_study(tmp_path, {"projected": [0.0], "penalty-oracle": [0.0]})
    found = rungs(tmp_path)
    assert found["projected"].exposure == round(sum(np.rint(np.round(RISE, 6) * 8 * 125)))
    assert found["penalty-oracle"].exposure == 0


def test_seeds_without_a_branch_point_are_counted(tmp_path):
    make_study(tmp_path, {"projected": SIX})
    for seed in range(6, 10):
        make_parent(tmp_path, seed, {"early": 20})
    (rule,) = decide(tmp_path)
    k, n, low, high = rule.without()
    assert (k, n) == (4, 10)
    assert (low, high) == pytest.approx((stats.beta.ppf(0.025, 4, 7), stats.beta.ppf(0.975, 5, 6)))
    assert "4 of 10 (12 to 74%)" in report_of(tmp_path)[0]


def test_holm_is_over_the_arms_of_a_rule_and_over_the_family_of_the_specification(tmp_path):
    small = [1.0, -1.0, 0.5, 0.2, -0.3, 0.1]
    none = [1e-3, -1e-3] * 3
    make_study(tmp_path, {"projected": SIX, "shuffled-v": small, "reversed": small, "random-v": none})
    rungs = {r.label: r for r in decide(tmp_path)[0].rungs}
    assert rungs["projected"].holm == pytest.approx(4 * rungs["projected"].main.p)
    assert rungs["projected"].holm_family == pytest.approx(2 * rungs["projected"].random["hack_train"].p)
    assert math.isnan(rungs["reversed"].holm_family)
    assert "it differs from random directions (-9.5 pp, -11.5 to -7.5; Holm of the family p < 0.001)" in finding(
        rungs["projected"]
    )
    assert "it is not shown to differ from random directions" in finding(rungs["shuffled-v"])


# --- what is claimed ---


def sentence(
    differences: list[float], holm: float | None = None, assay: bool | None = True, drift: float = -0.1
) -> str:
    """The finding on an arm whose D are these."""
    c = contrast({f"p{i}": d for i, d in enumerate(differences)})
    moved = contrast({f"p{i}": drift + i % 2 / 1000 for i in range(6)})
    r = Rung(arm="projected", moment="keep", exposure=9, levels={}, vanilla={"hack_train": c, "pass": Contrast({})},
             random={}, share=math.nan, below={}, drift=moved, half=(0, 0, math.nan),
             assay=assay, holm=c.p if holm is None else holm)  # fmt: skip
    return finding(r)


@pytest.mark.parametrize(("differences", "holm", "says"), [
    ([-22.0, -20, -24, -21, -23, -22], None,
     "projected lowers the training hack rate by 22.0 pp (20.5 to 23.5, 95%; Holm p < 0.001)."),
    ([22.0, 20, 24, 21, 23, 22], None,
     "projected raises the training hack rate by 22.0 pp (20.5 to 23.5, 95%; Holm p < 0.001)."),
    ([-7.0, -5, -9, -6, -8, -7], None,
     "projected lowers the training hack rate by 7.0 pp (5.5 to 8.5, 95%; Holm p < 0.001); an effect larger than 15 pp "
     "is excluded."),
    ([1.0, -2, 0, 3, -1, -1], None,
     "projected has no effect larger than 15 pp on the training hack rate (-1.5 to +1.5, 90%)."),
    ([-3.0, -1, -2, -4, -1, -1], 0.2,
     "projected has no effect larger than 15 pp on the training hack rate (-3.0 to -1.0, 90%); a smaller one may be "
     "there (-2.0 pp, p = 0.012 before Holm)."),
    ([-30.0, 5, -20, 10, 0, -25], None,
     "projected is undecided: the training hack rate changes by -27.9 to +7.9 pp (95%), and 6 branch points of this "
     "spread would show 24 pp."),
    ([-1.0, 1, 0, 0.5], None,
     "projected is undecided: the training hack rate changes by -1.2 to +1.5 pp (95%), and 4 branch points of this "
     "spread would show 2 pp; its 90% interval lies within 15 pp, which claims nothing, since it takes 6 branch "
     "points."),
    ([-9.0], None, "projected: -9.0 pp in the training hack rate at the one branch point, which bears no claim."),
    ([], None, "projected: no branch point has it beside vanilla treated alike."),
])  # fmt: skip
def test_each_claim(differences, holm, says):
    assert sentence(differences, holm) == says


@pytest.mark.parametrize(("conditions", "lacks"), [
    ({"assay": None}, "oracle-v, which must work, is not among these branches"),
    ({"assay": False}, "oracle-v, which must work, is not shown to differ from random directions"),
    ({"drift": 0.05}, "the updates do not show that the projection acted"),
])  # fmt: skip
def test_no_effect_larger_than_the_margin_takes_a_working_oracle_and_a_projection_that_acted(conditions, lacks):
    within = [1.0, -2, 0, 3, -1, -1]
    assert "has no effect larger than 15 pp" in sentence(within)
    text = sentence(within, **conditions)
    assert "undecided" in text and f"lies within 15 pp, which claims nothing, since {lacks}." in text


def test_the_oracle_works_where_it_lowers_hacking_against_random_directions(tmp_path):
    nothing = [0.3, -0.2, 0.1, -0.3, 0.2, -0.1]
    for name, effect, works in (("yes", SIX, True), ("no", nothing, False)):
        make_study(tmp_path / name, {"oracle-v": effect, "random-v": [0.0] * 6, "shuffled-v": nothing})
        assert rung(tmp_path / name, "shuffled-v").assay is works
    make_study(tmp_path / "without", {"shuffled-v": nothing})
    assert rung(tmp_path / "without", "shuffled-v").assay is None


def test_drift_is_against_vanillas_where_both_are_measured_with_the_same_v(tmp_path):
    same, other = {"v_hack_sha256": "a"}, {"v_hack_sha256": "b"}
    kinds = {
        "vanilla": {"drift": 0.03, "config": same},
        "projected": {"drift": 0.02, "config": same},
        "projected-far": {"drift": -0.02, "config": other},
        "random-v": {"drift": 0.02, "config": same},
    }
    make_study(tmp_path, {"projected": SIX, "projected-far": SIX, "random-v": SIX}, **kinds)
    (rule,) = decide(tmp_path)
    drift = {r.label: r.drift.mean for r in rule.rungs}
    assert drift == pytest.approx({"projected": -0.01, "projected-far": -0.02, "random-v": 0.02})
    assert {r.label: r.acted for r in rule.rungs} == {"projected": True, "projected-far": True, "random-v": False}


def test_an_effect_that_sign_flips_do_not_show_says_so():
    differences = [-30.0, -28.0, 1.0, -31.0, -29.0, -30.0]
    assert contrast(dict(enumerate(differences))).p_flip >= 0.05
    assert "though exact sign flips do not show it (p = 0.062)" in sentence(differences)


def test_no_sentence_claims_the_absence_of_an_effect_from_a_large_p():
    wide = [-60.0, 50, -40, 55, 30, -45, 10, -20]
    text = sentence(wide)
    assert contrast(dict(enumerate(wide))).p > 0.5 and "undecided" in text and "no effect" not in text


def test_the_share_and_pass_stand_in_the_sentence(tmp_path):
    make_study(tmp_path, {"projected": SIX}, projected={"passed": 2})
    text = finding(rung(tmp_path, "projected"))
    assert "39% of vanilla's rise since the branch" in text and "pass at the end +2.0 pp (+2.0 to +2.0)" in text


def test_without_a_positive_control_an_absence_remains_open(tmp_path):
    make_study(tmp_path / "a", {"projected": SIX})
    make_study(tmp_path / "b", {"oracle-v": SIX, "screen-oracle": [3.0, -3, 2, -2, 1, -1]})
    assert "No positive control" in positive_controls(decide(tmp_path / "a")[0])
    text = positive_controls(decide(tmp_path / "b")[0])
    assert "lower hacking here: oracle-v." in text and "not shown to: screen-oracle." in text


def test_branches_decide_no_hypothesis(tmp_path):
    text, _ = report_of(make_study(tmp_path, {"projected": SIX}))
    assert "An addition to the preregistration" in text and "H1 stays what whole runs make of it" in text
    assert "H1 supported" not in text and "H1 falsified" not in text


# --- the report ---


def test_the_report_holds_its_figures_and_the_same_branches_give_the_same_bytes(tmp_path):
    make_study(tmp_path, {"projected": SIX, "projected+mzero": SIX, "vanilla+mzero": SIX, "random-v": [0.0] * 6,
                          "no-loophole": SIX, "vanilla+noise1": [1.0] * 6})  # fmt: skip
    first = report_of(tmp_path)[0]
    files = {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()}
    drawn = {f"{name}-takeoff.{suffix}" for name in ("branches", "ladder") for suffix in ("png", "svg")}
    assert set(files) == {"report.md", "report.html", "branches.json"} | drawn
    assert report_of(tmp_path)[0] == first
    assert {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()} == files
    for name in ("branches-takeoff.png", "ladder-takeoff.png"):
        assert f"]({name})" in first


def test_the_json_has_every_figure(tmp_path):
    make_study(tmp_path, {"projected": SIX, "random-v": [0.0] * 6})
    report_of(tmp_path)
    figures = json.loads((tmp_path / "report/branches.json").read_text())["rules"]["takeoff"]
    row = figures["rungs"]["projected"]
    assert row["against_vanilla"]["hack_train"]["mean"] == pytest.approx(-9.5, abs=1e-5)
    assert row["against_random"]["hack_train"]["n"] == 6 and row["finding"].startswith("projected lowers")
    assert figures["points"][0]["branches"]["vanilla"]["pass"] == 30 and figures["points"][0]["hack"] == 30


def test_vanilla_alone_makes_a_report(tmp_path):
    make_branch(make_parent(tmp_path, 0, {"takeoff": 24}), "vanilla")
    assert "Only vanilla was branched" in report_of(tmp_path)[0]


def test_branches_without_their_parents_make_a_report(tmp_path):
    make_study(tmp_path, {"projected": SIX})
    for seed in range(6):
        shutil.rmtree(tmp_path / f"vanilla_s{seed}")
    text, _ = report_of(tmp_path / "branches")
    assert "parents found: 0" in text and "| 0 | 24 | - |" in text and "Seeds without" not in text


def test_an_unlabelled_arm_and_an_unknown_one_have_their_rows(tmp_path):
    make_study(tmp_path, {"something-else": [-9.0, -8.0]})
    assert rung(tmp_path, "something-else").main.n == 2
    report_of(tmp_path)


# --- which report is made ---


def test_a_folder_of_branches_and_parents_is_reported_as_branches(tmp_path, capsys, monkeypatch):
    make_study(tmp_path, {"projected": SIX})
    monkeypatch.setattr("sys.argv", ["plot_pareto.py", str(tmp_path)])
    plot_pareto.main()
    shown = capsys.readouterr().out
    assert "rule takeoff, n = 6: projected lowers" in shown and (tmp_path / "report/branches.json").exists()


def test_a_report_of_whole_runs_leaves_branches_out_by_name(tmp_path):
    for arm in ("vanilla", "projected"):
        for seed in range(3):
            make_run(tmp_path, arm, seed, 0.5, 0.3)
    make_branch(tmp_path / "tiny/vanilla_s0", "projected")
    assert not of_branches(find_run_dirs([tmp_path]))
    out, _, shown = plot_pareto.report(plot_pareto.ReportConfig((str(tmp_path / "tiny"),)))
    assert "left out: vanilla_s0_takeoff/projected: a branch" in shown
    assert "Runs: 7 read, 6 finished" in (out / "report.md").read_text()
    assert "vanilla_s0_takeoff/projected" in (out / "appendix.md").read_text()


def test_branches_that_were_cut_short_are_left_out_by_name(tmp_path):
    make_study(tmp_path, {"projected": SIX})
    parent = tmp_path / "vanilla_s0"
    make_branch(parent, "random-v", complete=False)
    make_branch(parent, "shuffled-v", complete=False)
    (parent.parent / "branches/vanilla_s0_takeoff/shuffled-v/tripwire-kl-blow-up-30.json").write_text("{}")
    _, shown = report_of(tmp_path)
    assert "left out: vanilla_s0_takeoff/random-v: incomplete: no summary.json" in shown
    assert "shuffled-v: incomplete: stopped by a tripwire kl-blow-up fired at step 30, so that leaving it out" in shown
    with pytest.raises(ReportError, match="--include-incomplete is not for branches"):
        report_of(tmp_path, include_incomplete=True)


# --- what is refused ---


@pytest.mark.parametrize(("change", "says"), [
    ({"config": {"weights_sha256": "other"}}, "cannot be compared where weights_sha256 differs: 'w' in"),
    ({"config": {"problems": "leetcode"}}, "cannot be compared where problems differs"),
    ({"config": {"schedule": "cosine"}}, "cannot be compared where schedule differs"),
    ({"config": {"group": 4}}, "cannot be compared where group differs"),
    ({"config": {"lr": 0.01}}, "of vanilla_s1_takeoff cannot be compared where lr differs: 0.03 in"),
    ({"length": 20}, "branches of different length cannot be compared (20 in"),
    ({"sha256": "other"}, "branches of vanilla_s1_takeoff start from different sha256"),
])  # fmt: skip
def test_unlike_branches_are_refused(change, says, tmp_path):
    make_study(tmp_path, {"projected": [-9.0, -8.0]})
    make_branch(tmp_path / "vanilla_s1", "random-v", **change)
    with pytest.raises(ReportError) as error:
        decide(tmp_path)
    assert says in str(error.value)


def test_a_branch_that_is_there_twice_is_refused(tmp_path):
    make_study(tmp_path, {"projected": [-9.0]})
    home = tmp_path / "branches/vanilla_s0_takeoff"
    shutil.copytree(home / "projected", home / "copy")
    with pytest.raises(ReportError, match="projected of vanilla_s0_takeoff is in two directories"):
        decide(tmp_path)


def test_branches_too_short_for_the_measure_are_refused(tmp_path):
    make_branch(make_parent(tmp_path, 0, {"takeoff": 24}), "vanilla", length=5)
    with pytest.raises(ReportError, match="branches of 5 steps cannot be measured"):
        decide(tmp_path)


def test_missing_rows_of_a_complete_branch_are_refused(tmp_path):
    path = make_branch(make_parent(tmp_path, 0, {"takeoff": 24}), "vanilla")
    lines = (path / "steps.tsv").read_text().splitlines()
    (path / "steps.tsv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ReportError, match=f"should have steps 24 to {24 + LENGTH - 1}"):
        decide(tmp_path)


def test_no_complete_branch_makes_no_report(tmp_path):
    make_branch(make_parent(tmp_path, 0, {"takeoff": 24}), "vanilla", complete=False)
    with pytest.raises(ReportError, match="no branch is complete"):
        decide(tmp_path)
