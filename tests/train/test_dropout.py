"""Residual dropout, measured layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dfilter.errors import ModelError
from dfilter.train.dropout import BRANCHES, add_residual_dropout, rates
from dfilter.train.trainer import FineTune, _load
from dfilter.types import Example


def measured(model: Any, ids: torch.Tensor) -> dict[tuple[int, str], tuple[float, torch.Tensor]]:
    """Return, for every layer and branch, the share of zeros in what it adds, and that itself."""
    found: dict[tuple[int, str], tuple[float, torch.Tensor]] = {}

    def note(at: int, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            added = output[0] if isinstance(output, tuple) else output
            found[at, name] = (float((added == 0).float().mean()), added.detach())

        return hook

    handles = [
        getattr(layer, name).register_forward_hook(note(at, name))
        for at, layer in enumerate(model.get_decoder().layers)
        for name in BRANCHES
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return found


def test_rates_rise_in_a_line_from_nothing_to_the_top() -> None:
    assert rates(4, 0.3) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates(1, 0.3) == [0.0]


def test_each_layer_drops_its_share_while_training_and_nothing_after() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    ids = torch.randint(0, 50, (8, 64))
    clean = measured(model.eval(), ids)
    handles = add_residual_dropout(model, 0.3)
    assert all(share == 0 for share, _ in measured(model, ids).values())  # evaluation
    for (layer, _), (share, _) in measured(model.train(), ids).items():
        wanted = 0.3 * layer / 4
        assert share == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / (8 * 64 * 64)) ** 0.5)
    # What is not dropped is scaled up; the first layer with dropout sees an undisturbed input.
    _, added = measured(model, ids)[1, "self_attn"]
    kept = added != 0
    assert torch.allclose(added[kept], clean[1, "self_attn"][1][kept] / (1 - 0.075), atol=1e-5)
    for handle in handles:
        handle.remove()
    assert all(share == 0 for share, _ in measured(model, ids).values())


def test_the_lima_recipe_trains_with_it(rows: list[Example]) -> None:
    plan, _ = FineTune(model="tiny", recipe="lima", dtype="float32").plan(rows, seed=0)
    model, _, _ = _load(plan)
    found = measured(model.train(), torch.randint(3, 500, (8, 128)))
    shares = {layer: share for (layer, _), (share, _) in found.items()}
    assert shares == {0: 0.0, 1: pytest.approx(0.2, abs=0.01)}


def test_layers_of_another_build_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    model.get_decoder = lambda: model  # type: ignore[assignment]
    with pytest.raises(ModelError, match="residual_dropout"):
        add_residual_dropout(model, 0.3)
