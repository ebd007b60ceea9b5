"""Extraction and held-out verification on a random model: the direction is the gradient it claims to be."""

import dataclasses
import sys

import pytest
import torch

import extract_vhack_grad
import verify_vhack_heldout
from antipasto import load_model
from config import Config, ModelConfig, parse
from extract_vhack_grad import directions, pair_differences
from grpo import mean_nll
from lib.chance import null_abs_cos
from lib.errors import UserError
from lib.models import chat_ids, completion_ids, pick_device
from lib.tensors import save_atomic
from pairs import load_pairs, shuffled_labels
from record.v_hack import is_extracted, load_v_hack, save_v_hack
from staging.directions import directions_for
from verify_vhack_heldout import heldout_cosines


@pytest.fixture(scope="module")
def loaded(model_dir, tmp_path_factory):
    cfg = ModelConfig(model=str(model_dir), svd_cache=str(tmp_path_factory.mktemp("svd")))
    return cfg, *load_model(cfg, pick_device(cfg.device, cfg.preset, cfg.threads))


@pytest.fixture(scope="module")
def differences(loaded):
    _, model, tokenizer, adapter = loaded
    train = [p for p in load_pairs() if not p.held_out][:8]
    return pair_differences(model, tokenizer, adapter, train)


def preference(loaded, pairs) -> float:
    """Mean NLL(hack) - NLL(clean) at the current delta_S."""
    _, model, tokenizer, _ = loaded

    def nll(pair, text):
        prompt = chat_ids(tokenizer, pair.messages)
        return mean_nll(model, prompt, completion_ids(tokenizer, text), tokenizer.pad_token_id, "cpu").item()

    with torch.no_grad():
        return sum(nll(p, p.hack) - nll(p, p.clean) for p in pairs) / len(pairs)


def test_differences_are_the_derivative_of_the_preference(loaded, differences):
    """Central differences of NLL(hack) - NLL(clean) along v agree with D . v."""
    adapter, pairs = loaded[3], [p for p in load_pairs() if not p.held_out][:8]
    v, eps = directions(differences), 2e-2
    moved = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, p in adapter.delta().items():
                p.copy_(sign * eps * v[name])
        moved.append(preference(loaded, pairs))
    with torch.no_grad():
        for p in adapter.delta().values():
            p.zero_()
    want = sum((D.mean(0) @ v[name]).item() for name, D in differences.items())
    assert (moved[0] - moved[1]) / (2 * eps) == pytest.approx(want, rel=2e-2)


def test_directions_are_unit_and_one_a_module(loaded, differences):
    v = directions(differences)
    assert list(v) == list(loaded[3].modules)
    assert all(t.norm().item() == pytest.approx(1.0, rel=1e-5) and t.dtype == torch.float32 for t in v.values())


def test_top_k_directions_are_orthonormal_and_agree_with_the_mean(differences):
    for name, V in directions(differences, k=3).items():
        assert torch.allclose(V @ V.T, torch.eye(3), atol=1e-4)
        assert (V @ differences[name].mean(0) >= -1e-6).all()


def test_a_module_without_a_direction_is_named():
    with pytest.raises(UserError, match="module dead"):
        directions({"dead": torch.zeros(4, 8)})


def test_shuffled_labels_give_a_direction_near_the_null():
    """With enough pairs whose differences share one direction, shuffled halves cancel it."""
    torch.manual_seed(0)
    shared, pairs = torch.randn(256), load_pairs()
    D = shared + 0.5 * torch.randn(len(pairs), 256)
    labels = zip(pairs, shuffled_labels(pairs, 3), strict=True)
    swapped = torch.tensor([-1.0 if a.hack == b.clean else 1.0 for a, b in labels])
    held_out = {"m": (shared + 0.5 * torch.randn(16, 256))}
    true = heldout_cosines(held_out, directions({"m": D})).cos[0].item()
    shuffled = heldout_cosines(held_out, directions({"m": D * swapped[:, None]})).cos[0].item()
    assert true > 0.9
    assert abs(shuffled) < 4 * null_abs_cos(256)


