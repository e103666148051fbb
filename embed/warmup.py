"""LESS's warm-up: a short LoRA training on a random share of the pool, one checkpoint an epoch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from dfilter import registry
from dfilter.errors import FolderError, ModelError, SettingsError
from dfilter.identity import DTYPE, SHOWN, WEIGHTS, bare, component_identity, spec_of
from dfilter.types import Json, Screening, Trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.data.dataset import Dataset
    from dfilter.pool import Pool

RESULT = "training"


@dataclass(frozen=True)
class Warmup:
    """A fit on the pool: adapters with the optimizer's moments, trained by the registered trainer.

    Attributes:
        model: the base.
        seed: of the draw, the order of rows and the adapter's start.
        share: of the pool's rows that can be trained on, at least one; 0.05 in LESS (arXiv 2402.04333, §4.1).
        epochs: 4 in LESS, a checkpoint after each.
        recipe: a name of the trainer's.
        overrides: single settings of the recipe.
        template: see :mod:`dfilter.chat`.
        dtype: number format of the training.
        trainer: the registered trainer. It must take the settings that are passed below and leave
            ``epochs/epoch-NN`` with adapter, moments and ``mean_learning_rate`` in training.json.
    """

    model: Annotated[str, WEIGHTS]
    seed: int = 0
    share: float = 0.05
    epochs: int = 4
    recipe: str = "less"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    template: Annotated[str, SHOWN] = "auto"
    dtype: Annotated[str, DTYPE] = "auto"
    trainer: str = "dfilter"

    kind: ClassVar[str] = "warmup"
    # 1 trained in the order in which the rows stood; 2 drew what it left out then; 3 wrote the token that
    # begins a text as text; 4 took inputs of white space for none
    version: ClassVar[int] = 7

    def spec(self) -> Mapping[str, Json]:
        """All settings, the base by its contents, and the trainer with the settings that it gets."""
        trainer = component_identity("trainers", self.trainer, self.settings())
        return spec_of(self) | {"trainer": bare(trainer)}

    def compute(self, pool: Pool, folder: Path, longer: Path | None) -> None:
        """Train into ``folder``; a killed training continues from its last checkpoint."""
        del longer  # a training has no prefix that would be an answer
        trainer: Trainer = registry.create("trainers", self.trainer, self.settings())
        lost = trainer.screen(pool) if isinstance(trainer, Screening) else {}
        usable = np.setdiff1d(np.arange(len(pool.rows)), np.array([*lost], dtype=np.int64))
        rows = pool.rows.take(usable) if len(usable) else pool.rows  # then the trainer says why
        rows = rows.take(drawn(rows, self.share, self.seed))
        with pool.progress.stage("warm-up", total=self.epochs, unit="epochs") as bar:
            try:
                trainer.train(rows, folder / RESULT, seed=self.seed)
            except FolderError:  # what a killed run left is damaged, and it is nobody's but ours
                pool.progress.say("What an interrupted warm-up left cannot be used; it starts anew.")
                shutil.rmtree(folder / RESULT)
                trainer.train(rows, folder / RESULT, seed=self.seed)
            bar.advance(self.epochs)

    def settings(self) -> dict[str, Any]:
        """Return what the trainer is built with."""
        return {
            "model": self.model,
            "recipe": self.recipe,
            "overrides": {**self.overrides, "epochs": self.epochs, "keep_epochs": [1, self.epochs]},
            "template": self.template,
            "dtype": self.dtype,
            "save_moments": True,
            "unlabelled": "skip",
        }


def drawn(rows: Dataset, share: float, seed: int) -> NDArray[np.int64]:
    """Return the places of a random share of the rows: the same ones in one order, wherever they stand."""
    words = np.ascontiguousarray(rows.keys).view(">u8").reshape(len(rows), 2)
    order = np.lexsort((words[:, 1], words[:, 0]))
    count = max(1, int(share * len(rows)))
    return order[np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])].astype(np.int64)


def epoch_folders(fit: Path) -> list[Path]:
    """Return a finished warm-up's checkpoints, first epoch first.

    Raises:
        ModelError: the trainer left none.
    """
    found = sorted((fit / RESULT / "epochs").glob("epoch-*"))
    if not found:
        raise ModelError(f"The warm-up in {fit} left no checkpoints under {RESULT}/epochs.")
    return found


def learning_rates(folders: Sequence[Path], given: Sequence[float]) -> NDArray[np.float64]:
    """Return every checkpoint's weight, (c,): its epoch's mean learning rate, divided by their sum.

    A training of so few steps that the rate never left 0 gives equal weights.

    Args:
        folders: the checkpoints.
        given: the rates, when the user states them; else they are read from the checkpoints.

    Raises:
        SettingsError: there is another number of them, one is negative, or none can be read.
    """
    rates = list(given) or [_logged(folder) for folder in folders]
    if len(rates) != len(folders):
        raise SettingsError(f"less: {len(rates)} rates for {len(folders)} checkpoints; give one for each.")
    if not all(np.isfinite(rate) and rate >= 0 for rate in rates):
        raise SettingsError(f"less: rates = {rates}; a checkpoint's learning rate must be 0 or above.")
    known = np.array(rates) if any(rates) else np.ones(len(rates))
    weights: NDArray[np.float64] = known / known.sum()
    return weights


def _logged(folder: Path) -> float:
    """Return the mean learning rate of the epoch that ended here, from our log or from transformers'."""
    ours, theirs = folder / "training.json", folder / "trainer_state.json"
    if ours.is_file():
        found = json.loads(ours.read_text(encoding="utf-8")).get("mean_learning_rate")
        if found is not None:
            return float(found)
    if theirs.is_file():
        log = json.loads(theirs.read_text(encoding="utf-8")).get("log_history", [])
        steps = [entry for entry in log if "learning_rate" in entry]
        last = max((float(entry["epoch"]) for entry in steps), default=0.0)
        rates = [float(entry["learning_rate"]) for entry in steps if float(entry["epoch"]) > last - 1]
        if rates:
            return float(np.mean(rates))
    raise SettingsError(
        f"less: {folder} logs no learning rate (training.json or trainer_state.json). State them: "
        "--set filter.rates=[2e-5,1e-5]"
    )
