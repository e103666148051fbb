"""Files for those who train elsewhere: LLaMA-Factory, axolotl, TRL.

Each framework gets the recipe in its own terms, pointing at the selection's file, which is not copied. What a
framework has no word for (residual dropout by layer, a final learning rate, ...) is listed as a comment
on top of its file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dfilter import models
from dfilter.errors import InputError, UnknownNameError
from dfilter.train.recipes import Recipe, recipe
from dfilter.train.trainer import FineTune

NAME = "selection"  # of the data set, in LLaMA-Factory's register
MICRO = 4  # rows of one forward pass; accumulation makes up the batch


def export(framework: str, data: Path, out: Path, job: FineTune, *, seed: int = 0) -> list[Path]:
    """Write one framework's files.

    Args:
        framework: "llama-factory", "axolotl" or "trl".
        data: the selection, JSON lines with ``messages``, ``conversations``, ``instruction``/``output`` or
            ``prompt``/``response``.
        out: folder for the files.
        job: model, recipe and budget.
        seed: for the framework's own shuffling.

    Returns:
        The files, the one to pass to the framework last.

    Raises:
        UnknownNameError: no such framework.
        InputError: the data's columns are none that the framework can be told of.
    """
    if framework not in FRAMEWORKS:
        raise UnknownNameError("framework", framework, FRAMEWORKS)
    files = models.resolve(job.model)
    made = recipe(job.recipe, models.count_parameters(files.path), job.overrides)
    local = files.path if job.model in models.PACKAGED else job.model
    out.mkdir(parents=True, exist_ok=True)
    return FRAMEWORKS[framework](data.absolute(), out, job, made, str(local), seed)


def shape(data: Path) -> str:
    """Return which columns a file of JSON lines has: messages, conversations, alpaca or pair.

    Raises:
        InputError: none of them.
    """
    with data.open(encoding="utf-8") as file:
        first = json.loads(next((line for line in file if line.strip()), "{}"))
    for name, columns in _COLUMNS.items():
        if columns <= set(first):
            return name
    raise InputError(
        f"{data} has the columns {', '.join(first) or 'none'}; expected messages, conversations, "
        "instruction and output, or prompt and response."
    )


_COLUMNS = {
    "messages": {"messages"},
    "conversations": {"conversations"},
    "alpaca": {"instruction", "output"},
    "pair": {"prompt", "response"},
}


def _llama_factory(data: Path, out: Path, job: FineTune, made: Recipe, model: str, seed: int) -> list[Path]:
    kind = shape(data)
    openai = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    forms: dict[str, dict[str, Any]] = {
        "messages": {
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {**openai, "system_tag": "system"},
        },
        "conversations": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
        "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
        "pair": {"columns": {"prompt": "prompt", "response": "response"}},
    }
    register = out / "dataset_info.json"
    register.write_text(
        json.dumps({NAME: {"file_name": str(data), **forms[kind]}}, indent=2) + "\n", encoding="utf-8"
    )
    settings = {
        "model_name_or_path": model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": made.method,
        **({"lora_rank": made.lora_rank, "lora_alpha": made.lora_alpha, "lora_dropout": made.lora_dropout,
            "lora_target": "all" if _everywhere(made) else ",".join(made.lora_targets)}
           if made.method == "lora" else {}),
        "dataset_dir": str(out.absolute()),
        "dataset": NAME,
        "cutoff_len": made.max_tokens,
        "packing": False,
        **_common(data, job, made, seed),
        **_schedule(made),
        "bf16": True,
        "output_dir": str(out.absolute() / "model"),
    }  # fmt: skip
    return [register, _write(out / "llama-factory.yaml", settings, made, "llamafactory-cli train")]


def _axolotl(data: Path, out: Path, job: FineTune, made: Recipe, model: str, seed: int) -> list[Path]:
    kind = shape(data)
    source: dict[str, Any] = {"path": str(data), "ds_type": "json"}
    if kind == "alpaca":
        source |= {"type": "alpaca"}
    elif kind == "pair":
        form = {"field_instruction": "prompt", "field_output": "response"}
        source |= {"type": {**form, "format": "{instruction}", "no_input_format": "{instruction}"}}
    else:
        said = (
            {"role": "role", "content": "content"}
            if kind == "messages"
            else {"role": "from", "content": "value"}
        )
        source |= {
            "type": "chat_template",
            "field_messages": kind,
            "message_property_mappings": said,
            "roles_to_train": ["assistant"],
            "train_on_eos": "turn",
        }
    common = _common(data, job, made, seed)
    where: dict[str, Any] = {"lora_target_linear": True}
    if not _everywhere(made):
        where = {"lora_target_modules": list(made.lora_targets)}
    settings = {
        "base_model": model,
        "datasets": [source],
        "chat_template": "tokenizer_default",
        "train_on_inputs": False,
        "sequence_len": made.max_tokens,
        "sample_packing": False,
        **({"adapter": "lora", "lora_r": made.lora_rank, "lora_alpha": made.lora_alpha,
            "lora_dropout": made.lora_dropout, **where}
           if made.method == "lora" else {}),
        "micro_batch_size": common.pop("per_device_train_batch_size"),
        **({"num_epochs": common.pop("num_train_epochs")} if "num_train_epochs" in common else {}),
        **common,
        "optimizer": "adamw_torch",
        "lr_scheduler": made.schedule,
        "bf16": True,
        "output_dir": str(out.absolute() / "model"),
    }  # fmt: skip
    return [_write(out / "axolotl.yaml", settings, made, "axolotl train")]


def _trl(data: Path, out: Path, job: FineTune, made: Recipe, model: str, seed: int) -> list[Path]:
    kind = shape(data)
    if kind != "messages":
        raise InputError(
            f"TRL learns from messages, but {data} has the columns of '{kind}'. "
            "Write the selection with messages first, or export for LLaMA-Factory or axolotl."
        )
    settings = {
        "model_name_or_path": model,
        "datasets": [{"path": "json", "data_files": str(data), "columns": ["messages"]}],
        "assistant_only_loss": True,
        "max_length": made.max_tokens,
        "packing": False,
        **({"use_peft": True, "lora_r": made.lora_rank, "lora_alpha": made.lora_alpha,
            "lora_dropout": made.lora_dropout,
            "lora_target_modules": "all-linear" if _everywhere(made) else list(made.lora_targets)}
           if made.method == "lora" else {}),
        **_common(data, job, made, seed),
        **_schedule(made),
        "bf16": True,
        "output_dir": str(out.absolute() / "model"),
    }  # fmt: skip
    return [_write(out / "trl.yaml", settings, made, "trl sft --config")]


FRAMEWORKS: Mapping[str, Callable[[Path, Path, FineTune, Recipe, str, int], list[Path]]] = {
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
    "trl": _trl,
}


def _everywhere(made: Recipe) -> bool:
    return made.lora_targets == ("all-linear",)


def _common(data: Path, job: FineTune, made: Recipe, seed: int) -> dict[str, Any]:
    """Return the settings that the three call by the same names."""
    micro = min(MICRO, made.batch)
    budget = {"max_steps": job.steps} if job.steps else {"num_train_epochs": float(job.epochs or made.epochs)}
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, made.batch // micro),
        **budget,
        "learning_rate": made.learning_rate,
        "warmup_steps": _warmup(data, job, made),
        "weight_decay": made.weight_decay,
        "adam_beta1": made.beta1,
        "adam_beta2": made.beta2,
        "adam_epsilon": made.epsilon,
        "max_grad_norm": made.clip,
        "seed": seed,
    }


def _schedule(made: Recipe) -> dict[str, Any]:
    if made.final_learning_rate:
        falling = {"lr_end": made.final_learning_rate, "power": 1.0}
        return {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": falling}
    return {"lr_scheduler_type": made.schedule}


def _warmup(data: Path, job: FineTune, made: Recipe) -> int:
    """Return the warm-up in steps, because ``warmup_ratio`` left transformers with its version 5."""
    with data.open(encoding="utf-8") as file:
        rows = sum(bool(line.strip()) for line in file)
    steps = job.steps or math.ceil(rows / made.batch) * (job.epochs or made.epochs)
    return math.ceil(made.warmup * steps)


def _write(path: Path, settings: Mapping[str, Any], made: Recipe, command: str) -> Path:
    lines = [f"# {command} {path.name}"]
    if made.residual_dropout:
        lines.append(
            f"# Not expressed here: residual dropout rising to {made.residual_dropout} at the top layer."
        )
    if made.eot:
        lines.append("# Not expressed here: an end-of-turn token after every turn.")
    if made.final_learning_rate and "lr_scheduler_kwargs" not in settings:
        lines.append(f"# Not expressed here: the final learning rate {made.final_learning_rate}.")
    if made.warmup and made.schedule != "constant":
        lines.append("# Its warm-up begins at rate 0: the first step trains nothing.")
    if made.method == "full":
        lines.append(
            "# What it saves may be rounded to the base's number format; small updates are then lost."
        )
    lines += _yaml(settings)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _yaml(settings: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *_yaml(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{indent}{name}:")
            for item in value:
                first, *rest = _yaml(item, indent + "    ")
                lines += [f"{indent}  - {first.strip()}", *rest]
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, float):  # YAML 1.1 takes 1e-05 for a text, 1.0e-05 for a number
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    if isinstance(value, list):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)
