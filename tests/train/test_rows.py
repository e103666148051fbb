"""Rows, their order, their batches and their budget."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfilter import chat, models
from dfilter.errors import InputError
from dfilter.train.rows import Rows, collate, encode, epoch_order, parts, steps_for
from dfilter.train.trainer import FineTune
from dfilter.types import Example, Message


def made(lengths: list[int], trained: list[int] | None = None) -> Rows:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.arange(offsets[-1], dtype=np.int32)
    return Rows(ids, ids.copy(), offsets, np.array(trained or [n - 1 for n in lengths], np.int64))


def test_encoded_rows_equal_rows_encoded_one_by_one(
    rows: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfilter.train.rows.CHUNK", 7)
    tokenizer = models.load_tokenizer("tiny")
    found = encode(rows, tokenizer, template="auto", eot=False, max_tokens=24)
    assert len(found) == len(rows)
    for at, row in enumerate(rows):
        wanted = chat.render(row.messages, tokenizer, max_tokens=24)
        ids, labels = found[at]
        assert (ids.tolist(), labels.tolist(), found.trained[at]) == (
            wanted.input_ids, wanted.labels, wanted.trained,
        )  # fmt: skip


def test_rows_without_a_token_to_learn_from_are_named(rows: list[Example]) -> None:
    tokenizer = models.load_tokenizer("tiny")
    long = [
        Example(f"long{at}", (Message("user", "the " * 90), Message("assistant", "end")), {})
        for at in range(7)
    ]
    with pytest.raises(
        InputError, match=r"7 of 31 rows .* 64 tokens.*'long0', 'long1', 'long2', 'long3', 'long4', …"
    ):
        encode([*rows, *long], tokenizer, template="auto", eot=False, max_tokens=64, unlabelled="refuse")
    kept = encode([*rows, *long], tokenizer, template="auto", eot=False, max_tokens=64)
    assert len(kept) == len(rows)
    assert kept.skipped == tuple(row.id for row in long)
    assert kept.because == {"no response within 64 tokens": 7}
    with pytest.raises(InputError, match="7 of 7 rows"):
        encode(long, tokenizer, template="auto", eot=False, max_tokens=64)
    with pytest.raises(InputError, match="no rows"):
        encode([], tokenizer, template="auto", eot=False, max_tokens=64)


@given(st.integers(1, 50), st.integers(0, 3), st.integers(0, 3))
def test_every_epoch_reads_every_row_once_in_an_order_of_its_own(rows: int, seed: int, epoch: int) -> None:
    order = epoch_order(rows, seed, epoch)
    assert sorted(order.tolist()) == list(range(rows))
    assert order.tolist() == epoch_order(rows, seed, epoch).tolist()
    if rows > 20:
        assert order.tolist() != epoch_order(rows, seed, epoch + 1).tolist()
        assert order.tolist() != epoch_order(rows, seed + 1, epoch).tolist()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 80))
def test_pieces_of_a_batch_hold_every_token_once_and_keep_to_the_size(lengths: list[int], micro: int) -> None:
    rows = made(lengths)
    batch = collate([rows[at] for at in range(len(rows))], pad=-7)
    assert batch["input_ids"].shape == (len(lengths), max(lengths))
    pieces = parts(batch, micro)
    seen = torch.cat([piece["input_ids"][piece["attention_mask"].bool()] for piece in pieces])
    assert sorted(seen.tolist()) == rows.ids.tolist()
    for piece in pieces:
        assert piece["input_ids"].numel() <= micro or len(piece["input_ids"]) == 1
        padded = ~piece["attention_mask"].bool()
        assert (piece["input_ids"][padded] == -7).all()
        assert (piece["labels"][padded] == chat.IGNORE).all()


def test_similar_lengths_share_a_piece() -> None:
    rows = made([3, 9, 3, 9, 3, 9])
    pieces = parts(collate([rows[at] for at in range(6)], pad=0), micro_tokens=27)
    assert [tuple(piece["input_ids"].shape) for piece in pieces] == [(3, 9), (3, 3)]


def test_a_budget_of_epochs_rounds_up_to_whole_steps() -> None:
    rows = made([5] * 10)
    assert steps_for(rows, 4, 0, epochs=1, steps=None, tokens=None) == 3
    assert steps_for(rows, 4, 0, epochs=2.5, steps=None, tokens=None) == 8
    assert steps_for(rows, 4, 0, epochs=1, steps=7, tokens=None) == 7


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(1, 120),
    st.integers(0, 5),
)
def test_a_budget_of_tokens_ends_with_the_first_step_that_reaches_it(
    trained: list[int], batch: int, tokens: int, seed: int
) -> None:
    rows = made([n + 1 for n in trained], trained)
    steps = steps_for(rows, batch, seed, epochs=1, steps=None, tokens=tokens)
    seen, per_epoch = [], math.ceil(len(trained) / batch)
    for step in range(steps):
        order = epoch_order(len(trained), seed, step // per_epoch)
        start = step % per_epoch * batch
        seen.append(sum(trained[at] for at in order[start : start + batch]))
    assert sum(seen) >= tokens > sum(seen[:-1])


def test_the_digest_sees_every_token_and_label() -> None:
    rows = made([4, 5])
    digests = {rows.digest()}
    for name in ("ids", "labels"):
        changed = made([4, 5])
        getattr(changed, name)[3] += 1
        digests.add(changed.digest())
    digests.add(made([5, 4]).digest())
    assert len(digests) == 4


@pytest.mark.parametrize("limit", [16, 24, 40, 999])
def test_rows_that_lose_tokens_to_learn_from_are_counted(rows: list[Example], limit: int) -> None:
    """Whole again, they would have more; rows that lose all of their response are left out instead."""
    tokenizer = models.load_tokenizer("tiny")
    whole = {row.id: chat.render(row.messages, tokenizer).trained for row in rows}
    part = {row.id: chat.render(row.messages, tokenizer, max_tokens=limit).trained for row in rows}
    found = encode(rows, tokenizer, template="auto", eot=False, max_tokens=limit)
    assert found.cut == sum(0 < part[row.id] < whole[row.id] for row in rows)
    if limit == 24:
        assert 0 < found.cut < len(found)


def test_a_training_tells_how_many_rows_it_cut(rows: list[Example], tmp_path: Path) -> None:
    told = {}
    for limit in (24, 512):
        overrides = {"batch": 24, "lora_rank": 2, "max_tokens": limit}
        job = FineTune(model="tiny", dtype="float32", steps=1, overrides=overrides)
        out = job.train(rows, tmp_path / str(limit), seed=0)
        told[limit] = json.loads((out / "training.json").read_text())["cut_rows"]
    wanted = encode(rows, models.load_tokenizer("tiny"), template="auto", eot=False, max_tokens=24).cut
    assert told == {24: wanted, 512: 0}
