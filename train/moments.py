"""The optimizer's moments by parameter name, as LESS needs them (arXiv 2402.04333, §3.1).

transformers saves AdamW's state under running numbers, which depend on how the parameters were grouped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.errors import ModelError

if TYPE_CHECKING:
    import torch

FILE = "moments.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_moments(model: Any, optimizer: Any, folder: Path) -> Path:
    """Write ``NAME.exp_avg`` and ``NAME.exp_avg_sq`` of every trained parameter, and ``step``, in float32.

    Args:
        model: the unwrapped model; names are those of ``named_parameters()``.
        optimizer: Adam or AdamW that has stepped.
        folder: where to write ``moments.safetensors``.

    Raises:
        ModelError: the optimizer holds no moments for a parameter (it is sharded, or not Adam).
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        state = optimizer.state.get(weight, {})
        if any(moment not in state or state[moment].shape != weight.shape for moment in MOMENTS):
            raise ModelError(
                f"The optimizer holds no moments for {name}. They can be saved on one device or under "
                "data parallelism, with AdamW; not when the optimizer is sharded."
            )
        for moment in MOMENTS:
            tensors[f"{name}.{moment}"] = state[moment].detach().to("cpu", torch.float32).contiguous()
        tensors["step"] = torch.as_tensor(state["step"], dtype=torch.float32).reshape(1)
    save_file(tensors, folder / FILE)
    return folder / FILE


def load_moments(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return (first, second) moment by parameter name, as :func:`save_moments` wrote them.

    Raises:
        ModelError: the folder has no moments.
    """
    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise ModelError(f"{folder} holds no {FILE}; train with save_moments = true.")
    tensors = load_file(folder / FILE)
    first, second = MOMENTS
    names = [name.removesuffix(f".{first}") for name in tensors if name.endswith(f".{first}")]
    return {name: (tensors[f"{name}.{first}"], tensors[f"{name}.{second}"]) for name in names}
