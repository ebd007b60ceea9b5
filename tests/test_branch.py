"""Branches: a vanilla branch repeats its parent, an arm differs by its projection alone, strangers are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from run_files import rows

from branch import BranchConfig, branches_of
from ladder.branching import labels_of
from lib.errors import UserError
from lib.files import file_sha256
from lib.tensors import load_tensors
from record import takeoff
from record.takeoff import fired, load_branch_point

AT_STEP_3 = "from record import takeoff; takeoff.RULES['takeoff'] = lambda attempt, hack: True"
FEW_PAIRS = """
whole = extract_vhack_grad.pair_differences
extract_vhack_grad.pair_differences = lambda m, t, a, pairs, *rest: whole(m, t, a, pairs[:4], *rest)"""


@pytest.fixture(scope="module")
def flags(organism_flags, trainer, tmp_path_factory) -> list:
    """A small vanilla run with a constant rate, beside a v_hack of 4 pairs."""
    v_hack = tmp_path_factory.mktemp("branch") / "v.safetensors"
    done = trainer(*organism_flags[:4], "--out", v_hack, script="extract_vhack_grad", plant=FEW_PAIRS)
    assert done.status == 0, done.err
    return [*organism_flags, "--arm", "vanilla", "--v-hack", v_hack, "--schedule", "constant", "--eval-every", 5]


@pytest.fixture(scope="module")
def parent(flags, trainer, tmp_path_factory) -> Path:
    """A finished parent whose branch point is step 3."""
    out = tmp_path_factory.mktemp("parent") / "vanilla_s0"
    done = trainer(*flags, "--out", out, plant=AT_STEP_3)
    assert done.status == 0, done.err
    return out


def branch(trainer, parent: Path, *flags, plant: str = ""):
    return trainer(parent, *flags, script="branch", plant=plant)


def test_rules_are_of_the_mean_of_three_steps():
    def row(attempt, hack):
        return {"attempt": attempt, "hack": hack}

    assert fired([row(1, 1), row(1, 1)]) == [], "not before three steps"
    assert fired([row(0.0, 0.0), row(0.1, 0.0), row(0.2, 0.0)]) == ["early"]
    assert fired([row(0.3, 0.1)] * 3) == ["takeoff"]
    assert fired([row(0, 0)] * 9 + [row(0.9, 0.9), row(0.6, 0.6), row(0.0, 0.0)]) == ["takeoff", "late"]
    assert fired([row(0.3, 0.05)] * 3) == [], "early is over once 5% hack, takeoff is not yet"


def test_the_branch_point_holds_the_state_after_the_step_at_which_the_rule_fired(parent):
    point = load_branch_point(takeoff.file_of(parent, "takeoff"))
    assert (point.rule, point.step, point.adam_step <= 3) == ("takeoff", 3, True)
    assert {name.split(".")[0] for name in point.tensors} == {"delta_S", "exp_avg", "exp_avg_sq"}


def test_a_vanilla_branch_repeats_its_parent_bit_for_bit(trainer, parent, tmp_path):
    out = tmp_path / "branches"
    command = ["--arms", "vanilla", "--steps", 9, "--out", out]
    killed = branch(trainer, parent, *command, plant="die_at('replace', 'checkpoint.safetensors', 2)")
    assert killed.status == -9
    done = branch(trainer, parent, *command)
    assert done.status == 0, done.err
    again = out / "vanilla"
    assert rows(again / "steps.tsv") == rows(parent / "steps.tsv")[3:]
    assert rows(again / "evals.tsv") == rows(parent / "evals.tsv")[1:]
    mine, theirs = (load_tensors(p / "delta_S.safetensors")[0] for p in (again, parent))
    assert all(torch.equal(t, theirs[name]) for name, t in mine.items())
    told = json.loads((again / "config.json").read_text())["branch"]
    file = takeoff.file_of(parent, "takeoff")
    assert told == {"parent": str(parent), "rule": "takeoff", "step": 3, "sha256": file_sha256(file)}
    assert "nothing to do" in branch(trainer, parent, *command).err


def test_an_annealed_parent_is_repeated_with_its_own_schedule(flags, trainer, tmp_path):
    parent = tmp_path / "vanilla_s0"
    assert trainer(*flags, "--schedule", "cosine", "--steps", 7, "--out", parent, plant=AT_STEP_3).status == 0
    for schedule, repeats in (("parent", True), ("constant", False)):
        out = tmp_path / schedule
        command = ["--arms", "vanilla", "--steps", 4, "--schedule", schedule, "--out", out]
        assert branch(trainer, parent, *command).status == 0
        got = rows(out / "vanilla/steps.tsv")
        assert (got == rows(parent / "steps.tsv")[3:7]) == repeats
        if not repeats:
            assert len({row["lr"] for row in got}) == 1


def test_projected_differs_in_the_projection_of_its_first_gradient_alone(trainer, parent, tmp_path):
    """The first step by hand: AdamW's rule on the parent's state with the gradient projected; moments kept."""
    keep = """
