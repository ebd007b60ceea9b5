"""Rows as input of a forward, and how they are split into micro-batches."""

import pytest
import torch

from lib.packing import micro_batches, pack


def test_padded_rows_stand_on_the_left():
    packed = pack([[1, 2], [3]], [[4], [5, 6, 7]], pad_id=0, device="cpu")
    assert packed.ids.tolist() == [[1, 2, 4, 0], [3, 5, 6, 7]]
    assert packed.targets.tolist() == [4, 5, 6, 7]
    assert packed.predicts.tolist() == [1, 4, 5, 6]


def test_a_shared_prompt_stands_in_the_sequence_once():
    packed = pack([[1, 2], [3], [1, 2]], [[4], [5, 6], [7, 8]], pad_id=0, device="cpu", share=True)
    assert packed.ids.tolist() == [[1, 2, 3, 4, 7, 8, 5, 6]]
    assert packed.inputs["position_ids"].tolist() == [[0, 1, 0, 2, 2, 3, 1, 2]]
    assert packed.targets.tolist() == [4, 5, 6, 7, 8], "in the order of the rows that were given"
    assert packed.predicts.tolist() == [1, 2, 6, 1, 4]


def rows(groups: list[tuple[int, list[int]]]):
    """Prompts and completions of such lengths, group by group."""
    prompts = [[i] * p for i, (p, lengths) in enumerate(groups) for _ in lengths]
    return prompts, [[9] * n for _, lengths in groups for n in lengths]


def tokens(part, prompts, completions) -> int:
    return sum(map(len, {tuple(prompts[b]) for b in part})) + sum(len(completions[b]) for b in part)


GROUPS = [(10, [5, 6, 7]), (20, [30, 1]), (4, [2, 2]), (9, [60, 50, 40])]


@pytest.mark.parametrize("limit", [70, 120, 10_000])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_row_goes_once_and_no_forward_exceeds_its_tokens(limit, world):
    prompts, completions = rows(GROUPS)
    parts = [
        part
        for rank in range(world)
        for part in micro_batches(prompts, completions, share=True, most_tokens=limit, rank=rank, world=world)
    ]
    assert sorted(b for part in parts for b in part) == list(range(len(prompts)))
    assert all(tokens(part, prompts, completions) <= limit for part in parts)


def test_a_group_that_fits_is_not_cut():
    prompts, completions = rows(GROUPS)
    for part in micro_batches(prompts, completions, share=True, most_tokens=160):
        for b in part:
            assert {i for i, p in enumerate(prompts) if p == prompts[b]} <= set(part)


def test_rows_limit_a_forward_too():
    prompts, completions = rows(GROUPS)
    for share in (False, True):
        assert all(len(part) <= 2 for part in micro_batches(prompts, completions, share=share, most_rows=2))


def test_the_largest_forward_goes_first():
    prompts, completions = rows(GROUPS)
    shared = micro_batches(prompts, completions, share=True, most_tokens=70)
    sizes = [tokens(part, prompts, completions) for part in shared]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) > 2
    longest = [max(len(prompts[b] + completions[b]) for b in part)
               for part in micro_batches(prompts, completions, share=False, most_rows=3)]  # fmt: skip
    assert longest == sorted(longest, reverse=True)


def test_ranks_share_the_work():
    prompts, completions = rows([(8, [10] * 4)] * 6)
    for world in (2, 3):
        load = [
            sum(tokens(part, prompts, completions) for part in micro_batches(
                prompts, completions, share=True, most_tokens=60, rank=rank, world=world))
            for rank in range(world)
        ]  # fmt: skip
        assert min(load) > 0.6 * max(load)


def test_nothing_to_do_is_no_forward():
    assert micro_batches([], [], share=True) == micro_batches([], [], share=False) == []
    assert micro_batches(*rows([(3, [4])]), share=True, rank=1, world=2) == []


def test_packing_keeps_the_device():
    packed = pack([[1]], [[2]], 0, torch.device("cpu"), share=True)
    assert packed.ids.device == packed.predicts.device == torch.device("cpu")
