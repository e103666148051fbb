from __future__ import annotations

import json

import numpy as np
import pytest

from dfilter.data.dataset import Dataset
from dfilter.errors import SettingsError
from dfilter.filters.length import Longest, Tokens
from dfilter.pool import Pool


def rows_of(*responses: str) -> Dataset:
    return Dataset.from_rows(
        [{"instruction": f"Say {i}", "output": text} for i, text in enumerate(responses)]
    )


def test_words_are_nltks_over_punkts_sentences() -> None:
    # Do n't stop . It 's here , now .  and, a sentence ending after it, Mr . X left
    rows = rows_of("Don't stop. It's here, now.", "one two three", "Mr. X left")
    assert Longest().score(Pool(rows)).values.tolist() == [10, 3, 4]


def test_characters_and_reasons() -> None:
    scores = Longest(unit="characters").score(Pool(rows_of("abc", "a" * 1200)))
    assert scores.values.tolist() == [3, 1200]
    assert list(scores.reasons) == ["3 characters", "1,200 characters"]


def test_only_the_response_counts() -> None:
    rows = Dataset.from_rows(
        [{"instruction": "long " * 50, "output": "a b"}, {"instruction": "x", "output": "a b c"}]
    )
    for unit in ("characters", "words"):
        values = Longest(unit=unit).score(Pool(rows)).values
        assert values[1] > values[0]


def test_tokens_are_the_tokenizers_without_special_ones() -> None:
    from dfilter.models import load_tokenizer

    texts = ["Hello there, hello again", "x"]
    tokenizer = load_tokenizer("tiny")
    expected = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    assert Longest(unit="tokens", tokenizer="tiny").score(Pool(rows_of(*texts))).values.tolist() == expected


def test_counts_are_stored_once_and_shared(monkeypatch) -> None:
    rows = rows_of("a b c", "d e")
    Longest().score(Pool(rows))
    monkeypatch.setattr(Tokens, "compute", lambda *_: pytest.fail("computed again"))
    assert Longest().score(Pool(rows.take(np.array([1, 0])))).values.tolist() == [2, 3]


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(SettingsError, match="Known: characters, words, tokens"):
        Longest(unit="pages")


def published(test_data) -> tuple[list[dict], set[str]]:
    folder = test_data / "alpaca"
    rows = json.loads((folder / "alpaca_data.json").read_text())
    chosen = json.loads((folder / "published_selections.json").read_text())["longest_1k"]
    return [{**row, "id": str(i)} for i, row in enumerate(rows)], {str(i) for i in chosen}


def agreement(rows: list[dict], chosen: set[str]) -> int:
    data = Dataset.from_rows(rows)
    values = Longest().score(Pool(data)).values
    best = np.argsort(-values, kind="stable")[:1000]
    return len({data.ids[int(i)] for i in best} & chosen)


@pytest.mark.slow
def test_words_reproduce_the_published_longest_1k(test_data) -> None:
    assert agreement(*published(test_data)) >= 990
