from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.filters.order import content_order, content_places

LINES = [{"id": f"id-{i}", "instruction": f"Ask {i % 3}", "output": "Same"} for i in range(9)]
ROWS = Dataset.from_rows(LINES)


@given(st.permutations(range(9)))
@settings(max_examples=30)
def test_rows_are_ordered_by_content_then_id_wherever_they_stand(order: list[int]) -> None:
    shuffled = ROWS.take(np.array(order))
    expected = sorted(range(9), key=lambda i: (ROWS.keys[i].tobytes(), ROWS.ids[i]))
    assert [shuffled.ids[int(i)] for i in content_order(shuffled)] == [ROWS.ids[i] for i in expected]
    assert content_places(shuffled)[content_order(shuffled)].tolist() == list(range(9))
