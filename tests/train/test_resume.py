"""A killed training continues with the same curve, whatever moment it was killed at."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dfilter.errors import FolderError
from dfilter.train import loop, result
from dfilter.train.trainer import FineTune
from dfilter.types import Example

# 24 rows in batches of 5: epochs of 5 steps; checkpoints after steps 2, 4, 5, 6, ...; adapter dropout
# draws random numbers in every step.
JOB = FineTune(
    model="tiny",
    recipe="quick",
    dtype="float32",
    epochs=3,
    save_moments=True,
    checkpoint_steps=2,
    overrides={"batch": 5, "lora_rank": 4, "lora_dropout": 0.2, "keep_epochs": [1, 3]},
)


def outcome(folder: Path) -> tuple[Any, dict[str, bytes]]:
    found = json.loads((folder / "training.json").read_text())
    figures = {name: value for name, value in found.items() if name != "seconds"}
    weights = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
    return figures, weights


def in_a_child(work: Callable[[], object]) -> int:
    """Run in a forked process, so that a kill is a real one; return its exit code."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int) -> Callable[[], None]:
    """Die while a step is computed."""

    def patch() -> None:
        real = loop.Loop.training_step

        def training_step(self: Any, *args: Any) -> torch.Tensor:
            if self.state.global_step == step - 1:
                die()
            return real(self, *args)

        loop.Loop.training_step = training_step  # type: ignore[method-assign]

    return patch


def in_checkpoint() -> None:
    """Die when a checkpoint's files are written, before it is marked whole."""
    loop.Keeper.on_save = die  # type: ignore[method-assign, assignment]


def between_epoch_and_checkpoint() -> None:
    """Die when an epoch is kept, before the checkpoint of the same step."""
    loop.Loop._save_checkpoint = die  # type: ignore[method-assign, assignment]


def in_kept_epoch() -> None:
    """Die when an epoch's model is written, before its folder gets its name."""
    Path.rename = die  # type: ignore[method-assign, assignment]


def before_done() -> None:
    """Die when everything is written but the mark."""
    real = result.seal

    def seal(*args: Any, **settings: Any) -> None:
        if settings.get("into") == result.DONE:
            die()
        real(*args, **settings)

    result.seal = seal


MOMENTS: dict[str, list[Callable[[], None]]] = {
    "before the first checkpoint": [at_step(2)],
    "inside an epoch, after a checkpoint": [at_step(4)],
    "inside the second epoch, then at its end": [at_step(8), at_step(10)],
    "in the first step of an epoch": [at_step(6)],
    "in a checkpoint": [in_checkpoint],
    "between a kept epoch and its checkpoint": [between_epoch_and_checkpoint],
    "in a kept epoch": [in_kept_epoch],
    "before the mark": [before_done],
}
FEW = ["inside the second epoch, then at its end", "between a kept epoch and its checkpoint"]


