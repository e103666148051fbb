"""The adapter to lm-evaluation-harness: a task on local data where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import pytest

from dfilter import registry
from dfilter.errors import MissingPackageError, SettingsError
from dfilter.eval import lm_eval as adapter
from dfilter.eval.lm_eval import LMEval, named_files
from dfilter.models import resolve

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {file}}}
output_type: multiple_choice
test_split: train
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def stand_in(monkeypatch, samples):
    """The harness's surface that the adapter uses."""
    asked = {}

    def simple_evaluate(**settings):
        asked.update(settings)
        return {"samples": samples}

    harness = types.ModuleType("lm_eval")
    harness.simple_evaluate = simple_evaluate
    models = types.ModuleType("lm_eval.models")
    wrapped = types.ModuleType("lm_eval.models.huggingface")
    wrapped.HFLM = lambda **settings: "wrapped"
    for module in (harness, models, wrapped):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(adapter, "load_causal", lambda *a, **k: (None, None))
    monkeypatch.setattr(adapter, "lossless_dtype", lambda *_: "float32")
    monkeypatch.setattr(adapter, "_version", lambda: "0")
    return asked


def test_every_question_is_kept_in_order(monkeypatch, tmp_path):
    samples = {
        "mmlu_b": [{"doc_id": 1, "acc": 1.0, "filter": "none"}, {"doc_id": 0, "acc": 0.0, "filter": "none"}],
        "mmlu_a": [{"doc_id": 0, "acc": 1.0, "filter": "none"}],
    }
    asked = stand_in(monkeypatch, samples)
    found = LMEval("mmlu", num_fewshot=5).evaluate(tmp_path)
    assert found.prompts == ("mmlu_a/0", "mmlu_b/0", "mmlu_b/1")
    assert found.values.tolist() == [1, 0, 1]
    assert found.facts["sets"] == ["mmlu_a", "mmlu_b", "mmlu_b"]
    assert found.facts["bounds"] == [0, 1]
    assert asked["tasks"] == ["mmlu"]
    assert asked["num_fewshot"] == 5
    assert asked["bootstrap_iters"] == 0


def test_one_filter_of_several_is_read(monkeypatch, tmp_path):
    samples = {
        "gsm8k": [
            {"doc_id": 0, "exact_match": 0.0, "filter": "strict-match"},
            {"doc_id": 0, "exact_match": 1.0, "filter": "flexible-extract"},
        ]
    }
    stand_in(monkeypatch, samples)
    assert LMEval("gsm8k").evaluate(tmp_path).values.tolist() == [0.0]
    assert LMEval("gsm8k", metric="exact_match,flexible-extract").evaluate(tmp_path).values.tolist() == [1.0]
    with pytest.raises(SettingsError, match="no metric 'bleu'"):
        LMEval("gsm8k", metric="bleu").evaluate(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the harness is installed")
def test_without_the_harness_the_command_is_named(tmp_path):
    with pytest.raises(MissingPackageError, match=r"pip install 'dfilter\[lm-eval\]'"):
        LMEval("mmlu").evaluate(tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed"
)
def test_a_task_of_ones_own_runs_offline(tmp_path):
    data = [{"question": f"{i}", "choices": ["a", "b"], "answer": i % 2} for i in range(6)]
    (tmp_path / "d.json").write_text(json.dumps(data))
    (tmp_path / "mine.yaml").write_text(TASK.format(file=tmp_path / "d.json"))
    registry.allow_code(tmp_path / "mine.yaml")
    found = LMEval(str(tmp_path / "mine.yaml")).evaluate(resolve("tiny").path)
    assert found.prompts == tuple(f"mine/{i}" for i in range(6))
    assert set(found.values) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("dataset_kwargs:\n  data_files: deep/**/*.jsonl", "deep/er/still/rows.jsonl"),
        ('dataset_kwargs: {data_files: "one[0-9].jsonl"}', "one1.jsonl"),
        ("dataset_kwargs: {data_files: {train: on?1.jsonl}}", "one1.jsonl"),
        ("dataset_kwargs: {data_dir: deep, split: test}", "deep"),
        ("dataset_kwargs:\n  data_dir: 'deep'", "deep"),
        ('dataset_kwargs: {data_files: "two words.jsonl"}', "two words.jsonl"),
    ],
)
def test_data_of_a_task_are_found_however_it_names_them(tmp_path, said, found):
    for name in ("deep/er/still/rows.jsonl", "one1.jsonl", "two words.jsonl", "unnamed.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    task = tmp_path / "mine.yaml"
    task.write_text(f"task: mine\ndataset_path: json\n{said}\n")
    assert named_files(task) == [task, tmp_path / found]


def test_a_task_file_may_hold_code_and_runs_only_when_it_was_allowed(monkeypatch, tmp_path):
    asked = stand_in(monkeypatch, {"mine": [{"doc_id": 0, "acc": 1.0}]})
    task = tmp_path / "mine.yaml"
    task.write_text("task: mine\nprocess_docs: !function payload.run\n")
    with pytest.raises(SettingsError, match=r"mine\.yaml is code"):
        LMEval(str(task)).evaluate(tmp_path)
    assert not asked
    registry.allow_code(task)
    assert LMEval(str(task)).evaluate(tmp_path).values.tolist() == [1.0]
