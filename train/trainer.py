"""Fine-tune a model on rows: one call, one folder."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from dfilter import chat, models, registry
from dfilter.errors import ModelError, SettingsError
from dfilter.identity import (
    ANYHOW,
    DTYPE,
    SHOWN,
    WEIGHTS,
    bare,
    component_identity,
    identity,
    settings_identity,
)
from dfilter.settings import plain
from dfilter.train import result
from dfilter.train.adapters import adapt, adapted, missed
from dfilter.train.recipes import Recipe, recipe
from dfilter.train.rows import Rows, encode, steps_for
from dfilter.train.screen import TrainedTokens
from dfilter.types import EvalResult, Evaluator, Example, Json
from dfilter.window import padding, vocabulary, window_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dfilter.pool import Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A registered evaluator that chooses among kept epochs, named as in a settings file.

    Attributes:
        evaluator: its name.
        settings: what it is built with, a development set above all.
    """

    evaluator: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        """Evaluate with it."""
        return self.made().evaluate(model, seed=seed)

    def identify(self) -> Mapping[str, Json]:
        """Return the evaluator's identity."""
        return component_identity("evaluators", self.evaluator, self.settings)

    def made(self) -> Evaluator:
        """Return the evaluator.

        Raises:
            SettingsError: there is none of that name, or it does not take these settings.
        """
        made: Evaluator = registry.create("evaluators", self.evaluator, self.settings)
        return made


