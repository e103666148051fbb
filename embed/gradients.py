"""Each row's own gradient of a LoRA adapter, from one backward pass over a batch.

Rows do not touch in a forward pass, so the derivative of the summed loss by a layer's output is, row
by row, the derivative of that row's loss; its product with the layer's input is the row's gradient.
A hook forms that product part by part while the backward pass runs and hands it to a sink, so the
gradients of a batch never exist together. Padding stands on the right of causal attention, where no
loss can reach it: its derivatives are exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dfilter.chat import Encoded
from dfilter.embed.adapters import Adapted
from dfilter.embed.batches import token_batches
from dfilter.embed.causal import SOFTMAX_ROWS, labelled, logits_only_at
from dfilter.window import padding, vocabulary

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Padded tokens a batch. A backward pass keeps its activations, so less than for a forward pass.
CPU_TOKENS = 1_024
ACCELERATOR_TOKENS = 16_384
# Numbers of a part's gradients that are worked on at once: on a CPU they and the moments beside them
# should stay in the second-level cache.
CPU_SLICE = 1 << 18
ACCELERATOR_SLICE = 1 << 27


class Sink(Protocol):
    """Takes the gradients of a batch, part by part."""

    def begin(self, rows: NDArray[np.int64]) -> None:
        """Learn which rows the coming batch holds."""
        ...

    def take(self, part: int, first: int, gradients: torch.Tensor) -> None:
        """Take one part's (b, size) gradients of b rows, ``first`` the first's place in the batch.

        They may be overwritten.
        """
        ...


def stream(adapted: Adapted, rows: Sequence[Encoded], sink: Sink) -> None:
    """Send the gradient of every row to a sink.

    Args:
        adapted: the frozen model.
        rows: encoded rows, each with at least one label; a row's loss is the mean over its labels.
        sink: where the gradients go.
    """
    budget = CPU_TOKENS if adapted.placement.on_cpu else ACCELERATOR_TOKENS
    for batch in token_batches([len(row.input_ids) for row in rows], budget):
        sink.begin(batch)
        _backward(adapted, [rows[index] for index in batch.tolist()], sink)


def _backward(adapted: Adapted, batch: Sequence[Encoded], sink: Sink) -> None:
    import torch

    pad = padding(adapted.tokenizer, vocabulary(adapted.model.config))
    part = labelled(batch, pad, adapted.placement.device)
    weights = 1.0 / torch.bincount(part.row, minlength=len(batch))[part.row]
    with torch.enable_grad(), _hooked(adapted, sink), logits_only_at(adapted.model, part):
        logits = adapted.model(input_ids=part.ids, attention_mask=part.mask, use_cache=False).logits
        logits.backward(_loss_gradient(logits.detach(), part.target, weights))


def _loss_gradient(logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the derivative of the weighted sum of cross-entropies by the logits, (m, vocabulary).

    Slice by slice, because at a large vocabulary the logits are the largest arrays of the pass and
    autograd would keep several float32 copies of them.
    """
    import torch

    out = torch.empty_like(logits)
    for at in range(0, len(target), SOFTMAX_ROWS):
        rows = logits[at : at + SOFTMAX_ROWS]
        rows = rows if rows.dtype == torch.float64 else rows.float()
        share = torch.softmax(rows, dim=1)
        share[torch.arange(len(share), device=share.device), target[at : at + SOFTMAX_ROWS]] -= 1
        out[at : at + SOFTMAX_ROWS] = share * weights[at : at + SOFTMAX_ROWS, None].to(share.dtype)
    return out


@contextmanager
def _hooked(adapted: Adapted, sink: Sink) -> Iterator[None]:
    """Watch every part's input and the derivative by its output."""
    handles = [
        part.layer.register_forward_hook(_watch(number, adapted, sink))
        for number, part in enumerate(adapted.parts)
    ]
    # With all weights frozen autograd would not start; the embeddings' output is where it begins.
    embeddings = adapted.model.get_input_embeddings()
    handles.append(embeddings.register_forward_hook(lambda _m, _i, out: out.requires_grad_()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(number: int, adapted: Adapted, sink: Sink) -> Callable[..., None]:
    size = adapted.parts[number].size
    room = CPU_SLICE if adapted.placement.on_cpu else ACCELERATOR_SLICE
    rows_at_once = max(1, room // size)

    def forward(_layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        given = inputs[0].detach()

        def backward(derivative: torch.Tensor) -> None:
            _multiply(given, derivative, rows_at_once, number, sink)

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def _multiply(given: torch.Tensor, derivative: torch.Tensor, at_once: int, number: int, sink: Sink) -> None:
    """Form (b, out * in) gradients of a few rows at a time and pass them on, float32 or better."""
    import torch

    for first in range(0, len(given), at_once):
        rows = slice(first, first + at_once)
        product = torch.bmm(derivative[rows].transpose(1, 2), given[rows]).flatten(1)
        sink.take(number, first, product if product.dtype == torch.float64 else product.float())
