"""In which number format a fully trained model is saved, so that what it learnt is saved with it.

A bfloat16 weight of 0.02 has neighbours 0.0001 away. At a rate of 2e-5 a few steps move it by less than half
of that, so rounding brings it back to where it began: after nine steps of recipe ``alpaca`` on SmolLM2, nine
of ten weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOSS = 0.01  # the largest share of the moved weights that saving may bring back


@dataclass(frozen=True)
class Saved:
    """How a model was saved.

    Attributes:
        dtype: of the saved weights.
        stored: of the weights that the training began with.
        moved: numbers that the training changed.
        lost: share of these that the stored format brings back to where they began; none where that
            was not measured, because float32 loses nothing.
    """

    dtype: str
    stored: str
    moved: int | None = None
    lost: float | None = None

    def warning(self) -> str:
        """Return a sentence if the saved model lacks much of what was learnt, else an empty text."""
        if self.dtype == "float32" or self.lost is None or self.lost <= LOSS:
            return ""
        return (
            f"Saving in {self.dtype} brought {self.lost:.0%} of the weights that moved back to where they "
            "began; save_dtype = 'float32' keeps them."
        )


def lost(trained: Mapping[str, Any], began: Mapping[str, Any], dtype: Any) -> tuple[int, float]:
    """Return how many numbers a training moved, and the share of them that rounding brings back.

    Args:
        trained: weights by name; those that share memory are counted once.
        began: the same weights before the training; what is missing there counts as moved, and kept.
        dtype: torch dtype to which the trained weights are rounded.
    """
    import torch

    moved = back = 0
    seen: set[int] = set()
    for name, weight in trained.items():
        if not weight.is_floating_point() or weight.data_ptr() in seen:
            continue
        seen.add(weight.data_ptr())
        before = began.get(name)
        if before is None or before.shape[1:] != weight.shape[1:]:
            moved += weight.numel()
            continue
        before = before.to(weight.device)
        after = weight[: len(before)]  # behind it stands an end-of-turn token that the vocabulary lacked
        other = after != before.to(weight.dtype)
        moved += int(torch.count_nonzero(other)) + weight[len(before) :].numel()
        back += int(torch.count_nonzero(other & (after.to(dtype) == before.to(dtype))))
    return moved, back / max(1, moved)


def cast(state: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Cast weights; those that share memory go on sharing it, so that they are saved once."""
    done: dict[int, Any] = {}
    made = {}
    for name, tensor in state.items():
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        made[name] = done.setdefault(tensor.data_ptr(), tensor.to(wanted))
    return made
