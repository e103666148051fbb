"""The signals' tolerances: another batch stays within them in every number format, and faults do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfilter.embed.hidden import HiddenState
from dfilter.embed.losses import ResponseLoss
from dfilter.embed.sentences import Embedding
from dfilter.tolerance import disagreement
from dfilter.types import Example, Message

WORDS = ["list", "the", "answer", "is", "two", "small", "house", "man", "write", "a", "word"]
SIGNALS = {
    "response loss": lambda dtype: ResponseLoss(model="tiny", dtype=dtype, device="cpu"),
    "weighted hidden state": lambda dtype: HiddenState(model="tiny", dtype=dtype, device="cpu"),
    "last hidden state": lambda dtype: HiddenState(model="tiny", pooling="last", dtype=dtype, device="cpu"),
    "embedding": lambda dtype: Embedding(model="minilm", dtype=dtype, device="cpu"),
}
DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _shared_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(home))


def rows(count: int = 16) -> list[Example]:
    rng = np.random.default_rng(count)

    def say(most: int) -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(1, most)))

    return [
        Example(str(i), (Message("user", say(40)), Message("assistant", say(20))), {}) for i in range(count)
    ]


def apart(signal: Any, pool: list[Example]) -> Any:
    return np.concatenate([signal.compute([row]) for row in pool])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIGNALS)
def test_another_batch_stays_within_the_tolerance(name: str, dtype: str) -> None:
    signal, pool = SIGNALS[name](dtype), rows()
    assert disagreement(signal, signal.compute(pool), apart(signal, pool)) is None


@pytest.mark.usefixtures("padding_counts")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIGNALS)
def test_padding_that_counts_exceeds_the_tolerance(name: str, dtype: str) -> None:
    signal, pool = SIGNALS[name](dtype), rows()
    assert disagreement(signal, signal.compute(pool), apart(signal, pool)) is not None


@pytest.mark.parametrize("name", SIGNALS)
def test_another_number_format_exceeds_float32s_tolerance(name: str) -> None:
    exact, pool = SIGNALS[name]("float32"), rows()
    assert disagreement(exact, exact.compute(pool), SIGNALS[name]("bfloat16").compute(pool)) is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIGNALS)
def test_rows_that_change_places_exceed_the_tolerance(name: str, dtype: str) -> None:
    signal, pool = SIGNALS[name](dtype), rows()
    values = signal.compute(pool)
    assert disagreement(signal, values, np.roll(values, 1, axis=0)) is not None


def test_a_vectors_tolerance_grows_with_its_length() -> None:
    signal = Embedding(dtype="bfloat16", normalize=False, device="cpu")
    values = signal.compute(rows(4))
    np.testing.assert_allclose(signal.tolerance(values * 8), 8 * signal.tolerance(values))
    assert disagreement(signal, values, apart(signal, rows(4))) is None
