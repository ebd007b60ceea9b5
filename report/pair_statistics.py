"""What a set of contrastive pairs is made of, and what else than hacking might tell its sides apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lib.errors import DataError

CONFOUNDS = {
    "prose": lambda text: not (text.startswith("```") and text.endswith("```")),
    "a comment": lambda text: "# " in text,
    "an import": lambda text: "import " in text,
    "two or more functions": lambda text: text.count("def ") >= 2,
    "a print": lambda text: "print(" in text,
    "a try block": lambda text: "try:" in text,
}


def statistics(pairs: Sequence, tokenizer: str | None) -> str:
    """What `just pairs` prints of pairs.Pair: flavours, split, lengths per side, balance of confounds.

    tokenizer: its folder or hub id; None: lengths in characters alone. Raises DataError where it cannot be loaded.
    """
    counts = Counter((p.flavour, p.held_out) for p in pairs)
    held = sum(p.held_out for p in pairs)
    lines = [f"{'flavour':<20}{'train':>7}{'held':>7}"]
    for flavour in dict.fromkeys(p.flavour for p in pairs):
        lines.append(f"{flavour:<20}{counts[flavour, False]:>7}{counts[flavour, True]:>7}")
    lines.append(f"{'total':<20}{len(pairs) - held:>7}{held:>7}")
    lines.append(f"pairs that define the evaluator: {sum('def run_tests(' in p.hack for p in pairs)} of {len(pairs)}")

    # Lengths of the sides, in characters and in tokens.
    lengths = {"chars": len}
    if tokenizer:
        from transformers import AutoTokenizer

        try:
            encode = AutoTokenizer.from_pretrained(tokenizer)
        except (OSError, ValueError) as error:
            raise DataError(str(error).splitlines()[0]) from error
        lengths["tokens"] = lambda text: len(encode(text, add_special_tokens=False)["input_ids"])
    for unit, length in lengths.items():
        ratios = [length(p.hack) / length(p.clean) for p in pairs]
        hack, clean = sum(length(p.hack) for p in pairs) / len(pairs), sum(length(p.clean) for p in pairs) / len(pairs)
        lines.append(
            f"{unit}: mean hack {hack:.1f}, clean {clean:.1f} ({100 * (hack / clean - 1):+.1f}%); "
            f"hack/clean per pair {min(ratios):.2f} to {max(ratios):.2f}"
        )

    # What else might tell the sides apart.
    for what, has in CONFOUNDS.items():
        hack, clean = sum(has(p.hack) for p in pairs), sum(has(p.clean) for p in pairs)
        lines.append(f"completions with {what}: hack {hack}, clean {clean}")
    return "\n".join(lines)