@dataclass(frozen=True)
class FineTune:
    """Fine-tune with a recipe, by transformers' Trainer and peft.

    Attributes:
        model: see :func:`dfilter.models.resolve`.
        recipe: alpaca, lima, less or quick.
        overrides: single settings of the recipe, by name (see :class:`~dfilter.train.recipes.Recipe`).
        epochs, steps, tokens: the budget, at most one of them; tokens are trained tokens, and the
            first step that reaches them is the last. None of them: the recipe's epochs.
        template: see :mod:`dfilter.chat`; "auto" takes the recipe's for models without a chat template.
        dtype: "bfloat16" computes in it (full: float32 weights under autocast; LoRA: bfloat16 base,
            float32 adapter), "float32" in that; "auto" is bfloat16 where the device has it.
        save_dtype: of a fully trained result; "auto" is the dtype the model came in where that keeps what
            was learnt, else float32 (see :mod:`dfilter.train.precision`).
        micro_tokens: padded tokens of one forward pass; less needs less memory, and sums in another
            order. None: 1,024 on a CPU, 16,384 on a GPU.
        gradient_checkpointing: recompute activations instead of keeping them.
        save_moments: write Adam's moments by parameter name beside every model that is kept.
        unlabelled: "skip" leaves out rows that hold no token to learn from, because the template or the
            tokenizer cannot show them or their prompt fills the window, and names them in
            ``training.json``; "refuse" trains on all rows or none.
        choose: takes the best of the epochs that the recipe keeps as the result, by its mean value on a
            development set; an evaluator, or a table with the name and settings of a registered one.
            Without it the last epoch is the result, and epochs are kept only where ``overrides`` says so.
        checkpoint_minutes: between two checkpoints; there is one at every epoch's end too.
        checkpoint_steps: steps between two checkpoints.
    """

    model: Annotated[str, WEIGHTS] = "smollm2"
    recipe: str = "quick"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    epochs: float | None = None
    steps: int | None = None
    tokens: int | None = None
    template: Annotated[chat.Template, SHOWN] = "auto"
    dtype: Annotated[models.Dtype, DTYPE] = "auto"
    save_dtype: models.Dtype = "auto"
    micro_tokens: Annotated[int | None, ANYHOW] = None
    gradient_checkpointing: Annotated[bool, ANYHOW] = False
    save_moments: bool = False
    unlabelled: Literal["refuse", "skip"] = "skip"
    choose: Choice | Evaluator | None = None
    checkpoint_minutes: Annotated[float, ANYHOW] = 10.0
    checkpoint_steps: Annotated[int | None, ANYHOW] = None

    # 1 trained beyond the model's window, and a first step at rate 0; 2 wrote the token that begins a text as
    # text; 3 took inputs of white space for none, and put a space before replies for LLaMA's older tokenizers
    version: ClassVar[int] = 6

    def __post_init__(self) -> None:
        """Refuse two budgets, a budget of nothing, what no recipe has, and a choice of no epoch."""
        made = recipe(self.recipe, 1e9, self.overrides)
        given = {name: getattr(self, name) for name in ("epochs", "steps", "tokens")}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise SettingsError(f"Only one budget can hold, but {' and '.join(given)} are set.")
        if any(not value > 0 for value in given.values()):
            raise SettingsError(f"The budget {given} must be above 0.")
        if (self.micro_tokens is not None and self.micro_tokens < 1) or not self.checkpoint_minutes > 0:
            raise SettingsError("micro_tokens and checkpoint_minutes must be above 0.")
        if self.choose is not None:
            self._refuse_no_choice(made, None if self.epochs is None else math.ceil(self.epochs))

    def train(self, rows: Sequence[Example], out: Path, *, seed: int) -> Path:
        """Train on ``rows`` and return ``out`` with the model in it.

        A folder that holds the same training, finished, is returned as it is; unfinished, the
        training continues from its last checkpoint with the same curve.

        Args:
            rows: conversations.
            out: the result: model (or adapter) and tokenizer, ``training.json``, ``epochs/`` for
                those that are kept, and ``done``, which is written last.
            seed: of the order of rows, the adapter's start and dropout.

        Raises:
            InputError: no row with a token to learn from, or one without where these are refused.
            SettingsError: the budget ends before the first epoch that could be chosen.
            CheckError: a loss, gradient or weight that is not finite.
            ModelError: the model cannot be found, loaded, padded or ended.
            FolderError: ``out`` holds another training.
        """
        if isinstance(self.choose, Choice):
            self.choose.made()  # what is wrong with it shows now, not after the training
        plan, encoded = self.plan(rows, seed=seed)
        if self.choose is not None:
            self._refuse_no_choice(plan.recipe, math.ceil(plan.steps / plan.steps_per_epoch))
        if result.claim(out, plan):
            return out
        if encoded.skipped:
            log.warning("%d of %d rows are left out: %s.", len(encoded.skipped), len(rows), encoded.because)
        summary = _run(self, plan, encoded, out)
        if result.is_main():
            if self.choose is not None:
                gc.collect()  # the trained model goes before the evaluator loads one
                summary |= result.choose_epoch(out, self.choose, seed)
                summary |= result.seen_by(summary["chosen"], plan, summary["step_tokens"])
            result.finish(out, plan, summary)
        result.barrier()
        return out

    def identify(self) -> Mapping[str, Json]:
        """Return the settings by their marks, with the recipe's figures spelt out."""
        weights = models.count_parameters(models.resolve(self.model).path)
        return settings_identity(self) | {"figures": identity(self._recipe(weights))}

    def _recipe(self, weights: float) -> Recipe:
        """Return the recipe for a model of that size, without epochs that nobody would choose from."""
        made = recipe(self.recipe, weights, self.overrides)
        wanted = self.choose is not None or "keep_epochs" in self.overrides
        return made if wanted else replace(made, keep_epochs=())

    def trained_tokens(self, sample: Sequence[Example], rows: int) -> int:
        """Return the tokens that training on so many rows like those of the sample would see."""
        plan, _ = replace(self, unlabelled="skip").plan(sample, seed=0)
        if self.tokens is not None:
            return self.tokens
        share = plan.labelled_tokens / len(sample)
        if self.steps is not None:  # the last step of an epoch is what is left of it
            return round(share * rows * self.steps / math.ceil(rows / plan.recipe.batch))
        return round(share * rows * (plan.recipe.epochs if self.epochs is None else self.epochs))

    def plan(self, rows: Sequence[Example], *, seed: int) -> tuple[result.Plan, Rows]:
        """Return what will be trained: the resolved recipe, steps and tokens, and the encoded rows.

        Nothing is written and no weight is loaded, so it is cheap enough for a dry run.
        """
        files = models.resolve(self.model)
        made = self._recipe(models.count_parameters(files.path))
        shown = self._shown(made)
        tokenizer = shown.tokenizer()
        chat.special_ids(tokenizer)
        encoded = encode(
            rows,
            tokenizer,
            template=shown.template,
            eot=shown.eot,
            max_tokens=shown.max_tokens,
            unlabelled=self.unlabelled,
            vocabulary=shown.vocabulary(),
        )
        steps = steps_for(
            encoded,
            made.batch,
            seed,
            epochs=made.epochs if self.epochs is None else self.epochs,
            steps=self.steps,
            tokens=self.tokens,
        )
        return result.Plan(
            model=self.model,
            model_sha=files.sha,
            recipe_name=self.recipe,
            recipe=made,
            settings=bare(settings_identity(self)) | {"version": self.version},
            template=shown.template,
            eot=shown.eot,
            dtype=models.fast_dtype() if self.dtype == "auto" else self.dtype,
            seed=seed,
            rows=len(encoded),
            skipped=encoded.skipped,
            rows_digest=encoded.digest(),
            steps=steps,
            input_tokens=int(encoded.offsets[-1]),
            labelled_tokens=int(encoded.trained.sum()),
        ), encoded

    def screen(self, pool: Pool) -> Mapping[int, str]:
        """Return the rows that it could learn nothing from, by place, and why; no weight is loaded."""
        shown = self._counted()
        places = np.flatnonzero(pool.signal(shown) == 0)
        found = shown.encode(pool.rows.take(places)) if len(places) else []
        return {at: row.lacks(shown.max_tokens) for at, row in zip(places.tolist(), found, strict=True)}

    def counts(self) -> tuple[str, Mapping[str, Json]]:
        """Return what counts the tokens of a row that the loss is taken over, after cutting."""
        return TrainedTokens.kind, plain(self._counted())

    def _counted(self) -> TrainedTokens:
        files = models.resolve(self.model)
        return self._shown(recipe(self.recipe, models.count_parameters(files.path), self.overrides))

    def _refuse_no_choice(self, made: Recipe, last: int | None) -> None:
        """Refuse to choose among epochs of which none will be kept, of a training that ends in the last."""
        if not made.keep_epochs:
            until = math.ceil(made.epochs if self.epochs is None else self.epochs)
            longer = " and epochs = 2" if until == 1 and self.steps is None and self.tokens is None else ""
            raise SettingsError(
                f"choose takes the best of the epochs that are kept, and recipe '{self.recipe}' keeps none. "
                f"Set overrides.keep_epochs = [1, {max(until, 2)}]{longer}, or leave choose out."
            )
        if last is not None and last < made.keep_epochs[0]:
            first, until = made.keep_epochs
            raise SettingsError(
                f"choose takes the best of epochs {first} to {until}, and the training ends in epoch {last}. "
                f"Set overrides.keep_epochs = [1, {last}], train longer, or leave choose out."
            )

    def _shown(self, made: Recipe) -> TrainedTokens:
        """Return how rows are shown to the model."""
        tokenizer = models.load_tokenizer(self.model)
        template, eot = chat.style(tokenizer, template=self.template, eot=made.eot, base=made.base_template)
        if eot and made.method == "lora" and not _embeds_eot(self.model, tokenizer):
            raise SettingsError(
                f"'{self.model}' has no end-of-turn token, and an adapter cannot learn a new one. "
                "Set the recipe's eot to false, or its method to 'full'."
            )
        return TrainedTokens(
            self.model, template, eot, min(made.max_tokens, window_of(self.model, tokenizer))
        )


