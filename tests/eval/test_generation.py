"""Generation: stored by model and prompt, greedy and repeatable, the same with and without a batch."""

from __future__ import annotations

import json

import pytest
import torch

from dfilter.chat import end_ids, render_prompt
from dfilter.errors import InputError, SettingsError
from dfilter.eval import generation as g
from dfilter.models import load_causal, load_tokenizer, resolve
from dfilter.store import home
from dfilter.types import Message

ASKED = [
    (Message("user", text),) for text in ("hello", "tell me a story about the sea " * 4, "add 2 and 3", "x")
]
SHORT = g.Decoding(max_new_tokens=6)


@pytest.fixture
def tiny():
    return resolve("tiny").path


@pytest.fixture
def talker(tmp_path, tiny):
    """A model that says more than one token over and over, as tied random weights do."""
    from transformers import LlamaForCausalLM

    model, tokenizer = load_causal(tiny)
    config = model.config
    config.tie_word_embeddings, config.initializer_range = False, 0.6
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "talker")
    tokenizer.save_pretrained(tmp_path / "talker")
    return tmp_path / "talker"


def slow_greedy(model, tokenizer, messages, new):
    ids = render_prompt(messages, tokenizer)
    start, ends = len(ids), set(end_ids(tokenizer))
    with torch.inference_mode():
        while len(ids) < start + new and not (len(ids) > start and ids[-1] in ends):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_batched_greedy_answers_equal_one_token_at_a_time(talker):
    model, tokenizer = load_causal(talker, dtype="float32")
    wanted = [slow_greedy(model, tokenizer, messages, 6) for messages in ASKED]
    assert g.generate(talker, ASKED, SHORT) == wanted
    assert len(set(wanted)) == len(ASKED)


