"""A training started from the shell, alone and with torchrun, is the training started from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dfilter.train.trainer import FineTune
from dfilter.types import Example

SETTINGS: dict[str, Any] = {
    "model": "tiny", "recipe": "quick", "dtype": "float32", "epochs": 2, "save_moments": True,
    "overrides": {"batch": 8, "lora_rank": 4, "keep_epochs": [1, 2]},
}  # fmt: skip


def started(
    launcher: list[str], rows: list[Example], folder: Path, settings: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    data = folder / "rows.jsonl"
    lines = [json.dumps({"id": r.id, "messages": [asdict(m) for m in r.messages]}) for r in rows]
    data.write_text("\n".join(lines) + "\n")
    job = {"train": settings, "rows": str(data), "out": str(folder / "shell"), "seed": 4}
    (folder / "job.json").write_text(json.dumps(job))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, "-m", "dfilter.train", str(folder / "job.json")]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


@pytest.mark.slow
def test_two_processes_train_as_one(rows: list[Example], tmp_path: Path) -> None:
    alone = FineTune(**SETTINGS).train(rows, tmp_path / "alone", seed=4)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
                "--rdzv-endpoint", "127.0.0.1:0"]  # fmt: skip
    done = started(launcher, rows, tmp_path, SETTINGS)
    assert done.returncode == 0, done.stderr
    one, two = figures(alone), figures(tmp_path / "shell")
    assert two["processes"] == 2
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert two["trained_tokens"] == one["trained_tokens"]
    for file in ("adapter_model.safetensors", "epochs/epoch-01/moments.safetensors"):
        ours, theirs = load_file(alone / file), load_file(tmp_path / "shell" / file)
        assert all(ours[name].allclose(theirs[name], atol=1e-4) for name in ours)


@pytest.mark.slow
def test_an_error_is_a_sentence_and_an_exit_code(rows: list[Example], tmp_path: Path) -> None:
    done = started([], rows, tmp_path, {**SETTINGS, "recipe": "alpaka"})
    assert done.returncode == 2
    assert "There is no recipe named 'alpaka'. Did you mean 'alpaca'?" in done.stderr
    assert "Traceback" not in done.stderr
