"""The trainer computes what a plain loop computes, keeps what it promises and refuses the rest."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from dfilter import chat, models
from dfilter.errors import CheckError, FolderError, InputError, SettingsError
from dfilter.train import loop, result
from dfilter.train.moments import load_moments
from dfilter.train.recipes import Recipe, recipe
from dfilter.train.rows import epoch_order
from dfilter.train.trainer import Choice, FineTune
from dfilter.types import EvalResult, Example, Trainer

FULL = {"batch": 5, "epochs": 2.0, "learning_rate": 3e-3, "weight_decay": 0.1}
LORA = {"batch": 5, "lora_rank": 4, "lora_targets": ["q_proj", "v_proj"]}


def full(**settings: Any) -> FineTune:
    settings = {"model": "tiny", "recipe": "alpaca", "dtype": "float32", "overrides": FULL, **settings}
    return FineTune(**settings)


def lora(**settings: Any) -> FineTune:
    settings = {"model": "tiny", "recipe": "quick", "dtype": "float32", "overrides": LORA, **settings}
    return FineTune(**settings)


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


def rate_at(made: Recipe, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0, from the definition of each schedule."""
    warm = math.ceil(made.warmup * steps)
    if step < warm:
        return made.learning_rate * (step + 1) / (warm + 1)
    gone = (step - warm) / max(1, steps - warm)
    if made.schedule == "cosine":
        return made.learning_rate * 0.5 * (1 + math.cos(math.pi * gone))
    return made.final_learning_rate + (made.learning_rate - made.final_learning_rate) * (1 - gone)


