"""A causal language model on its device, and the losses of the tokens that rows are labelled with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter.chat import IGNORE, Encoded
from dfilter.embed.batches import pad
from dfilter.embed.device import Placement
from dfilter.embed.prefix import Prefix
from dfilter.errors import ModelError
from dfilter.models import load_causal, resolve
from dfilter.window import beyond, padding, vocabulary, window

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Padded tokens a batch. Two cores are as fast with 256 as with 8,192; an accelerator wants to be filled.
CPU_TOKENS = 2_048
ACCELERATOR_TOKENS = 32_768
# Rows of logits that are raised to float32 at once: at 150,000 words they take 150 MB.
SOFTMAX_ROWS = 256


@dataclass(frozen=True, eq=False)
class Causal:
    """A loaded model. It is shared: whoever changes its weights must load a copy of their own."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    placement: Placement

    @property
    def window(self) -> int:
        """Tokens that the model can read at once."""
        return window(self.model.config, self.tokenizer)

    @property
    def vocabulary(self) -> int:
        """Tokens that the model has embeddings for."""
        return vocabulary(self.model.config)

    @property
    def pad(self) -> int:
        """What pads a batch."""
        return padding(self.tokenizer, self.vocabulary)

    @property
    def budget(self) -> int:
        """Padded tokens that a batch may hold."""
        return CPU_TOKENS if self.placement.on_cpu else ACCELERATOR_TOKENS


def load(model: str, placement: Placement) -> Causal:
    """Load a model once per process and evaluation mode.

    Raises:
        ModelError: the weights cannot be found or read.
    """
    return _load(model, resolve(model).sha, placement)


@lru_cache(maxsize=1)
def _load(model: str, _sha: str, placement: Placement) -> Causal:
    dtype: Any = placement.dtype
    loaded, tokenizer = load_causal(model, dtype=dtype, device=placement.device)
    return Causal(loaded, tokenizer, placement)


@dataclass(frozen=True, eq=False)
class Labelled:
    """One padded batch and where its labels are predicted.

    Attributes:
        ids: (b, t) token ids, padded on the right.
        mask: (b, t) 1 on tokens, 0 on padding.
        row: (m,) the batch row of every label.
        column: (m,) the position whose logits predict it, one before the label's own.
        target: (m,) the labels.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    target: torch.Tensor


def labelled(batch: Sequence[Encoded], pad_id: int, device: str) -> Labelled:
    """Pad a batch and list its labels, row by row."""
    import torch

    ids = pad([row.input_ids for row in batch], pad_id)
    mask = pad([[1] * len(row.input_ids) for row in batch], 0)
    labels = pad([row.labels for row in batch], IGNORE)[:, 1:]
    row, column = np.nonzero(labels != IGNORE)
    target = labels[row, column]
    return Labelled(*(torch.from_numpy(part).to(device) for part in (ids, mask, row, column, target)))


@contextmanager
def logits_only_at(model: PreTrainedModel, batch: Labelled) -> Iterator[None]:
    """Let the model's head see only the positions that predict a label.

    Inside, ``model(...).logits`` has shape (m, vocabulary). Whatever the model does to its logits
    behind the head (scaling, capping) is elementwise and still happens.

    Raises:
        ModelError: the model has no output layer.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output layer, so it is no causal language model.")
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][batch.row, batch.column],))
    try:
        yield
    finally:
        handle.remove()


def token_losses(
    causal: Causal, batch: Sequence[Encoded], prefix: Prefix | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of every label, (m,) float32 nats, and its row in the batch, (m,).

    The batch's rows stand behind ``prefix`` if there is one. A row with a token that the model has no
    embedding for has NaN.
    """
    import torch

    lost = [beyond(row.input_ids, causal.vocabulary) for row in batch]
    shown = [_blank(row) if out else row for row, out in zip(batch, lost, strict=True)]
    part = labelled(shown, causal.pad, causal.placement.device)
    mask, states = part.mask, None
    if prefix is not None:
        mask = torch.cat([mask.new_ones(len(batch), prefix.length), mask], dim=1)
        states = prefix.repeated(len(batch))
    with torch.inference_mode(), logits_only_at(causal.model, part):
        logits: torch.Tensor = causal.model(
            input_ids=part.ids, attention_mask=mask, past_key_values=states, use_cache=prefix is not None
        ).logits
        starts = range(0, len(part.target), SOFTMAX_ROWS)
        losses = [
            torch.nn.functional.cross_entropy(
                logits[at : at + SOFTMAX_ROWS].float(), part.target[at : at + SOFTMAX_ROWS], reduction="none"
            )
            for at in starts
        ]
    unknown = torch.tensor(lost, device=part.row.device)[part.row]
    return torch.cat(losses).masked_fill(unknown, torch.nan), part.row


def _blank(row: Encoded) -> Encoded:
    """Return a row of the same form that any model can read."""
    return Encoded([0] * len(row.input_ids), [IGNORE if label == IGNORE else 0 for label in row.labels])
