"""Small conversations and one thread: threads only wait for each other at this size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dfilter.tiny import WORDS
from dfilter.types import Example, Message


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def conversations(count: int, seed: int = 0, turns: int = 1) -> list[Example]:
    """Make rows of random words, of ragged lengths."""
    draw = np.random.default_rng(seed)
    words = WORDS.split()

    def text() -> str:
        return " ".join(draw.choice(words, size=int(draw.integers(1, 12))))

    return [
        Example(
            f"row{at}",
            tuple(Message(role, text()) for _ in range(turns) for role in ("user", "assistant")),
            {},
        )
        for at in range(count)
    ]


@pytest.fixture(scope="session")
def rows() -> list[Example]:
    return conversations(24)
