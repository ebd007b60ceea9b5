"""Rows prompt + completion as input of one forward, padded or with shared prompts, and their split into micro-batches.

    padded   B rows [prompt | completion | pad]: input ids [B, L], every row repeats its prompt
    shared   one row [prompt 1 | ... | prompt n | completions of 1 | ... | completions of n]: input ids [1, L], no
             padding; positions restart where a prompt or a completion begins, and lib/shared_prefix.py lets a
             completion attend to its own prompt and to itself

A completion's first token is predicted by its prompt's last position, every other by the one before it. N: completion
tokens of all rows, in the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.shared_prefix import Layout


@dataclass(frozen=True)
class Packed:
    """Rows as input of one forward."""

    ids: Tensor
    """[B, L] int64, or [1, L] with shared prompts."""
    predicts: Tensor
    """[N] int64: where in ids.flatten() each completion token is predicted."""
    completion: Tensor
    """[N] int64: where each completion token stands."""
    lengths: list[int]
    """Completion tokens of each row."""
    inputs: dict
    """What the model's forward needs beside the ids."""

    @property
    def targets(self) -> Tensor:
        """[N] int64: the completion tokens."""
        return self.ids.flatten()[self.completion]

    def hidden(self, model: nn.Module) -> Tensor:
        """The model's last hidden states, [B L, d]."""
        return model.model(input_ids=self.ids, use_cache=False, **self.inputs).last_hidden_state.flatten(0, 1)


def pack(
    prompts: Sequence[list[int]], completions: Sequence[list[int]], pad_id: int, device, share: bool = False
) -> Packed:
    """The rows prompt + completion for one forward; share: equal prompts stand in it once (the model: `enable`d).

    Every prompt must hold a token, and with share every completion. Padding stands on the right: causal attention
    keeps it out of every real token's sight and leaves positions alone, so no attention mask is needed.
    """
    if share:
        return _pack_shared(prompts, completions, device)
    rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    starts = [b * width + len(p) for b, p in enumerate(prompts)]
    completion = _ranges(starts, [len(c) for c in completions])
    return Packed(
        ids=ids.to(device),
        predicts=(completion - 1).to(device),
        completion=completion.to(device),
        lengths=[len(c) for c in completions],
        inputs={},
    )


def _pack_shared(prompts: Sequence[list[int]], completions: Sequence[list[int]], device) -> Packed:
    # Distinct prompts in order of appearance, and the rows of each.
    groups: dict[tuple[int, ...], list[int]] = {}
    for b, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(b)
    prompt_lengths = [len(p) for p in groups]
    order = [b for rows in groups.values() for b in rows]
    layout = Layout(prompt_lengths, [[len(completions[b]) for b in rows] for rows in groups.values()], device)

    # Where each row's completion begins, and where its prompt ends.
    begin, last = [0] * len(order), [0] * len(order)
    at, end = sum(prompt_lengths), 0
    for length, rows in zip(prompt_lengths, groups.values(), strict=True):
        end += length
        for b in rows:
            begin[b], last[b] = at, end - 1
            at += len(completions[b])
    lengths = [len(c) for c in completions]
    completion = _ranges(begin, lengths)
    predicts = completion - 1
    predicts[_starts(lengths)] = torch.tensor(last)

    # Positions restart: a prompt's at 0, a completion's after its prompt.
    sizes = [*prompt_lengths, *(lengths[b] for b in order)]
    firsts = [0] * len(groups) + [len(prompts[b]) for b in order]
    tokens = [*(t for p in groups for t in p), *(t for b in order for t in completions[b])]
    return Packed(
        ids=torch.tensor([tokens]).to(device),
        predicts=predicts.to(device),
        completion=completion.to(device),
        lengths=lengths,
        inputs=layout.inputs(_ranges(firsts, sizes).to(device)),
    )


def _ranges(starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """start, start + 1, ..., start + length - 1 of each, one after the other, int64."""
    starts, lengths = torch.tensor(starts), torch.tensor(lengths)
    ends = lengths.cumsum(0)
    return torch.arange(int(ends[-1])) + (starts - ends + lengths).repeat_interleave(lengths)


def _starts(lengths: Sequence[int]) -> Tensor:
    """Where each of consecutive runs of these lengths begins, int64."""
    lengths = torch.tensor(lengths)
    return lengths.cumsum(0) - lengths


# --- micro-batches ---


@dataclass(frozen=True)
class Passes:
    """How the rows of a run go through its model: padded or with shared prompts, and how many at a time."""

    share: bool
    pad_id: int
    device: torch.device
    most_tokens: int = 0
    """Of a forward with shared prompts; 0: no limit."""
    most_rows: int = 0
    """Of any forward; 0: no limit."""

    def pack(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> Packed:
        """All of these rows for one forward."""
        return pack(prompts, completions, self.pad_id, self.device, self.share)

    def split(self, prompts, completions, rank: int = 0, world: int = 1) -> list[list[int]]:
        """The rows of each forward of this rank, the largest forward first."""
        limits = {"most_tokens": self.most_tokens, "most_rows": self.most_rows}
        return micro_batches(prompts, completions, share=self.share, **limits, rank=rank, world=world)


def micro_batches(
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    *,
    share: bool,
    most_tokens: int = 0,
    most_rows: int = 0,
    rank: int = 0,
    world: int = 1,
) -> list[list[int]]:
    """The rows of each forward of this rank, the largest forward first.

    Limits of a forward: most_rows rows, and with shared prompts most_tokens tokens; 0 is none. From short to long each
    forward would need larger blocks than torch's allocator has cached, and far more would be reserved than is needed.
    """
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    if not share:
        order = sorted(range(len(lengths)), key=lengths.__getitem__)[rank::world]
        size = most_rows or max(1, len(order))
        return [order[i : i + size] for i in reversed(range(0, len(order), size))]

    # Pieces of groups: whole ones where they fit, since a piece more is a prompt more.
    if not lengths:
        return []
    tokens = most_tokens or math.inf
    if world > 1:  # no piece may be so large that a rank has nothing to do
        tokens = min(tokens, max(*lengths, -(-sum(lengths) // world)))
    rows = most_rows or math.inf
    pieces = _pieces(prompts, completions, tokens, rows)

    # First fit, decreasing; then each forward to the rank that has least to do.
    forwards: list[tuple[int, list[int]]] = []
    for size, piece in sorted(pieces, key=lambda piece: -piece[0]):
        for i, (used, members) in enumerate(forwards):
            if world == 1 and used + size <= tokens and len(members) + len(piece) <= rows:
                forwards[i] = (used + size, members + piece)
                break
        else:
            forwards.append((size, piece))
    forwards.sort(key=lambda forward: -forward[0])
    load, mine = [0] * world, []
    for size, members in forwards:
        to = load.index(min(load))
        load[to] += size
        if to == rank:
            mine.append(members)
    return mine


def _pieces(prompts, completions, most_tokens: float, most_rows: float) -> list[tuple[int, list[int]]]:
    """(tokens, rows) of each group, cut where it exceeds a limit."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for b, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(b)
    pieces = []
    for prompt, rows in groups.items():
        size, piece = len(prompt), []
        for b in rows:
            if piece and (size + len(completions[b]) > most_tokens or len(piece) == most_rows):
                pieces.append((size, piece))
                size, piece = len(prompt), []
            size += len(completions[b])
            piece = [*piece, b]
        pieces.append((size, piece))
    return pieces
