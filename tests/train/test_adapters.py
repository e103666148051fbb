"""A training names the layers it adapted, and says which it missed and what it could not teach."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from dfilter import chat, models
from dfilter.errors import SettingsError
from dfilter.train.adapters import adapt, adapted, missed
from dfilter.train.recipes import recipe
from dfilter.train.trainer import FineTune
from dfilter.types import Example

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
GLM = (  # only what opens the next turn ends a reply
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def made(kind: str, **settings: Any) -> Any:
    config = AutoConfig.for_model(kind, **SHAPE, pad_token_id=0, **{"vocab_size": 600, **settings})
    return AutoModelForCausalLM.from_config(config)


OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "num_key_value_heads": 2}

FUSED = dict.fromkeys(("down_proj", "gate", "gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj"), 2)


@pytest.mark.parametrize(
    ("kind", "name", "settings", "layers", "said"),
    [
        ("llama", "less", {}, {"k_proj": 2, "o_proj": 2, "q_proj": 2, "v_proj": 2}, ""),
        ("phi3", "less", {}, {"o_proj": 2}, "no q_proj, k_proj, v_proj.* not .*, qkv_proj"),
        ("phi", "less", {}, {"k_proj": 2, "q_proj": 2, "v_proj": 2}, r"no o_proj.* not dense, fc1, fc2\."),
        ("opt", "less", OPT, {"k_proj": 2, "q_proj": 2, "v_proj": 2}, "no o_proj.* not fc1, fc2, out_proj"),
        ("phi3", "quick", {}, {"down_proj": 2, "gate_up_proj": 2, "o_proj": 2, "qkv_proj": 2}, ""),
        pytest.param(
            "qwen3_moe", "quick", MOE, FUSED, "",
            marks=pytest.mark.filterwarnings("ignore:.*_pattern keys did not match:RuntimeWarning"),
        ),
    ],
)  # fmt: skip
def test_layers_that_a_recipe_misses_are_named(
    kind: str, name: str, settings: dict[str, Any], layers: dict[str, int], said: str
) -> None:
    figures = recipe(name, 1e8, {"lora_rank": 2})
    model = adapt(made(kind, **settings), figures)
    assert adapted(model) == layers
    sentences = missed(model, figures)
    assert len(sentences) == bool(said)
    assert all(re.search(said, sentence) for sentence in sentences), sentences


def test_a_fused_layer_is_told_with_the_result(
    rows: list[Example], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = models.load_tokenizer("tiny")
    made("phi3", eos_token_id=2, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "phi3")
    tokenizer.save_pretrained(tmp_path / "phi3")
    job = FineTune(model=str(tmp_path / "phi3"), recipe="less", dtype="float32", steps=1)
    out = job.train(rows, tmp_path / "out", seed=0)
    told = json.loads((out / "training.json").read_text())
    assert told["adapted"] == {"o_proj": 2}
    [warning] = told["warnings"]
    assert warning in caplog.messages
    assert "qkv_proj" in warning


def test_a_template_without_an_end_token_is_told(rows: list[Example], tmp_path: Path) -> None:
    open_ended = shutil.copytree(models.resolve("tiny").path, tmp_path / "open")
    (open_ended / "chat_template.jinja").write_text(GLM)
    overrides = {"batch": 4, "lora_rank": 2}
    warnings = {}
    for name, model, eot in (
        ("open", open_ended, False),
        ("closed", open_ended, True),
        ("tiny", "tiny", False),
    ):
        job = FineTune(model=str(model), dtype="float32", steps=1, overrides={**overrides, "eot": eot})
        out = job.train(rows[:4], tmp_path / f"out-{name}", seed=0)
        warnings[name] = json.loads((out / "training.json").read_text())["warnings"]
    assert warnings["closed"] == warnings["tiny"] == []
    [said] = warnings["open"]
    assert f"'chat' of '{open_ended}' writes no end token behind a reply" in said


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("known", [True, False])
def test_what_is_advised_where_no_end_is_learnt_works(
    method: str, known: bool, rows: list[Example], tmp_path: Path
) -> None:
    """An adapter learns no new token, so without an end-of-turn token its recipe cannot close turns."""
    model = shutil.copytree(models.resolve("tiny").path, tmp_path / "open")
    (model / "chat_template.jinja").write_text(GLM)
    for file in [] if known else model.glob("*.json"):
        file.write_text(file.read_text().replace("<|im_end|>", "<|over|>"))
    shape = {"batch": 4, "lora_rank": 2, "method": method}

    def warned(name: str, template: chat.Template = "auto", **overrides: Any) -> list[str]:
        settings = {"dtype": "float32", "steps": 1, "overrides": {**shape, **overrides}, "template": template}
        out = FineTune(model=str(model), **settings).train(rows[:4], tmp_path / name, seed=0)
        found: list[str] = json.loads((out / "training.json").read_text())["warnings"]
        return found

    [said] = warned("plain")
    new = method == "lora" and not known
    first = "overrides.method = 'full' with overrides.eot = true" if new else "overrides.eot = true"
    assert said.endswith(f" Set {first} or template = 'alpaca'.")
    assert warned("closed", eot=True, **({"method": "full"} if new else {})) == []
    assert warned("other", template="alpaca") == []
    if new:
        with pytest.raises(SettingsError, match="an adapter cannot learn a new one"):
            warned("refused", eot=True)


@pytest.mark.parametrize("template", ["alpaca", "tulu", "turns", "chat"])
def test_our_own_templates_end_replies(template: chat.Template) -> None:
    assert chat.closes_replies(models.load_tokenizer("tiny"), template=template)
