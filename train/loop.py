"""The loop: transformers' Trainer with our batches, our refusals and our checkpoints.

Importing this module imports transformers; :mod:`dfilter.train.trainer` does so when it trains.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers import Trainer as TransformersTrainer

from dfilter.chat import IGNORE
from dfilter.errors import CheckError
from dfilter.store.disk import beside
from dfilter.store.seal import flaw, seal
from dfilter.train.recipes import Recipe
from dfilter.train.result import barrier, epoch_folder
from dfilter.train.rows import Order, Rows, collate, parts
from dfilter.train.schedule import rate

log = logging.getLogger(__name__)

WHOLE = "whole"  # the seal that is written last into a checkpoint; one without it was cut short


class OneDevice(TrainingArguments):
    """Arguments of a process that trains on one device, however many it sees.

    transformers would split every tensor of a batch between the GPUs, the columns of :func:`narrowed` too.
    Several GPUs share a training as several processes (torchrun).
    """

    @property
    def n_gpu(self) -> int:
        """The GPUs of this process."""
        return min(1, int(super().n_gpu))


def arguments(
    recipe: Recipe, folder: Path, *, steps: int, seed: int, checkpointing: bool, devices: int
) -> TrainingArguments:
    """Translate a recipe into transformers' terms.

    A step's rows come as one batch and are cut into pieces by :func:`~dfilter.train.rows.parts`, so
    transformers is told of no accumulation.
    """
    cuda = torch.cuda.is_available()
    return OneDevice(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=max(1, recipe.batch // devices),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.beta1,
        adam_beta2=recipe.beta2,
        adam_epsilon=recipe.epsilon,
        max_grad_norm=recipe.clip,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not finite ends the run instead
        save_strategy="no",  # the callback below decides
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        ddp_find_unused_parameters=False,
    )


class Loop(TransformersTrainer):
    """Trains on token-weighted batches in an order of our own."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        rows: Rows,
        *,
        recipe: Recipe,
        pad: int,
        micro_tokens: int,
        bf16: bool,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=rows, compute_loss_func=token_loss)
        self.recipe = recipe
        self.remove_callback(PrinterCallback)
        self.bf16 = bf16
        plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.narrow = "logits_to_keep" in inspect.signature(plain.forward).parameters
        self.rows = rows
        self.pad = pad
        self.micro_tokens = micro_tokens
        self.order = Order(len(rows), args.seed)
        self.step_tokens = 0
        self.step_began = time.perf_counter()

    def train(self, *args: Any, **settings: Any) -> Any:
        """Train; under autocast without peft's copies of every adapter's input in float32.

        Autocast takes them back to bfloat16 at once, so only time is saved.
        """
        model: Any = self.model
        with disable_input_dtype_casting(model, active=self.bf16):
            return super().train(*args, **settings)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Follow the recipe's rates (see :mod:`dfilter.train.schedule`)."""

        def factor(step: int) -> float:
            return rate(self.recipe, step, num_training_steps) / self.recipe.learning_rate

        if self.lr_scheduler is None:
            stepped: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(stepped, factor)
        return self.lr_scheduler

    def get_train_dataloader(self) -> Any:
        """Return batches of whole steps; their order does not depend on torch's random state."""
        loader: Any = DataLoader(
            self.rows,  # type: ignore[arg-type]
            batch_size=self.args.per_device_train_batch_size,
            sampler=self.order,
            collate_fn=partial(collate, pad=self.pad),
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Sum the gradient over the pieces of one step's batch.

        Every piece is divided by the trained tokens of the whole step on all devices
        (``num_items_in_batch``), so a token weighs the same wherever it falls.
        """
        model.train()
        total = torch.zeros((), device=self.args.device)
        pieces = parts(inputs, self.micro_tokens)
        for at, piece in enumerate(pieces):
            last = at == len(pieces) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                # Not transformers' bf16 setting, which makes a float32 copy of all logits.
                with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.bf16):
                    loss: Any = self.compute_loss(
                        model, narrowed(piece), num_items_in_batch=num_items_in_batch
                    )
                self.accelerator.backward(loss)
            total += loss.detach()
        self.step_tokens = int(num_items_in_batch)
        if not math.isfinite(total.item()):
            raise CheckError(
                f"The loss of step {self.state.global_step + 1} is {total.item()}, so the training stops. "
                "Lower the learning rate, or train in float32 (dtype = 'float32')."
            )
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what a step took and trained on; the log survives in the checkpoints."""
        if "loss" in logs:
            now = time.perf_counter()
            logs |= {"trained_tokens": self.step_tokens, "seconds": now - self.step_began}
            self.step_began = now
            if not math.isfinite(logs.get("grad_norm", 0.0)):
                raise CheckError(
                    f"The gradient of step {self.state.global_step} is not finite. "
                    "Lower the learning rate, or train in float32 (dtype = 'float32')."
                )
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save, unless a weight is not finite."""
        refuse_nan(self.model)
        super().save_model(output_dir, _internal_call)


def narrowed(piece: dict[str, Any]) -> dict[str, Any]:
    """Ask for logits only where some row of a piece has a label, and align the labels with them.

    Nothing is learnt from the logits of a prompt, and with a large vocabulary they cost much.
    """
    wanted = piece["labels"][:, 1:]
    keep = (wanted != IGNORE).any(0).nonzero()[:, 0]
    return {**piece, "labels": wanted[:, keep], "logits_to_keep": keep}


def shifted(piece: dict[str, Any]) -> dict[str, Any]:
    """Align the labels with all logits, for models that know no ``logits_to_keep``."""
    wanted = torch.nn.functional.pad(piece["labels"][:, 1:], (0, 1), value=IGNORE)
    return {**piece, "labels": wanted}


def token_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Return the summed loss of the labelled tokens, over the number of all of the step's."""
    at = labels != IGNORE
    logits = outputs.logits[at].float()
    total: torch.Tensor = torch.nn.functional.cross_entropy(logits, labels[at], reduction="sum")
    total /= num_items_in_batch
    return total


def refuse_nan(model: Any) -> None:
    """Refuse to save weights that are not finite.

    Raises:
        CheckError: with the first such weight's name.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise CheckError(
                f"The weight {name} holds values that are not finite, so the model is not saved. Lower the "
                "learning rate, or train in float32 (dtype = 'float32')."
            )


class Keeper(TrainerCallback):
    """Decides when to save, keeps epochs, and reports progress.

    Args:
        loop: the running loop.
        folder: of the result.
        steps_per_epoch: optimizer steps.
        keep: first and last epoch to keep, or none.
        minutes: between two checkpoints; there is one at every epoch's end too.
        every: steps between two checkpoints, or none.
        write_epoch: called with the epoch's number and the folder to fill.
    """

    def __init__(
        self,
        loop: Loop,
        folder: Path,
        *,
        steps_per_epoch: int,
        keep: tuple[int, ...],
        minutes: float,
        every: int | None,
        write_epoch: Callable[[int, Path], None],
    ) -> None:
        self.loop = loop
        self.folder = folder
        self.steps_per_epoch = steps_per_epoch
        self.keep = keep
        self.seconds = minutes * 60
        self.every = every
        self.write_epoch = write_epoch
        self.saved = time.monotonic()
        self.started = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Set the epoch from the step count, which is right after a resume inside an epoch too."""
        self.loop.order.epoch = state.global_step // self.steps_per_epoch

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the first step's clock after the set-up."""
        if not self.started:
            self.started = True
            self.loop.step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ask for a checkpoint when it is time; never after the last step, where the result is written."""
        due = self.every is not None and state.global_step % self.every == 0
        due = due or time.monotonic() - self.saved > self.seconds
        whole = state.global_step % self.steps_per_epoch == 0
        control.should_save = (due or whole) and state.global_step < state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write where the run is, and keep the model of an epoch that was asked for.

        This comes before the checkpoint of the same step, so a run that is killed between the two
        repeats the epoch's end instead of missing it.
        """
        if not logs or "loss" not in logs:
            return
        if state.is_world_process_zero:
            live = {"step": state.global_step, "steps": state.max_steps, "loss": logs["loss"]}
            write_json(self.folder / "progress.json", live)
        whole = state.global_step % self.steps_per_epoch == 0 or state.global_step == state.max_steps
        epoch = math.ceil(state.global_step / self.steps_per_epoch)
        if whole and self.keep and self.keep[0] <= epoch <= self.keep[1]:
            refuse_nan(self.loop.model)
            self.write_epoch(epoch, epoch_folder(self.folder, epoch))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Seal the checkpoint and drop the older ones."""
        self.saved = time.monotonic()
        barrier()  # every process has written its part
        if state.is_world_process_zero:
            latest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (latest / "training_args.bin").unlink(missing_ok=True)  # pickled, and nobody reads it
            seal(latest, latest.name, into=WHOLE)
            for old in checkpoints(Path(args.output_dir)):
                if old != latest:
                    shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    return sorted(found, key=_steps)


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def last_whole(folder: Path, most: int) -> Path | None:
    """Return the newest checkpoint of at most so many steps that is whole."""
    for found in reversed(checkpoints(folder)):
        wrong = flaw(found, found.name, into=WHOLE)
        if wrong and (found / WHOLE).exists():
            log.warning("%s is damaged (%s); the training continues from an earlier step.", found, wrong)
        if not wrong and _steps(found) <= most:
            return found
    return None


def write_json(path: Path, content: Any) -> None:
    """Write a file that is either the old one or the new one."""
    with beside(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
