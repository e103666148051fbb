"""A frozen model with a LoRA adapter, and the matrices whose gradients are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.embed.device import Placement
from dfilter.errors import ModelError
from dfilter.models import load_causal, resolve

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

HALVES = ("lora_A", "lora_B")


@dataclass(frozen=True, eq=False)
class Part:
    """One half of an adapter: a linear layer and the name of its weight, (out, in)."""

    name: str
    layer: nn.Linear

    @property
    def size(self) -> int:
        """Numbers in the weight."""
        return self.layer.weight.numel()


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model in evaluation mode, all weights frozen, and its adapter's parts in the model's order."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    placement: Placement
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Numbers in all parts, the length of one row's gradient."""
        return sum(part.size for part in self.parts)


def load_adapted(folder: str, placement: Placement) -> Adapted:
    """Load an adapter with its base, once per process.

    Raises:
        ModelError: the folder holds no LoRA adapter, or it cannot be loaded.
    """
    return _load(folder, resolve(folder).sha, placement)


@lru_cache(maxsize=1)
def _load(folder: str, _sha: str, placement: Placement) -> Adapted:
    if not (Path(folder) / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds no LoRA adapter (adapter_config.json); gradients of one are needed."
        )
    dtype: Any = placement.dtype
    model, tokenizer = load_causal(folder, dtype=dtype, device=placement.device)
    return freeze(model, tokenizer, placement)


def freeze(model: Any, tokenizer: PreTrainedTokenizerBase, placement: Placement) -> Adapted:
    """Freeze a model and bring its adapter into the number format of the rest.

    Frozen weights spare autograd the gradients that are summed over the batch, which nobody wants here.

    Raises:
        ModelError: the model has no LoRA matrices, or they are not plain linear layers.
    """
    from torch.nn import Linear

    parts: list[Part] = []
    for name, layer in model.named_modules():
        if len(name.split(".")) < 2 or name.split(".")[-2] not in HALVES:
            continue
        if not isinstance(layer, Linear) or "bias" in dict(layer.named_parameters()):
            raise ModelError(f"{name} is not a plain linear layer; only LoRA on linear layers is read.")
        layer.to(placement.torch_dtype)
        parts.append(Part(f"{name}.weight", layer))
    if not parts:
        raise ModelError(f"{type(model).__name__} has no LoRA matrices.")
    model.requires_grad_(False)
    model.eval()
    return Adapted(model, tokenizer, placement, tuple(parts))
