"""Rows as the trainer reads them: flat arrays of ids, an order for every epoch, padded batches."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dfilter.chat import IGNORE, Template, render_many
from dfilter.errors import InputError
from dfilter.types import Example
from dfilter.window import BOUNDLESS, readable

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

CHUNK = 4096  # rows tokenized in one call
NAMED = 5  # rows that an error names


@dataclass(frozen=True, eq=False)
class Rows:
    """Encoded rows.

    Attributes:
        ids, labels: (tokens,) int32, all rows one after the other.
        offsets: (rows + 1,) int64, where each row begins.
        trained: (rows,) int64, labelled tokens that are predicted.
        skipped: ids of rows left out because nothing in them is labelled.
        because: how many were left out for which reason.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    trained: NDArray[np.int64]
    skipped: tuple[str, ...] = ()
    because: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.trained)

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.ids[part], self.labels[part]

    def digest(self) -> str:
        """Return a hash of everything the model will read."""
        found = hashlib.blake2b(digest_size=16)
        for array in (self.ids, self.labels, self.offsets):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def encode(
    rows: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template,
    eot: bool,
    max_tokens: int,
    unlabelled: Literal["refuse", "skip"] = "skip",
    vocabulary: int = BOUNDLESS,
) -> Rows:
    """Tokenize rows and label what the assistant says; none of a token beyond the vocabulary.

    Raises:
        InputError: no row has a labelled token, or one has none and ``unlabelled`` is "refuse".
    """
    ids: list[NDArray[np.int32]] = []
    labels: list[NDArray[np.int32]] = []
    trained: list[int] = []
    lost: dict[str, str] = {}
    for start in range(0, len(rows), CHUNK):
        part = [rows[at] for at in range(start, min(start + CHUNK, len(rows)))]
        found = render_many(part, tokenizer, template=template, eot=eot, max_tokens=max_tokens)
        for row, encoded in zip(part, readable(found, vocabulary), strict=True):
            if not encoded.trained:
                lost[row.id] = encoded.lacks(max_tokens)
                continue
            ids.append(np.array(encoded.input_ids, np.int32))
            labels.append(np.array(encoded.labels, np.int32))
            trained.append(encoded.trained)
    if not trained or (lost and unlabelled == "refuse"):
        raise _nothing_in(lost, len(trained))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    return Rows(
        np.concatenate(ids),
        np.concatenate(labels),
        offsets,
        np.array(trained, np.int64),
        tuple(lost),
        dict(Counter(lost.values())),
    )


def _nothing_in(lost: Mapping[str, str], usable: int) -> InputError:
    """Return the error of rows without a labelled token, with ids and reasons."""
    if not lost:
        return InputError("There are no rows to train on.")
    shown = ", ".join(f"'{name}'" for name in list(lost)[:NAMED]) + (", …" if len(lost) > NAMED else "")
    why = "; ".join(f"{count:,}: {reason}" for reason, count in Counter(lost.values()).most_common())
    return InputError(
        f"{len(lost):,} of {len(lost) + usable:,} rows have no token to learn from ({why}): {shown}. "
        "Leave these rows out, raise max_tokens, choose another template, or set unlabelled = 'skip'."
    )


def epoch_order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch reads the rows; the same everywhere for the same seed and epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def steps_for(
    rows: Rows, batch: int, seed: int, *, epochs: float, steps: int | None, tokens: int | None
) -> int:
    """Return the number of optimizer steps of a budget.

    Tokens are trained tokens: the first step that reaches the budget is the last one.
    """
    per_epoch = math.ceil(len(rows) / batch)
    if steps is not None:
        return steps
    if tokens is None:
        return max(1, math.ceil(epochs * per_epoch))
    done = seen = epoch = 0
    while seen < tokens:
        order = rows.trained[epoch_order(len(rows), seed, epoch)]
        for start in range(0, len(order), batch):
            seen += int(order[start : start + batch].sum())
            done += 1
            if seen >= tokens:
                break
        epoch += 1
    return max(1, done)


class Order:
    """A sampler whose order depends on seed and epoch alone, so that a resumed run continues it."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.rows, self.seed, self.epoch).tolist())


def collate(
    items: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]], pad: int
) -> dict[str, torch.Tensor]:
    """Return one batch, padded on the right, longest row first."""
    import torch

    items = sorted(items, key=lambda item: -len(item[0]))
    shape = (len(items), len(items[0][0]))
    ids = np.full(shape, pad, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    mask = np.zeros(shape, np.int64)
    for at, (row, wanted) in enumerate(items):
        ids[at, : len(row)] = row
        labels[at, : len(row)] = wanted
        mask[at, : len(row)] = 1
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels),
    }


def parts(batch: dict[str, Any], micro_tokens: int) -> list[dict[str, Any]]:
    """Cut a batch into pieces of at most ``micro_tokens`` padded tokens, or one row.

    Rows of similar length come together, so little is padded; which rows make an optimizer step stays
    random, and the loss is a sum over tokens, so the gradient is the uncut batch's.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    cut: list[dict[str, Any]] = []
    start = 0
    while start < len(lengths):
        width = lengths[start]
        stop = min(len(lengths), start + max(1, micro_tokens // width))
        cut.append({name: tensor[start:stop, :width] for name, tensor in batch.items()})
        start = stop
    return cut
