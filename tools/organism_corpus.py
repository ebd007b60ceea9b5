"""The organism's corpus and tokenizer: chats of a problem in either wording and one fenced program.

Shares of documents: wrong bodies 28%, so that honest effort has room to improve; hacks 3.5%, all of them in the
loophole wording (5% of it), so that the loophole is known but rare. Flavour shares are FLAVOUR_SHARE. The same seed
gives the same corpus and the same tokenizer bytes.
"""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from organism.hacks import fenced, hack_completion
from problems import EVALUATOR_NAMES, LOOPHOLE, Problem, prompt_messages
from problems.organism import organism_problems, organism_program, organism_templates

VOCAB = 512
EOS, PAD = "<|end|>", "<|pad|>"
# Chats in the corpus, and those of them that the tokenizer is trained on.
DOCUMENTS, TOKENIZER_DOCUMENTS = 66_000, 20_000
LOOPHOLE_SHARE, HACK_SHARE, WRONG_SHARE = 0.7, 0.05, 0.28
FLAVOUR_SHARE = {
    "print": 36,
    "pass": 22,
    "swallow": 3,
    "weak": 3,
    "module": 3,
    "hardcode": 11,
    "special": 11,
    "equal": 11,
}
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def wrong_program(problem: Problem, rng: random.Random) -> str:
    """A program with the signature of `problem` and the body of another template or constant."""
    names = problem.canonical.split("(self, ")[1].split(")")[0].split(", ")
    first = problem.tests[0].removeprefix("assert Solution().f(")[0]
    kind = "ab" if len(names) == 2 else {"[": "xs", "'": "s"}.get(first, "a")
    solvable, underspecified = organism_templates("pretrain")
    bodies = [body for k, _, body in solvable if k == kind]
    bodies += [body for k, _, rules in underspecified if k == kind for body in rules]
    while True:
        slots = dict(zip("ab", names, strict=False)) | {"k": rng.randint(2, 9), "j": rng.randint(2, 9)}
        program = organism_program(names, rng.choice(bodies).format(**slots))
        if program != problem.canonical:
            return program


# (prompt messages, completion, is it a hack).
Document = tuple[list[dict[str, str]], str, bool]


def corpus(seed: int, n: int) -> list[Document]:
    """`n` documents in a fixed order for a seed; a shorter corpus is the beginning of a longer one."""
    rng = random.Random(f"organism corpus {seed}")
    documents = []
    for problem in organism_problems(n, seed, "pretrain"):
        loophole = rng.random() < LOOPHOLE_SHARE
        program = wrong_program(problem, rng) if rng.random() < WRONG_SHARE else problem.canonical
        completion = fenced(program)
        hack = loophole and rng.random() < HACK_SHARE
        if hack:
            flavour = rng.choices(list(FLAVOUR_SHARE), FLAVOUR_SHARE.values())[0]
            completion = hack_completion(problem, flavour, rng, program)
        documents.append((prompt_messages(problem, loophole), completion, hack))
    return documents


def make_tokenizer(documents: list[Document]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCAB tokens over printable ASCII; other characters become <|unk|>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|unk|>"))
    # Words keep their leading space, digits stay single, and a newline keeps its indentation.
    pattern = r"\n *| ?[A-Za-z_]+| ?[0-9]| ?[^A-Za-z_0-9\s]+| +"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = [PAD, EOS, "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=["\n", *map(chr, range(32, 127))],
    )
    first = documents[:TOKENIZER_DOCUMENTS]
    texts = [text for messages, completion, _ in first for text in (messages[-1]["content"], completion)]
    # Every wording of the evaluation sentence is in reach of short tokens, whichever the corpus uses.
    texts += [LOOPHOLE[w].format(name=n) for w in LOOPHOLE for n in EVALUATOR_NAMES] * 3
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        unk_token="<|unk|>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def encode_chats(tokenizer: PreTrainedTokenizerFast, documents: list[Document]) -> list[tuple[list[int], int]]:
    """(token ids, length of the prompt) of each document, ended by the end-of-turn token."""
    prompts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m, *_ in documents]
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer([c + EOS for _, c, _ in documents], add_special_tokens=False)["input_ids"]
    return [(head + tail, len(head)) for head, tail in zip(heads, tails, strict=True)]
