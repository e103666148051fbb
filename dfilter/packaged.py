"""Weights out of installed packages: found, verified and unpacked."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dfilter.digests import file_sha256
from dfilter.errors import MissingPackageError, ModelError

GGUF_INSTALL = "pip install 'gguf>=0.17'"


def packaged_file(package: str, ending: str) -> Path | None:
    """Find a file of an installed package without importing it."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if str(file).endswith(ending)), None)


def verify(path: Path, wanted: str, package: str) -> None:
    """Compare a packaged file's SHA-256 with the published one; anyone may publish a package.

    Raises:
        ModelError: it is another file.
    """
    found = file_sha256(path)
    if found != wanted:
        raise ModelError(
            f"{path} of the package {package} has SHA-256 {found}, but the published file has {wanted}. "
            "It is not used; reinstall the package or name another model."
        )


def unpack_gguf(packed: Path, scratch: Path) -> None:
    """Write a GGUF file's model as bfloat16 safetensors, the dtype in which it was published.

    Left packed, transformers computes with it at one token a second and cannot save it.
    """
    try:
        importlib.metadata.version("gguf")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError(
            f"To unpack {packed.name} once, another package is needed: {GGUF_INSTALL}"
        ) from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):  # its bar knows no switch
        model: Any = AutoModelForCausalLM.from_pretrained(
            packed.parent,
            gguf_file=packed.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        model.to(torch.bfloat16).save_pretrained(scratch)
        AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name).save_pretrained(scratch)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal; errors still show."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # its functions are untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 for a property under its old name.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            # It says that it turns the adapters of GPT-2's layers the right way round.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
