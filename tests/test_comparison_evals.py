"""Evaluations as people name them: every setting of every evaluator, from a text or from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from dfilter import registry
from dfilter.compare import compare
from dfilter.comparison import Comparison, from_options, parse_evaluations, prepare
from dfilter.errors import DFilterError, FolderError, SettingsError
from dfilter.evaluations import check_inputs, named
from dfilter.identity import component_identity
from dfilter.leaderboard import leaderboard
from dfilter.progress import Silent

PARTS = Path(__file__).with_name("compare_parts.py")
NEAR = f"{PARTS}:Near"
OPTIONS = {"strategies": "longest", "keep": "10", "seeds": 2}


def settings(*specs, **plan):
    return [made.settings for made in parse_evaluations(specs, Comparison(Path("out"), evals=specs, **plan))]


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))


@pytest.fixture
def planned(tmp_path, cheap) -> Callable[..., Comparison]:
    return lambda *evals, **more: cheap(tmp_path, strategies=("longest",), keep=("10",), evals=evals, **more)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("exact:f.jsonl,match=number,answer=final", {"match": "number", "answer": "final"}),
        ("exact:f.jsonl,decoding.max_new_tokens=64", {"decoding": {"max_new_tokens": 64}}),
        ("heldout:f.jsonl,per=token,max_tokens=512,template=alpaca", {"per": "token", "max_tokens": 512}),
        ("grade:f.jsonl,scale=safety,samples=2,decoding.temperature=0.5", {"scale": "safety", "samples": 2}),
        ("pairwise:f.jsonl,human=sheets,against=longest", {"human": "sheets", "against": "longest"}),
        ("lm-eval:gsm8k,num_fewshot=3,limit=10,chat=true", {"num_fewshot": 3, "limit": 10, "chat": True}),
        ("lm-eval:gsm8k,metric=exact_match,strict-match,limit=5", {"metric": "exact_match,strict-match"}),
        ('lm-eval:gsm8k,metric="a,b=c",limit=5', {"metric": "a,b=c", "limit": 5}),
    ],
)
def test_every_evaluator_is_set_from_a_text(spec, wanted) -> None:
    (made,) = settings(spec, judges=("openai/gpt",))
    assert made["source"] == spec.partition(":")[2].partition(",")[0]
    for name, value in wanted.items():
        assert made[name] == value or value.items() <= made[name].items()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("exact:", "--eval exact: exact needs a value for 'source'"),
        ("exact", "exact needs a value for 'source'"),
        ("mmlu:", "mmlu needs a value for 'source'"),
        ("lm-eval:", "lm-eval needs a value for 'source'"),
        ("exact:f.jsonl,match=number,match=ends", "says match twice"),
        (
            "exact:f.jsonl,decoding.max_new_tokens=4,decoding.max_new_tokens=8",
            "says decoding.max_new_tokens twice",
        ),
        ("exact:f.jsonl,source=g.jsonl", "says source twice"),
        (f"{NEAR}:10%", "only heldout is on a share"),
        ("exact:2.5%", "only heldout is on a share"),
    ],
)
def test_what_a_text_lacks_or_says_twice_is_a_sentence(spec, said) -> None:
    registry.allow_code(PARTS)
    with pytest.raises(SettingsError) as refused:
        settings(spec)
    assert said in str(refused.value)
    assert "__init__" not in str(refused.value)


@pytest.mark.parametrize("kind", ["exact", "grade", "heldout", "lm-eval", "pairwise"])
def test_no_setting_is_out_of_reach(kind) -> None:
    """Each name is known; a value that fits no type is refused with the setting's name, or taken as text."""
    for name in {field.name for field in fields(registry.load("evaluators", kind))} - {"source"}:
        try:
            (made,) = settings(f"{kind}:f.jsonl,{name}=nonsense", judges=("openai/gpt",))
            taken = str(made[name])
        except SettingsError as error:
            taken = str(error)
        assert taken == "nonsense" or f"{kind}.{name} = 'nonsense'" in taken


