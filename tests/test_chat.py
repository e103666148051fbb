"""Labels cover what the assistant says, token by token, whatever the template."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from dfilter import chat, models
from dfilter.data.dataset import Dataset
from dfilter.errors import InputError, ModelError
from dfilter.types import Example, Message

TURNS = (
    Message("user", "make two"),
    Message("assistant", "end"),  # also a part of the end token's name
    Message("user", "what now"),
    Message("assistant", "follow me"),
)
# Written by hand. "|" before a token: the assistant says it, and the loss is taken over it.
TABLES = {
    "chatml": """
        <|im_start|> user Ċ make Ġtwo <|im_end|> Ċ
        <|im_start|> assistant Ċ |end |<|im_end|> Ċ
        <|im_start|> user Ċ what Ġnow <|im_end|> Ċ
        <|im_start|> assistant Ċ |follow |Ġme |<|im_end|> Ċ
    """,
    "llama2": """
        [ I N S T ] Ġmake Ġtwo Ġ [ / I N S T ] |Ġend |<|im_end|>
        [ I N S T ] Ġwhat Ġnow Ġ [ / I N S T ] |Ġfollow |Ġme |<|im_end|>
    """,
    "zephyr": """
        < | user | > Ċ make Ġtwo <|im_end|> Ċ < | assistant | > Ċ |end |<|im_end|> Ċ
        < | user | > Ċ what Ġnow <|im_end|> Ċ < | assistant | > Ċ |follow |Ġme |<|im_end|> Ċ
    """,
    "reasoning": """
        <|im_start|> user Ċ make Ġtwo <|im_end|> Ċ
        <|im_start|> assistant Ċ |end |<|im_end|> Ċ
        <|im_start|> user Ċ what Ġnow <|im_end|> Ċ
        <|im_start|> assistant Ċ |< |think |> |Ċ |Ċ |< |/ |think |> |Ċ |Ċ |follow |Ġme |<|im_end|> Ċ
    """,
    "phi3": """
        <|im_start|> user Ċ make Ġtwo <|im_end|> Ċ
        <|im_start|> assistant Ċ |end |<|im_end|> Ċ
        <|im_start|> user Ċ what Ġnow <|im_end|> Ċ
        <|im_start|> assistant Ċ |follow |Ġme |<|im_end|> |Ċ |<|endoftext|>
    """,
    "qwen3.5": """
        <|im_start|> user Ċ make Ġtwo <|im_end|> Ċ
        <|im_start|> assistant Ċ |end |<|im_end|> Ċ
        <|im_start|> user Ċ what Ġnow <|im_end|> Ċ
        <|im_start|> assistant Ċ < think > Ċ |Ċ |< |/ |think |> |Ċ |Ċ |follow |Ġme |<|im_end|> Ċ
    """,
    "deepseek": """
        <|im_start|> make Ġtwo | A | |end |<|im_end|>
        <|im_start|> what Ġnow | A | |follow |Ġme |<|im_end|>
    """,
}
SYSTEM = Message("system", "be kind")
REASONED = (
    TURNS[0],
    Message("assistant", "<think>\nmore\n</think>\n\nend"),
    TURNS[2],
    Message("assistant", "<think>\nsay\n</think>\n\nfollow me"),
)
# Turns that a template moves or shortens once others follow, and a greeting that nobody asked for.
MOVED = {
    "chatml, greeted": (
        "chatml",
        TURNS[1:],
        """<|im_start|> assistant Ċ |end |<|im_end|> Ċ <|im_start|> user Ċ what Ġnow <|im_end|> Ċ
           <|im_start|> assistant Ċ |follow |Ġme |<|im_end|> Ċ""",
    ),
    "phi3, greeted": (
        "phi3",
        TURNS[1:],
        """<|im_start|> assistant Ċ |end |<|im_end|> Ċ <|im_start|> user Ċ what Ġnow <|im_end|> Ċ
           <|im_start|> assistant Ċ |follow |Ġme |<|im_end|> |Ċ |<|endoftext|>""",
    ),
    "mistral, one reply": (
        "mistral", (SYSTEM, *TURNS[:2]),
        "[ I N S T ] Ġbe Ġkind Ċ make Ġtwo [ / I N S T ] |Ġend |<|im_end|>",
    ),
    "mistral, two replies": (
        "mistral", (SYSTEM, *TURNS),
        """[ I N S T ] Ġmake Ġtwo [ / I N S T ] |Ġend |<|im_end|>
           [ I N S T ] Ġbe Ġkind Ċ what Ġnow [ / I N S T ] |Ġfollow |Ġme |<|im_end|>""",
    ),
    "qwen3": (
        "qwen3", REASONED,
        """<|im_start|> user Ċ make Ġtwo <|im_end|> Ċ <|im_start|> assistant Ċ |end |<|im_end|> Ċ
           <|im_start|> user Ċ what Ġnow <|im_end|> Ċ <|im_start|> assistant Ċ
           |< |think |> |Ċ |say |Ċ |< |/ |think |> |Ċ |Ċ |follow |Ġme |<|im_end|> Ċ""",
    ),
    "qwen3.5": (
        "qwen3.5", REASONED,
        """<|im_start|> user Ċ make Ġtwo <|im_end|> Ċ <|im_start|> assistant Ċ |end |<|im_end|> Ċ
           <|im_start|> user Ċ what Ġnow <|im_end|> Ċ <|im_start|> assistant Ċ
           < think > Ċ |say |Ċ |< |/ |think |> |Ċ |Ċ |follow |Ġme |<|im_end|> Ċ""",
    ),
}  # fmt: skip


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return models.load_tokenizer("tiny")


def shown(encoded: chat.Encoded, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    for wanted, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in {wanted, chat.IGNORE}
    return [f"|{t}" if lab != chat.IGNORE else t for t, lab in zip(tokens, encoded.labels, strict=True)]


def by_hand(table: str) -> list[str]:
    return table.split()


@pytest.mark.parametrize("name", TABLES)
def test_labels_of_a_conversation_equal_the_table_written_by_hand(
    name: str, tokenizer: PreTrainedTokenizerBase, families: dict[str, str]
) -> None:
    tokenizer.chat_template = families.get(name, tokenizer.chat_template)
    encoded = chat.render(TURNS, tokenizer)
    assert shown(encoded, tokenizer) == by_hand(TABLES[name])
    assert encoded.trained == sum(token.startswith("|") and token != "|" for token in by_hand(TABLES[name]))


@pytest.mark.parametrize("name", MOVED)
def test_turns_that_a_template_moves_or_shortens_are_cut_as_the_last_reply_is_asked_for(
    name: str, tokenizer: PreTrainedTokenizerBase, families: dict[str, str]
) -> None:
    family, turns, table = MOVED[name]
    tokenizer.chat_template = families.get(family, tokenizer.chat_template)
    encoded = chat.render(turns, tokenizer)
    assert shown(encoded, tokenizer) == by_hand(table)
    last = chat.render(turns, tokenizer, turns="last")
    assert last.input_ids[: last.start] == chat.render_prompt(turns, tokenizer)


def test_only_the_last_turn_is_labelled_when_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    last = chat.render(TURNS, tokenizer, turns="last")
    table = by_hand(TABLES["chatml"].replace("|end |<|im_end|>", "end <|im_end|>", 1))
    assert shown(last, tokenizer) == table


def test_bare_turns_are_each_closed_by_the_end_of_turn_token(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = chat.render(TURNS, tokenizer, template="turns", eot=True)
    assert shown(encoded, tokenizer) == by_hand(
        "make Ġtwo <|im_end|> |end |<|im_end|> what Ġnow <|im_end|> |follow |Ġme |<|im_end|>"
    )


def test_tulu_puts_roles_on_lines_of_their_own(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = chat.render(TURNS[:2], tokenizer, template="tulu")
    assert shown(encoded, tokenizer) == by_hand(
        "< | user | > Ċ make Ġtwo Ċ < | assistant | > Ċ |end |<|im_end|> Ċ"
    )


def test_alpaca_shows_the_input_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = (Message("user", "make\n\ntwo"), Message("assistant", "end"))
    text = tokenizer.decode(chat.render(turns, tokenizer, template="alpaca", context="two").input_ids)
    assert text == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nmake\n\n### Input:\ntwo\n\n### Response:end<|im_end|>"
    )
    plain = tokenizer.decode(chat.render(turns, tokenizer, template="alpaca").input_ids)
    assert "### Input" not in plain
    assert "describes a task. Write" in plain


PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("make ", "two"),
        (" make\n\n", "\n two\n"),
        ("make", "make"),
        ("make", " \n"),
        ("\t", "\t"),
        ("", "two"),
    ],
)
def test_published_prompts_take_the_columns_as_they_are(
    asked: str, given: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    (row,) = Dataset.from_rows([{"instruction": asked, "input": given, "output": " end "}])
    texts = {
        "alpaca": f"{PAIRED}{asked}\n\n### Input:\n{given}\n\n### Response: end <|im_end|>",
        "lines": f"{asked}\n{given}\n end <|im_end|>",
    }
    for template, text in texts.items():
        (shown,) = chat.render_many([row], tokenizer, template=template)  # type: ignore[arg-type]
        assert tokenizer.decode(shown.input_ids).removesuffix("\n") == text


def test_a_column_that_is_no_input_of_the_row_is_not_shown(tokenizer: PreTrainedTokenizerBase) -> None:
    for fields in ({"input": " "}, {"input": " ", "instruction": "other", "output": "end"}, {"input": 3}):
        row = Example("a", (Message("user", "make"), Message("assistant", "end")), fields)
        (shown,) = chat.render_many([row], tokenizer, template="alpaca")
        assert "### Input" not in tokenizer.decode(shown.input_ids)


def test_alpaca_takes_a_system_turn_as_its_head(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = (Message("system", "Be kind."), *TURNS)
    text = tokenizer.decode(chat.render(turns, tokenizer, template="alpaca").input_ids)
    assert text == (
        "Be kind.\n\n### Instruction:\nmake two\n\n### Response:end<|im_end|>"
        "\n\n### Instruction:\nwhat now\n\n### Response:follow me<|im_end|>"
    )


def test_a_template_of_ours_begins_as_the_tokenizer_begins(tokenizer: PreTrainedTokenizerBase) -> None:
    assert chat.render(TURNS, tokenizer, template="turns").input_ids[0] != 1
    tokenizer.bos_token = "<|im_start|>"
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    encoded = chat.render(TURNS, tokenizer, template="turns", eot=True)
    assert encoded.input_ids.count(1) == 1
    assert encoded.input_ids[0] == 1


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.tuples(words, words), min_size=1, max_size=3),
    name=st.sampled_from([*set(TABLES) - {"reasoning"}, "alpaca", "tulu", "turns"]),
    eot=st.booleans(),
)
def test_a_prompt_is_what_stands_before_the_labels(
    tokenizer: PreTrainedTokenizerBase,
    families: dict[str, str],
    texts: list[tuple[str, str]],
    name: str,
    eot: bool,
) -> None:
    tokenizer.chat_template = families.get(name, tokenizer.chat_template)
    template = "chat" if name in TABLES else name
    texts[-1] = (texts[-1][0], f"{texts[-1][1]}x")  # an empty reply is not learnt, and none to ask for
    turns = [Message(r, t) for pair in texts for r, t in zip(("user", "assistant"), pair, strict=True)]
    encoded = chat.render(turns, tokenizer, template=template, eot=eot, turns="last")
    prompt = chat.render_prompt(turns, tokenizer, template=template, eot=eot)
    assert encoded.input_ids[: encoded.start] == prompt or encoded.start == len(encoded.labels)
    if template == "chat":
        text = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in turns], tokenize=False
        )
        assert tokenizer.decode(encoded.input_ids) == text
    many = chat.render_many(
        [Example("a", tuple(turns), {})] * 2, tokenizer, template=template, eot=eot, turns="last"
    )
    assert many == [encoded, encoded]


def test_a_row_keeps_its_beginning_and_a_prompt_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    whole = chat.render(TURNS, tokenizer)
    cut = chat.render(TURNS, tokenizer, max_tokens=12)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:12], whole.labels[:12])
    assert chat.render(TURNS, tokenizer, max_tokens=9).trained == 0
    prompt = chat.render_prompt(TURNS, tokenizer)
    assert chat.render_prompt(TURNS, tokenizer, max_tokens=4) == prompt[-4:]


def test_a_reply_ends_at_the_token_that_ended_turns_in_training(
    tokenizer: PreTrainedTokenizerBase, families: dict[str, str]
) -> None:
    assert chat.end_ids(tokenizer) == [2]
    tokenizer.chat_template = families["zephyr"].replace("<|im_end|>", "<|im_start|>")
    assert chat.end_ids(tokenizer) == [1, 2]


def test_a_template_that_cannot_be_cut_is_refused(
    tokenizer: PreTrainedTokenizerBase, families: dict[str, str]
) -> None:
    tokenizer.chat_template = families["uncuttable"]
    with pytest.raises(InputError, match="which tokens the assistant speaks"):
        chat.render(TURNS, tokenizer)


def test_a_row_that_cannot_be_shown_is_refused_alone_and_says_why(
    tokenizer: PreTrainedTokenizerBase, families: dict[str, str]
) -> None:
    tokenizer.chat_template = families["gemma"]
    rows = [Example("a", TURNS, {}), Example("b", (SYSTEM, *TURNS), {}), Example("c", TURNS[:2], {})]
    good, bad, other = chat.render_many(rows, tokenizer)
    assert [good, other] == [chat.render(TURNS, tokenizer), chat.render(TURNS[:2], tokenizer)]
    assert (bad.input_ids, bad.labels, bad.trained) == ([], [], 0)
    assert "System role not supported" in bad.refused
    assert bad.lacks(64) == bad.refused
    assert good.lacks(64) == good.refused == ""
    for show in (chat.render, chat.render_prompt):
        with pytest.raises(InputError, match="System role not supported"):
            show((SYSTEM, *TURNS), tokenizer)
    (cut,) = chat.render_many(rows[:1], tokenizer, max_tokens=5)
    assert cut.lacks(5) == "no response within 5 tokens"
    assert cut.lacks(6) == "its response has no token that can be predicted"  # nothing was cut


def test_a_row_that_the_tokenizer_cannot_read_is_refused_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import TokenizersBackend

    words = ["make", "two", "end", "</s>"]
    raw = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}))  # and no token for the unknown
    raw.pre_tokenizer = WhitespaceSplit()
    strict = TokenizersBackend(tokenizer_object=raw, eos_token="</s>")
    rows = [Example("a", TURNS[:2], {}), Example("b", TURNS[2:], {})]
    good, bad = chat.render_many(rows, strict, template="turns")
    assert (good.trained, good.refused) == (2, "")
    assert "tokenizer cannot read it" in bad.refused


def test_a_tokenizer_without_end_token_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = None
    assert chat.special_ids(tokenizer).end == 2  # the end-of-turn token stands in
    tokenizer.get_vocab = dict  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="no end token"):
        chat.special_ids(tokenizer)


def test_an_end_of_turn_token_is_added_once_and_starts_as_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = models.load_causal("tiny", device="cpu")
    assert chat.add_eot(tokenizer, model) == 2  # it has one
    monkeypatch.setattr(chat, "END_OF_TURN", ("<|eot|>",))
    with pytest.raises(ModelError, match="no end-of-turn token"):
        chat.render(TURNS, tokenizer, template="turns", eot=True)
    before = model.get_input_embeddings().weight.detach().clone()
    new = len(tokenizer)
    assert [chat.add_eot(tokenizer, model), chat.add_eot(tokenizer, model)] == [new, new]
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == new + 1
    assert weight[new].allclose(before.mean(0))
    assert weight[:new].equal(before)


def test_what_a_model_was_trained_with_is_found_again(
    tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert chat.style(tokenizer) == ("chat", False)
    chat.remember_style(tokenizer, "turns", eot=True)
    folder = tmp_path_factory.mktemp("model")
    model, _ = models.load_causal("tiny", device="cpu")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert chat.style(models.load_tokenizer(folder)) == ("turns", True)
    assert chat.style(models.load_tokenizer(folder), template="alpaca", eot=False) == ("alpaca", False)
