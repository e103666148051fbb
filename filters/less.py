"""LESS: rows whose gradients point where a target task's gradients point (arXiv 2402.04333).

Gradients are means over a response's tokens, so short responses have long ones; cosines remove the
length but not what it comes from. The score is a linear approximation around a few checkpoints of a
small training, and a lower loss on the target is not always a better task score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter.chat import Template
from dfilter.embed.adam import EpsMode, swamped
from dfilter.embed.checkpoints import Checkpoint
from dfilter.embed.device import place
from dfilter.embed.directions import Directions, about, forget, subtasks
from dfilter.embed.influence import Affinity, GradientSketch, ProjectedGradient
from dfilter.embed.matching import divided, mean_directions, normalised, unusable
from dfilter.embed.quote import influence_quote
from dfilter.embed.shown import Rendered, why_not
from dfilter.embed.warmup import Warmup, epoch_folders, learning_rates
from dfilter.errors import InputError, SettingsError
from dfilter.identity import ANYHOW, CONTENT, DTYPE, SHORT, SHOWN, WEIGHTS, identity, settings_identity
from dfilter.models import resolve
from dfilter.types import Json, Quote, Scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dfilter.pool import Pool

CHUNK_ROWS = 4_096
MADE_OF = (Directions, Affinity, GradientSketch, ProjectedGradient)
OF_WARMUP = ("model", "warmup", "epochs", "recipe", "overrides", "trainer")


@dataclass(frozen=True)
class LESS:
    """Rows whose gradients point where the target's point, by a warmed-up adapter (LESS).

    The score is the largest, over the target's subtasks, of the mean cosine between the row's
    gradient in Adam's form and the subtask's gradients, averaged over checkpoints by learning rate;
    from -1 to 1. It is linear in the update: an approximation, and one that favours rows with short
    responses, whose gradients are averaged over few tokens.

    Attributes:
        model: whose gradients; a smaller one than is trained later serves too.
        mode: ``direct`` computes the products with this target, exactly; ``store`` leaves a sketch of
            every row's gradient for later targets; ``reference`` is the paper's dense projection at
            batch size 1, for small models.
        target_by: the target's column that names subtasks.
        eps_mode: Adam's form as ``released`` or as in the ``paper``; see ``dfilter.embed.adam``.
        warmup: share of the pool that the adapter is trained on; 0.05 in the paper.
        epochs: of the warm-up, a checkpoint after each; 4 in the paper.
        recipe: of the warm-up.
        overrides: single settings of the recipe.
        trainer: the registered trainer.
        checkpoints: folders with adapters and optimizer states of your own, instead of a warm-up.
        rates: their learning rates, where no log beside them says.
        max_tokens: longer rows lose their end; 2,048 in the paper.
        template: how a row is shown to the model.
        width: of sketch and projection; 8,192 in the paper.
        sketch_seed: of sketch and projection.
        dtype: number format of the model.
        device: where to run.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    mode: Literal["direct", "store", "reference"] = "direct"
    target_by: str = ""
    eps_mode: EpsMode = "released"
    warmup: float = 0.05
    epochs: int = 4
    recipe: str = "less"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    trainer: str = "dfilter"
    checkpoints: Annotated[tuple[str, ...], CONTENT] = ()
    rates: tuple[float, ...] = ()
    max_tokens: int = 2_048
    template: Annotated[Template, SHOWN] = "auto"
    width: int = 8_192
    sketch_seed: int = 0
    dtype: Annotated[str, DTYPE] = "auto"
    device: Annotated[str, ANYHOW] = "auto"

    paper: ClassVar[str] = "arXiv 2402.04333 (LESS)"
    deterministic: ClassVar[bool] = False
    reads: ClassVar[str] = "prompt and response, through a language model's gradients; the target's rows"
    version: ClassVar[tuple[int, ...]] = (1, *(kind.version for kind in MADE_OF))

    def __post_init__(self) -> None:
        findings = []
        if self.mode not in ("direct", "store", "reference"):
            findings.append(f"less: mode = '{self.mode}' is none of direct, store and reference.")
        if self.eps_mode not in ("released", "paper"):
            findings.append(f"less: eps_mode = '{self.eps_mode}' is neither released nor paper.")
        if not 0 < self.warmup <= 1:
            findings.append(f"less: warmup = {self.warmup} must be a share above 0, at most 1.")
        findings += [
            f"less: {name} = {getattr(self, name)} must be at least 1."
            for name in ("epochs", "width")
            if getattr(self, name) < 1
        ]
        if self.max_tokens < 2:
            findings.append(f"less: max_tokens = {self.max_tokens} leaves no token to learn from.")
        if self.rates and not self.checkpoints:
            findings.append("less: rates belong to checkpoints of your own; a warm-up logs its rates.")
        if findings:
            raise SettingsError(*findings)

    def score(self, pool: Pool) -> Scores:
        """Return the score of every row; NaN where it has no usable gradient.

        Raises:
            InputError: there is no target, or its subtasks cannot be told.
            ModelError: a checkpoint lacks an adapter or the optimizer's state.
        """
        target = pool.target
        if target is None or not len(target.rows):
            raise InputError("less selects for a target: name its rows with --target FILE.")
        folders = self.warmed_up(pool)
        weights = learning_rates(folders, self.rates)
        names, _ = subtasks(target, self.target_by)
        facts = self._facts(pool, folders, weights, names)
        pool.view(Rendered(str(folders[0]), self.template, self.max_tokens, "tulu"))
        cosines = np.zeros((len(pool.rows), len(names)))
        state = np.zeros(len(pool.rows), dtype=np.int64)
        for folder, weight in zip(folders, weights.tolist(), strict=True):
            if not weight:
                continue  # it could not change a score
            found, lengths, more = self._cosines(pool, target, self.checkpoint(folder))
            cosines += weight * found
            state = np.where(state, state, unusable(lengths))
            facts |= more
        state = np.where((state == 0) & ~np.isfinite(cosines).all(axis=1), 3, state)
        lacking = np.flatnonzero(state == 1)
        model = str(folders[0])
        said = why_not(
            pool.rows, lacking, model, template=self.template, max_tokens=self.max_tokens, base="tulu"
        )
        return _scores(cosines, state, names, said, facts)

    def warmed_up(self, pool: Pool) -> list[Path]:
        """Return the checkpoints' folders: the user's, or those of a warm-up, which is trained if need be."""
        if self.checkpoints:
            return [Path(folder).expanduser().resolve() for folder in self.checkpoints]
        return epoch_folders(pool.fit(self.training(pool.seed)))

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, with the warm-up that is trained, or what stands in for one."""
        if not self.checkpoints:
            return settings_identity(self) | {"warm-up": identity(self.training(0))}
        models = [{"content": resolve(folder).sha[:SHORT], "named": folder} for folder in self.checkpoints]
        # With the models' own identity, because an adapter's folder does not hold its base.
        return settings_identity(self, but=OF_WARMUP) | {"models": models}

    def training(self, seed: int) -> Warmup:
        """The warm-up that these settings ask for."""
        return Warmup(
            model=self.model,
            seed=seed,
            share=self.warmup,
            epochs=self.epochs,
            recipe=self.recipe,
            overrides={**self.overrides, "max_tokens": self.max_tokens},
            template=self.template,
            dtype=self.dtype if self.dtype in ("auto", "float32", "bfloat16") else "auto",
            trainer=self.trainer,
        )

    def checkpoint(self, folder: Path) -> Checkpoint:
        """The gradients that these settings take of an adapter."""
        return Checkpoint(str(folder), self.template, self.max_tokens, self.dtype, self.device)

    def quote(self, pool: Pool) -> Sequence[Quote]:
        """Return size and time of scoring ``pool``, without doing it."""
        target = pool.target
        names = ["target"] if target is None else subtasks(target, self.target_by)[0]
        return [
            influence_quote(
                pool.rows,
                None if target is None else target.rows,
                model=self.model,
                mode=self.mode,
                subtasks=len(names),
                checkpoints=self.checkpoints,
                epochs=self.epochs,
                warmup=self.warmup,
                rank=int(self.overrides.get("lora_rank", 128)),
                width=self.width,
                template=self.template,
                max_tokens=self.max_tokens,
                placement=place(self.device, self.dtype),
            )
        ]

    def _cosines(
        self, pool: Pool, target: Pool, checkpoint: Checkpoint
    ) -> tuple[NDArray[np.float64], NDArray[np.float32], dict[str, Json]]:
        """Return mean cosines to each subtask, (n, s), the lengths, (n,), and facts of one checkpoint."""
        if self.mode == "direct":
            directions = target.fit(Directions(checkpoint, self.target_by, members(target, self.target_by)))
            values = pool.signal(Affinity(checkpoint, str(directions), self.eps_mode))
            forget(directions)  # it is as large as the adapter times the subtasks
            said = about(directions)
            products = values["products"].astype(np.float64)
            return divided(products, values["length"]), values["length"], _target_facts(said)
        kind = GradientSketch if self.mode == "store" else ProjectedGradient
        wanted = target.signal(kind(checkpoint, "raw", self.width, self.sketch_seed))
        names, subtask = subtasks(target, self.target_by)
        means, sizes = mean_directions(wanted, subtask, names)
        values = pool.signal(kind(checkpoint, self.eps_mode, self.width, self.sketch_seed))
        cosines = np.empty((len(values), len(names)))
        for start in range(0, len(values), CHUNK_ROWS):
            part = values[start : start + CHUNK_ROWS]
            cosines[start : start + CHUNK_ROWS] = normalised(part) @ means.T
        left_out = len(wanted) - int(sizes.sum())
        facts = _target_facts({"subtasks": names, "rows": sizes.tolist(), "left_out": left_out})
        return cosines, np.asarray(values["length"]), facts

    def _facts(
        self, pool: Pool, folders: Sequence[Path], weights: NDArray[np.float64], names: Sequence[str]
    ) -> dict[str, Json]:
        shares = [round(swamped(folder, self.eps_mode), 4) for folder in folders]
        listed = ", ".join(f"{share:.1%}" for share in shares)
        pool.progress.say(
            f"less: eps outweighs Adam's second moment in {listed} of the entries (a figure a checkpoint); "
            f"there the released form and the paper's differ. This run uses the {self.eps_mode} one."
        )
        where = self.checkpoint(folders[0]).placement()
        return {
            "mode": self.mode,
            "eps_mode": self.eps_mode,
            "eps_outweighs": shares,
            "checkpoint_weights": [round(weight, 6) for weight in weights.tolist()],
            "checkpoints": [folder.name for folder in folders],
            "subtask_count": len(names),
            "device": where.device,
            "dtype": where.dtype,
        }


def members(target: Pool, column: str) -> str:
    """Return a hash of which row contents make up which subtask, whatever the rows' order."""
    names, subtask = subtasks(target, column)
    pairs = sorted(
        (names[group], key.tobytes().hex())
        for group, key in zip(subtask.tolist(), target.rows.keys, strict=True)
    )
    return hashlib.blake2b(repr(pairs).encode(), digest_size=16).hexdigest()


def _target_facts(said: Mapping[str, Any]) -> dict[str, Json]:
    rows = dict(zip(said["subtasks"], said["rows"], strict=True))
    return {"target_rows": rows, "target_rows_left_out": said["left_out"]}


def _scores(
    cosines: NDArray[np.float64],
    state: NDArray[np.int64],
    names: Sequence[str],
    said: Mapping[int, str],
    facts: dict[str, Json],
) -> Scores:
    """Take each row's best subtask; abstain where it has no usable gradient, and ``said`` may tell why."""
    nearest = cosines.argmax(axis=1)
    values = np.where(state == 0, cosines[np.arange(len(cosines)), nearest], np.nan)
    why = {
        1: "nothing to learn from",
        2: "its gradient is zero",
        3: "its gradient overflows",
    }
    reasons = [
        said.get(at) or why.get(code) or f"cosine {value:.4f} to {names[subtask]}"
        for at, (code, value, subtask) in enumerate(
            zip(state.tolist(), values.tolist(), nearest.tolist(), strict=True)
        )
    ]
    abstained = {why[code]: int((state == code).sum()) for code in why if (state == code).any()}
    return Scores(values, groups=nearest.astype(np.int64), reasons=reasons, facts={**facts, **abstained})
