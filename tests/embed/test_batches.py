from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dfilter.embed.batches import pad, token_batches


def test_batches_by_hand() -> None:
    batches = token_batches([3, 10, 4, 4, 1], budget=8)
    assert [batch.tolist() for batch in batches] == [[1], [2, 3], [0, 4]]


@given(st.lists(st.integers(0, 60), max_size=50), st.integers(1, 200))
def test_every_row_once_and_no_batch_over_budget_unless_it_is_one_row(
    lengths: list[int], budget: int
) -> None:
    batches = token_batches(lengths, budget)
    flat = [int(i) for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    sizes = [lengths[i] for i in flat]
    assert sizes == sorted(sizes, reverse=True)


def test_padding_on_both_sides() -> None:
    assert pad([[1, 2], [3]], 9).tolist() == [[1, 2], [3, 9]]
    assert pad([[1, 2], [3], []], 9, "left").tolist() == [[1, 2], [9, 3], [9, 9]]
    assert pad([], 0).shape == (0, 0)
    assert pad([[1]], 0).dtype == np.int64
