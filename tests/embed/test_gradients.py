"""Per-row gradients, Adam's form, sinks and sketch, each against its definition."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dfilter.chat import IGNORE, Encoded, render_many
from dfilter.embed.adam import adam_form, swamped
from dfilter.embed.adapters import Adapted, freeze
from dfilter.embed.device import Placement
from dfilter.embed.gradients import stream
from dfilter.embed.moments import Moments, read_moments
from dfilter.embed.sinks import DenseProjection, Means, Norms, Products, Sketches
from dfilter.embed.sketch import CountSketch, quantize
from dfilter.errors import ModelError
from dfilter.models import load_causal
from dfilter.types import Example, Message


class Kept:
    """A sink that keeps every gradient, which only a test may do."""

    def __init__(self, adapted: Adapted, count: int) -> None:
        dtype = torch.promote_types(adapted.placement.torch_dtype, torch.float32)
        self.parts = [torch.zeros(count, part.size, dtype=dtype) for part in adapted.parts]
        self.largest = 0

    def begin(self, rows: Any) -> None:
        self.rows = rows

    def take(self, part: int, first: int, gradients: torch.Tensor) -> None:
        self.largest = max(self.largest, gradients.numel())
        self.parts[part][self.rows[first : first + len(gradients)]] = gradients.clone()

    @property
    def whole(self) -> torch.Tensor:
        return torch.cat(self.parts, dim=1)


class Float64(Placement):
    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64


def adapted(dtype: str = "float32") -> Adapted:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model, tokenizer = load_causal("tiny", dtype="float32", device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
        )
        wrapped = get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    if dtype == "float64":
        return freeze(wrapped.double(), tokenizer, Float64("cpu", "float64"))
    return freeze(wrapped.to(getattr(torch, dtype)), tokenizer, Placement("cpu", dtype))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _shared_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFILTER_HOME", str(home))


def encoded(model: Adapted, count: int = 7) -> list[Encoded]:
    rows = [
        Example(
            str(i),
            (Message("user", "the list " * (i % 4 + 1)), Message("assistant", "answer " * (2 * i + 1))),
            {},
        )
        for i in range(count)
    ]
    return render_many(rows, model.tokenizer)


def one_by_one(model: Adapted, rows: list[Encoded]) -> torch.Tensor:
    """Autograd at batch size 1, the loss as transformers defines it."""
    weights = [part.layer.weight for part in model.parts]
    for weight in weights:
        weight.requires_grad_(True)
    found = []
    for row in rows:
        loss = model.model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    for weight in weights:
        weight.requires_grad_(False)
    return torch.stack(found)


def batched(model: Adapted, rows: list[Encoded]) -> torch.Tensor:
    kept = Kept(model, len(rows))
    stream(model, rows, kept)
    return kept.whole


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-6), ("float32", 5e-6)])
def test_rows_gradients_are_those_of_batch_size_one(dtype: str, limit: float) -> None:
    model = adapted(dtype)
    rows = encoded(model)
    ours, theirs = batched(model, rows), one_by_one(model, rows)
    errors = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
    assert theirs.norm(dim=1).min() > 1e-3
    assert errors.max() <= limit


def test_bf16_gradients_point_the_same_way() -> None:
    exact, fast = adapted("float32"), adapted("bfloat16")
    rows = encoded(exact)
    cosines = torch.cosine_similarity(batched(fast, rows), batched(exact, rows))
    assert 0.9995 <= cosines.min() < 1


def test_a_row_does_not_depend_on_its_batch() -> None:
    model = adapted()
    rows = encoded(model)
    together = batched(model, rows)
    longer = Encoded(rows[0].input_ids * 20, rows[0].labels * 20)
    beside = batched(model, [rows[2], longer])[0]
    assert ((beside - together[2]).norm() / together[2].norm()) <= 5e-6
    apart = torch.cat([batched(model, [row]) for row in rows])
    assert ((apart - together).norm(dim=1) / together.norm(dim=1)).max() <= 5e-6


def test_gradients_of_a_batch_never_exist_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfilter.embed.gradients.CPU_SLICE", 600)
    model = adapted()
    rows = encoded(model)
    kept = Kept(model, len(rows))
    stream(model, rows, kept)
    assert kept.largest <= 2 * 64 * 4
    assert torch.allclose(kept.whole, one_by_one(model, rows), atol=1e-5)
    assert not any(weight.requires_grad for weight in model.model.parameters())


def moments(model: Adapted, scale: float = 1e-3) -> Moments:
    generator = torch.Generator().manual_seed(1)
    first = tuple(scale * torch.randn(part.size, generator=generator) for part in model.parts)
    second = tuple((scale * torch.randn(part.size, generator=generator)) ** 2 for part in model.parts)
    return Moments(first, second, step=6)


def formula(mode: str, g: Any, m: Any, v: Any, steps: int) -> Any:
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    if mode == "released":
        return m / np.sqrt(v + 1e-8)
    return m / (1 - 0.9**steps) / (np.sqrt(v / (1 - 0.999**steps)) + 1e-8)


@pytest.mark.parametrize("mode", ["released", "paper"])
def test_adams_form_is_the_formula(mode: Any) -> None:
    g, m, v = np.array([0.3, -2.0, 0.0]), np.array([0.1, 0.2, -0.4]), np.array([0.01, 0.0, 4e-12])
    state = Moments((torch.tensor(m),), (torch.tensor(v),), step=6)
    made = adam_form(state, mode)(0, torch.tensor(g)[None].clone())[0].numpy()
    np.testing.assert_allclose(made, formula(mode, g, m, v, 7), rtol=1e-12)


def optimizer_files(model: Adapted, folder: Path) -> list[Path]:
    """The same moments as three kinds of trainer leave them: ours, Trainer, Trainer with FSDP."""
    held = moments(model)
    names = [part.name for part in model.parts]
    shapes = [part.layer.weight.shape for part in model.parts]
    states = [
        {"step": torch.tensor(6.0), "exp_avg": m.view(shape), "exp_avg_sq": v.view(shape)}
        for m, v, shape in zip(held.first, held.second, shapes, strict=True)
    ]
    places = [folder / kind for kind in ("named", "numbered", "sharded")]
    for place in places:
        place.mkdir()
    tensors = {
        f"{n}.{k}": s[k] for n, s in zip(names, states, strict=True) for k in ("exp_avg", "exp_avg_sq")
    }
    save_file({**tensors, "step": torch.tensor([6.0])}, places[0] / "moments.safetensors")
    numbers = list(range(len(names)))
    groups = [{"lr": 1e-3, "params": numbers}, {"lr": 1e-3, "params": []}]
    torch.save(
        {"state": dict(zip(numbers, states, strict=True)), "param_groups": groups}, places[1] / "optimizer.pt"
    )
    torch.save(
        {"state": dict(zip(names, states, strict=True)), "param_groups": []}, places[2] / "optimizer.bin"
    )
    return places


def test_every_kind_of_optimizer_file_gives_the_formula(tmp_path: Path) -> None:
    model = adapted()
    rows = encoded(model, 3)
    raw, held = batched(model, rows).numpy(), moments(model)
    m, v = torch.cat(held.first).numpy(), torch.cat(held.second).numpy()
    for place in optimizer_files(model, tmp_path):
        adam = adam_form(read_moments(place, model), "released")
        at, made = 0, []
        for number, part in enumerate(model.parts):
            made.append(adam(number, torch.from_numpy(raw[:, at : at + part.size].copy())).numpy())
            at += part.size
        np.testing.assert_allclose(
            np.concatenate(made, 1), formula("released", raw, m, v, 7), rtol=2e-5, atol=1e-6
        )


def test_moments_of_another_adapter_or_none_are_refused(tmp_path: Path) -> None:
    model = adapted()
    with pytest.raises(ModelError, match="no optimizer state"):
        read_moments(tmp_path, model)
    named, numbered, _ = optimizer_files(model, tmp_path)
    short = torch.load(numbered / "optimizer.pt", weights_only=True)
    short["param_groups"][0]["params"].pop()
    torch.save(short, numbered / "optimizer.pt")
    with pytest.raises(ModelError, match="numbers 15 parameters"):
        read_moments(numbered, model)
    name = model.parts[0].name
    save_file(
        {f"{name}.exp_avg": torch.zeros(2), f"{name}.exp_avg_sq": torch.zeros(2)},
        named / "moments.safetensors",
    )
    with pytest.raises(ModelError, match="another adapter's"):
        read_moments(named, model)


def test_the_share_that_eps_outweighs(tmp_path: Path) -> None:
    second = torch.tensor([1e-9, 1e-7, 1e-17, 1.0])
    save_file({"a.exp_avg": torch.zeros(4), "a.exp_avg_sq": second}, tmp_path / "moments.safetensors")
    assert swamped(tmp_path, "released") == 0.5
    assert swamped(tmp_path, "paper") == 0.25


def test_sinks_agree_with_the_whole_gradients() -> None:
    model = adapted()
    rows = encoded(model)
    count, adam = len(rows), adam_form(moments(model), "released")
    raw = batched(model, rows).double().numpy()
    held = moments(model)
    made = formula("released", raw, torch.cat(held.first).numpy(), torch.cat(held.second).numpy(), 7)

    norms = Norms(count, "cpu")
    stream(model, rows, norms)
    np.testing.assert_allclose(norms.values, np.linalg.norm(raw, axis=1), rtol=1e-6)

    groups = np.array([0, 1, 0, 1, 1, 0, 0])
    means = Means(model, groups, 1 / norms.values, 2)
    stream(model, rows, means)
    directions = raw / np.linalg.norm(raw, axis=1)[:, None]
    wanted = np.stack([directions[groups == group].sum(0) for group in (0, 1)])
    np.testing.assert_allclose(torch.cat(means.sums, 1).numpy(), wanted, atol=1e-6)

    products = Products(means.sums, count, adam)
    stream(model, rows, products)
    lengths = np.linalg.norm(made, axis=1)
    np.testing.assert_allclose(products.norms.values, lengths, rtol=1e-5)
    cosines = products.values.numpy() / products.norms.values[:, None]
    np.testing.assert_allclose(cosines, made @ wanted.T / lengths[:, None], atol=1e-6)


def test_sketch_sums_signed_entries_into_buckets_part_by_part() -> None:
    sketch = CountSketch([5, 12], width=4, seed=3)
    vectors = np.random.default_rng(0).normal(size=(2, 17)).astype(np.float32)
    wanted = np.zeros((2, 4))
    for part, start in ((0, 0), (1, 5)):
        seen = []
        for slot, (place, sign) in enumerate(zip(sketch.places[part], sketch.signs[part], strict=True)):
            if sign:
                wanted[:, slot // (len(sketch.signs[part]) // 4)] += sign.item() * vectors[:, start + place]
                seen.append(int(place))
        assert sorted(seen) == list(range(5 if part == 0 else 12))
    parts = torch.from_numpy(vectors).split([5, 12], dim=1)
    found = sum(sketch.of(part, vector.contiguous()) for part, vector in enumerate(parts))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["sketch", "dense"])
def test_the_error_of_a_projected_cosine_is_that_of_random_signs(kind: str) -> None:
    sizes, width, seeds = [700, 1100, 333], 512, 20
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(24, sum(sizes))).astype(np.float32)
    vectors[12:] += 0.1 * vectors[:12]
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    exact = (vectors @ vectors.T)[np.triu_indices(24, 1)]
    errors = []
    for seed in range(seeds):
        if kind == "sketch":
            sketch = CountSketch(sizes, width, seed)
            parts = torch.from_numpy(vectors).split(sizes, dim=1)
            short = sum(sketch.of(part, v.contiguous()) for part, v in enumerate(parts)).numpy()
        else:
            dense = DenseProjection(width, seed, len(vectors), None)
            dense.begin(np.arange(len(vectors)))
            for part, vector in enumerate(torch.from_numpy(vectors).split(sizes, dim=1)):
                dense.take(part, 0, vector.contiguous())
            short = dense.values / np.sqrt(width)
        errors.append((short @ short.T)[np.triu_indices(24, 1)] - exact)
    found = np.array(errors)
    assert 0.85 <= found.std() * np.sqrt(width) <= 1.15
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(found.size)


def test_the_hash_is_the_same_everywhere_and_independent_by_seed() -> None:
    one, again, other = (CountSketch([9], 4, seed) for seed in (5, 5, 6))
    assert one.places[0].tolist() == again.places[0].tolist()
    assert one.signs[0].tolist() == again.signs[0].tolist()
    assert (one.places[0].tolist(), one.signs[0].tolist()) != (
        other.places[0].tolist(),
        other.signs[0].tolist(),
    )
    # Drawn once and written down: whatever machine runs this draws the same.
    assert one.places[0].tolist() == WRITTEN_PLACES
    assert one.signs[0].tolist() == WRITTEN_SIGNS


WRITTEN_PLACES = [8, 0, 1, 6, 5, 7, 0, 0, 4, 2, 3, 0]
WRITTEN_SIGNS = [-1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 1.0, -1.0, -1.0, 0.0]


def test_sketches_of_gradients_keep_the_exact_length() -> None:
    model = adapted()
    rows = encoded(model, 3)
    sizes = [part.size for part in model.parts]
    sink = Sketches(CountSketch(sizes, 256, 0), 3, None)
    stream(model, rows, sink)
    raw = batched(model, rows)
    sketch = CountSketch(sizes, 256, 0)
    wanted = sum(sketch.of(part, v.contiguous()) for part, v in enumerate(raw.split(sizes, dim=1)))
    np.testing.assert_allclose(sink.values, wanted, atol=1e-5)
    np.testing.assert_allclose(sink.norms.values, raw.norm(dim=1), rtol=1e-6)


def test_int8_keeps_a_sketch_to_half_a_step() -> None:
    sketches = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    sketches[3] = 0
    codes, scales = quantize(sketches)
    assert codes.dtype == np.int8
    assert (np.abs(codes * scales[:, None] - sketches) <= scales[:, None] / 2 + 1e-7).all()
    assert scales[3] == 0


def test_a_model_without_an_adapter_is_refused() -> None:
    model, tokenizer = load_causal("tiny", dtype="float32", device="cpu")
    with pytest.raises(ModelError, match="no LoRA matrices"):
        freeze(model, tokenizer, Placement("cpu", "float32"))


def test_labels_only_count_from_the_second_token() -> None:
    model = adapted()
    row = Encoded([5, 6, 7], [5, IGNORE, 7])
    assert row.trained == 1
    assert torch.allclose(batched(model, [row]), one_by_one(model, [row]), atol=1e-6)
