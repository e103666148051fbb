"""Adam's moments of an adapter, from whatever file a trainer left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfilter.embed.adapters import Adapted
from dfilter.errors import ModelError

if TYPE_CHECKING:
    import torch

NAMED = "moments.safetensors"  # our trainer's: NAME.exp_avg, NAME.exp_avg_sq, step
PLAIN = ("optimizer.pt", "optimizer.bin")  # transformers' Trainer, and its FSDP variant
FIRST, SECOND = "exp_avg", "exp_avg_sq"


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moment of every part, in the parts' order, each (out * in,), and the steps taken."""

    first: tuple[torch.Tensor, ...]
    second: tuple[torch.Tensor, ...]
    step: int


def moments_file(folder: Path) -> Path:
    """Return the file that holds a checkpoint's moments.

    Raises:
        ModelError: there is none.
    """
    found = next((folder / name for name in (NAMED, *PLAIN) if (folder / name).is_file()), None)
    if found is None:
        raise ModelError(
            f"{folder} holds no optimizer state ({NAMED}, {', '.join(PLAIN)}). Save it with the "
            "checkpoint: save_moments = true, or save_only_model = False in transformers."
        )
    return found


def read_moments(folder: Path, adapted: Adapted) -> Moments:
    """Read the moments of an adapter's parts.

    Raises:
        ModelError: there are none, or they belong to other weights.
    """
    path = moments_file(folder)
    state, step = _named(path) if path.name == NAMED else _plain(path, [part.name for part in adapted.parts])
    first, second = [], []
    for part in adapted.parts:
        pair = state.get(part.name) or state.get(part.name.replace(".default.", "."))
        wanted = tuple(part.layer.weight.shape)
        if pair is None or any(tuple(moment.shape) != wanted for moment in pair):
            found = "nothing" if pair is None else " and ".join(str(tuple(m.shape)) for m in pair)
            raise ModelError(f"{path} holds {found} for {part.name} of shape {wanted}: another adapter's.")
        first.append(pair[0].float().flatten().to(adapted.placement.device))
        second.append(pair[1].float().flatten().to(adapted.placement.device))
    return Moments(tuple(first), tuple(second), step)


def second_moments(folder: Path) -> list[torch.Tensor]:
    """Return all second moments of a checkpoint, without its model."""
    path = moments_file(folder)
    if path.name == NAMED:
        return [second for _, second in _named(path)[0].values()]
    return [state[SECOND] for state in _states(path)["state"].values()]


def _named(path: Path) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], int]:
    from safetensors.torch import load_file

    tensors = load_file(path)
    names = [name.removesuffix(f".{FIRST}") for name in tensors if name.endswith(f".{FIRST}")]
    state = {name: (tensors[f"{name}.{FIRST}"], tensors[f"{name}.{SECOND}"]) for name in names}
    return state, int(tensors["step"].item()) if "step" in tensors else 0


def _plain(path: Path, names: Sequence[str]) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], int]:
    loaded = _states(path)
    named = _by_name(loaded["state"], loaded.get("param_groups", []), names, path)
    step = max((int(state.get("step", 0)) for state in loaded["state"].values()), default=0)
    return {name: (state[FIRST], state[SECOND]) for name, state in named.items()}, step


def _states(path: Path) -> dict[str, Any]:
    """Read torch's own format, with the loader that builds nothing but tensors and plain containers."""
    import torch

    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path} cannot be read as plain tensors; write {NAMED} instead.") from error
    states: Mapping[Any, Any] = loaded.get("state", {}) if isinstance(loaded, dict) else {}
    if not states or not all(isinstance(s, dict) and FIRST in s and SECOND in s for s in states.values()):
        raise ModelError(f"{path} holds no Adam moments ({FIRST}, {SECOND}).")
    found: dict[str, Any] = loaded
    return found


def _by_name(
    states: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path
) -> dict[str, Any]:
    """Give running numbers their parameters' names.

    Trainer numbers first the parameters with weight decay, then biases and norms, each in the model's
    order. An adapter has only the former, so its numbers follow the model's order; an optimizer that
    counts other parameters too cannot be told apart and is refused.
    """
    if all(isinstance(key, str) for key in states):
        return dict(states)
    known = [name for group in groups for name in group.get("param_names", ())]
    numbers = [number for group in groups for number in group.get("params", ())] or sorted(states)
    order = known or list(names)
    if len(numbers) != len(order) or any(number not in states for number in numbers):
        raise ModelError(
            f"{path} numbers {len(numbers)} parameters, but the adapter has {len(names)}. Trained were "
            f"others too; write {NAMED}, which names them."
        )
    return {name: states[number] for name, number in zip(order, numbers, strict=True)}
