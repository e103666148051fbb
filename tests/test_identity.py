"""What counts: each input of a run and of a comparison is changed alone, and the identity follows it or not.

No model runs: a model's folder is a few files of the right names. tests/test_identity_commands.py shows what
commands do about a difference.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfilter import registry
from dfilter.comparison import Comparison, prepare
from dfilter.data.dataset import Dataset
from dfilter.digests import file_sha256
from dfilter.embed.directions import Directions
from dfilter.embed.hidden import HiddenState
from dfilter.embed.influence import Affinity, GradientSketch, ProjectedGradient
from dfilter.embed.losses import ResponseLoss
from dfilter.embed.sentences import Embedding
from dfilter.embed.warmup import Warmup, drawn
from dfilter.eval.pairwise import Pairwise
from dfilter.filters.clusters import Clusters
from dfilter.filters.duplicates import Duplicates
from dfilter.filters.ifd import IFD
from dfilter.filters.kcenter import KCenter, Traversal
from dfilter.filters.length import Tokens
from dfilter.filters.less import LESS
from dfilter.filters.rds import RDS, RDSPlus
from dfilter.identity import bare, difference, digest, identity, kind_of, marks
from dfilter.llm.scores import TextScore
from dfilter.llm.server import Server
from dfilter.models import fast_dtype, resolve
from dfilter.progress import Silent
from dfilter.run import Request, prepared

LOCAL = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Part:
    model: str = ""
    recipe: str = ""
    source: str = ""

    def score(self, pool):
        from helpers import deeper
    def train(self, rows, out, *, seed): ...
    def evaluate(self, model, *, seed=0): ...
"""
MODEL = {
    "config.json": '{"hidden_size": 4}',
    "modules.json": "[]",
    "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
    "sentence_bert_config.json": '{"max_seq_length": 256}',
    "config_sentence_transformers.json": '{"default_prompt_name": null}',
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "special_tokens_map.json": "{}",
    "vocab.txt": "a",
    "chat_template.jinja": "{{ messages }}",
    "chat_template.json": "{}",
    "generation_config.json": "{}",
    "README.md": "A model.",
    "training.json": '{"model": "base", "seconds": 1}',
    "trainer_state.json": "{}",
    "optimizer.pt": "-",
    "onnx/config.json": "{}",
}
ADAPTER = {
    "adapter_config.json": '{"base_model_name_or_path": "model"}',
    "tokenizer.json": "{}",
    "moments.safetensors": "-",
}


def weights(file: Path, value: float) -> None:
    from safetensors.numpy import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.full(3, value, np.float32)}, file)


