"""A judge in this process: the same ledger, the same readings as the definition gives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from dfilter.errors import SettingsError
from dfilter.llm.judge import Judge, rate
from dfilter.llm.session import Session, open_session
from dfilter.types import Example, Message


def rows(n: int) -> list[Example]:
    return [
        Example(str(i), (Message("user", f"Add {i} and 2."), Message("assistant", "word " * (i + 1))), {})
        for i in range(n)
    ]


def test_values_are_those_of_one_prompt_at_a_time() -> None:
    """Padding, sorting and batches change nothing: each row equals a plain forward pass of its own."""
    import torch

    from dfilter.models import load_causal

    judge = Judge(model="local:tiny", mode="expected", min_mass=0.0)
    with open_session(judge.server) as session:
        ratings = rate(rows(9), judge, session=session)
        again = rate(rows(9), judge, session=session)
        assert session.facts()["calls"] == 9
    assert ratings.tobytes() == again.tobytes()
    model, tokenizer = load_causal("tiny", dtype="float32")
    for row, rating in zip(rows(9), ratings, strict=True):
        text = tokenizer.apply_chat_template(
            [dict(m) for m in judge.request(row).messages], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text + "Score: 4", add_special_tokens=False)["input_ids"][:-1]
        with torch.inference_mode():
            p = model(torch.tensor([ids])).logits[0, -1].float().softmax(-1)
        top = p.topk(20).indices.tolist()
        digits = {
            i: int(t)
            for i in top
            if (t := tokenizer.convert_ids_to_tokens(i).replace("Ġ", "")) in set("012345")
        }
        mass = sum(float(p[i]) for i in digits)
        assert rating["mass"] == pytest.approx(mass, rel=0.1, abs=1e-6) or np.isnan(rating["mass"])
        if mass > 0:
            assert rating["value"] == pytest.approx(
                sum(float(p[i]) * v for i, v in digits.items()) / mass, rel=0.1
            )


def test_a_local_judge_reads_probabilities_only() -> None:
    with pytest.raises(SettingsError, match="expected"):
        Judge(model="local:tiny", mode="text")


def test_prompts_that_were_cut_are_counted_from_the_ledger_too() -> None:
    judge = Judge(model="local:tiny", mode="expected", min_mass=0.0)
    long = Example("long", (Message("user", "word " * 3000), Message("assistant", "no")), {})
    for stored in (0, 3):
        with open_session(judge.server) as session:
            rate([*rows(2), long], judge, session=session)
            facts = session.facts()
        assert (facts["stored"], facts["prompts_cut"]) == (stored, 1)
    with open_session(judge.server) as session:
        rate(rows(2), judge, session=session)
        assert "prompts_cut" not in session.facts()


@pytest.mark.slow
def test_the_packaged_model_judges_offline() -> None:
    pytest.importorskip("gguf")
    judge = Judge(model="local:smollm2", mode="expected")
    with open_session(judge.server) as session:
        ratings = rate(rows(12), judge, session=session)
    assert (ratings["status"] == 0).mean() >= 0.9
    known = ratings["value"][ratings["status"] == 0]
    assert ((known >= 0) & (known <= 5)).all()
    assert len(np.unique(known)) > 5


@pytest.mark.serial
@pytest.mark.slow
def test_a_real_local_server_is_judged_through_end_to_end(tmp_path: object) -> None:
    """50 rows through ``transformers serve`` with SmolLM2, which says what it likes: any status will do."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("gguf")
    from dfilter.models import resolve

    path = resolve("smollm2").path
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    # Threads of busy processes on few cores only wait for each other.
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, child)
        judge = Judge(
            model=str(path), base_url=f"http://127.0.0.1:{port}/v1", max_tokens=4, concurrency=2,
            attempt_seconds=300.0, row_seconds=3000.0, patience=600.0,
        )  # fmt: skip
        with Session(judge.server) as session:
            ratings = rate(rows(50), judge, session=session)
            facts = session.facts()
            stored = rate(rows(50), judge, session=session)
            assert session.facts()["calls"] == facts["calls"]
        # This server gives no log probabilities. That is found out where they are wanted, and only there.
        reader = replace(judge, mode="expected", max_tokens=1)
        with Session(reader.server) as session, pytest.raises(SettingsError, match="no log probabilities"):
            rate(rows(50), reader, session=session)
    finally:
        child.terminate()
        child.wait(timeout=30)
    assert facts["failed"] == 0
    assert facts["answered"] == 50
    assert stored.tobytes() == ratings.tobytes()


def _wait_for(port: int, child: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if child.poll() is not None:
            pytest.fail(f"the server ended with {child.returncode}")
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail("the server did not start")
