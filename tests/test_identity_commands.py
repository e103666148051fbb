"""What a user changes between two calls of one command: refused, made anew, or reused, never half mixed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dfilter import models, sample
from dfilter.cli import main
from dfilter.data import load
from dfilter.embed.sentences import Embedding
from dfilter.errors import ModelError
from dfilter.leaderboard.cells import write_result
from dfilter.pool import Pool
from dfilter.testing import ScriptedServer
from dfilter.types import EvalResult

PARTS = Path(__file__).with_name("compare_parts.py")
TRAINER, NEAR = f"{PARTS}:Mean", f"{PARTS}:Near"
SMALL = ["--seeds", "1", "--no-random", "--no-longest", "--no-full"]
PLAIN = ["--model", "words", "--recipe", "none", "--trainer", TRAINER]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """The lines of two pools of 60 rows that share no row."""
    folder = tmp_path_factory.mktemp("drawn")
    sample.write(folder, rows=120, seed=3)
    lines = (folder / "pool.jsonl").read_text().splitlines(keepends=True)
    return lines[:60], lines[60:]


@pytest.fixture(autouse=True)
def pool(drawn: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, lines in zip("ab", drawn, strict=True):
        Path(name).mkdir()
        Path(name, "pool.jsonl").write_text("".join(lines))
    return Path("a/pool.jsonl")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that were trained; tests/test_compare.py lets real processes do it."""
    done: list[str] = []

    def stand_in(cell: Path) -> str:
        done.append(cell.name)
        job = json.loads((cell / "job.json").read_text())
        lengths = [len(row.response) for row in load(job["rows"])]
        (cell / "model").mkdir(exist_ok=True)
        told = {"trained_tokens": sum(lengths), "seconds": 0.0}
        (cell / "model" / "training.json").write_text(json.dumps(told))
        values = np.full(3, np.mean(lengths))
        for name, entry in job["evaluations"].items():
            found = EvalResult(["p", "q", "r"], values, "length", higher_is_better=True)
            write_result(cell / "results" / f"{name}.json", found, *filter(None, [entry.get("identity")]))
        return ""

    monkeypatch.setattr("dfilter.compare.train_and_evaluate", stand_in)
    return done


def dfilter(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: str | Path) -> str:
    result = dfilter(*words)
    assert result.exit_code == 0, result.output
    return result.output


def refused(clause: str, *words: str | Path) -> None:
    """The command refuses with the difference, and changes nothing."""
    before = contents()
    result = dfilter(*words)
    assert (result.exit_code, clause in result.output) == (2, True), result.output
    assert contents() == before


def contents() -> dict[str, bytes]:
    kept = [p for p in Path().rglob("*") if p.is_file() and p.name != ".claim"]
    return {str(path): path.read_bytes() for path in kept}


def compare(data: str | Path, *more: str | Path, out: str | None = "out") -> list[str | Path]:
    return ["compare", data, *SMALL, *PLAIN, *(["-o", out] if out else []), *more]


LIMA = ["-s", "lima", "--set", "lima.min_characters=10", "--keep", "10"]
SHARE = [*LIMA, "--eval", "heldout:20%"]


# A comparison's data


def test_other_data_in_one_folder_is_refused_and_made_anew_by_force(trained: list[str]) -> None:
    done(*compare("a/pool.jsonl", *SHARE))
    refused("data was a/pool.jsonl", *compare("b/pool.jsonl", *SHARE))
    done(*compare("b/pool.jsonl", *SHARE, "--force"))
    theirs = {json.loads(line)["id"] for line in Path("b/pool.jsonl").read_text().splitlines()}
    for name in ("pool.jsonl", "heldout.jsonl", "selections/lima-10-seed0/selected.jsonl"):
        assert {json.loads(line)["id"] for line in Path("out", name).read_text().splitlines()} <= theirs
    assert trained == ["lima-10-seed0"] * 2


def test_two_files_of_one_name_do_not_share_a_comparison(trained: list[str]) -> None:
    done(*compare("a/pool.jsonl", *SHARE, out=None))
    refused("data was", *compare("b/pool.jsonl", *SHARE, out=None))


def test_data_edited_in_place_are_other_data(pool: Path, trained: list[str]) -> None:
    done(*compare(pool, *SHARE))
    pool.write_text(pool.read_text() + Path("b/pool.jsonl").read_text().splitlines(keepends=True)[0])
    refused("data was", *compare(pool, *SHARE))


def test_another_share_is_another_comparison(pool: Path, trained: list[str]) -> None:
    done(*compare(pool, *SHARE))
    refused("share was 20% and is 10%", *compare(pool, *LIMA, "--eval", "heldout:10%"))


def test_moved_data_are_the_same_data(pool: Path, trained: list[str]) -> None:
    done(*compare(pool, *SHARE))
    pool.rename("moved.jsonl")
    done(*compare("moved.jsonl", *SHARE))
    assert len(trained) == 1


