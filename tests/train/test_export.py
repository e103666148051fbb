"""Exported files say in each framework's terms what the recipe says, and point at the selection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfilter.errors import InputError, UnknownNameError
from dfilter.train.export import FRAMEWORKS, export
from dfilter.train.trainer import FineTune

ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "conversations": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "alpaca": {"instruction": "a", "input": "", "output": "b"},
    "pair": {"prompt": "a", "response": "b"},
}


def written(kind: str, framework: str, tmp_path: Path, **job: Any) -> tuple[dict[str, Any], Path]:
    data = tmp_path / "selected.jsonl"
    data.write_text(json.dumps(ROWS[kind]) + "\n")
    files = export(framework, data, tmp_path / "out", FineTune(model="tiny", **job), seed=7)
    found: dict[str, Any] = yaml.safe_load(files[-1].read_text())
    return found, data


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ["alpaca", "less", "lima", "quick"])
def test_every_number_is_read_back_as_the_recipes_number(framework: str, name: str, tmp_path: Path) -> None:
    from dfilter.train.recipes import recipe

    found, _ = written("messages", framework, tmp_path, recipe=name)
    made = recipe(name, 1e5)
    assert found["learning_rate"] == made.learning_rate
    assert isinstance(found["learning_rate"], float)
    rows = found.get("per_device_train_batch_size") or found.get("micro_batch_size")
    assert rows * found["gradient_accumulation_steps"] == made.batch
    assert (found.get("num_train_epochs") or found.get("num_epochs")) == made.epochs
    length = next(found[key] for key in ("cutoff_len", "sequence_len", "max_length") if key in found)
    assert length == made.max_tokens
    assert (found["adam_beta1"], found["adam_beta2"]) == (made.beta1, made.beta2)
    assert (found["weight_decay"], found["seed"]) == (made.weight_decay, 7)
    rank = found.get("lora_rank") or found.get("lora_r")
    assert rank == (made.lora_rank if made.method == "lora" else None)


def test_llama_factory_registers_the_selection(tmp_path: Path) -> None:
    for kind, row in ROWS.items():
        found, data = written(kind, "llama-factory", tmp_path)
        register = json.loads((Path(found["dataset_dir"]) / "dataset_info.json").read_text())
        entry = register[found["dataset"]]
        assert entry["file_name"] == str(data)
        assert set(entry["columns"].values()) >= set(row) - {"input"}
    assert found["lora_target"] == "all"
    less, _ = written("messages", "llama-factory", tmp_path, recipe="less")
    assert less["lora_target"] == "q_proj,k_proj,v_proj,o_proj"


def test_axolotl_is_told_of_the_columns(tmp_path: Path) -> None:
    found, data = written("messages", "axolotl", tmp_path, steps=30)
    [source] = found["datasets"]
    assert (source["path"], source["field_messages"], source["type"]) == (
        str(data),
        "messages",
        "chat_template",
    )
    assert source["roles_to_train"] == ["assistant"]
    assert found["max_steps"] == 30
    assert written("alpaca", "axolotl", tmp_path)[0]["datasets"][0]["type"] == "alpaca"


def test_trl_learns_from_assistant_turns_only(tmp_path: Path) -> None:
    found, data = written("messages", "trl", tmp_path)
    assert (found["assistant_only_loss"], found["datasets"][0]["data_files"]) == (True, str(data))
    with pytest.raises(InputError, match="columns of 'alpaca'"):
        written("alpaca", "trl", tmp_path)


def test_what_a_framework_cannot_say_is_written_on_top(tmp_path: Path) -> None:
    written("messages", "axolotl", tmp_path, recipe="lima")
    text = (tmp_path / "out" / "axolotl.yaml").read_text()
    for said in ("residual dropout rising to 0.2", "end-of-turn token", "final learning rate 1e-06"):
        assert said in text


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_may_be_rounded_and_a_step_at_rate_zero_are_said(framework: str, tmp_path: Path) -> None:
    for name, rounds, rises in (("alpaca", True, True), ("lima", True, False), ("less", False, True)):
        written("messages", framework, tmp_path, recipe=name)
        comments = [
            line
            for file in (tmp_path / "out").glob("*.yaml")
            for line in file.read_text().splitlines()
            if line.startswith("#")
        ]
        assert any("may be rounded" in line for line in comments) == rounds
        assert any("begins at rate 0" in line for line in comments) == rises


def test_warm_up_is_counted_in_steps(tmp_path: Path) -> None:
    found, data = written("messages", "trl", tmp_path, recipe="less")
    assert found["warmup_steps"] == 1  # 3% of 4 steps, rounded up
    data.write_text((json.dumps(ROWS["messages"]) + "\n") * 1000)
    [file] = export("trl", data, tmp_path / "out", FineTune(model="tiny", recipe="less"))
    assert yaml.safe_load(file.read_text())["warmup_steps"] == 4  # 32 steps an epoch, 4 epochs: 3.84


def test_unknown_frameworks_and_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="axolotl, llama-factory, trl"):
        written("messages", "unsloth", tmp_path)
    (tmp_path / "odd.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match="columns text"):
        export("trl", tmp_path / "odd.jsonl", tmp_path / "out", FineTune(model="tiny"))