def test_a_table_says_what_a_text_says(tmp_path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        '[[eval]]\nkind = "exact"\nsource = "f.jsonl"\nmatch = "number"\ndecoding.max_new_tokens = 64\n'
        '[[eval]]\nkind = "heldout"\nsource = "g.jsonl"\n'
    )
    plan = from_options(str(file), None, OPTIONS)
    texts = ("exact:f.jsonl,match=number,decoding.max_new_tokens=64", "heldout:g.jsonl")
    assert parse_evaluations(plan.evals, plan) == parse_evaluations(texts, plan)
    mixed = [{"kind": "heldout", "source": "g.jsonl"}, texts[0]]
    assert [made.kind for made in parse_evaluations(mixed, plan)] == ["heldout", "exact"]


def test_one_kind_twice_is_two_evaluations_and_settings_are_the_protocols() -> None:
    plan = Comparison(Path("out"))
    specs = ("exact:f.jsonl,match=number", "exact:f.jsonl", "exact:f.jsonl,decoding.batch_tokens=99")
    made = parse_evaluations(specs, plan)
    assert [one.name for one in made] == ["exact", "exact2", "exact3"]
    number, plain, batched = (component_identity("evaluators", m.kind, m.settings) for m in made)
    assert number != plain
    assert plain == batched  # how many tokens are padded together changes no result


def test_all_mistakes_are_said_at_once_with_the_nearest_name(tmp_path, planned) -> None:
    specs = (
        "exact:f.jsonl,macth=number,decoding.max_new_token=5",
        "heldout:f.jsonl,per=line,max_tokens=many",
        {"kind": "exakt", "source": "f.jsonl"},
        {"source": "f.jsonl"},
    )
    with pytest.raises(SettingsError) as caught:
        prepare(planned(*specs), Silent())
    said = str(caught.value)
    assert "exact has no setting 'macth'. Did you mean 'match'?" in said
    assert "exact.decoding has no setting 'max_new_token'. Did you mean 'max_new_tokens'?" in said
    assert "heldout.per = 'line'" in said
    assert "heldout.max_tokens = 'many'" in said
    assert "There is no evaluator named 'exakt'. Did you mean 'exact'?" in said
    assert "[[eval]] has no kind" in said


