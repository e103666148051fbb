"""The order of rows by what they say, the same wherever they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.data.dataset import Dataset


def content_order(rows: Dataset) -> NDArray[np.int64]:
    """Return the positions of the rows in the order of their content keys, identical rows by id, (n,)."""
    words = np.ascontiguousarray(rows.keys).view(">u8").reshape(len(rows), 2)
    order = np.lexsort((words[:, 1], words[:, 0]))
    same = (words[order][1:] == words[order][:-1]).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        run = order[start : stop + 1]
        order[start : stop + 1] = sorted(run.tolist(), key=lambda place: rows.ids[place])
    return order.astype(np.int64)


def content_places(rows: Dataset) -> NDArray[np.int64]:
    """Return every row's place in ``content_order``, (n,)."""
    order = content_order(rows)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places
