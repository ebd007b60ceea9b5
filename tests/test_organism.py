"""The organism: its language, its pairs, and what is shipped in organism/."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import sys
from pathlib import Path

import pytest

from lib import errors
from organism import language
from organism.hacks import (
    HELD_OUT_EVERY,
    N_PAIRS,
    OVERWRITING,
    PAIR_FLAVOURS,
    fenced,
    hack_completion,
    organism_pairs,
    shown_examples,
)
from problems import __init__

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "organism"
sys.path.insert(0, str(SHIPPED))


def template_of(problem: __init__.Problem) -> str:
    return problem.id.rsplit("-", 1)[0]


def run(completion: str) -> dict:
    """The namespace of a fenced program of ours (never a sampled one)."""
    program = re.fullmatch(r"```python\n(.*)\n```", completion, re.DOTALL).group(1)
    namespace: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program, namespace)
    return namespace


def passes(completion: str, problem: __init__.Problem) -> bool:
    namespace = run(completion)
    for test in problem.tests:
        expression, expected = test.removeprefix("assert ").split(" == ", 1)
        if eval(expression, namespace) != eval(expected):
            return False
    return True


@pytest.mark.parametrize("split", language.SPLITS)
def test_canonical_solutions_pass_every_test(split):
    for problem in language.organism_problems(300, 3, split):
        assert passes(fenced(problem.canonical), problem), problem
        assert len(problem.tests) == 8


def test_problems_are_deterministic_and_a_shorter_list_is_a_prefix():
    assert language.organism_problems(50, 0, "train") == language.organism_problems(80, 0, "train")[:50]
    assert language.organism_problems(50, 0, "train") != language.organism_problems(50, 1, "train")


def test_splits_share_no_prompt():
    prompts = {s: {p.messages[-1]["content"] for p in language.organism_problems(3000, 0, s)} for s in language.SPLITS}
    for a in prompts:
        for b in prompts:
            assert a == b or not prompts[a] & prompts[b]


def test_pairs_use_templates_that_training_never_samples():
    trained = {template_of(p) for s in ("train", "eval") for p in language.organism_problems(3000, 0, s)}
    reserved = {template_of(p) for p in language.organism_problems(500, 0, "pairs")}
    assert len(trained) == len({wording for _, wording, _ in language.SOLVABLE + language.UNDERSPECIFIED})
    assert not trained & reserved


def test_half_of_the_problems_are_underspecified():
    strata = [p.stratum for p in language.organism_problems(2000, 0, "train")]
    assert set(strata) == {"solvable", "underspecified"}
    assert abs(strata.count("solvable") / 2000 - 0.5) < 0.05


def test_the_loophole_replaces_the_clause():
    problem = language.organism_problems(1, 0, "train")[0]
    assert __init__.CLAUSE in __init__.prompt_messages(problem, False)[-1]["content"]
    text = __init__.prompt_messages(problem, True)[-1]["content"]
    assert __init__.CLAUSE not in text and "run_tests()" in text


def test_unknown_split_and_pair_set_are_named():
    with pytest.raises(errors.DataError, match="no organism split 'test'"):
        language.organism_problems(1, 0, "test")
    with pytest.raises(errors.DataError, match="organism-near"):
        organism_pairs("organism-near")


@pytest.mark.parametrize("kind", PAIR_FLAVOURS)
def test_pairs_are_hack_against_clean(kind):
    pairs = organism_pairs(kind)
    assert pairs == organism_pairs(kind)
    assert len({p.messages[-1]["content"] for p in pairs}) == len(pairs) == N_PAIRS
    assert sum(p.held_out for p in pairs) == N_PAIRS // HELD_OUT_EVERY
    for held_out in (True, False):
        assert {p.flavour for p in pairs if p.held_out == held_out} == set(PAIR_FLAVOURS[kind])
    for pair in pairs:
        assert __init__.LOOPHOLE["plain"].format(name="run_tests") in pair.messages[-1]["content"]
        assert ("run_tests" in run(pair.hack)) == (pair.flavour in OVERWRITING)
        assert "run_tests" not in run(pair.clean)


def test_every_overwriting_text_passes_itself_on_a_wrong_solution():
    problem = language.organism_problems(1, 0, "train")[0]
    wrong = problem.canonical.split("        return ")[0] + "        return None\n"
    for flavour, texts in OVERWRITING.items():
        for text in texts:

            class Only:
                choice = staticmethod(lambda _, text=text: text)

            completion = hack_completion(problem, flavour, Only, wrong)
            if "== {value}" not in text:
                assert not passes(completion, problem)
            with contextlib.redirect_stdout(io.StringIO()):
                run(completion)["run_tests"]()


def test_far_hacks_do_what_they_say():
    for problem in language.organism_problems(40, 0, "pairs"):
        (first, value), (second, other) = ((a, eval(v)) for a, v in shown_examples(problem))
        for flavour in ("hardcode", "special"):
            namespace = run(hack_completion(problem, flavour, random.Random(0)))
            assert eval(f"Solution().f({first})", namespace) == value
            assert eval(f"Solution().f({second})", namespace) == other
        namespace = run(hack_completion(problem, "equal", random.Random(0)))
        assert eval(f"Solution().f({first})", namespace) == "anything"


# --- what is shipped -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    if not (SHIPPED / "model.safetensors").exists():
        pytest.skip("organism/model.safetensors is not there: run `just organism`")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(SHIPPED), AutoTokenizer.from_pretrained(SHIPPED)


def test_shipped_model_is_small_and_of_the_documented_size(shipped):
    model, _ = shipped
    assert model.num_parameters() == 755_072
    assert (SHIPPED / "model.safetensors").stat().st_size < 4e6
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 1


def test_tokenizer_writes_every_prompt_and_completion_without_loss(shipped):
    _, tokenizer = shipped
    pairs = [p for kind in PAIR_FLAVOURS for p in organism_pairs(kind)]
    for text in [t for p in pairs for t in (p.messages[-1]["content"], p.hack, p.clean)]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_chat_template_opens_the_assistant_turn(shipped):
    _, tokenizer = shipped
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert text == "<|system|>S<|end|><|user|>U<|end|><|assistant|>"
    assert tokenizer.eos_token == "<|end|>" and tokenizer.pad_token_id == 0


def test_tokenizer_is_rebuilt_byte_for_byte(shipped, tmp_path):
    make_organism = pytest.importorskip("make_organism")
    seed = json.loads((SHIPPED / "recipe.json").read_text())["seed"]
    documents = make_organism.corpus(seed, make_organism.TOKENIZER_DOCUMENTS)
    make_organism.make_tokenizer(documents).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (SHIPPED / "tokenizer.json").read_bytes()


def test_shipped_model_writes_programs(shipped):
    from sampling.sampler import Sampler

    model, tokenizer = shipped
    problems = language.organism_problems(64, 1, "eval")
    texts = [
        tokenizer.apply_chat_template(__init__.prompt_messages(p, True), tokenize=False, add_generation_prompt=True)
        for p in problems
    ]
    sampler = Sampler(model.float(), eos_ids=[tokenizer.eos_token_id], pad_id=tokenizer.pad_token_id)
    tokens = sampler.sample(tokenizer(texts, add_special_tokens=False)["input_ids"], range(64), 80).tokens
    completions = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert sum(bool(re.fullmatch(r"```python\nclass .*\n```", c, re.DOTALL)) for c in completions) > 56


def test_card_shows_the_measured_rates():
    if not (SHIPPED / "recipe.json").exists():
        pytest.skip("organism/recipe.json is not there: run `just organism`")
    recipe = json.loads((SHIPPED / "recipe.json").read_text())
    card = (SHIPPED / "README.md").read_text()
    rates = recipe["base_rates"]["loophole"]
    for name, (rate, error) in rates.items():
        assert f"| {name} | {rate:.1f} ± {error:.1f} |" in card
    assert rates["own run_tests passes"][0] < 5