def plain_loop(
    model: Any, tokenizer: Any, rows: Sequence[Example], made: Recipe, steps: int, seed: int
) -> tuple[list[float], torch.optim.AdamW]:
    """One padded batch a step, the loss written out, AdamW by the book."""
    encoded = [chat.render(row.messages, tokenizer, max_tokens=made.max_tokens) for row in rows]
    trained = [(name, w) for name, w in model.named_parameters() if w.requires_grad]
    spared = [w for name, w in trained if "norm" in name or "bias" in name]
    decayed = [w for name, w in trained if "norm" not in name and "bias" not in name]
    groups = [{"params": decayed, "weight_decay": made.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(made.beta1, made.beta2), eps=made.epsilon)
    per_epoch = math.ceil(len(rows) / made.batch)
    losses = []
    model.train()
    for step in range(steps):
        order = epoch_order(len(rows), seed, step // per_epoch)
        start = step % per_epoch * made.batch
        batch = [encoded[at] for at in order[start : start + made.batch]]
        width = max(len(row.input_ids) for row in batch)
        total, count = torch.zeros(()), 0
        ids = torch.tensor([row.input_ids + [0] * (width - len(row.input_ids)) for row in batch])
        mask = torch.tensor([[1] * len(row.input_ids) + [0] * (width - len(row.input_ids)) for row in batch])
        logits = model(input_ids=ids, attention_mask=mask).logits
        for at, row in enumerate(batch):
            for place in range(1, len(row.labels)):
                if row.labels[place] != chat.IGNORE:
                    total = total - logits[at, place - 1].log_softmax(-1)[row.labels[place]]
                    count += 1
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_([w for _, w in trained], made.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(made, step, steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()) / count)
    return losses, optimizer


def test_fifty_steps_equal_a_plain_loop_in_weights_moments_and_loss(
    rows: list[Example], tmp_path: Path
) -> None:
    settings = {**FULL, "keep_epochs": [10, 10]}
    out = full(overrides=settings, steps=50, micro_tokens=64, save_moments=True).train(
        rows, tmp_path / "a", seed=3
    )
    model, tokenizer = models.load_causal("tiny", device="cpu")
    losses, optimizer = plain_loop(model, tokenizer, rows, recipe("alpaca", 1e5, settings), 50, seed=3)
    assert facts(out)["loss"] == pytest.approx(losses, abs=1e-4)
    assert losses[-1] < losses[0] - 0.5  # it learnt, so that the curves could differ
    ours = load_file(out / "model.safetensors")
    moments = load_moments(out / "epochs" / "epoch-10")
    for name, weight in model.named_parameters():
        assert ours[name].allclose(weight, atol=1e-4), name
        for mine, theirs in zip(moments[name], ("exp_avg", "exp_avg_sq"), strict=True):
            assert mine.allclose(optimizer.state[weight][theirs], atol=1e-5, rtol=1e-2), name
    assert set(moments) == {name for name, _ in model.named_parameters()}


def test_an_adapter_learns_as_in_a_plain_loop(rows: list[Example], tmp_path: Path) -> None:
    from transformers import set_seed

    from dfilter.train.trainer import _load

    job = lora(steps=12, micro_tokens=64)
    out = job.train(rows, tmp_path / "a", seed=1)
    set_seed(1)
    plan, _ = job.plan(rows, seed=1)
    model, tokenizer, _ = _load(plan)
    losses, _ = plain_loop(model, tokenizer, rows, plan.recipe, 12, seed=1)
    assert facts(out)["loss"] == pytest.approx(losses, abs=1e-4)


def test_how_a_step_is_cut_into_pieces_does_not_matter(rows: list[Example], tmp_path: Path) -> None:
    whole, cut, one = (
        full(steps=4, micro_tokens=size).train(rows, tmp_path / str(size), seed=0)
        for size in (100_000, 70, 1)
    )
    for other in (cut, one):
        assert facts(other)["loss"] == pytest.approx(facts(whole)["loss"], abs=1e-5)
    assert facts(cut)["trained_tokens"] == facts(whole)["trained_tokens"] == sum(facts(one)["step_tokens"])


def test_gradient_checkpointing_changes_no_loss(rows: list[Example], tmp_path: Path) -> None:
    kept = lora(steps=4).train(rows, tmp_path / "a", seed=0)
    again = lora(steps=4, gradient_checkpointing=True).train(rows, tmp_path / "b", seed=0)
    assert facts(again)["loss"] == pytest.approx(facts(kept)["loss"], abs=1e-6)


@pytest.mark.parametrize("make", [full, lora])
def test_equal_runs_give_equal_weights_and_other_seeds_give_others(
    make: Callable[..., FineTune], rows: list[Example], tmp_path: Path
) -> None:
    job = make(steps=4, dtype="bfloat16")
    one, two, other = (
        job.train(rows, tmp_path / name, seed=seed) for name, seed in (("1", 5), ("2", 5), ("3", 6))
    )
    [file] = [path.name for path in one.glob("*.safetensors")]
    assert (one / file).read_bytes() == (two / file).read_bytes()
    assert (one / file).read_bytes() != (other / file).read_bytes()


def test_logits_are_asked_for_where_labels_are_and_the_loss_is_the_models_own() -> None:
    model, _ = models.load_causal("tiny", device="cpu")
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100, -100, -100, 9, -100]])
    ids = torch.tensor([[3, 4, 7, 8, 2], [5, 6, 7, 9, 2]])
    piece = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    ready = loop.narrowed(piece)
    assert ready["logits_to_keep"].tolist() == [1, 2]
    wanted = model(**piece, num_items_in_batch=3).loss
    for form in (ready, loop.shifted(piece)):
        outputs = model(**{name: value for name, value in form.items() if name != "labels"})
        assert torch.allclose(loop.token_loss(outputs, form["labels"], 3), wanted)