# A comparison's selections


def test_a_changed_selection_is_refused_at_its_own_budget_and_at_another(
    pool: Path, trained: list[str]
) -> None:
    changed = ["-s", "lima", "--set", "lima.min_characters=20", "--eval", NEAR]
    done(*compare(pool, *LIMA, "--eval", NEAR))
    refused("min_characters was 10 and is 20", *compare(pool, *changed, "--keep", "10"))
    refused("min_characters was 10 and is 20", *compare(pool, *changed, "--keep", "20"))
    done(*compare(pool, *changed, "--keep", "20", "--force"))
    assert [path.name for path in Path("out/cells").iterdir()] == ["lima-20-seed0"]
    shown = json.loads(done("leaderboard", "out", "--format", "json"))
    assert {row["budget"] for row in shown["rows"]} == {"20"}


def test_an_edited_strategy_file_is_another_strategy(pool: Path, trained: list[str]) -> None:
    mine = Path("mine.toml")
    mine.write_text('[[steps]]\nfilter = "longest"\nsettings = { unit = "characters" }\n')
    words = compare(pool, "-s", mine, "--keep", "10", "--eval", NEAR)
    done(*words)
    mine.write_text('[[steps]]\nfilter = "longest"\nsettings = { unit = "words" }\n')
    refused("longest.settings.unit was characters and is words", *words)


def test_a_target_counts_where_it_is_looked_at(pool: Path, trained: list[str]) -> None:
    words = compare(pool, *LIMA, "--eval", NEAR, "--target", "target.jsonl")
    words.remove("--no-longest")
    Path("target.jsonl").write_text('{"prompt": "Say a.", "response": "a"}\n')
    done(*words)
    Path("target.jsonl").write_text('{"prompt": "Say b.", "response": "b"}\n')
    result = dfilter(*words)
    assert (result.exit_code, "target.jsonl with contents" in result.output) == (2, True), result.output
    done(*words, "--force")
    assert trained.count("longest-10-seed0") == 1  # it looks at no target
    assert len(trained) == 2  # lima's rows are the same, so its model is too


def test_a_reference_does_not_change_with_a_target(pool: Path, trained: list[str]) -> None:
    words = compare(pool, "-s", "longest", "--keep", "10", "--eval", NEAR)
    words.remove("--no-longest")
    done(*words)
    Path("target.jsonl").write_text('{"prompt": "Say a.", "response": "a"}\n')
    done(*words, "--target", "target.jsonl")
    assert len(trained) == 1


# A comparison's model, trainer and evaluations


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dfilter.tiny import write_tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny(folder)
    return folder


def test_a_model_is_its_contents_and_not_its_name(pool: Path, tiny: Path, trained: list[str]) -> None:
    shutil.copytree(tiny, "model")
    words = ["compare", pool, *SMALL, *LIMA, "--eval", NEAR, "-o", "out"]
    done(*words, "--model", "model")
    Path("model").rename("moved")
    done(*words, "--model", "moved")
    assert len(trained) == 1
    Path("moved").rename("model")
    weights = Path("model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    refused("model was model with contents", *words, "--model", "model")


def test_what_a_card_needs_does_not_change_what_is_trained(
    pool: Path, tiny: Path, trained: list[str]
) -> None:
    words = ["compare", pool, *SMALL, *LIMA, "--eval", NEAR, "-o", "out", "--model", tiny]
    done(*words)
    less = ["--train", "micro_tokens=64", "--train", "gradient_checkpointing=true"]
    done(*words, *less, "--train", "checkpoint_minutes=1")
    assert len(trained) == 1
    refused("epochs", *words, "--train", "epochs=2")


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("pairwise:prompts.jsonl", "answers.jsonl"),
        ("pairwise:prompts.jsonl", "prompts.jsonl"),
        ("lm-eval:task.yaml", "questions.jsonl"),
        ("lm-eval:task.yaml", "more/questions.jsonl"),
        ("exact:prompts.jsonl", "prompts.jsonl"),
        ("heldout:held*.jsonl", "held2.jsonl"),
    ],
)
def test_a_file_behind_an_evaluation_counts_by_contents(
    pool: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch, spec: str, file: str
) -> None:
    monkeypatch.setattr("dfilter.eval.lm_eval.LMEval.check", lambda _: None)  # the harness is not asked here
    Path("more").mkdir()
    row = {"prompt": "Say a.", "response": "a", "answer": "a", "id": "1"}
    for name in ("prompts", "answers", "questions", "more/questions", "held1", "held2"):
        Path(f"{name}.jsonl").write_text(json.dumps(row | {"id": name}) + "\n")
    told = [{"prompt": f"{verb} a.", "response": "b"} for verb in ("Say", "Do say")]
    Path("answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    Path("task.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files: {test: questions.jsonl}\n"
        "  data_dir: more\n"
    )
    judged = ["--judge", "m", "--base-url", "http://127.0.0.1:1/v1", "--against", "answers.jsonl"]
    words = compare(pool, *LIMA, "--eval", spec, *judged)
    done(*words)
    old, new = ('"b"', '"c"') if file == "answers.jsonl" else ("Say", "Do say")
    Path(file).write_text(Path(file).read_text().replace(old, new))
    refused(file.partition("/")[0].replace("held2", "held*"), *words)


