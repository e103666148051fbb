"""Rows and requests for the tests of judging."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dfilter.llm.answers import Request
from dfilter.llm.server import Server
from dfilter.testing import Say

# Attempts are given up late, so that a busy machine asks nothing twice; tests of hanging servers say less.
QUICK = {"attempt_seconds": 20.0, "first_wait": 0.01, "longest_pause": 0.05, "wait_for_server": 20.0}


@pytest.fixture
def requests() -> Callable[..., Iterator[Request]]:
    def make(n: int, start: int = 0, size: int = 40) -> Iterator[Request]:
        for i in range(start, start + n):
            text = f"row {i} " + "x" * size
            yield Request(
                i.to_bytes(16, "big"),
                [{"role": "user", "content": text}],
                {"max_tokens": 8, "temperature": 0},
            )

    return make


@pytest.fixture
def quick() -> Callable[..., Server]:
    """A server whose waits are short enough for a test."""

    def make(url: str, **settings: object) -> Server:
        return Server(**{"model": "m", "base_url": url, **QUICK, **settings})  # type: ignore[arg-type]

    return make


def is_probe(body: dict) -> bool:
    return body["messages"][-1]["content"].startswith("Reply with the digit 3")


@pytest.fixture
def faulty() -> Callable[..., object]:
    """Make a script that misbehaves at a given share of the rows' calls, drawn by a seed."""
    import random

    def make(share: float, faults: list[Say], answer: object = "4.5", seed: int = 0) -> object:
        draw = random.Random(seed)

        def script(body: dict) -> Say | str:
            if not is_probe(body) and draw.random() < share:
                return draw.choice(faults)
            said = answer(body) if callable(answer) else answer
            # Log probabilities satisfy the probe with its first call.
            return Say(said, tokens=[{"3": 1.0}]) if isinstance(said, str) else said

        return script

    return make