def test_full_training_keeps_float32_weights_under_bfloat16(rows: list[Example], tmp_path: Path) -> None:
    """At 2e-5 a bfloat16 weight of 0.02 would not move at all."""
    slow = {**FULL, "learning_rate": 2e-5, "warmup": 0.0, "schedule": "constant"}
    out = full(dtype="bfloat16", overrides=slow, steps=1).train(rows, tmp_path / "a", seed=0)
    before = load_file(models.resolve("tiny").path / "model.safetensors")
    after = load_file(out / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (after[name] - before[name]).abs()
    assert moved.median() == pytest.approx(2e-5, rel=0.1)


def test_an_adapter_is_float32_on_a_bfloat16_base(rows: list[Example]) -> None:
    from dfilter.train.trainer import _load

    plan, _ = lora(dtype="bfloat16").plan(rows, seed=0)
    model, _, _ = _load(plan)
    kinds = {(weight.requires_grad, weight.dtype) for weight in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_a_result_is_saved_in_the_dtype_it_came_in_or_was_asked_for(
    rows: list[Example], tmp_path: Path
) -> None:
    model, tokenizer = models.load_causal("tiny", device="cpu", dtype="bfloat16")
    model.save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    coarse = {**FULL, "learning_rate": 0.02, "weight_decay": 0.0, "warmup": 0.0}
    job = full(model=str(tmp_path / "half"), steps=2, overrides=coarse)
    out = job.train(rows, tmp_path / "a", seed=0)
    loaded, _ = models.load_causal(out, device="cpu")
    assert loaded.dtype == torch.bfloat16
    assert len(load_file(out / "model.safetensors")) == len(
        load_file(tmp_path / "half" / "model.safetensors")
    )
    wide = full(model=str(tmp_path / "half"), steps=2, save_dtype="float32").train(
        rows, tmp_path / "b", seed=0
    )
    assert models.load_causal(wide, device="cpu")[0].dtype == torch.float32


def test_an_adapter_loads_on_its_base(rows: list[Example], tmp_path: Path) -> None:
    out = lora(steps=6).train(rows, tmp_path / "a", seed=0)
    ids = torch.tensor([[3, 4, 5, 6]])
    adapted, base = (models.load_causal(name, device="cpu")[0] for name in (out, "tiny"))
    apart, base = (model(ids).logits for model in (adapted, base))
    assert torch.allclose(apart, adapted.merge_and_unload()(ids).logits, atol=1e-5)
    assert not torch.allclose(apart, base, atol=1e-3)
    files = models.resolve(out)
    assert files.sha != models.resolve("tiny").sha
    assert not any(path.suffix in {".bin", ".pt", ".pth", ".md"} for path in out.rglob("*"))


def test_less_keeps_every_epoch_with_named_moments_and_its_mean_rate(
    rows: list[Example], tmp_path: Path
) -> None:
    job = FineTune(
        model="tiny", recipe="less", dtype="float32", save_moments=True,
        overrides={"batch": 8, "lora_rank": 4, "keep_epochs": [1, 4]},
    )  # fmt: skip
    out = job.train(rows, tmp_path / "a", seed=0)
    kept = sorted((out / "epochs").iterdir())
    assert [folder.name for folder in kept] == ["epoch-01", "epoch-02", "epoch-03", "epoch-04"]
    made = recipe("less", 1e5, job.overrides)
    for epoch, folder in enumerate(kept):
        model, _ = models.load_causal(folder, device="cpu")
        trained = {name for name, _ in model.named_parameters() if "lora" in name}
        moments = load_moments(folder)
        assert set(moments) == trained
        assert all(second.min() >= 0 and second.max() > 0 for _, second in moments.values())
        rates = [rate_at(made, step, 12) for step in range(epoch * 3, epoch * 3 + 3)]
        assert facts(folder)["mean_learning_rate"] == pytest.approx(sum(rates) / 3)
        assert facts(folder)["epoch"] == epoch + 1
        named = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
        assert named == ["k_proj", "o_proj", "q_proj", "v_proj"]  # peft keeps a set, in any order
    assert facts(out)["epoch_learning_rates"] == [facts(folder)["mean_learning_rate"] for folder in kept]
    first, last = (load_file(folder / "adapter_model.safetensors") for folder in (kept[0], kept[3]))
    assert any(not first[name].equal(last[name]) for name in first)
    assert load_file(out / "adapter_model.safetensors").keys() == last.keys()


class Development:
    """An evaluator whose opinion of each epoch is given."""

    def __init__(self, values: dict[str, float], higher_is_better: bool = True, missing: int = 0) -> None:
        self.values = values
        self.higher_is_better = higher_is_better
        self.missing = missing

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:
        models.load_causal(model, device="cpu")  # a kept epoch is a whole model
        values = [self.values[model.name], *[math.nan] * self.missing]
        return EvalResult(
            [str(at) for at in range(len(values))], np.array(values), "grade", self.higher_is_better
        )


def test_lima_chooses_the_epoch_that_the_development_set_prefers(rows: list[Example], tmp_path: Path) -> None:
    settings = {"batch": 12, "epochs": 5, "keep_epochs": [2, 4]}
    opinion = {"epoch-02": 1.0, "epoch-03": 3.0, "epoch-04": 2.0}
    job = FineTune(
        model="tiny", recipe="lima", dtype="float32", choose=Development(opinion), overrides=settings
    )
    out = job.train(rows, tmp_path / "a", seed=0)
    assert (facts(out)["chosen"], facts(out)["development"], facts(out)["epochs"]) == ("epoch-03", opinion, 5)
    told = facts(out)  # the chosen model never saw the last two epochs
    assert told["trained_tokens"] == 3 * told["labelled_tokens"] < sum(told["step_tokens"])

    def holds() -> list[str]:
        found = load_file(out / "model.safetensors")
        kept = {name: load_file(out / "epochs" / name / "model.safetensors") for name in opinion}
        return [name for name in opinion if all(kept[name][key].equal(found[key]) for key in found)]

    assert holds() == ["epoch-03"]
    tie = {"epoch-02": math.nan, "epoch-03": 2.0, "epoch-04": 2.0}
    for values, higher, best in ((opinion, False, "epoch-02"), (tie, True, "epoch-03")):
        assert result.choose_epoch(out, Development(values, higher), 0)["chosen"] == best
        lacking = Development(values, higher, missing=1)  # a prompt that cannot be shown has no value
        assert result.choose_epoch(out, lacking, 0)["chosen"] == best
        assert holds() == [best]


def test_epochs_are_kept_for_a_choice_or_a_wish_and_not_for_nobody(
    rows: list[Example], tmp_path: Path
) -> None:
    """A cell of a comparison would keep six models, and evaluate a seventh."""
    shape = {"batch": 4, "epochs": 5}
    job = FineTune(model="tiny", recipe="lima", dtype="float32", overrides=shape)
    out = job.train(rows[:4], tmp_path / "nobody", seed=0)
    assert facts(out)["kept"] == []
    assert not (out / "epochs").exists()
    [said] = facts(out)["warnings"]
    assert "chooses among epochs 5 to 10" in said
    wish = replace(job, overrides={**shape, "keep_epochs": [5, 10]})
    choice = replace(job, choose=Development({"epoch-05": 1.0}))
    for name, other in (("wish", wish), ("choice", choice)):
        out = other.train(rows[:4], tmp_path / name, seed=0)
        assert facts(out)["kept"] == ["epoch-05"]
        assert facts(out)["warnings"] == []


@pytest.mark.parametrize(
    ("settings", "said", "advised"),
    [
        ({"recipe": "quick"}, "'quick' keeps none", {"overrides": {"keep_epochs": [1, 2]}, "epochs": 2}),
        ({"recipe": "alpaca"}, "'alpaca' keeps none", {"overrides": {"keep_epochs": [1, 3]}}),
        ({"recipe": "less", "epochs": 1.5}, "'less' keeps none", {"overrides": {"keep_epochs": [1, 2]}}),
        ({"recipe": "less", "steps": 9}, "'less' keeps none", {"overrides": {"keep_epochs": [1, 4]}}),
        ({"recipe": "lima", "epochs": 3}, "ends in epoch 3", {"overrides": {"keep_epochs": [1, 3]}}),
    ],
)
def test_a_choice_of_no_epoch_is_refused_with_what_makes_it_work(
    settings: dict[str, Any], said: str, advised: dict[str, Any]
) -> None:
    opinion = Development({})
    with pytest.raises(SettingsError, match=said) as error:
        FineTune(model="tiny", choose=opinion, **settings)
    for name, value in {**advised.pop("overrides"), **advised}.items():
        assert f"{name} = {value}" in str(error.value)
        settings |= {"overrides": {name: value}} if name == "keep_epochs" else {name: value}
    assert FineTune(model="tiny", choose=opinion, **settings).choose is opinion


def test_a_budget_of_steps_that_reaches_no_epoch_to_choose_is_refused_before_training(
    rows: list[Example], tmp_path: Path
) -> None:
    job = FineTune(model="tiny", recipe="lima", steps=4, choose=Development({"epoch-04": 1.0}))
    with pytest.raises(SettingsError, match=r"ends in epoch 4.*keep_epochs = \[1, 4\]"):
        job.train(rows, tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists()
    kept = replace(job, overrides={"keep_epochs": [4, 4]}, dtype="float32")
    assert facts(kept.train(rows, tmp_path / "a", seed=0))["chosen"] == "epoch-04"


def test_two_visible_gpus_train_as_one(
    rows: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would wrap the model in DataParallel, which is stood in for by what it does."""
    alone = lora(steps=2).train(rows, tmp_path / "alone", seed=0)

    class Split(torch.nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module

        def forward(self, **inputs: Any) -> Any:
            halves = [{name: value.chunk(2)[at] for name, value in inputs.items()} for at in (0, 1)]
            said = [self.module(**half) for half in halves]
            return type(said[0])(logits=torch.cat([half.logits for half in said]))

    monkeypatch.setattr(torch.nn, "DataParallel", Split)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda args: (args.device, 2)[1]))
    both = lora(steps=2).train(rows, tmp_path / "both", seed=0)
    assert facts(both)["loss"] == facts(alone)["loss"]


def test_the_chooser_may_be_named_in_a_settings_file(rows: list[Example], tmp_path: Path) -> None:
    from dfilter.registry import create

    held_out = tmp_path / "development.jsonl"
    lines = [{"messages": [{"role": m.role, "content": m.content} for m in row.messages]} for row in rows[:3]]
    held_out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = create(
        "trainers",
        "dfilter",
        {
            "model": "tiny",
            "recipe": "alpaca",
            "dtype": "float32",
            "overrides": {**FULL, "keep_epochs": [1, 2]},
            "choose": {"evaluator": "heldout", "settings": {"source": str(held_out), "dtype": "float32"}},
        },
    )
    found = facts(job.train(rows, tmp_path / "a", seed=0))
    assert found["chosen"] == "epoch-02"  # the rows were trained on, so their loss fell
    assert found["development"]["epoch-02"] < found["development"]["epoch-01"]
    with pytest.raises(SettingsError, match="held-out"):
        full(choose=Choice("held-out"), overrides={**FULL, "keep_epochs": [1, 2]}).train(
            rows, tmp_path / "b", seed=0
        )
    assert not (tmp_path / "b").exists()


def test_a_development_set_without_any_finite_value_is_an_error(rows: list[Example], tmp_path: Path) -> None:
    job = full(
        choose=Development({"epoch-01": math.nan}), overrides={**FULL, "epochs": 1, "keep_epochs": [1, 1]}
    )
    with pytest.raises(CheckError, match="no finite value"):
        job.train(rows, tmp_path / "a", seed=0)


def test_limas_rate_falls_in_a_line_to_its_floor_and_turns_are_closed(
    rows: list[Example], tmp_path: Path
) -> None:
    job = FineTune(model="tiny", recipe="lima", dtype="float32", epochs=4, overrides={"batch": 12})
    out = job.train(rows, tmp_path / "a", seed=0)
    rates = facts(out)["learning_rate"]
    assert rates[0] == pytest.approx(1e-5)
    assert np.diff(rates) == pytest.approx(np.full(7, -(1e-5 - 1e-6) / 8))  # the floor is where it ends
    assert chat.style(models.load_tokenizer(out)) == ("chat", True)


def test_a_base_model_is_trained_and_later_asked_in_the_recipes_own_template(
    rows: list[Example], tmp_path: Path
) -> None:
    base = shutil.copytree(models.resolve("tiny").path, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    job = FineTune(model=str(base), recipe="lima", dtype="float32", steps=1, overrides={"batch": 4})
    tokenizer = models.load_tokenizer(job.train(rows, tmp_path / "a", seed=0))
    assert chat.style(tokenizer) == ("turns", True)
    prompt = chat.render_prompt(rows[0].messages, tokenizer)
    assert tokenizer.decode(prompt) == rows[0].messages[0].content + "<|im_end|>"


def test_a_missing_end_of_turn_token_is_learnt_in_full_and_refused_for_adapters(
    rows: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "END_OF_TURN", ("<|eot|>",))
    settings = {"batch": 4, "eot": True}
    out = full(template="turns", steps=1, overrides=settings).train(rows, tmp_path / "a", seed=0)
    model, tokenizer = models.load_causal(out, device="cpu")
    assert (
        model.get_input_embeddings().weight.shape[0]
        == len(tokenizer)
        == 1 + len(models.load_tokenizer("tiny"))
    )
    with pytest.raises(SettingsError, match="an adapter cannot learn a new one"):
        lora(template="turns", overrides=settings).train(rows, tmp_path / "b", seed=0)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"epochs": 1.0}, 5), ({"epochs": 0.5}, 3), ({"steps": 7}, 7), ({"tokens": 1}, 1), ({}, 10)],
)
def test_budgets(settings: dict[str, Any], steps: int, rows: list[Example]) -> None:
    assert full(**settings).plan(rows, seed=0)[0].steps == steps


def test_a_budget_of_tokens_is_kept_to_within_one_step(rows: list[Example], tmp_path: Path) -> None:
    out = full(tokens=150).train(rows, tmp_path / "a", seed=0)
    found = facts(out)
    assert found["trained_tokens"] >= 150 > found["trained_tokens"] - found["step_tokens"][-1]


@pytest.mark.parametrize("settings", [{"epochs": 1, "steps": 1}, {"tokens": 0}, {"micro_tokens": 0}])
def test_budgets_that_cannot_be_meant_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        full(**settings)


def test_a_finished_folder_is_returned_and_another_training_is_refused(
    rows: list[Example], tmp_path: Path
) -> None:
    job = lora(steps=2)
    out = job.train(rows, tmp_path / "a", seed=0)
    stamp = (out / "training.json").stat().st_mtime_ns
    assert job.train(rows, out, seed=0) == out
    assert (out / "training.json").stat().st_mtime_ns == stamp
    for other, its_rows, seed, said in (
        (lora(steps=3), rows, 0, "steps"),
        (job, rows[:-1], 0, "rows_digest"),
        (job, rows, 1, "seed"),
    ):
        with pytest.raises(FolderError, match=said):
            other.train(its_rows, out, seed=seed)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(FolderError, match="no training"):
        job.train(rows, tmp_path / "foreign", seed=0)


@pytest.mark.parametrize("kept", [None, [1, 1]], ids=["whole", "with epochs"])
def test_a_finished_adapter_follows_its_base(
    rows: list[Example], tmp_path: Path, kept: list[int] | None
) -> None:
    shutil.copytree(models.resolve("tiny").path, tmp_path / "base")
    overrides = LORA | ({"keep_epochs": kept} if kept else {})
    out = lora(model=str(tmp_path / "base"), overrides=overrides).train(rows, tmp_path / "out", seed=0)
    weights = (out / "adapter_model.safetensors").read_bytes()
    moved = (tmp_path / "base").rename(tmp_path / "moved")
    again = lora(model=str(moved), overrides=overrides)
    again.train(rows, out, seed=0)
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    for folder in (out, *(out / "epochs").glob("epoch-*")):
        models.load_causal(folder)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again.train(rows, out, seed=0)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_a_loss_that_is_not_finite_ends_the_run_without_a_model(rows: list[Example], tmp_path: Path) -> None:
    broken = shutil.copytree(models.resolve("tiny").path, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = math.inf
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckError, match="The loss of step 1 is nan"):
        full(model=str(broken)).train(rows, tmp_path / "a", seed=0)
    assert not list((tmp_path / "a").glob("*.safetensors"))
    assert not (tmp_path / "a" / result.DONE).exists()


def test_weights_that_are_not_finite_are_never_saved(
    rows: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = models.load_causal("tiny", device="cpu")
    loop.refuse_nan(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = math.nan
    with pytest.raises(CheckError, match=r"layers\.1\.mlp\.up_proj"):
        loop.refuse_nan(model)

    step = loop.Loop.training_step

    def poisoned(self: Any, *args: Any) -> torch.Tensor:
        loss = step(self, *args)
        next(self.model.parameters()).data[0] = math.nan
        return loss

    monkeypatch.setattr(loop.Loop, "training_step", poisoned)
    with pytest.raises(CheckError, match="not finite"):
        full(steps=1).train(rows, tmp_path / "a", seed=0)
    assert not list((tmp_path / "a").glob("*.safetensors"))


def test_masked_rows_are_named_before_anything_is_written(rows: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'row"):
        full(overrides={**FULL, "max_tokens": 9}).train(rows, tmp_path / "a", seed=0)
    assert not (tmp_path / "a").exists()


def test_lora_targets_that_do_not_exist_are_named(rows: list[Example], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no_such_proj"):
        lora(overrides={"lora_targets": ["no_such_proj"]}).train(rows, tmp_path / "a", seed=0)


def test_the_trainer_keeps_the_contract_and_is_registered() -> None:
    from dfilter.registry import create

    made = create("trainers", "dfilter", {"model": "tiny", "overrides": {"batch": 4}, "epochs": 2})
    assert isinstance(made, Trainer)
    assert made == FineTune(model="tiny", overrides={"batch": 4}, epochs=2)