def test_heldout_summary_by_hand():
    v = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}
    D = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[3.0, -4.0]])}
    s = heldout_cosines(D, v).summary()
    assert s["mean"] == pytest.approx(-0.1) and s["fraction_positive"] == 0.5
    assert s["median"] == pytest.approx(-0.1), "of an even number of modules: halfway between the middle two"


def test_artifact_round_trip_and_refusals(loaded, differences, tmp_path):
    cfg, _, _, adapter = loaded
    v, path = directions(differences), tmp_path / "v.safetensors"
    save_v_hack(path, v, adapter, cfg, load_pairs())
    again, header = load_v_hack(path, adapter, cfg)
    assert all(torch.equal(again[n], v[n]) for n in v)
    assert {"model", "dtype", "pairs_sha256", "n_pairs", "date", "revision"} <= header.keys()

    def refused(metadata, tensors, what):
        save_atomic(tensors, path, {**header, **metadata})
        with pytest.raises(UserError, match=what):
            load_v_hack(path, adapter, cfg)

    refused({"weights_sha256": "0"}, v, "whose weights are not those")
    refused({"pairs_sha256": "0"}, v, "other pairs")
    refused({"n_directions": "4"}, v, "pass --n-directions 4")
    first = next(iter(v))
    refused({}, {n: t for n, t in v.items() if n != first}, "no direction for module")
    refused({}, {**v, first: 2 * v[first]}, "unit norm")
    with pytest.raises(UserError, match="no v_hack at"):
        load_v_hack(tmp_path / "nowhere", adapter, cfg)


def test_extraction_sees_the_training_pairs_and_verification_the_others(loaded, differences, tmp_path, monkeypatch):
    """The scripts themselves; only the gradients are not made again. The gate is more than half of the modules."""
    cfg, seen, answer = loaded[0], {}, {}

    def run(module, name, *more) -> int:
        def recorded(model, tokenizer, adapter, pairs, *_):
            seen[name] = {p.id for p in pairs}
            return answer.get(name, differences)

        monkeypatch.setattr(module, "pair_differences", recorded)
        flags = ["--model", cfg.model, "--svd-cache", cfg.svd_cache, "--v-hack", str(tmp_path / "v.safetensors")]
        monkeypatch.setattr(sys, "argv", [name, *flags, "--pairs", "default", *more])
        return module.main()

    run(extract_vhack_grad, "extract")
    assert run(verify_vhack_heldout, "verify") == 0
    assert seen["verify"] == {p.id for p in load_pairs() if p.held_out}
    assert seen["extract"] == {p.id for p in load_pairs() if not p.held_out}
    half = len(differences) // 2
    for turned, status in ((half - 1, 0), (half, 1)):
        answer["verify"] = {n: -D if i < turned else D for i, (n, D) in enumerate(differences.items())}
        assert run(verify_vhack_heldout, "verify") == status
    assert run(verify_vhack_heldout, "verify", "--override") == 0


def test_an_artifact_of_these_weights_and_pairs_is_left_alone_and_another_is_not(loaded, differences, tmp_path):
    cfg, _, _, adapter = loaded
    path = tmp_path / "v.safetensors"
    assert not is_extracted(path, adapter, cfg)
    save_v_hack(path, directions(differences), adapter, cfg, load_pairs())
    assert is_extracted(path, adapter, cfg)
    assert not is_extracted(path, adapter, dataclasses.replace(cfg, pairs="default-far"))
    path.write_bytes(path.read_bytes()[:-9])
    assert not is_extracted(path, adapter, cfg)


@pytest.mark.parametrize("arm", ["vanilla", "rebound", "rebound-zscore", "no-loophole"])
def test_an_arm_that_projects_nothing_is_not_stopped_by_a_stale_v_hack(arm, loaded, differences, tmp_path):
    cfg, model, tokenizer, adapter = loaded
    path = tmp_path / "v.safetensors"
    save_v_hack(path, directions(differences), adapter, cfg, load_pairs("default-far"))
    flags = ["--model", cfg.model, "--pairs", "default", "--v-hack", str(path)]
    assert directions_for(parse(Config, [*flags, "--arm", arm]), model, tokenizer, adapter) == (None, "")
    with pytest.raises(UserError, match="other pairs than --pairs default"):
        directions_for(parse(Config, [*flags, "--arm", "projected"]), model, tokenizer, adapter)
