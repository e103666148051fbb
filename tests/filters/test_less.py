from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dfilter.chat import render_many
from dfilter.data.dataset import Dataset
from dfilter.embed.checkpoints import Checkpoint
from dfilter.embed.directions import TENSORS, Directions, forget
from dfilter.embed.directions import _read as read_tensors
from dfilter.embed.influence import Affinity, GradientSketch
from dfilter.embed.matching import mean_directions, unusable
from dfilter.embed.warmup import drawn, learning_rates
from dfilter.errors import InputError, SettingsError, StoreError
from dfilter.filters.less import LESS, members
from dfilter.models import load_causal
from dfilter.pool import Pool, Store
from dfilter.store.arrays import read_arrays
from dfilter.types import KEY_BYTES, Example, Message

RATES = (3e-4, 1e-4)
WORDS = ["list", "the", "answer", "is", "two", "small", "house", "man", "write", "a", "word", "number"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _shared_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(home))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, home: Path) -> tuple[str, ...]:
    """Two adapters of the tiny model with moments, as a user might bring them."""
    from peft import LoraConfig, get_peft_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(home))
        made = []
        for number, rate in enumerate(RATES):
            torch.manual_seed(number)
            model, tokenizer = load_causal("tiny", dtype="float32", device="cpu")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                wrapped: Any = get_peft_model(
                    model,
                    LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
                )
            tensors = {"step": torch.tensor([4.0])}
            for name, weight in wrapped.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(weight, std=0.1)
                    tensors[f"{name}.exp_avg"] = 1e-3 * torch.randn_like(weight)
                    tensors[f"{name}.exp_avg_sq"] = 1e-6 * torch.rand_like(weight)
            folder = tmp_path_factory.mktemp(f"checkpoint{number}")
            wrapped.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            save_file(tensors, folder / "moments.safetensors")
            about = {"model": "tiny", "mean_learning_rate": rate}
            (folder / "training.json").write_text(json.dumps(about), encoding="utf-8")
            made.append(str(folder))
        return tuple(made)


def sentences(count: int, seed: int) -> list[Example]:
    rng = np.random.default_rng(seed)

    def say(most: int) -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(2, most)))

    return [
        Example(str(i), (Message("user", f"{say(15)} {i}"), Message("assistant", say(12))), {})
        for i in range(count)
    ]


def pool_of(rows: list[Example], tasks: list[str], store: Path, seed: int = 0) -> Pool:
    """A pool with a target of ``len(tasks)`` rows, the column ``task`` naming their subtasks."""
    aim = [
        {"messages": [{"role": m.role, "content": m.content} for m in row.messages], "task": task}
        for row, task in zip(sentences(len(tasks), 99), tasks, strict=True)
    ]
    place = Store(store)
    target = Pool(Dataset.from_rows(aim), store=place, seed=seed)
    return Pool(Dataset.from_rows(rows), target=target, store=place, seed=seed)


def made(checkpoints: tuple[str, ...], **changes: Any) -> LESS:
    return replace(LESS(model="tiny", checkpoints=checkpoints, dtype="float32", device="cpu"), **changes)


def full_gradients(folder: str, rows: list[Example], adam: bool) -> np.ndarray[Any, Any]:
    """Every row's whole gradient by autograd at batch size 1, in Adam's released form if asked."""
    from safetensors.torch import load_file

    model, tokenizer = load_causal(folder, dtype="float32", device="cpu")
    held = load_file(Path(folder) / "moments.safetensors")
    named = [(name, weight) for name, weight in model.named_parameters() if "lora_" in name]
    for weight in model.parameters():
        weight.requires_grad_(False)
    for _, weight in named:
        weight.requires_grad_(True)
    first = torch.cat([held[f"{name}.exp_avg"].flatten() for name, _ in named]).double().numpy()
    second = torch.cat([held[f"{name}.exp_avg_sq"].flatten() for name, _ in named]).double().numpy()
    out = []
    for row in render_many(rows, tokenizer):
        loss = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
        parts = torch.autograd.grad(loss, [weight for _, weight in named])
        g = torch.cat([part.flatten() for part in parts]).double().numpy()
        out.append((0.9 * first + 0.1 * g) / np.sqrt(0.999 * second + 0.001 * g**2 + 1e-8) if adam else g)
    return np.array(out)


