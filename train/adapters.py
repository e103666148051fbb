"""Which layers a recipe's adapter reaches, and which it does not.

Recipes name layers as their paper's model does. Another architecture may have fused some (Phi-3's
``qkv_proj``) or call them otherwise (OPT's ``out_proj``); peft adapts those that it finds, and says nothing
of the others.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from dfilter import models
from dfilter.errors import SettingsError
from dfilter.train.recipes import Recipe

ALL_LINEAR = ("all-linear",)


def adapt(model: Any, made: Recipe) -> Any:
    """Return the model with a recipe's adapter on it.

    Raises:
        SettingsError: the model has none of the layers that the recipe names.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = made.lora_targets
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=made.lora_rank,
        lora_alpha=made.lora_alpha,
        lora_dropout=made.lora_dropout,
        target_modules="all-linear" if targets == ALL_LINEAR else list(targets),
        bias="none",
    )
    try:
        with models.quiet_transformers():
            return get_peft_model(model, config)
    except ValueError as error:
        raise SettingsError(
            f"lora_targets = {list(targets)} do not fit {type(model).__name__}: {error}"
        ) from error


def adapted(model: Any) -> dict[str, int]:
    """Return the layers that carry an adapter: by name, how many."""
    found = Counter(name.removesuffix(".weight").rpartition(".")[2] for name in _found(model))
    return dict(sorted(found.items()))


def missed(model: Any, made: Recipe) -> list[str]:
    """Return a sentence if the model has no layer of some name that the recipe adapts."""
    found = _found(model)
    lacking = [name for name in made.lora_targets if not any(f".{at}".endswith(f".{name}") for at in found)]
    if made.lora_targets == ALL_LINEAR or not lacking:
        return []
    said = (
        f"{type(model.get_base_model()).__name__} has no {', '.join(lacking)}, which the recipe adapts: only "
        f"{', '.join(adapted(model))} carry an adapter, not {', '.join(_left(model))}. Name those that stand "
        "for them in overrides.lora_targets."
    )
    return [said]


def _found(model: Any) -> list[str]:
    """Return the full names of what carries an adapter; of a mixture's fused experts these are parameters."""
    layers: Any = model.base_model
    return [*layers.targeted_module_names, *layers.targeted_parameter_names]


def _left(model: Any) -> list[str]:
    """Return the names of layers without adapter; embeddings are left out."""
    from torch.nn import Embedding

    head = model.get_base_model().get_output_embeddings()
    left: set[str] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, Embedding) or layer is head or ".lora_" in name or name.endswith(".base_layer"):
            continue
        for own, weight in layer.named_parameters(recurse=False):
            if weight.ndim > 1:
                left.add(name.rpartition(".")[2] if own == "weight" else own)
    return sorted(left)
