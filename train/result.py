"""The result folder: what was planned, what came out, and that it is whole.

plan.json           what is being trained; another plan in the same folder is refused
checkpoints/        to resume from; gone when done
epochs/epoch-NN/    kept models, with moments.safetensors when asked for
*.safetensors, config.json or adapter_config.json, tokenizer files
training.json       figures
done                the seal of all this, written last
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dfilter import models
from dfilter.digests import json_digest
from dfilter.errors import CheckError, DFilterError, FolderError
from dfilter.store.seal import flaw, read_checked, seal, write_checked
from dfilter.train.precision import LOSS, Saved, cast, lost
from dfilter.train.recipes import Recipe
from dfilter.types import Evaluator

log = logging.getLogger(__name__)

FORMAT = 2
DONE = "done"
PACKAGES = ("dfilter", "torch", "transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True)
class Plan:
    """What a training is, apart from how it goes.

    Attributes:
        model, model_sha: name and identity of the weights.
        recipe_name, recipe: the recipe, with the overrides in it.
        settings: the trainer's own settings.
        template, eot: how conversations are written (see :mod:`dfilter.chat`).
        dtype: what is computed in.
        seed: of everything random.
        rows, skipped: rows trained on, and ids of those without a token to learn from.
        rows_digest: hash of the encoded rows.
        steps: optimizer steps.
        input_tokens, labelled_tokens: of one pass over the rows.
    """

    model: str
    model_sha: str
    recipe_name: str
    recipe: Recipe
    settings: Mapping[str, Any]
    template: Any
    eot: bool
    dtype: str
    seed: int
    rows: int
    skipped: tuple[str, ...]
    rows_digest: str
    steps: int
    input_tokens: int
    labelled_tokens: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return math.ceil(self.rows / self.recipe.batch)

    @property
    def trained_tokens(self) -> int:
        """Tokens that the budget will train on; an estimate when it ends inside an epoch."""
        return round(self.labelled_tokens * self.steps / self.steps_per_epoch)


def world() -> int:
    """Return the number of processes that train together (torchrun and accelerate set WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes."""
    return int(os.environ.get("RANK", "0")) == 0


def barrier() -> None:
    """Wait for the other processes."""
    if world() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.barrier()


def claim(out: Path, plan: Plan) -> bool:
    """Make or check the folder; return whether it is finished already, and whole.

    Raises:
        FolderError: it holds a training with another plan, or files that are no training.
    """
    wrong = flaw(out, _sealed_as(plan), into=DONE)
    if not is_main():  # the main process looks, and when it refuses, the launcher ends the others
        return not wrong
    wanted = _identity(plan)
    found = read_checked(out / "plan.json")
    if found is None:
        if (out / "plan.json").exists():
            raise FolderError(
                f"{out / 'plan.json'} is damaged or of an earlier version, so what was trained there is not "
                "known. Choose another folder, or remove it."
            )
        if out.is_dir() and any(out.iterdir()):
            raise FolderError(f"{out} holds files that are no training. Choose another folder, or empty it.")
        out.mkdir(parents=True, exist_ok=True)
        write_checked(out / "plan.json", wanted)
    elif _counted(found) != _counted(wanted):
        names = sorted(n for n, value in _counted(wanted).items() if found.get(n) != value)
        raise FolderError(
            f"{out} holds another training; it differs in {', '.join(names)}. "
            "Choose another folder, or remove it."
        )
    for folder in sorted((out / "epochs").glob("epoch-*")):
        if not flaw(folder, folder.name) and _follow_base(folder, plan):
            seal(folder, folder.name)
    if not wrong and _follow_base(out, plan):
        seal(out, _sealed_as(plan), into=DONE)
    if wrong and (out / DONE).exists():
        log.warning("%s is damaged (%s); it is trained again.", out, wrong)
        (out / DONE).unlink()
    return not wrong


def _follow_base(folder: Path, plan: Plan) -> bool:
    """Write where the base model is now beside an adapter whose base was moved; return whether it was."""
    from dfilter.train.loop import write_json

    told = _read(folder / "training.json") or {}
    with contextlib.suppress(DFilterError):
        if models.resolve(told["model"]).sha == plan.model_sha:
            return False
    write_json(folder / "training.json", {**told, "model": plan.model})
    return True


def sound(out: Path, plan: Plan) -> int:
    """Remove damaged kept epochs; return the steps from which a resume still writes all that are missing."""
    most = plan.steps
    first, last = plan.recipe.keep_epochs or (1, 0)
    for epoch in range(last, first - 1, -1):
        folder = epoch_folder(out, epoch)
        wrong = flaw(folder, folder.name)
        if wrong:
            most = min(epoch * plan.steps_per_epoch, plan.steps) - 1
            if is_main() and folder.is_dir():
                log.warning("%s is damaged (%s); it is trained again.", folder, wrong)
                shutil.rmtree(folder)
    return most


def epoch_folder(out: Path, epoch: int) -> Path:
    """Return where the model of a kept epoch lies."""
    return out / "epochs" / f"epoch-{epoch:02d}"


@dataclass(frozen=True, eq=False)
class Keep:
    """Writes models.

    Attributes:
        model: the base's name, which is written beside adapters.
        tokenizer: saved beside every model.
        stored: torch dtype of the base's weights.
        dtype: torch dtype to save fully trained weights in; none is ``stored`` where that keeps what was
            learnt, else float32.
        moments: write Adam's moments too.
    """

    model: str
    tokenizer: Any
    stored: Any
    dtype: Any
    moments: bool

    def write(self, loop: Any, folder: Path, plan: Plan, epoch: int) -> None:
        """Write a kept epoch, whole or not at all."""
        if folder.is_dir():
            return
        scratch = folder.with_name(f".{folder.name}.part")
        if is_main():
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        saved = self.write_into(loop, scratch)
        if is_main():
            from dfilter.train.loop import write_json

            log = loop.state.log_history
            part = [entry for entry in log if "loss" in entry and _epoch_of(entry, plan) == epoch]
            told = {**_sums(part), **_rates(part), "saved": saved}
            write_json(scratch / "training.json", {**_identity(plan), "epoch": epoch, **told})
            seal(scratch, folder.name)
            scratch.rename(folder)

    def write_into(self, loop: Any, folder: Path) -> dict[str, Any] | None:
        """Write model, tokenizer and moments into a folder; every process takes part.

        Returns:
            How the weights of a full training were saved; none for an adapter, which is float32.
        """
        import torch

        from dfilter.train.loop import write_json

        state = loop.accelerator.get_state_dict(loop.model_wrapped) if world() > 1 else None
        if not is_main():
            return None
        model = loop.accelerator.unwrap_model(loop.model)
        saved = None
        if _is_adapter(model):
            model.save_pretrained(folder, state_dict=state)
            (folder / "README.md").unlink(missing_ok=True)  # peft's card, without anything in it
            config = _read(folder / "adapter_config.json") or {}  # peft writes a set as it comes
            write_json(
                folder / "adapter_config.json",
                {name: sorted(held) if name == "target_modules" and isinstance(held, list) else held
                 for name, held in config.items()},
            )  # fmt: skip
        else:
            weights = state or model.state_dict()
            saved = self._format(weights)
            model.save_pretrained(folder, state_dict=cast(weights, getattr(torch, saved.dtype)))
            config = _read(folder / "config.json") or {}
            write_json(folder / "config.json", {**config, "dtype": saved.dtype})
        self.tokenizer.save_pretrained(folder)
        if self.moments:
            from dfilter.train.moments import save_moments

            save_moments(model, loop.optimizer, folder)
        return asdict(saved) if saved else None

    def _format(self, weights: Mapping[str, Any]) -> Saved:
        """Decide what weights are saved in, by what the stored format would lose of them."""
        import torch

        wanted = self.dtype or self.stored
        stored = _named(self.stored)
        if wanted == torch.float32:
            return Saved("float32", stored)
        base, _ = models.load_causal(self.model, device="cpu")
        moved, share = lost(weights, base.state_dict(), wanted)
        if self.dtype is None and share > LOSS:
            return Saved("float32", stored, moved, share)
        saved = Saved(_named(wanted), stored, moved, share)
        if saved.warning():
            log.warning("%s", saved.warning())
        return saved


def _named(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def figures(log: Sequence[Mapping[str, Any]], device: str, plan: Plan) -> dict[str, Any]:
    """Return the figures of a whole training from its log, one entry per step."""
    steps = [entry for entry in log if "loss" in entry]
    numbers = _sums(steps)
    epochs = sorted({_epoch_of(entry, plan) for entry in steps})
    means = [
        _rates([e for e in steps if _epoch_of(e, plan) == epoch])["mean_learning_rate"] for epoch in epochs
    ]
    return {
        "device": device,
        "processes": world(),
        "epochs": plan.steps / plan.steps_per_epoch,
        **numbers,
        "epoch_learning_rates": means,
        "loss": [entry["loss"] for entry in steps],
        "learning_rate": [entry["learning_rate"] for entry in steps],
        "step_tokens": [entry["trained_tokens"] for entry in steps],
    }


def choose_epoch(out: Path, evaluator: Evaluator, seed: int) -> dict[str, Any]:
    """Evaluate every kept epoch and make the best one the result; the earlier one of two equals.

    Raises:
        CheckError: the evaluator gave no finite mean for any epoch.
    """
    scores: dict[str, float] = {}
    better = 1.0
    for folder in sorted((out / "epochs").glob("epoch-*")):
        found = evaluator.evaluate(folder, seed=seed)
        better = 1.0 if found.higher_is_better else -1.0
        known = found.values[~np.isnan(found.values)]  # a prompt that cannot be shown has no value
        scores[folder.name] = float(known.mean()) if len(known) else math.nan
    finite = {name: score for name, score in scores.items() if math.isfinite(score)}
    if not finite:
        raise CheckError(
            f"The development set gave no finite value for any of {', '.join(scores) or 'no epochs'}."
        )
    best = min(finite, key=lambda name: (-better * finite[name], name))
    for file in (out / "epochs" / best).iterdir():
        if file.name not in {"training.json", "seal.json"}:
            shutil.copy2(file, out / file.name)
    told = _read(out / "epochs" / best / "training.json") or {}
    return {"chosen": best, "development": scores, "saved": told.get("saved")}


def seen_by(epoch: str, plan: Plan, step_tokens: Sequence[int]) -> dict[str, Any]:
    """Return the figures of a kept epoch that differ from the whole training's: what it was trained on."""
    steps = int(epoch.removeprefix("epoch-")) * plan.steps_per_epoch
    return {"trained_tokens": sum(step_tokens[:steps])}


def finish(out: Path, plan: Plan, summary: Mapping[str, Any]) -> None:
    """Write ``training.json``, drop what only a resume needs, and seal the folder."""
    from dfilter.train.loop import write_json

    kept = [path.name for path in sorted((out / "epochs").glob("epoch-*"))]
    write_json(out / "training.json", {**_identity(plan), **summary, "kept": kept, "versions": _versions()})
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    (out / "progress.json").unlink(missing_ok=True)
    seal(out, _sealed_as(plan), into=DONE)


def _sealed_as(plan: Plan) -> str:
    return json_digest(_counted(_identity(plan)))


def _counted(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the model's name: its contents count, wherever they lie."""
    return {name: value for name, value in identity.items() if name != "model"}


def _identity(plan: Plan) -> dict[str, Any]:
    return {"format": FORMAT, **_jsonable(asdict(plan))}


def _sums(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "trained_tokens": sum(int(entry["trained_tokens"]) for entry in steps),
        "seconds": sum(float(entry["seconds"]) for entry in steps),
    }


def _rates(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rates = [float(entry["learning_rate"]) for entry in steps]
    return {"mean_learning_rate": sum(rates) / max(len(rates), 1)}


def _epoch_of(entry: Mapping[str, Any], plan: Plan) -> int:
    return math.ceil(int(entry["step"]) / plan.steps_per_epoch)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _is_adapter(model: Any) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return value


def _read(path: Path) -> dict[str, Any] | None:
    import json

    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