def test_an_answer_that_its_limit_cut_short_is_told_from_one_that_ended(talker, monkeypatch):
    said = g.answer(talker, ASKED, SHORT)
    assert all(found.cut for found in said)
    model, tokenizer = load_causal(talker, dtype="float32")
    ids = render_prompt(ASKED[0], tokenizer)
    with torch.inference_mode():
        first = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    ends = [*end_ids(tokenizer), first]
    monkeypatch.setattr(g, "end_ids", lambda *_, **__: ends)
    found = g.answer(talker, ASKED, g.Decoding(max_new_tokens=5))
    spoken = [render_prompt(messages, tokenizer) for messages in ASKED]
    with torch.inference_mode():
        for at, ids in enumerate(spoken):
            start = len(ids)
            while len(ids) < start + 5 and not (len(ids) > start and ids[-1] in ends):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            assert found[at].cut == (ids[-1] not in ends)
    assert not found[0].cut
    assert any(one.cut for one in found)
    assert g.answer(talker, ASKED, g.Decoding(max_new_tokens=5)) == found  # read again


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_an_adapter_speaks_as_it_was_trained(tiny, tmp_path, monkeypatch):
    """Folded into bfloat16 the small steps of an adapter are rounded away."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_causal(tiny, dtype="bfloat16")
    model.save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            weight.copy_(torch.full_like(weight, 2e-4)) if "lora_B" in name else None
    tuned.peft_config["default"].base_model_name_or_path = str(tmp_path / "half")
    tuned.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr("dfilter.models.fast_dtype", lambda *_: "bfloat16")
    speaking = g._Writer(tmp_path / "adapter", SHORT).model
    ids = torch.tensor([render_prompt(ASKED[1], tokenizer)])
    with torch.inference_mode():
        apart, _ = load_causal(tmp_path / "adapter", dtype="float32")
        exact = apart.merge_and_unload()
        base, _ = load_causal(tmp_path / "half", dtype="bfloat16")
        kept = {n: w for n, w in speaking.named_parameters() if "lora_" in n}
        assert {w.dtype for w in kept.values()} == {torch.float32}
        assert not speaking(ids).logits.equal(base(ids).logits)
        assert torch.allclose(speaking(ids).logits.float(), exact(ids).logits, atol=0.05)


def test_stored_answers_are_read_without_the_model(talker, monkeypatch):
    said = g.generate(talker, ASKED, SHORT)
    monkeypatch.setattr(g, "_Writer", lambda *a: pytest.fail("the model was loaded"))
    assert g.generate(talker, ASKED, SHORT) == said
    assert g.generate(talker, ASKED, SHORT, seed=5) == said  # greedy answers know no seed


def test_a_half_finished_or_damaged_store_is_completed(tiny, monkeypatch):
    small = g.Decoding(max_new_tokens=6, batch_tokens=1)  # one prompt a batch
    said = g.generate(tiny, ASKED, small)
    (mine,) = (home() / "answers").glob("*/*")
    files = sorted(mine.iterdir())
    g.generate(tiny, ASKED, g.Decoding(max_new_tokens=5, batch_tokens=1))
    (other,) = set(mine.parent.iterdir()) - {mine}
    before = [file.read_bytes() for file in files]
    assert len(files) == len(ASKED) == 4
    asked = []
    write = g._Writer.write

    def counted(self, batch, *, seed):
        asked.append(len(batch))
        return write(self, batch, seed=seed)

    monkeypatch.setattr(g._Writer, "write", counted)
    at = before[2].index(b'"checksum"') - 12  # in the answer's text
    flipped = before[2][:at] + bytes([before[2][at] ^ 1]) + before[2][at + 1 :]
    for damage in (
        lambda: files[0].unlink(),
        lambda: files[1].write_text('{"'),
        lambda: files[2].write_bytes(flipped),
        lambda: files[3].write_bytes(before[0]),
        lambda: files[3].write_bytes((other / files[3].name).read_bytes()),
        lambda: files[3].write_text("[]"),
    ):
        damage()
        asked.clear()
        assert g.generate(tiny, ASKED, small) == said
        assert asked == [1]
        assert [file.read_bytes() for file in files] == before


def test_equal_prompts_are_answered_once_and_order_does_not_matter(talker):
    said = g.generate(talker, [*ASKED, ASKED[0]], SHORT)
    assert said[0] == said[4]
    assert g.generate(talker, [*ASKED, ASKED[0]][::-1], SHORT) == said[::-1]


def test_another_model_or_decoding_has_answers_of_its_own(tiny, tmp_path):
    import shutil

    g.generate(tiny, ASKED[:1], SHORT)
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    g.generate(other, ASKED[:1], SHORT)
    models = list((home() / "answers").iterdir())
    assert len(models) == 1  # the same weights in another folder are the same model
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    g.generate(other, ASKED[:1], SHORT)
    g.generate(tiny, ASKED[:1], g.Decoding(max_new_tokens=7))
    assert len(list((home() / "answers").iterdir())) == 2
    assert len(list((home() / "answers").glob("*/*"))) == 3


def test_sampling_is_fixed_by_its_seed(tiny):
    warm = g.Decoding(max_new_tokens=8, temperature=1.0, top_p=0.9)
    one = g.generate(tiny, ASKED, warm, seed=1)
    two = g.generate(tiny, ASKED, warm, seed=2)
    assert one != two
    for file in (home() / "answers").rglob("*.json"):
        file.unlink()
    state = torch.random.get_rng_state()
    assert g.generate(tiny, ASKED, warm, seed=1) == one
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's generator is left alone


def test_every_user_turn_is_answered(tiny):
    asked = [
        (Message("system", "be brief"), Message("user", "a"), Message("user", "b")),
        (Message("user", "q"), Message("assistant", "given"), Message("user", "r")),
    ]
    said, cut = g.converse(tiny, asked, SHORT)
    assert cut == 2  # the tiny model never ends
    assert [turn.role for turn in said[0]] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn.content for turn in said[1]][:3] == ["q", "given", "r"]
    assert len(said[1]) == 4
    alone = g.generate(tiny, [asked[0][:2]], SHORT)
    assert said[0][2].content == alone[0]


@pytest.fixture
def narrow(talker):
    """That model with a window of 64 tokens, and prompts of the given numbers of tokens."""
    config = json.loads((talker / "config.json").read_text())
    (talker / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    tokenizer = load_tokenizer(talker)

    def asked(size):
        found = ((Message("user", "a" * count),) for count in range(1, 999))
        return next(turns for turns in found if len(render_prompt(turns, tokenizer)) == size)

    return talker, asked


def test_the_window_shortens_answers_and_never_prompts(narrow, monkeypatch):
    """64 positions: a prompt of 60 has 4 tokens of answer, whoever is asked with it; 64 has none."""
    model, asked = narrow
    sizes = [20, 60, 63, 64, 65, 200, 21]
    shown = []
    made = torch.nn.Module.__call__

    def seen(self, *args, **given):
        if given.get("attention_mask") is not None and given.get("input_ids") is not None:
            shown.append(given["attention_mask"].sum(-1).max().item())
        return made(self, *args, **given)

    monkeypatch.setattr(torch.nn.Module, "__call__", seen)
    said = g.answer(model, [asked(size) for size in sizes], g.Decoding(max_new_tokens=16))
    assert [isinstance(found, g.Refusal) for found in said] == [size >= 64 for size in sizes]
    assert said[3].reason == "the prompt leaves no room for an answer within the model's 64 tokens"
    assert max(shown) <= 64
    assert all(found.cut for found in said if isinstance(found, g.Answer))
    loaded, tokenizer = load_causal(model, dtype="float32")
    for size, found in zip(sizes, said, strict=True):
        if size < 64:
            assert found.text == slow_greedy(loaded, tokenizer, asked(size), min(16, 64 - size))
    with pytest.raises(InputError, match=r"none of 1 prompts.*no room for an answer"):
        g.counted(["a"], said[3:4])


def test_a_later_turn_that_no_longer_fits_refuses_the_conversation(narrow):
    model, asked = narrow
    talks, cut = g.converse(model, [(*asked(40), Message("user", "a" * 30)), asked(40)], SHORT)
    assert [isinstance(talk, g.Refusal) for talk in talks] == [True, False]
    assert cut == 1  # of those that came to their end


def test_settings_are_checked_together():
    with pytest.raises(SettingsError) as error:
        g.Decoding(max_new_tokens=0, temperature=-1, top_p=0, repetition_penalty=0)
    assert len(error.value.findings) == 4
