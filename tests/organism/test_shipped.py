"""What is shipped in organism/: the model, its tokenizer, its card."""

from __future__ import annotations

import json
import re

import pytest

from lib.files import REPO
from organism.hacks import PAIR_FLAVOURS
from pairs import load_pairs
from problems import prompt_messages
from problems.organism import organism_problems
from tools import organism_corpus

SHIPPED = REPO / "organism"


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
    pairs = [p for kind in PAIR_FLAVOURS for p in load_pairs(kind)]
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
    seed = json.loads((SHIPPED / "recipe.json").read_text())["seed"]
    documents = organism_corpus.corpus(seed, organism_corpus.TOKENIZER_DOCUMENTS)
    organism_corpus.make_tokenizer(documents).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (SHIPPED / "tokenizer.json").read_bytes()


def test_shipped_model_writes_programs(shipped):
    from sampling.sampler import Sampler

    model, tokenizer = shipped
    problems = organism_problems(64, 1, "eval")
    texts = [
        tokenizer.apply_chat_template(prompt_messages(p, True), tokenize=False, add_generation_prompt=True)
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