def folder(name: str, files: Mapping[str, str]) -> None:
    for file, text in files.items():
        path = Path(name, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with one small file of everything that can be named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dfilter.eval.lm_eval.LMEval.check", lambda _: None)  # the harness is not asked here
    monkeypatch.setattr("dfilter.comparison.untrainable", lambda *_: {})  # its model cannot read a row
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "response": f"{n}.", "stars": n} for n in range(20)]
    folder(".", {"data.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    one = '{"prompt": "Say x.", "response": "x", "answer": "x"}\n'
    folder(
        ".", {f"{name}.jsonl": one for name in ("target", "always", "eval", "answers", "shard-1", "shard-2")}
    )
    folder(
        ".",
        {"tasks/one.txt": "Q: Is it?\nA: Yes.\n", "ids.json": '["r1", "r2"]', "people.csv": "id,rating\n"},
    )
    folder(".", {"words.txt": "{instruction} {response}", "local.py": LOCAL, "more/more.jsonl": one})
    task = "task: mine\ndataset_path: json\ndata_dir: more\ndata_files: {test: 'my eval.jsonl'}\n"
    folder(
        ".", {"task.yaml": task + "process_docs: !function own.docs\n", "own.py": "", "my eval.jsonl": one}
    )
    folder(
        "helpers", {"__init__.py": "", "deeper.py": "from . import below\n", "below.py": "", "other.py": ""}
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder("model", MODEL)
    weights(Path("model/model.safetensors"), 1)
    weights(Path("model/2_Dense/model.safetensors"), 1)
    folder("adapter", ADAPTER)
    weights(Path("adapter/adapter_model.safetensors"), 1)


def put(file: str, text: str) -> Callable[[Any], None]:
    """Return the change that writes a file."""

    def change(_: pytest.MonkeyPatch) -> None:
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(text)

    return change


def more(file: str) -> Callable[[Any], None]:
    """Return the change that adds something to a file's end."""
    return lambda _: Path(file).write_text(Path(file).read_text() + " ")


def moved(old: str, new: str) -> Callable[[Any], None]:
    return lambda _: Path(old).rename(new) and None


def heavier(file: str) -> Callable[[Any], None]:
    return lambda _: weights(Path(file), 2)


def env(name: str, value: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setenv(name, value)


def nothing(_: Any) -> None: ...


@dataclass(frozen=True)
class Case:
    """One change.

    Attributes:
        name: what is changed.
        base: what is asked for at first.
        change: is made to the world between the two requests.
        then: what is asked for then, where that is what changes.
        clause: stands in the difference; none says that nothing differs.
    """

    name: str
    base: Mapping[str, Any]
    change: Callable[[pytest.MonkeyPatch], None] = nothing
    then: Mapping[str, Any] = field(default_factory=dict)
    clause: str | None = None


def case(name: str, base: Mapping[str, Any], change: Any, clause: str | None = None) -> Any:
    """Return a case for pytest; a change is a function, or what is asked for then."""
    made = Case(name, base, clause=clause)
    made = replace(made, then=change) if isinstance(change, Mapping) else replace(made, change=change)
    return pytest.param(made, id=name)


def sets(*settings: str, **others: Any) -> dict[str, Any]:
    return {"settings": settings, **others}


PLAIN = {"strategy": "longest", "keep": "5"}
TOKENS = {"strategy": "longest", "keep": "50tok"} | sets("select.tokenizer='model'")
GIVEN = {"strategy": "given", "keep": "2"} | sets("given.file='ids.json'")
KCENTER = {"strategy": "kcenter", "keep": "5"} | sets("kcenter.embedding.model='model'")
IFDS = {"strategy": "ifd", "keep": "5"} | sets("ifd.model='model'")
LESS_OWN = {"strategy": "less", "keep": "5", "target": "target.jsonl"}
LESS_OWN |= sets("less.checkpoints=['adapter']", "less.rates=[1.0]", "less.model='not-there'")
LESS_WARM = LESS_OWN | sets("less.model='model'")
JUDGE = {"strategy": "alpagasus", "keep": "5"}
WISHES = {"judge.model": "m", "judge.base_url": "http://127.0.0.1:1/v1", "judge.template": "words.txt"}
JUDGE |= {"wishes": WISHES}
NAMED = {"strategy": "alpagasus", "keep": "5", "wishes": WISHES | {"judge.name": "mine"}}
LOCAL_JUDGE = JUDGE | {"wishes": {"judge.model": "local:model", "judge.mode": "expected"}}
BLEND = {"strategy": "blend", "keep": "5"}
BLEND |= sets("blend.parts=[{filter='given', settings={file='ids.json'}}]")


def judge(**wishes: Any) -> dict[str, Any]:
    return {"wishes": NAMED["wishes"] | {f"judge.{name}": value for name, value in wishes.items()}}


def model_cases(base: Mapping[str, Any], where: str) -> list[Any]:
    """Return what counts of a model's folder, and what does not."""
    shaping = [name for name in MODEL if name.partition(".")[0] not in IDLE and "/" not in name]
    shaping += ["1_Pooling/config.json"]
    found = [
        case(f"{where} {name}", base, more(f"model/{name}"), f"{where} was model with") for name in shaping
    ]
    found += [case(f"{where} {name}", base, more(f"model/{name}")) for name in IDLE_FILES]
    found += [
        case(f"{where} {name}", base, heavier(f"model/{name}"), f"{where} was model with")
        for name in ("model.safetensors", "2_Dense/model.safetensors")
    ]
    return found


IDLE = ("README", "training", "trainer_state", "optimizer")
IDLE_FILES = ("README.md", "training.json", "trainer_state.json", "optimizer.pt", "onnx/config.json")
RUNS = [
    case("a row's text", PLAIN, put("data.jsonl", '{"prompt": "Say it.", "response": "It."}\n'), "data was"),
    case("a column of no text", PLAIN, lambda _: edit("data.jsonl", '"stars": 3', '"stars": 4'), "data was"),
    case("the rows' order", PLAIN, lambda _: reverse("data.jsonl"), "rows was"),
    case("the data's path", PLAIN | {"data": "data.jsonl"}, {"data": "./data.jsonl"}),
    case("which column is the response", PLAIN, {"mapping": {"response": "id"}}, "rows was"),
    case("the seed", PLAIN, {"seed": 1}, "seed was 0 and is 1"),
    case("the budget", PLAIN, {"keep": "6"}, "keep was 5 and is 6"),
    case("conditions", PLAIN, {"where": ["stars=3"]}, "where was not set and is ['stars=3']"),
    case("a transform", PLAIN, {"transforms": ["lima_cleaning"]}, "transforms was"),
    case("the output's format", PLAIN, {"output_format": "parquet"}, "output_format was"),
    case("rows that always join", PLAIN | {"always": "always.jsonl"}, more("always.jsonl"), "always was"),
    case("a target", PLAIN | {"target": "target.jsonl"}, more("target.jsonl"), "target was"),
    case("a target's path", PLAIN | {"target": "target.jsonl"}, {"target": "answers.jsonl"}),
    case(
        "a task's name",
        PLAIN | {"target": "bbh:tasks"},
        moved("tasks/one.txt", "tasks/two.txt"),
        "target was",
    ),
    case("the tasks' path", PLAIN | {"target": "bbh:tasks"}, {"target": "bbh:./tasks"}),
    case("a gate", PLAIN, sets("longest.at_least=3"), "longest.at_least was not set and is 3"),
    case("a step's share", PLAIN, sets("longest.keep='50%'"), "steps.longest.keep was not set and is 50%"),
    case("a setting", PLAIN, sets("longest.unit='characters'"), "longest.settings.unit was words and is"),
    case("a setting's default, spelt out", PLAIN, sets("longest.unit='words'")),
    case("a quota", PLAIN, sets("select.quota='stars'"), "select.quota was not set and is stars"),
    case("tau", PLAIN, sets("select.quota='stars'", "select.tau=3.0"), "select.tau was 1.0 and is 3.0"),
    case("what would count tokens", PLAIN, sets("select.tokenizer='model'")),
    case(
        "what counts tokens",
        TOKENS,
        more("model/tokenizer.json"),
        "select.tokens.settings.tokenizer was model",
    ),
    case("words instead of tokens", TOKENS, sets("select.tokenizer='words'"), "tokenizer was model with"),
    case("a given file", GIVEN, put("ids.json", '["r3"]'), "given.settings.file was ids.json with contents"),
    case("a given file's path", GIVEN, lambda _: shutil.copy("ids.json", "others.json"), None),
    case("a given file in a blend", BLEND, put("ids.json", '["r3"]'), "parts[0].settings.file was ids.json"),
    case(
        "a filter's file",
        {"strategy": "local.py:Part", "keep": "5"},
        more("local.py"),
        "steps.Part.filter was part@",
    ),
    case(
        "what a filter's file imports",
        {"strategy": "local.py:Part", "keep": "5"},
        more("helpers/deeper.py"),
        "steps.Part.filter was part@",
    ),
    case(
        "what that imports in turn",
        {"strategy": "local.py:Part", "keep": "5"},
        more("helpers/below.py"),
        "steps.Part.filter was part@",
    ),
    case("what lies beside it", {"strategy": "local.py:Part", "keep": "5"}, more("helpers/other.py")),
    case("a judge's words", JUDGE, more("words.txt"), "judge.template was words.txt with contents"),
    case("a judge's model", JUDGE, judge(model="n", name=""), "judge.model was m and is n"),
    case(
        "a judge's address", JUDGE, judge(name="", base_url="http://127.0.0.1:2/v1"), "judge.server was http"
    ),
    case("a judge's name", JUDGE, judge(), "judge.server was http://127.0.0.1:1/v1 and is mine"),
    case("a named judge's address", NAMED, judge(base_url="http://127.0.0.1:2/v1")),
    case("a judge's scale", NAMED, judge(high=4), "judge.high was 5 and is 4"),
    case("a judge's temperature", NAMED, judge(temperature=0.5), "judge.temperature was 0.0 and is 0.5"),
    case("a judge's repeats", NAMED, judge(repeat=2), "judge.repeat was 1 and is 2"),
    case("a judge's mode", NAMED, judge(mode="expected"), "judge.mode was text and is expected"),
    case("a judge's concurrency", NAMED, judge(concurrency=2)),
    case("a judge's attempts", NAMED, judge(attempts=2, attempt_seconds=1.0, row_seconds=9.0)),
    case(
        "a judge's patience", NAMED, judge(patience=1.0, first_wait=0.1, longest_pause=1.0, poll_seconds=1.0)
    ),
    case("a judge's rates", NAMED, judge(requests_per_minute=5, tokens_per_minute=5)),
    case("a judge's key", NAMED, judge(key_env="MY_KEY")),
    case("a judge's transport", NAMED, judge(transport="batch")),
    case("a judge's price", NAMED, lambda _: priced()),
    case("the budget in money", NAMED, {"wishes": NAMED["wishes"] | {"max_usd": 3.0, "skip_pilot": True}}),
    case(
        "people's ratings",
        NAMED | sets("judge.human='people.csv'"),
        more("people.csv"),
        "judge.settings.human was",
    ),
    case(
        "the reader of ratings",
        NAMED,
        lambda patch: reader(patch),
        "judge.reader was score/2 and is score/999",
    ),
    case(
        "a local judge's weights",
        LOCAL_JUDGE,
        heavier("model/model.safetensors"),
        "judge.server was in process",
    ),
    case(
        "a local judge's date", LOCAL_JUDGE, env("DFILTER_DATE", "2025-01-01"), "judge.server was in process"
    ),
    *model_cases(KCENTER, "kcenter.settings.embedding.model"),
    case("a model's path", KCENTER, lambda _: shutil.copytree("model", "copy")),
    case("an encoder's device", KCENTER, sets(*KCENTER["settings"], "kcenter.embedding.device='cpu'")),
    case("auto, for an encoder", KCENTER, sets(*KCENTER["settings"], "kcenter.embedding.dtype='auto'")),
    case(
        "an encoder's dtype",
        KCENTER,
        sets(*KCENTER["settings"], "kcenter.embedding.dtype='float16'"),
        "dtype was float32",
    ),
    case("a losses' model", IFDS, heavier("model/model.safetensors"), "ifd.settings.model was model with"),
    case("the losses' dtype", IFDS, sets(*IFDS["settings"], "ifd.dtype='float16'"), "ifd.settings.dtype was"),
    case(
        "the date",
        IFDS | sets(*IFDS["settings"], "ifd.template='auto'"),
        env("DFILTER_DATE", "2025-01-01"),
        "template was auto and is auto, on 2025-01-01",
    ),
    case("the date, where the template has none", IFDS, env("DFILTER_DATE", "2025-01-01")),
    case("no date", IFDS, env("DFILTER_DATE", " ")),
    case(
        "names of control tokens",
        IFDS,
        env("DFILTER_CONTROL_TOKENS", "keep"),
        "template was published and is published, control tokens kept",
    ),
    case("names of control tokens as they are", IFDS, env("DFILTER_CONTROL_TOKENS", "text")),
    case("the date, where nothing shows it", KCENTER, env("DFILTER_DATE", "2025-01-01")),
    case(
        "a checkpoint's adapter",
        LESS_OWN,
        heavier("adapter/adapter_model.safetensors"),
        "less.settings.checkpoints",
    ),
    case(
        "a checkpoint's moments", LESS_OWN, more("adapter/moments.safetensors"), "less.settings.checkpoints"
    ),
    case(
        "a checkpoint's base",
        LESS_OWN,
        heavier("model/model.safetensors"),
        "less.settings.models[0] was adapter",
    ),
    case("a checkpoint's path", LESS_OWN, lambda _: shutil.copytree("adapter", "copy")),
    case(
        "a warm-up that is not made",
        LESS_OWN,
        sets(*LESS_OWN["settings"], "less.epochs=2", "less.warmup=0.5"),
    ),
    case(
        "a warm-up's base",
        LESS_WARM,
        heavier("model/model.safetensors"),
        "less.settings.model was model with",
    ),
    case(
        "a warm-up's figure",
        LESS_WARM,
        sets(*LESS_WARM["settings"], "less.overrides.batch=2"),
        "overrides.batch was",
    ),
    case("the device of gradients", LESS_WARM, sets(*LESS_WARM["settings"], "less.device='cpu'")),
]


def edit(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))


def reverse(file: str) -> None:
    Path(file).write_text("".join(reversed(Path(file).read_text().splitlines(keepends=True))))


def priced() -> None:
    from dfilter.store import home

    (home() / "prices.toml").write_text('[models]\n"m" = { input = 10.0, output = 40.0 }\n')


def reader(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TextScore, "name", "score/999")


MOVED = {
    "a given file's path": sets("given.file='others.json'"),
    "a model's path": sets("kcenter.embedding.model='copy'"),
    "a checkpoint's path": sets("less.checkpoints=['copy']", "less.rates=[1.0]"),
}


def run_identity(asked: Mapping[str, Any]) -> dict[str, Any]:
    found = prepared(Request(**{"data": "data.jsonl", **asked}), Silent()).identity
    return json.loads(json.dumps(found))  # as a folder keeps it


@pytest.mark.parametrize("made", RUNS)
def test_a_run_is_what_its_result_depends_on(made: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_identity(made.base)
    made.change(monkeypatch)
    after = run_identity({**made.base, **made.then, **MOVED.get(made.name, {})})
    decide(made, before, after)


def decide(made: Case, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    clauses = difference(before, after)
    if made.clause is None:
        assert clauses == []
        assert digest(before) == digest(after)
    else:
        assert any(made.clause in clause for clause in clauses), clauses
        assert digest(before) != digest(after)


FINE = {"model": "model", "evals": ("exact:eval.jsonl",)}
OWN = {"model": "model", "trainer": "local.py:Part", "evals": ("local.py:Part:eval.jsonl",)}
JUDGED = FINE | {"evals": ("pairwise:eval.jsonl",), "judges": ("m",), "base_url": "http://127.0.0.1:1/v1"}
GRADED = JUDGED | {"evals": ("grade:eval.jsonl",), "judge_names": ("mine",)}
AGAINST = JUDGED | {"against": "answers.jsonl"}
HARNESS = FINE | {"evals": ("lm-eval:task.yaml",)}
SHARE = FINE | {"evals": ("heldout:20%",)}
COMPARISONS = [
    case("data", FINE, more("data.jsonl"), "data was data.jsonl with contents"),
    case("data's path", FINE, {"data": "./data.jsonl"}),
    case("a share's data", SHARE, lambda _: edit("data.jsonl", "Say 3", "Say it"), "data was data.jsonl"),
    case("a share", SHARE, {"evals": ("heldout:10%",)}, "source.share was 20% and is 10%"),
    case("strategies, budgets, seeds", FINE, {"strategies": ("lima",), "keep": ("5",), "seeds": 9}),
    case(
        "settings of strategies",
        FINE,
        sets("kcenter.clusters=5", target="target.jsonl", selection_model="tiny"),
    ),
    case("references", FINE, {"references": ()}),
    case("the margin", FINE, {"margin": 0.5}),  # refused by itself, see test_compare.py
    *model_cases(FINE, "model"),
    case("a model's path", FINE, lambda _: shutil.copytree("model", "copy")),
    case("a model's path, for an own trainer", OWN, lambda _: shutil.copytree("model", "copy")),
    case(
        "a model for an own trainer", OWN, heavier("model/model.safetensors"), "model was model with contents"
    ),
    case("an own trainer's file", OWN, more("local.py"), "trainer.name was part@"),
    case("an own evaluator's source", OWN, more("eval.jsonl"), "evaluations.part.source was eval.jsonl"),
    case("the recipe", FINE, {"recipe": "less"}, "trainer.settings.recipe was quick and is less"),
    case("a recipe's figure", FINE, {"train": {"overrides": {"batch": 4}}}, "figures.batch was 8 and is 4"),
    case("epochs", FINE, {"train": {"epochs": 2}}, "trainer.settings.epochs was not set and is 2"),
    case("tokens of a pass", FINE, {"train": {"micro_tokens": 64}}),
    case("recomputed activations", FINE, {"train": {"gradient_checkpointing": True}}),
    case("minutes between checkpoints", FINE, {"train": {"checkpoint_minutes": 1.0, "checkpoint_steps": 3}}),
    case("the saved dtype", FINE, {"train": {"save_dtype": "float32"}}, "save_dtype was auto and is float32"),
    case(
        "what chooses an epoch",
        FINE | {"recipe": "lima"},
        {"train": {"choose": {"evaluator": "heldout", "settings": {"source": "eval.jsonl"}}}},
        "trainer.settings.choose was not set",
    ),
    case(
        "the date",
        FINE,
        env("DFILTER_DATE", "2025-01-01"),
        "trainer.settings.template was auto and is auto, on",
    ),
    case("prompts", FINE, more("eval.jsonl"), "evaluations.exact.source was eval.jsonl with contents"),
    case("prompts' path", FINE, {"evals": ("exact:target.jsonl",)}),
    case(
        "two files of prompts",
        FINE | {"evals": ("exact:eval.jsonl+answers.jsonl",)},
        more("answers.jsonl"),
        "source[1] was answers.jsonl",
    ),
    case(
        "held-out shards",
        FINE | {"evals": ("heldout:shard-*.jsonl",)},
        more("shard-2.jsonl"),
        "source was shard-*.jsonl with",
    ),
    case(
        "a file's line",
        FINE | {"evals": ("lm-eval:task.yaml",)},
        lambda _: edit("task.yaml", "mine", "ours"),
        "source[0] was task.yaml",
    ),
    case("the harness's data", HARNESS, more("my eval.jsonl"), "lm-eval.source["),
    case("the harness's folder of data", HARNESS, more("more/more.jsonl"), "lm-eval.source["),
    case("the harness's functions", HARNESS, more("own.py"), "lm-eval.source["),
    case("answers of an opponent", AGAINST, more("answers.jsonl"), "pairwise.against was answers.jsonl with"),
    case("the path of these", AGAINST, {"against": "target.jsonl"}),
    case("the opponent", JUDGED, {"against": "full"}, "pairwise.against was random and is full"),
    case(
        "a judge's address",
        JUDGED,
        {"base_url": "http://127.0.0.1:2/v1"},
        "judges[0].server was http://127.0.0.1:1/v1",
    ),
    case("a named judge's address", GRADED, {"base_url": "http://127.0.0.1:2/v1"}),
    case("a judge", JUDGED, {"judges": ("n",)}, "judges[0].model was m and is n"),
]


def protocol(asked: Mapping[str, Any], out: str) -> Mapping[str, Any]:
    plan = Comparison(**{"data": "data.jsonl", "out": Path(out), **asked})
    return prepare(plan, Silent()).protocol


@pytest.mark.parametrize("made", COMPARISONS)
def test_a_protocol_is_what_a_table_depends_on(made: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = protocol(made.base, "one")
    made.change(monkeypatch)
    copied = {"model": "copy"} if Path("copy").exists() else {}
    decide(made, before, protocol({**made.base, **made.then, **copied}, "two"))


# Signals and fits: the same folder or another one


def place(signal: Any) -> str:
    return kind_of(signal, "signals").place(signal.spec())


def test_a_signal_goes_by_contents_and_number_format() -> None:
    shutil.copytree("model", "copy")
    for kind in (Embedding, HiddenState, ResponseLoss):
        first = place(kind(model="model"))
        assert first == place(kind(model="copy", device="cpu"))
    assert place(ResponseLoss("model")) == place(ResponseLoss("model", dtype=fast_dtype()))
    assert place(ResponseLoss("model")) != place(ResponseLoss("model", dtype="float16"))
    before = [place(kind("model")) for kind in (Embedding, HiddenState, ResponseLoss, Tokens)]
    weights(Path("model/model.safetensors"), 2)
    after = [place(kind("model")) for kind in (Embedding, HiddenState, ResponseLoss, Tokens)]
    assert not {*before} & {*after}
    assert place(Tokens("words")) == place(Tokens())


def test_a_signal_of_another_version_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = place(ResponseLoss("model"))
    monkeypatch.setattr(ResponseLoss, "version", ResponseLoss.version + 1)
    assert place(ResponseLoss("model")) != before


@pytest.mark.parametrize(
    ("made", "parts"),
    [
        (IFD, [ResponseLoss]),
        (RDS, [HiddenState]),
        (RDSPlus, [HiddenState]),
        (KCenter, [Clusters]),
        (Duplicates, [Clusters]),
        (LESS, [Directions, Affinity, GradientSketch, ProjectedGradient]),
    ],
)
def test_a_filter_is_of_its_signals_and_fits_versions(made: Any, parts: list[Any]) -> None:
    assert made.version[1:] == tuple(part.version for part in parts)


def test_a_class_that_inherits_a_kind_is_not_stored_as_it() -> None:
    source = "from dataclasses import dataclass\nfrom dfilter.embed.sentences import Embedding\n"
    Path("own.py").write_text(source + "@dataclass(frozen=True)\nclass Mine(Embedding): ...\n")
    registry.allow_code("own.py")
    mine = registry.create("signals", "own.py:Mine", {"model": "model"})
    assert mine.spec() == Embedding("model").spec()
    assert place(mine) != place(Embedding("model"))


def test_a_fit_of_a_signal_of_ones_own_follows_its_file() -> None:
    places = []
    for text in ("return {}", "return {} or {}", "return {}"):
        method = f"    def spec(self): {text}\n    def compute(self, rows): ...\n"
        Path("own.py").write_text(f"class Mine:\n{method}")
        registry.allow_code("own.py")
        fit = Clusters(registry.create("signals", "own.py:Mine"), "kmeans", 3, "cosine", 0)
        places.append(kind_of(fit, "fits").place(fit.spec()))
    assert places[0] == places[2] != places[1]


def test_two_files_of_one_name_are_two_kinds() -> None:
    folder(".", {"one/own.py": "class Mine: ...\n", "two/own.py": "class Mine: ...\n\n"})
    registry.allow_code("one/own.py", "two/own.py")
    one, two = (registry.create("filters", f"{place}/own.py:Mine") for place in ("one", "two"))
    assert kind_of(one, "filters").name == f"mine@{file_sha256(Path('one/own.py'))[:16]}"
    assert kind_of(two, "filters") != kind_of(one, "filters")


def test_a_fit_goes_by_what_it_is_made_of() -> None:
    def of(**settings: Any) -> str:
        clusters = Clusters(**{**made, **settings})
        fit = Traversal(clusters.embedding, "cosine", clusters)
        return kind_of(fit, "fits").place(fit.spec())

    made = {"embedding": Embedding("model"), "method": "kmeans", "clusters": 3, "metric": "cosine", "seed": 0}
    assert of() == of(embedding=Embedding("model", device="cpu", dtype="auto"))
    others = {"embedding": Embedding("model", pooling="cls"), "clusters": 4, "metric": "euclidean", "seed": 1}
    assert len({of(), *(of(**{name: value}) for name, value in others.items())}) == 5
    assert of(method="agglomerative") == of(method="agglomerative", seed=1)  # nothing random in it


def test_a_warm_up_goes_by_its_trainer_and_not_by_how_it_is_run() -> None:
    def of(**overrides: Any) -> str:
        fit = Warmup("model", overrides=overrides)
        return kind_of(fit, "fits").place(fit.spec())

    assert of() != of(batch=4)
    shutil.copytree("model", "copy")
    assert Warmup("model").spec() == Warmup("copy").spec()


def test_a_warm_up_reads_its_rows_in_one_order_however_they_stand() -> None:
    rows = Dataset.from_rows([{"prompt": f"Say {n}.", "response": f"{n}."} for n in range(40)])
    turned = rows.take(np.arange(40)[::-1])
    first, second = (data.keys[drawn(data, 0.5, 3)].tolist() for data in (rows, turned))
    assert first == second


# Files and folders


def test_a_folder_counts_with_the_folders_that_are_linked_into_it() -> None:
    shutil.move("model/1_Pooling", "elsewhere")
    Path("model/1_Pooling").symlink_to(Path("elsewhere").absolute())
    Path("model/loop").symlink_to(Path("model").absolute())
    before = resolve("model").sha
    edit("elsewhere/config.json", "true", "false")
    assert resolve("model").sha != before


def test_a_file_that_was_just_written_is_read_again() -> None:
    digests = set()
    for number in range(200):  # several within one tick of the clock
        Path("file").write_text(f"{number:03}")
        digests.add(file_sha256(Path("file")))
    assert len(digests) == 200


def test_every_place_of_a_component_is_known_by_contents_or_not_at_all() -> None:
    """A setting whose name says that it is a file has a mark, or its text would stand for its contents."""
    names = {"file", "source", "model", "folder", "template", "checkpoints", "tokenizer", "human", "against"}
    for group, listed in registry.BUILT_IN.items():
        for name in listed:
            kind = registry.load(group, name)
            found = marks(kind) if dataclasses.is_dataclass(kind) else {}
            own = hasattr(kind, "identify")
            assert not [n for n, mark in found.items() if n in names and mark is None and not own], name


def test_a_difference_names_files_and_shows_both_contents() -> None:
    one, two = ({"file": {"content": c * 16, "named": name}} for c, name in (("a", "x"), ("b", "y")))
    assert difference(one, two) == ["file was x with contents aaaaaaaa and is y with contents bbbbbbbb"]
    assert difference(one, {"file": {"content": "a" * 16, "named": "y"}}) == []
    assert bare(one) == {"file": {"content": "a" * 16}}


def test_code_of_a_file_is_known_by_the_file_whatever_it_calls_itself() -> None:
    names = []
    for text in ("len(rows)", "-len(rows)"):
        kind = "from typing import ClassVar\nclass Mine:\n    kind: ClassVar[str] = 'mine'\n"
        Path("own.py").write_text(f"{kind}    def score(self, rows): return {text}\n")
        registry.allow_code("own.py")
        names.append(kind_of(registry.create("filters", "own.py:Mine"), "filters").name)
    assert names[0] != names[1]


def test_a_class_of_an_imported_file_is_known_by_the_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for body in ("return 1", "return 2"):
        Path("own_signals.py").write_text(
            f"class Mine:\n    kind = 'mine'\n    def compute(self, rows): {body}\n"
        )
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "own_signals", raising=False)
        names.append(kind_of(importlib.import_module("own_signals").Mine(), "signals").name)
    assert names[0] != names[1]
    assert kind_of(Embedding(), "signals").name == "embedding"


def test_a_file_called_like_a_reference_is_not_the_opponent() -> None:
    made = Pairwise("koala", judges=(Server("m"),))
    before = identity(made)
    Path("random").write_text("x")
    assert identity(made) == before