def released_matching(train: list[Any], validation: list[Any], weights: Any, subtasks: int) -> Any:
    """The released matching step, literally: rows by validation rows, mean over shots, max over subtasks."""
    total = 0
    for train_feature, validation_feature, weight in zip(train, validation, weights, strict=True):
        train_feature = train_feature / np.linalg.norm(train_feature, axis=1, keepdims=True)
        validation_feature = validation_feature / np.linalg.norm(validation_feature, axis=1, keepdims=True)
        total = total + weight * train_feature @ validation_feature.T
    return total.reshape(len(total), subtasks, -1).mean(-1).max(-1)


def reference_scores(pool: Pool, checkpoints: tuple[str, ...], subtasks: int) -> Any:
    assert pool.target is not None
    train = [full_gradients(folder, list(pool.rows), adam=True) for folder in checkpoints]
    validation = [full_gradients(folder, list(pool.target.rows), adam=False) for folder in checkpoints]
    return released_matching(train, validation, np.array(RATES) / sum(RATES), subtasks)


def test_direct_scores_are_the_released_matching_on_whole_gradients(
    checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    from scipy.stats import spearmanr

    pool = pool_of(sentences(24, 1), ["a", "a", "b", "b", "c", "c"], tmp_path)
    wanted = reference_scores(pool, checkpoints, subtasks=3)
    scores = made(checkpoints, target_by="task").score(pool)
    np.testing.assert_allclose(scores.values, wanted, atol=1e-6)
    assert spearmanr(scores.values, wanted).statistic >= 0.9999
    assert np.argsort(-scores.values)[:8].tolist() == np.argsort(-wanted)[:8].tolist()
    assert scores.reasons is not None
    assert scores.reasons[0].startswith("cosine ")
    assert scores.facts["target_rows"] == {"a": 2, "b": 2, "c": 2}
    assert scores.facts["checkpoint_weights"] == [0.75, 0.25]


def test_subtasks_may_be_of_unequal_size(checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    pool = pool_of(sentences(12, 2), ["b", "a", "b", "b"], tmp_path)
    assert pool.target is not None
    total = np.zeros((12, 2))
    for folder, rate in zip(checkpoints, RATES, strict=True):
        train = full_gradients(folder, list(pool.rows), adam=True)
        wanted = full_gradients(folder, list(pool.target.rows), adam=False)
        train /= np.linalg.norm(train, axis=1)[:, None]
        wanted /= np.linalg.norm(wanted, axis=1)[:, None]
        cosines = train @ wanted.T
        total += rate / sum(RATES) * np.stack([cosines[:, 1], cosines[:, [0, 2, 3]].mean(1)], 1)
    scores = made(checkpoints, target_by="task").score(pool)
    np.testing.assert_allclose(scores.values, total.max(1), atol=1e-6)
    assert scores.groups is not None
    assert scores.groups.tolist() == total.argmax(1).tolist()


def test_reference_mode_projects_and_matches_as_released(
    checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    from dfilter.embed.influence import ProjectedGradient

    pool = pool_of(sentences(8, 3), ["a", "b"], tmp_path)
    assert pool.target is not None
    scores = made(checkpoints, mode="reference", target_by="task", width=64).score(pool)

    def features(rows: Any, mode: str) -> list[Any]:
        return [
            ProjectedGradient(Checkpoint(folder, dtype="float32", device="cpu"), mode, 64).compute(rows)[
                "vector"
            ]
            for folder in checkpoints
        ]

    weights = np.array(RATES) / sum(RATES)
    wanted = released_matching(features(pool.rows, "released"), features(pool.target.rows, "raw"), weights, 2)
    np.testing.assert_allclose(scores.values, wanted, atol=1e-6)


def test_a_store_of_sketches_serves_any_later_target(checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    rows = sentences(30, 4)
    first = made(checkpoints, mode="store", width=2048)
    exact = made(checkpoints)
    near = first.score(pool_of(rows, ["a", "a", "b"], tmp_path)).values
    np.testing.assert_allclose(near, exact.score(pool_of(rows, ["a", "a", "b"], tmp_path)).values, atol=0.1)
    other = pool_of(rows, ["x", "y"], tmp_path)
    other.store.log.clear()
    later = first.score(other).values
    np.testing.assert_allclose(later, exact.score(pool_of(rows, ["x", "y"], tmp_path)).values, atol=0.1)
    assert sum(entry["computed"] for entry in other.store.log if entry["name"] == "GradientSketch") <= 4


def test_rows_without_a_usable_gradient_abstain_alone(checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    rows = sentences(6, 5)
    rows[2] = Example("far", (Message("user", "word " * 400), Message("assistant", "no")), {})
    pool = pool_of(rows, ["a"], tmp_path)
    scores = made(checkpoints, max_tokens=128).score(pool)
    assert np.flatnonzero(np.isnan(scores.values)).tolist() == [2]
    assert scores.reasons is not None
    assert scores.reasons[2] == "no response within 128 tokens"
    lengths = np.array([1.0, np.nan, 0.0, np.inf], dtype=np.float32)
    assert unusable(lengths).tolist() == [0, 1, 2, 3]


def test_target_rows_without_a_gradient_are_left_out_and_empty_subtasks_refused(
    checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    wanted = np.zeros(3, dtype=[("vector", np.float32, (2,)), ("length", np.float32)])
    wanted["vector"], wanted["length"] = [[3, 4], [0, 0], [0, 2]], [5, np.nan, 2]
    means, sizes = mean_directions(wanted, np.array([0, 0, 1]), ["a", "b"])
    np.testing.assert_allclose(means, [[0.6, 0.8], [0, 1]])
    assert sizes.tolist() == [1, 1]
    with pytest.raises(InputError, match="subtask c"):
        mean_directions(wanted, np.array([0, 2, 1]), ["a", "b", "c"])
    far = [{"prompt": "word " * 400, "response": "no"}]
    place = Store(tmp_path)
    pool = Pool(
        Dataset.from_rows(sentences(3, 6)), target=Pool(Dataset.from_rows(far), store=place), store=place
    )
    with pytest.raises(InputError, match="usable gradient"):
        made(checkpoints, max_tokens=128).score(pool)


def test_a_target_and_its_column_are_asked_for(checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    pool = pool_of(sentences(3, 7), ["a"], tmp_path)
    with pytest.raises(InputError, match="--target FILE"):
        made(checkpoints).score(replace(pool, target=None))
    with pytest.raises(InputError, match="column 'subject' is missing"):
        made(checkpoints, target_by="subject").score(pool)


def test_directions_do_not_outlive_the_scoring_and_come_back_when_the_pool_grows(
    checkpoints: tuple[str, ...], tmp_path: Path
) -> None:
    rows = sentences(14, 15)
    less = made(checkpoints, target_by="task")
    less.score(pool_of(rows[:9], ["a", "b", "b"], tmp_path / "1"))
    assert not list((tmp_path / "1").rglob(TENSORS))
    grown = less.score(pool_of(rows, ["a", "b", "b"], tmp_path / "1")).values
    at_once = less.score(pool_of(rows, ["a", "b", "b"], tmp_path / "2")).values
    np.testing.assert_allclose(grown, at_once, atol=1e-6)


def flip(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-99] + bytes([whole[-99] ^ 1]) + whole[-98:])


@pytest.mark.parametrize("damage", [flip, lambda file: file.write_bytes(b""), Path.unlink])
def test_damaged_directions_are_made_again(checkpoints: tuple[str, ...], tmp_path: Path, damage: Any) -> None:
    pool = pool_of(sentences(3, 8), ["a"], tmp_path)
    assert pool.target is not None
    one = Checkpoint(checkpoints[0], dtype="float32", device="cpu")
    fit = Directions(one, "", members(pool.target, ""))
    directions = pool.target.fit(fit)
    values = Affinity(one, str(directions)).compute(list(pool.rows))
    whole = (directions / TENSORS).read_bytes()
    damage(directions / TENSORS)
    read_tensors.cache_clear()
    assert (Affinity(one, str(directions)).compute(list(pool.rows)) == values).all()
    assert (directions / TENSORS).read_bytes() == whole
    forget(directions)
    assert pool.target.fit(fit) == directions  # whole without them
    assert not (directions / TENSORS).exists()


def test_directions_of_another_checkpoint_do_not_mix(checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    pool = pool_of(sentences(3, 8), ["a"], tmp_path)
    assert pool.target is not None
    one, other = (Checkpoint(folder, dtype="float32", device="cpu") for folder in checkpoints)
    directions = pool.target.fit(Directions(one, "", members(pool.target, "")))
    with pytest.raises(StoreError, match="another model, adapter or setting"):
        Affinity(other, str(directions)).compute(list(pool.rows))
    with pytest.raises(StoreError, match="another model, adapter or setting"):
        Affinity(replace(one, max_tokens=9), str(directions)).compute(list(pool.rows))


def test_specs_follow_everything_that_changes_a_value(checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    pool = pool_of(sentences(3, 8), ["a", "b"], tmp_path)
    assert pool.target is not None
    checkpoint = Checkpoint(checkpoints[0], dtype="float32", device="cpu")
    everything = [
        GradientSketch(checkpoint),
        GradientSketch(checkpoint, "paper"),
        GradientSketch(checkpoint, "raw"),
        GradientSketch(checkpoint, width=16),
        GradientSketch(checkpoint, seed=1),
        GradientSketch(replace(checkpoint, folder=checkpoints[1])),
        GradientSketch(replace(checkpoint, max_tokens=9)),
        GradientSketch(replace(checkpoint, template="tulu")),
    ]
    assert len({json.dumps(signal.spec(), sort_keys=True) for signal in everything}) == len(everything)
    assert GradientSketch(replace(checkpoint, device="auto")).spec() == everything[0].spec()
    whole, split = members(pool.target, ""), members(pool.target, "task")
    assert whole != split
    assert members(replace(pool.target, rows=pool.target.rows.take([1, 0])), "task") == split


def test_permuted_rows_get_permuted_scores(checkpoints: tuple[str, ...], tmp_path: Path) -> None:
    rows = sentences(20, 9)
    forward = made(checkpoints).score(pool_of(rows, ["a"], tmp_path / "1")).values
    backward = made(checkpoints).score(pool_of(rows[::-1], ["a"], tmp_path / "2")).values
    np.testing.assert_array_equal(forward, backward[::-1])


def test_what_is_left_on_disk_stays_within_the_quote() -> None:
    rows, checkpoints, subtasks = 270_000, 4, 16
    direct = np.dtype([("products", np.float32, (subtasks,)), ("length", np.float32)]).itemsize + KEY_BYTES
    assert rows * checkpoints * direct <= 100e6
    store = np.dtype([("code", np.int8, (8192,)), ("scale", np.float32), ("length", np.float32)]).itemsize
    assert rows * checkpoints * (store + KEY_BYTES) <= 9.5e9


def test_rates_come_from_the_user_or_a_log(tmp_path: Path) -> None:
    np.testing.assert_allclose(learning_rates([tmp_path, tmp_path], [3.0, 1.0]), [0.75, 0.25])
    log = [
        {"epoch": 0.5, "learning_rate": 9.0},
        {"epoch": 1.5, "learning_rate": 4.0},
        {"epoch": 2.0, "learning_rate": 2.0},
        {"epoch": 2.0, "eval_loss": 1.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}), encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/training.json").write_text('{"mean_learning_rate": 1.0}', encoding="utf-8")
    np.testing.assert_allclose(learning_rates([tmp_path, tmp_path / "other"], []), [0.75, 0.25])
    with pytest.raises(SettingsError, match="logs no learning rate"):
        learning_rates([tmp_path / "nowhere"], [])
    with pytest.raises(SettingsError, match="2 rates for 1"):
        learning_rates([tmp_path], [1.0, 2.0])
    np.testing.assert_allclose(learning_rates([tmp_path, tmp_path], [0.0, 0.0]), [0.5, 0.5])
    with pytest.raises(SettingsError, match="0 or above"):
        learning_rates([tmp_path], [-1.0])


def test_wrong_settings_are_all_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        LESS(mode="x", eps_mode="y", warmup=0, epochs=0, width=0, max_tokens=1, rates=(1.0,))  # type: ignore[arg-type]
    assert len(caught.value.findings) == 7


def test_the_draw_follows_the_seed_and_not_the_order() -> None:
    rows = sentences(40, 10)
    data, backward = Dataset.from_rows(rows), Dataset.from_rows(rows[::-1])
    chosen = {data.ids[place] for place in drawn(data, 0.25, 3)}
    assert len(chosen) == 10
    assert chosen == {backward.ids[place] for place in drawn(backward, 0.25, 3)}
    assert chosen != {data.ids[place] for place in drawn(data, 0.25, 4)}
    assert len(drawn(data, 0.001, 0)) == 1


def test_a_warm_up_is_trained_once_a_seed(tmp_path: Path) -> None:
    small = {"lora_rank": 2, "lora_alpha": 4, "batch": 4, "learning_rate": 1e-3}
    less = LESS(model="tiny", warmup=0.4, epochs=2, overrides=small, dtype="float32", device="cpu")
    pool = pool_of(sentences(20, 11), ["a"], tmp_path)
    values = less.score(pool).values
    assert np.isfinite(values).all()
    assert len(less.warmed_up(pool)) == 2
    fits = [entry for entry in pool.store.log if entry["name"] == "warmup"]
    assert [entry["stored"] for entry in fits] == [0, 20]
    np.testing.assert_array_equal(less.score(pool).values, values)
    other = less.score(replace(pool, seed=1)).values
    assert np.abs(other - values).max() > 1e-6


@pytest.mark.parametrize("mode", ["direct", "store", "reference"])
def test_a_quote_says_what_will_be_left(checkpoints: tuple[str, ...], tmp_path: Path, mode: Any) -> None:
    from dfilter.models import count_parameters

    pool = pool_of(sentences(10, 14), ["a", "b", "b"], tmp_path)
    less = made(checkpoints, mode=mode, target_by="task", width=64)
    (quote,) = less.quote(pool)
    less.score(pool)
    stored = [read_arrays(p) for p in (tmp_path / "signals").rglob("*.shard")]
    left = sum(s["keys"].nbytes + s["values"].nbytes for s in stored if len(s["keys"]) == 10)
    assert quote.kept_bytes == left  # type: ignore[attr-defined]
    assert quote.adapter == count_parameters(Path(checkpoints[0]))  # type: ignore[attr-defined]
    assert quote.seconds > 0  # type: ignore[attr-defined]
    assert len(quote.lines()) == 4


def test_an_adapters_size_is_told_from_shapes_alone() -> None:
    from dfilter.embed.quote import adapter_size

    # tiny: 2 layers; q and o map 64 to 64, k and v 64 to 32.
    assert adapter_size("tiny", 3) == 2 * 3 * (128 + 128 + 96 + 96)


@pytest.mark.kills
@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_and_continued_gives_the_same_bytes(
    checkpoints: tuple[str, ...], tmp_path: Path, times: int, dying: Any
) -> None:
    rows, targets = sentences(300, 12), sentences(4, 13)

    def scored(store: Path, out: Path) -> None:
        torch.set_num_threads(1)  # the threads of the parent are not in a forked process
        shared = Store(store)
        pool = Pool(
            Dataset.from_rows(rows), target=Pool(Dataset.from_rows(targets), store=shared), store=shared
        )
        scores = LESS(model="tiny", checkpoints=checkpoints, dtype="float32", device="cpu").score(pool)
        out.write_bytes(scores.values.tobytes())

    def killed() -> None:
        scored(tmp_path / "killed", tmp_path / "killed.bin")

    changes = dying.whole(lambda: scored(tmp_path / "calm", tmp_path / "calm.bin"))
    dying.killed(killed, changes, times)
    dying.whole(killed)
    assert (tmp_path / "killed.bin").read_bytes() == (tmp_path / "calm.bin").read_bytes()