def test_a_file_with_commas_and_signs_of_equality_is_found(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,match=number.jsonl").touch()
    assert settings("exact:a,match=number.jsonl")[0]["source"] == "a,match=number.jsonl"
    (made,) = settings("exact:a,match=number.jsonl,match=equals")
    assert (made["source"], made["match"]) == ("a,match=number.jsonl", "equals")
    Path("a").touch()  # the longest name wins, or the file could not be reached any more
    assert settings("exact:a,match=number.jsonl")[0]["source"] == "a,match=number.jsonl"
    assert settings("exact:a,match=number")[0]["match"] == "number"
    assert settings("exact:b,c.jsonl")[0]["source"] == "b,c.jsonl"
    (told,) = settings({"kind": "exact", "source": "to come,match=x.jsonl"})
    assert told["source"] == "to come,match=x.jsonl"


def test_a_class_of_ones_own_has_settings_with_and_without_a_source(tmp_path) -> None:
    assert settings(f"{NEAR},target=3")[0]["target"] == 3
    assert settings(f"{NEAR}:f.jsonl,target=3")[0] == {"source": "f.jsonl", "target": 3}
    assert named(f"{NEAR}").kind == NEAR


def test_a_share_has_settings_too(tmp_path, planned) -> None:
    found = prepare(planned("heldout:10%,max_tokens=64", "heldout:10%,per=token"), Silent())
    told = found.protocol["evaluations"]
    assert [told[name]["source"]["share"] for name in ("heldout", "heldout2")] == ["10%", "10%"]
    assert (told["heldout"]["max_tokens"], told["heldout2"]["per"]) == (64, "token")
    assert Path(found.evaluations[0].settings["source"]).is_file()
    with pytest.raises(FolderError, match="max_tokens was 64 and is 65"):
        prepare(planned("heldout:10%,max_tokens=65", "heldout:10%,per=token"), Silent())


@pytest.mark.parametrize(
    "table",
    [
        'eval = ["payload.py:Mine,target=3"]',
        '[[eval]]\nkind = "payload.py:Mine"',
        'eval = ["lm-eval:payload.yaml,limit=3"]',
        '[[evals]]\nkind = "lm-eval"\nsource = "payload.yaml"',
        '[[eval]]\nkind = "exact"\nsource = "f.jsonl"\ndecoding.template = "payload.py:Mine"',
    ],
)
def test_a_file_names_no_code_in_any_form(table, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("payload.py", "payload.yaml"):
        Path(name).write_text("raise SystemExit('ran')\n")
    Path("plan.toml").write_text(table)
    with pytest.raises(SettingsError, match="is code that a strategy file, a comparison"):
        from_options("plan.toml", None, OPTIONS)
    assert not any(file.parent == tmp_path for file in registry.allowed_code())


def test_both_spellings_in_one_file_are_refused(tmp_path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('eval = ["exact:f.jsonl"]\nevals = ["exact:g.jsonl"]\n')
    with pytest.raises(SettingsError, match="both 'eval' and 'evals'"):
        from_options(str(file), None, OPTIONS)


WRONG = {
    "no answers": ([{"prompt": "a", "answer": "1"}, {"prompt": "b"}], "has no answer in column 'answer'"),
    "no prompts": ([{"answer": "1"}], "item 1 has no prompt"),
    "no objects": (["a"], "item 1 is str"),
    "empty": ([], "holds no prompts"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("array", [True, False])
def test_what_an_evaluation_reads_is_read_before_anything_is_selected(tmp_path, case, array, planned) -> None:
    rows, said = WRONG[case]
    file = tmp_path / "asked.json"
    file.write_text(json.dumps(rows) if array else "\n".join(map(json.dumps, rows)))
    plan = planned(f"exact:{file}", f"exact:{tmp_path / 'absent.jsonl'}")
    with pytest.raises(DFilterError, match=said) as caught:
        compare(plan)
    assert len(caught.value.findings) == 2  # both at once
    assert "There is no file" in str(caught.value)
    assert not (tmp_path / "out" / "selections").exists()


def test_answers_of_an_opponent_are_read_at_the_start_in_both_forms(tmp_path, planned) -> None:
    prompts = tmp_path / "asked.json"
    prompts.write_text(json.dumps([{"id": i, "prompt": f"question {i}"} for i in range(3)]))
    told = [{"id": i, "response": f"answer {i}"} for i in range(3)]
    array, lines = tmp_path / "array.json", tmp_path / "lines.jsonl"
    array.write_text(json.dumps(told))
    lines.write_text("\n".join(map(json.dumps, told)))
    for against in (array, lines):
        made = parse_evaluations([f"pairwise:{prompts},against={against},human=sheets"], Comparison(tmp_path))
        check_inputs(made)
    array.write_text(json.dumps(told[:2]))
    with pytest.raises(DFilterError, match="lacks answers to 1 prompts, the first is 'asked/2'"):
        compare(planned(f"pairwise:{prompts},human=sheets", against=str(array)))


def test_a_template_that_hides_an_answer_and_rows_without_one_are_said_at_the_start(tmp_path) -> None:
    (tmp_path / "t.txt").write_text("--- user\n{question} {first}")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    (tmp_path / "bare.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    specs = [
        f"pairwise:{tmp_path}/rows.jsonl,human=sheets,template={tmp_path}/t.txt",
        f"heldout:{tmp_path}/bare.jsonl",
    ]
    with pytest.raises(DFilterError, match=r"lacks \{second\}") as caught:
        check_inputs(parse_evaluations(specs, Comparison(tmp_path)))
    assert "bare.jsonl" in str(caught.value)


def test_two_evaluations_of_one_kind_are_told_apart_in_the_table(tmp_path, planned) -> None:
    cells = compare(planned(NEAR, f"{NEAR},target=3", references=("random",)))
    table = leaderboard(cells).render("md")
    assert "nearness (near)" in table
    assert "nearness (near2)" in table
