"""Residual dropout that grows from the bottom layer to the top one (LIMA, arXiv 2305.11206, §3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dfilter.errors import ModelError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

BRANCHES = ("self_attn", "mlp")  # what a decoder layer adds to the residual stream


def rates(layers: int, top: float) -> list[float]:
    """Return each layer's dropout rate: 0 at the bottom, ``top`` at the top, linear between."""
    return [top * layer / max(layers - 1, 1) for layer in range(layers)]


def add_residual_dropout(model: Any, top: float) -> list[RemovableHandle]:
    """Drop out what attention and MLP of every layer add to the residual stream, while training.

    Args:
        model: a causal language model whose decoder has ``layers`` with ``self_attn`` and ``mlp``.
        top: the rate of the top layer, 0 to below 1.

    Raises:
        ModelError: the model's layers are built otherwise.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None or any(getattr(layer, name, None) is None for layer in layers for name in BRANCHES):
        raise ModelError(
            f"{type(model).__name__} has no decoder layers with {' and '.join(BRANCHES)}, so it cannot be "
            "said where residual dropout belongs. Set the recipe's residual_dropout to 0."
        )
    return [
        getattr(layer, name).register_forward_hook(_dropped(rate))
        for layer, rate in zip(layers, rates(len(layers), top), strict=True)
        for name in BRANCHES
        if rate > 0
    ]


def _dropped(rate: float) -> Callable[..., Any]:
    from torch.nn import functional

    def hook(module: Any, _inputs: Any, output: Any) -> Any:
        if not module.training:
            return None
        if isinstance(output, tuple):  # attention returns its weights too
            return (functional.dropout(output[0], rate), *output[1:])
        return functional.dropout(output, rate)

    return hook