# Small pieces pad little and stay in a CPU's cache; a GPU wants to be filled.
MICRO_TOKENS = {False: 1_024, True: 16_384}


def _run(job: FineTune, plan: result.Plan, rows: Rows, out: Path) -> dict[str, Any]:
    """Load, train and write the model; return figures for ``training.json``."""
    import torch
    from transformers import set_seed

    from dfilter.train import loop

    set_seed(plan.seed)  # the adapter's start
    with models.quiet_transformers():
        model, tokenizer, stored = _load(plan)
        chat.remember_style(tokenizer, plan.template, plan.eot)
        warnings = _warnings(job, plan, model, tokenizer)
        keep = result.Keep(
            model=plan.model,
            tokenizer=tokenizer,
            stored=stored,
            dtype=None if job.save_dtype == "auto" else getattr(torch, job.save_dtype),
            moments=job.save_moments,
        )
        args = loop.arguments(
            plan.recipe,
            out / "checkpoints",
            steps=plan.steps,
            seed=plan.seed,
            checkpointing=job.gradient_checkpointing,
            devices=result.world(),
        )
        running = loop.Loop(
            model,
            args,
            rows,
            recipe=plan.recipe,
            pad=padding(tokenizer, model.get_input_embeddings().weight.shape[0]),
            micro_tokens=job.micro_tokens or MICRO_TOKENS[args.device.type == "cuda"],
            bf16=plan.dtype == "bfloat16",
        )
        running.add_callback(
            loop.Keeper(
                running,
                out,
                steps_per_epoch=plan.steps_per_epoch,
                keep=plan.recipe.keep_epochs,
                minutes=job.checkpoint_minutes,
                every=job.checkpoint_steps,
                write_epoch=lambda epoch, folder: keep.write(running, folder, plan, epoch),
            )
        )
        latest = loop.last_whole(out / "checkpoints", result.sound(out, plan))
        running.train(resume_from_checkpoint=str(latest) if latest else None)
        loop.refuse_nan(running.model)
        saved = keep.write_into(running, out)
        told = result.figures(running.state.log_history, running.args.device.type, plan)
        if plan.recipe.method == "lora":
            told["adapted"] = adapted(running.accelerator.unwrap_model(running.model))
        if rows.because:
            told["skipped_because"] = dict(rows.because)
        return told | {"cut_rows": rows.cut, "saved": saved, "warnings": warnings}