def test_a_judge_that_moved_is_the_same_judge_where_it_has_a_name(pool: Path, trained: list[str]) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "Say a."}\n')
    words = compare(pool, *LIMA, "--eval", "grade:prompts.jsonl", "--judge", "m")
    done(*words, "--judge-name", "mine", "--base-url", "http://127.0.0.1:1/v1")
    done(*words, "--judge-name", "mine", "--base-url", "http://127.0.0.1:2/v1")
    assert len(trained) == 1
    other = [word if word != "out" else "other" for word in words]
    done(*other, "--base-url", "http://127.0.0.1:1/v1")
    refused("--judge-name", *other, "--base-url", "http://127.0.0.1:2/v1")


# A run


def test_a_given_file_counts_by_what_it_says(pool: Path) -> None:
    ids = [json.loads(line)["id"] for line in pool.read_text().splitlines()]
    Path("ids.json").write_text(json.dumps(ids[:5]))
    words = ["run", pool, "-s", "given", "--keep", "5", "-o", "out"]
    done(*words, "--set", "given.file=ids.json")
    Path("ids.json").rename("moved.json")
    assert "finished already" in done(*words, "--set", "given.file=moved.json")
    Path("moved.json").write_text(json.dumps(ids[5:10]))
    changed = [*words, "--set", "given.file=moved.json"]
    refused("given.settings.file was ids.json with contents", *changed)
    done(*changed, "--force")
    kept = Path("out/selected.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in kept] == ids[5:10]


def test_a_target_counts_by_what_it_says(pool: Path) -> None:
    Path("tasks").mkdir()
    Path("tasks/one.txt").write_text("Q: Is it?\nA: Yes.\n")
    words = ["run", pool, "-s", "longest", "--keep", "5", "--target", "bbh:tasks", "-o", "out"]
    done(*words)
    assert "finished already" in done(*words)
    Path("tasks/one.txt").rename("tasks/two.txt")  # the same rows, of another subtask
    refused("target was", *words)


@pytest.fixture
def judges() -> Iterator[tuple[ScriptedServer, ScriptedServer]]:
    with ScriptedServer(lambda _: "4.5\nGood.") as one, ScriptedServer(lambda _: "4.5\nGood.") as two:
        yield one, two


def test_a_judges_words_count_and_its_address_only_without_a_name(
    pool: Path, judges: tuple[ScriptedServer, ScriptedServer]
) -> None:
    Path("words.txt").write_text("{instruction}\n{response}\nA score from 0 to 5:")
    words = ["run", pool, "-s", "alpagasus", "--keep", "5", "--judge", "m", "--skip-pilot"]
    words += ["--template", "words.txt"]
    named = [*words, "-o", "named", "--set", "judge.judge.name=mine"]
    done(*named, "--base-url", judges[0].url)
    quick = ["--set", "judge.judge.concurrency=3", "--set", "judge.judge.attempts=2"]
    assert "finished already" in done(*named, *quick, "--base-url", judges[1].url)
    assert not judges[1].log
    done(*words, "-o", "out", "--base-url", judges[0].url)
    refused("--judge-name", *words, "-o", "out", "--base-url", judges[1].url)
    Path("words.txt").write_text("{instruction}\n{response}\nA score from 0 to 5, please:")
    refused("template was words.txt with contents", *named, "--base-url", judges[0].url)


LOCAL = """
from dataclasses import dataclass, field
import numpy as np
from dfilter.filters.kcenter import KCenter

@dataclass(frozen=True)
class Lengths:
    def spec(self):
        return {}

    def compute(self, rows):
        return np.array([[len(row.response) % 7, len(row.prompt) % 5] for row in rows], np.float32)

@dataclass(frozen=True)
class Spread(KCenter):
    embedding: Lengths = field(default_factory=Lengths)
    metric: str = "euclidean"
"""


def test_what_is_learnt_from_code_of_ones_own_follows_the_code(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = Path("local.py")
    code.write_text(LOCAL)
    words = ["run", pool, "-s", "local.py:Spread", "--keep", "8"]
    done(*words, "-o", "one")
    code.write_text(LOCAL.replace("% 7", "% 11"))
    refused("Spread", *words, "-o", "one")
    done(*words, "-o", "two")
    monkeypatch.setenv("DFILTER_HOME", str(Path("fresh").absolute()))
    done(*words, "-o", "three")
    assert Path("two/decisions.parquet").read_bytes() == Path("three/decisions.parquet").read_bytes()


EDITS = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from dfilter import Scores
from dfilter.filters.given import Given

@dataclass(frozen=True)
class Late(Given):
    def score(self, pool):
        Path("ids.json").write_text('["x"]')
        return Scores(np.zeros(len(pool.rows)))
"""


def test_a_file_that_is_edited_while_the_run_goes_spoils_it(pool: Path) -> None:
    Path("local.py").write_text(EDITS)
    Path("ids.json").write_text('["a"]')
    words = ["run", pool, "-s", "local.py:Late", "--set", "filter.file=ids.json", "--keep", "5", "-o", "out"]
    result = dfilter(*words)
    assert (result.exit_code, "Late.settings.file was ids.json with" in result.output) == (2, True), (
        result.output
    )
    assert not Path("out").exists()
    done(*words)  # the file says now what it will say


def test_a_file_that_is_edited_while_cells_are_made_ends_the_comparison(
    pool: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dfilter import compare as module

    made = module.train_and_evaluate

    def edits(cell: Path) -> str:
        if len(trained) == 1:
            Path("eval.jsonl").write_text('{"prompt": "Say b.", "answer": "b"}\n')
        return made(cell)

    monkeypatch.setattr(module, "train_and_evaluate", edits)
    Path("eval.jsonl").write_text('{"prompt": "Say a.", "answer": "a"}\n')
    words = compare(pool, *LIMA, "--eval", "exact:eval.jsonl")
    words[words.index("--seeds") + 1] = "2"
    result = dfilter(*words)
    assert result.exit_code == 2
    assert "exact.source was eval.jsonl with" in result.output
    assert [cell.name for cell in Path("out/cells").iterdir()] == ["lima-10-seed0"]
    Path("eval.jsonl").write_text('{"prompt": "Say a.", "answer": "a"}\n')
    done(*words)
    assert trained == ["lima-10-seed0", "lima-10-seed1", "lima-10-seed1"]


# An encoder's folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder around a random BERT of one layer that reads letters."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder") / "m"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase]
    pieces += [f"##{letter}" for letter in ascii_lowercase]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng(devices=[]), models.quiet_transformers():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(pieces), **sizes)).save_pretrained(folder)
        BertTokenizerFast(vocab={p: at for at, p in enumerate(pieces)}).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    kinds = {"0": "Transformer", "1": "Pooling"}
    listed = [
        {
            "idx": int(n),
            "name": n,
            "path": "1_Pooling" * int(n),
            "type": f"sentence_transformers.models.{kind}",
        }
        for n, kind in kinds.items()
    ]
    told = {
        "modules.json": listed,
        "sentence_bert_config.json": {"max_seq_length": 64},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None},
        "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True},
    }
    for name, value in told.items():
        (folder / name).write_text(json.dumps(value))
    return folder


PROMPTS = {"prompts": {"q": "Represent the style: "}, "default_prompt_name": "q"}
POOLING = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}


def test_an_encoder_is_every_file_that_shapes_its_vectors(
    pool: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(encoder, "m")
    words = ["run", pool, "-s", "kcenter", "--keep", "5", "--set", "kcenter.clusters=3"]
    words += ["--set", "kcenter.embedding.model=m"]
    done(*words, "-o", "out")
    rows = load(str(pool))
    vectors = [Pool(rows).signal(Embedding("m"))]
    edits: list[tuple[str, dict[str, Any]]] = [
        ("sentence_bert_config.json", {"max_seq_length": 24}),
        ("1_Pooling/config.json", POOLING),
        ("config_sentence_transformers.json", PROMPTS),
    ]
    home = os.environ["DFILTER_HOME"]
    for number, (name, change) in enumerate(edits):
        file = Path("m", name)
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        vectors.append(Pool(rows).signal(Embedding("m")))
        monkeypatch.setenv("DFILTER_HOME", str(Path(f"fresh{number}").absolute()))
        shutil.copytree("m", f"copy{number}")  # no process has seen this one
        np.testing.assert_array_equal(vectors[-1], Pool(rows).signal(Embedding(f"copy{number}")))
        monkeypatch.setenv("DFILTER_HOME", home)
        assert np.abs(vectors[-1] - vectors[-2]).max() > 1e-5
    refused("embedding.model was m with contents", *words, "-o", "out")


def test_a_pickled_layer_of_an_encoder_is_refused(pool: Path, encoder: Path) -> None:
    shutil.copytree(encoder, "m")
    Path("m/2_Dense").mkdir()
    Path("m/2_Dense/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="2_Dense of 'm' is pickled"):
        Pool(load(str(pool))).signal(Embedding("m"))