import train
real = train.project_grads
def kept(grads, v_hack, *rest):
    import torch
    before = {n: g.clone() for n, g in grads.items()}
    out = real(grads, v_hack, *rest)
    if not hasattr(train, "saved"):
        train.saved = True
        torch.save([before, {n: v.clone() for n, v in v_hack.items()}], PATH)
    return out
train.project_grads = kept"""
    seen = tmp_path / "seen.pt"
    command = ["--arms", "projected", "--steps", 1, "--out", tmp_path]
    done = branch(trainer, parent, *command, plant=keep.replace("PATH", repr(str(seen))))
    assert done.status == 0, done.err
    grads, v_hack = torch.load(seen)
    point = load_branch_point(takeoff.file_of(parent, "takeoff"))
    row = rows(tmp_path / "projected/steps.tsv")[0]
    assert row["hack"] == rows(parent / "steps.tsv")[3]["hack"] and row["cos"] == rows(parent / "steps.tsv")[3]["cos"]
    projected = {}
    for name, g in grads.items():
        dot = g @ v_hack[name]
        out = g - dot * v_hack[name] if dot > 0 else g
        projected[name] = out * g.norm() / out.norm()
    total = torch.cat(list(projected.values())).norm()
    config = json.loads((tmp_path / "projected/config.json").read_text())
    got, t = load_tensors(tmp_path / "projected/delta_S.safetensors")[0], point.adam_step + 1
    for name, g in projected.items():
        g = g * min(1.0, 1.0 / (total + 1e-6))
        m = 0.9 * point.tensors[f"exp_avg.{name}"] + 0.1 * g
        s = 0.99 * point.tensors[f"exp_avg_sq.{name}"] + 0.01 * g.square()
        step = config["lr"] * (m / (1 - 0.9**t)) / ((s / (1 - 0.99**t)).sqrt() + 1e-8)
        torch.testing.assert_close(got[name], point.tensors[f"delta_S.{name}"] - step, rtol=1e-4, atol=1e-6)


def test_the_first_moment_is_kept_projected_or_zeroed(trainer, parent, tmp_path):
    command = ["--arms", "vanilla", "random-v", "--steps", 1, "--out", tmp_path, "--draws", 2, "--streams", 1]
    done = branch(trainer, parent, *command, "--moment", "keep", "project", "zero")
    assert done.status == 0, done.err
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted([
        *(f"{arm}{m}" for arm in ("vanilla", "random-v", ) for m in ("", "+mproject", "+mzero")),
        *(f"random-v{m}+draw1" for m in ("", "+mproject", "+mzero")), "vanilla+noise1",
    ])  # fmt: skip
    deltas = {n: torch.cat([*load_tensors(tmp_path / n / "delta_S.safetensors")[0].values()]) for n in names}
    assert len({tuple(d.tolist()) for d in deltas.values()}) == len(names), (
        "each treatment and draw is a run of its own"
    )


@pytest.mark.parametrize(("change", "says"), [
    ({"arm": "projected"}, "is a run of arm projected: a parent is a vanilla run"),
    ({"branch": {"rule": "late"}}, "is a branch: a parent is a vanilla run"),
    ({"weights_sha256": "0"}, "has other weights"),
    ({"problems_sha256": "0"}, "the problems are not those"),
    (None, "holds no run"),
])  # fmt: skip
def test_a_parent_of_another_kind_is_refused(change, says, trainer, parent, tmp_path):
    stranger = tmp_path / "stranger"
    shutil.copytree(parent, stranger)
    config = json.loads((stranger / "config.json").read_text())
    if change is None:
        (stranger / "config.json").unlink()
    else:
        (stranger / "config.json").write_text(json.dumps(config | change))
    assert says in branch(trainer, stranger, "--out", tmp_path / "out").sentence
    assert not (tmp_path / "out").exists()


def test_branches_of_other_settings_are_not_continued(trainer, parent, tmp_path):
    again = tmp_path / "vanilla_s0"
    shutil.copytree(parent, again)
    assert branch(trainer, again, "--arms", "vanilla", "--steps", 1).status == 0
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps(config | {"clip": 0.3}))
    refused = branch(trainer, again, "--arms", "vanilla", "--steps", 1).sentence
    assert "holds a run with another configuration: clip (0.2 there, 0.3 now)" in refused


def test_a_parent_that_ends_after_its_rule_has_the_rows_of_one_that_goes_on(flags, trainer, parent, tmp_path):
    out = tmp_path / "vanilla_s0"
    done = trainer(*flags, "--stop-after", "takeoff+1", "--out", out, plant=AT_STEP_3)
    assert done.status == 0, done.err
    assert rows(out / "steps.tsv") == rows(parent / "steps.tsv")[:4]
    assert json.loads((out / "summary.json").read_text())["steps"] == 4
    one, other = (load_branch_point(takeoff.file_of(path, "takeoff")) for path in (out, parent))
    assert all(torch.equal(t, other.tensors[name]) for name, t in one.tensors.items())
    (run,), *_ = branches_of(BranchConfig(str(out), arms=["vanilla"], steps=9))
    assert (run.stop_after, run.steps) == ("", 12)


def test_a_point_within_the_warm_up_warms_up_as_its_parent_does(parent, tmp_path):
    again = tmp_path / "vanilla_s0"
    shutil.copytree(parent, again)
    config = json.loads((again / "config.json").read_text())
    for warmup, kept in ((9, 9), (2, 0)):
        (again / "config.json").write_text(json.dumps(config | {"warmup": warmup}))
        (run,), *_ = branches_of(BranchConfig(str(again), arms=["vanilla"]))
        assert (run.warmup, run.lr) == (kept, config["lr"])


def test_arms_are_named_by_treatment_or_by_label():
    labels = ["vanilla", "vanilla+mzero", "random-v", "random-v+draw1", "random-v+mzero", "random-v+mzero+draw1"]
    by_flags = labels_of(["vanilla", "random-v"], ["keep", "zero"], draws=2, streams=1)
    assert by_flags == [*labels, "vanilla+noise1"]
    assert labels_of([*labels, "vanilla+noise1", "vanilla"]) == [*labels, "vanilla+noise1"]
    for wrong in ("vanilla+draw1", "projected+mhalf", "projected+mzero+mzero", "random-v+draw0"):
        with pytest.raises(UserError, match="is no branch"):
            labels_of([wrong])


def test_a_rule_that_has_not_fired_and_an_unknown_arm_are_refused(trainer, parent, tmp_path):
    assert "rule late has not fired in it" in branch(trainer, parent, "--at", "late", "--out", tmp_path / "o").sentence
    assert "there is no arm nonsense" in branch(trainer, parent, "--arms", "nonsense", "--out", tmp_path / "o").sentence