@pytest.fixture(scope="module")
def trained(rows: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing disturbed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFILTER_HOME", str(tmp_path_factory.mktemp("home")))
        out = JOB.train(rows, tmp_path_factory.mktemp("trained") / "out", seed=0)
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def undisturbed(trained: Path) -> tuple[Any, dict[str, bytes]]:
    return outcome(trained)


@pytest.mark.parametrize(
    "names", [FEW, pytest.param([name for name in MOMENTS if name not in FEW], marks=pytest.mark.slow)]
)
def test_a_killed_training_ends_as_if_it_had_not_been(
    undisturbed: tuple[Any, dict[str, bytes]], rows: list[Example], tmp_path: Path, names: list[str]
) -> None:
    for name in names:
        kills = MOMENTS[name]
        out = tmp_path / name
        for patch in kills:

            def work(patch: Callable[[], None] = patch, out: Path = out) -> None:
                patch()
                JOB.train(rows, out, seed=0)

            assert in_a_child(work) == -signal.SIGKILL, name
            assert not (out / result.DONE).exists(), name
        JOB.train(rows, out, seed=0)
        figures, weights = outcome(out)
        assert figures == undisturbed[0], name
        assert weights == undisturbed[1], name
        assert not (out / "checkpoints").exists()


def test_only_the_newest_checkpoint_stays_and_nothing_pickled_by_us(
    rows: list[Example], tmp_path: Path
) -> None:
    def work() -> None:
        at_step(8)()
        JOB.train(rows, tmp_path / "a", seed=0)

    in_a_child(work)
    [kept] = loop.checkpoints(tmp_path / "a" / "checkpoints")
    assert kept.name == "checkpoint-6"
    assert not (kept / "training_args.bin").exists()
    assert json.loads((tmp_path / "a" / "progress.json").read_text())["step"] == 7


def flip(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)


def killed_with_all_checkpoints(rows: list[Example], out: Path) -> None:
    def work() -> None:
        at_step(9)()
        loop.shutil.rmtree = lambda *_, **__: None  # type: ignore[assignment]
        JOB.train(rows, out, seed=0)

    assert in_a_child(work) == -signal.SIGKILL
    assert [path.name for path in loop.checkpoints(out / "checkpoints")] == [
        f"checkpoint-{step}" for step in (2, 4, 5, 6, 8)
    ]


def resumed_from(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    found: list[str | None] = []
    real = loop.last_whole

    def last_whole(folder: Path, most: int) -> Path | None:
        path = real(folder, most)
        found.append(path and path.name)
        return path

    monkeypatch.setattr(loop, "last_whole", last_whole)
    return found


@pytest.mark.parametrize(
    ("damaged", "continues"),
    [
        (["checkpoints/checkpoint-8/whole", "checkpoints/checkpoint-6/optimizer.pt"], "checkpoint-5"),
        pytest.param(["epochs/epoch-01/moments.safetensors"], "checkpoint-4", marks=pytest.mark.slow),
        pytest.param(
            [f"checkpoints/checkpoint-{step}/trainer_state.json" for step in (2, 4, 5, 6, 8)],
            None,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_damaged_is_passed_over_with_a_line(
    undisturbed: tuple[Any, dict[str, bytes]],
    rows: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damaged: list[str],
    continues: str | None,
) -> None:
    out = tmp_path / "killed"
    killed_with_all_checkpoints(rows, out)
    for name in damaged:
        flip(out / name)
    found = resumed_from(monkeypatch)
    assert outcome(JOB.train(rows, out, seed=0)) == undisturbed
    assert found == [continues]
    assert len([line for line in caplog.messages if "is damaged" in line]) == len(damaged)


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.safetensors",
        "done",
        pytest.param("epochs/epoch-02/adapter_model.safetensors", marks=pytest.mark.slow),
        pytest.param("training.json", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_result_is_trained_again_with_a_line(
    trained: Path, rows: list[Example], tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    out = shutil.copytree(trained, tmp_path / "damaged")
    flip(out / name)
    assert outcome(JOB.train(rows, out, seed=0)) == outcome(trained)
    lines = [line for line in caplog.messages if "it is trained again" in line]
    assert lines[0].startswith(f"{out} is damaged ({name} ")
    assert len(lines) == 1 + name.startswith("epochs/")
    caplog.clear()
    assert JOB.train(rows, out, seed=0) == out
    assert not caplog.messages


def test_a_plan_that_cannot_be_read_is_a_sentence(rows: list[Example], tmp_path: Path) -> None:
    job = FineTune(model="tiny", recipe="lima", dtype="float32", steps=1)
    out = job.train(rows, tmp_path / "a", seed=0)
    for damage in (flip, lambda file: file.write_bytes(b'{"form')):
        damage(out / "plan.json")
        with pytest.raises(FolderError, match=r"plan\.json is damaged or of an earlier version"):
            job.train(rows, out, seed=0)


def test_a_full_training_resumes_too(rows: list[Example], tmp_path: Path) -> None:
    job = FineTune(
        model="tiny", recipe="lima", dtype="float32", epochs=2, checkpoint_steps=1,
        overrides={"batch": 8, "keep_epochs": []},
    )  # fmt: skip
    whole = outcome(job.train(rows, tmp_path / "whole", seed=0))

    def work() -> None:
        at_step(5)()
        job.train(rows, tmp_path / "killed", seed=0)

    assert in_a_child(work) == -signal.SIGKILL
    assert outcome(job.train(rows, tmp_path / "killed", seed=0)) == whole


@pytest.mark.kills
@pytest.mark.soak
def test_killed_at_random_moments_again_and_again(
    undisturbed: tuple[Any, dict[str, bytes]], rows: list[Example], tmp_path: Path, dying: Any
) -> None:
    changes = dying.whole(lambda: JOB.train(rows, tmp_path / "whole", seed=0))
    for attempt in range(20):
        out = tmp_path / f"attempt{attempt}"

        def work(out: Path = out) -> None:
            JOB.train(rows, out, seed=0)

        dying.killed(work, changes, 1 + attempt % 5)
        dying.whole(work)
        assert outcome(out) == undisturbed