def _warnings(job: FineTune, plan: result.Plan, model: Any, tokenizer: Any) -> list[str]:
    """Return, and log, what a reader of the result must know of the training."""
    found = missed(model, plan.recipe) if plan.recipe.method == "lora" else []
    if not chat.closes_replies(tokenizer, template=plan.template, eot=plan.eot):
        found.append(
            f"The template '{plan.template}' of '{plan.model}' writes no end token behind a reply, so none "
            f"is learnt, and answers run to their limit. {_closing(plan, tokenizer)}"
        )
    kept = recipe(plan.recipe_name, models.count_parameters(models.resolve(plan.model).path)).keep_epochs
    if kept and not plan.recipe.keep_epochs and "keep_epochs" not in job.overrides:
        found.append(
            f"Recipe {plan.recipe_name} chooses among epochs {kept[0]} to {kept[1]} by a development set. "
            "None is given (choose), so the last epoch is the result, and no other is kept."
        )
    if result.is_main():
        for sentence in found:
            log.warning("%s", sentence)
    return found


def _embeds_eot(model: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether there is an end-of-turn token, and the model has an embedding for it."""
    found = chat.eot_id(tokenizer)
    return found is not None and found < vocabulary(models.configuration(model))


def _closing(plan: result.Plan, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what makes this recipe learn to end a reply; an adapter learns no new token."""
    templates: list[chat.Template] = ["alpaca", "tulu", "turns", "lines"]
    other = next((name for name in templates if chat.closes_replies(tokenizer, template=name)), None)
    learnt = plan.recipe.method == "full" or _embeds_eot(plan.model, tokenizer)
    ways = ["overrides.eot = true" if learnt else "overrides.method = 'full' with overrides.eot = true"]
    return f"Set {' or '.join(ways if other is None else [*ways, f'template = {other!r}'])}."


def _load(plan: result.Plan) -> tuple[Any, Any, Any]:
    """Return model, tokenizer and the dtype the model is stored in."""
    import torch

    made = plan.recipe
    # Full: float32 master weights, because at 2e-5 a bfloat16 weight of 0.02 moves by a third of half
    # its last place, that is, not at all.
    dtype: models.Dtype = "float32" if made.method == "full" or plan.dtype == "float32" else "bfloat16"
    loaded, tokenizer = models.load_causal(plan.model, dtype=dtype, device="cpu")
    model: Any = loaded
    if models.is_adapter(plan.model):
        raise ModelError(
            f"'{plan.model}' is an adapter; name its base model, or a folder with whole weights."
        )
    stored = getattr(torch, models.stored_dtype(plan.model), torch.float32)
    if plan.eot:
        chat.add_eot(tokenizer, model)
    if made.residual_dropout:
        from dfilter.train.dropout import add_residual_dropout

        add_residual_dropout(model, made.residual_dropout)
    if made.method == "lora":
        model = adapt(model, made)
    return model, tokenizer, stored
