"""From a completion to the program in it: the fenced Python blocks, as models write them."""

from __future__ import annotations

import re

# Characters of a program; longer ones do not compile.
MAX_SOURCE = 20_000

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([\w+.-]*)[^`]*$")
PYTHON = ("python", "python3", "py")
LOOKS_LIKE_CODE = re.compile(r"^(def \w|class \w|import \w|from \S+ import |@\w)", re.MULTILINE)


def extract_program(completion: str) -> str | None:
    """The fenced Python blocks of a completion, joined by blank lines; None if there is none.

    Blocks tagged as Python count, and untagged ones that define or import something; where no block is tagged, all
    untagged ones. A last block may lack its closing fence.
    """
    blocks = fenced_blocks(completion.replace("\r\n", "\n").replace("\r", "\n"))
    if any(tag in PYTHON for tag, _ in blocks):
        kept = [text for tag, text in blocks if tag in PYTHON or (not tag and LOOKS_LIKE_CODE.search(text))]
    else:
        kept = [text for tag, text in blocks if not tag]
    kept = [text.strip("\n") for text in kept if text.strip()]
    return "\n\n".join(kept) + "\n" if kept else None


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(tag in lower case, content) of every fenced block, in order."""
    blocks = []
    # The open block: its fence ("" outside of one), its tag and what it holds so far.
    fence = tag = ""
    lines = []
    for line in text.split("\n"):
        opening = FENCE.match(line) if len(line) < 200 else None  # the pattern is quadratic
        if fence and opening and opening[2].lower() in PYTHON:  # the last block was never closed
            blocks.append((tag, "\n".join(lines)))
            fence = ""
        if not fence:
            if opening:
                fence, tag = opening[1], opening[2].lower()
                lines = []
            continue

        # Inside a block: the closing fence stands alone, or at the end of the last line of code.
        stripped = line.strip()
        bare = opening is not None and stripped == stripped[0] * len(stripped) and stripped.startswith(fence)
        trailing = stripped.endswith(fence) and line.count(fence) == 1 and not stripped.startswith(fence)
        if not bare:
            lines.append(line.rstrip()[: -len(fence)] if trailing else line)
        if bare or trailing:
            blocks.append((tag, "\n".join(lines)))
            fence = ""
    return [*blocks, (tag, "\n".join(lines))] if fence else blocks
