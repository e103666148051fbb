"""Words of every script, and what counts and compares them."""

# ruff: noqa: RUF001 - letters that look like others are the matter here

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfilter.data.dataset import Dataset
from dfilter.filters.length import Longest
from dfilter.pool import Pool
from dfilter.segmentation import mostly_characters, spaced, words, words_and_signs
from dfilter.textmatch import contaminated, set_aside
from dfilter.types import Example, Message

SENTENCES = {
    "Ein Haus, Straße 5!": ["ein", "haus", "strasse", "5"],
    "naïve cafe\u0301": ["naïve", "café"],
    "请写一个长故事。": [*"请写一个长故事"],
    "GPT-4模型": ["gpt", "4", "模", "型"],
    "カーブとは？": ["カ", "ー", "ブ", "と", "は"],
    "한국어 문장입니다": ["한국어", "문장입니다"],
    "मैंने हिन्दी में पढ़ी": ["मैंने", "हिन्दी", "में", unicodedata.normalize("NFKC", "पढ़ी")],
    "தமிழ் மொழி": ["தமிழ்", "மொழி"],
    "می\u200cخواهم بروم": ["می\u200cخواهم", "بروم"],
    "שָׁלוֹם עוֹלָם": [unicodedata.normalize("NFKC", w) for w in ("שָׁלוֹם", "עוֹלָם")],
    "བོད་སྐད་ཡིག": ["བོད", "སྐད", "ཡིག"],
    "ＡＢＣ １２": ["abc", "12"],
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words(sentence):
    assert words(sentence) == SENTENCES[sentence]


@pytest.mark.parametrize(("text", "count"), [("ช่วยแนะนำวิธี", 10), ("ខ្ញុំស្រឡាញ់", 4), ("ສະບາຍດີ", 6), ("မြန်မာ", 4)])
def test_scripts_without_blanks_are_counted_by_characters(text, count):
    assert len(words(text)) == count
    assert all(not unicodedata.combining(word[0]) for word in words(text))


@given(st.text())
def test_words_lose_no_letter_and_find_none(text):
    one_form = unicodedata.normalize("NFKC", text).casefold()
    letters = [c for c in one_form if unicodedata.category(c)[0] in "LN" or c == "_"]
    found = [c for c in "".join(words(text)) if unicodedata.category(c)[0] in "LN" or c == "_"]
    assert found == letters
    assert spaced(text).replace(" ", "") == text.replace(" ", "")


TWINS = {  # a question with two gaps, a greeting, and what fills the gaps
    "Chinese": (
        "请用不超过一百个字的篇幅详细介绍一下{}的{}，并举出两个具体的例子来支持你的看法",
        "您好，请问：",
        ("古老城市里的河流", "著名的普通学校", "山区的小型医院", "海边的现代工厂"),
        ("历史", "结构和作用", "优点与缺点", "安全管理"),
    ),
    "Japanese": (
        "{}の{}について百字以内で詳しく説明し、考えを裏付ける例を二つ挙げてください",
        "こんにちは。",
        ("古い町を流れる川", "山の小さな学校", "海辺の新しい工場", "有名な図書館"),
        ("歴史", "構造と役割", "長所と短所", "安全管理"),
    ),
    "Thai": (
        "ช่วยอธิบายเกี่ยวกับ{}ของ{}ภายในหนึ่งร้อยคำพร้อมยกตัวอย่างสองตัวอย่าง",
        "สวัสดีครับ ",
        ("แม่น้ำในเมืองเก่า", "โรงเรียนเล็กบนภูเขา", "โรงงานใหม่ริมทะเล"),
        ("ประวัติศาสตร์", "โครงสร้างและบทบาท", "ข้อดีและข้อเสีย"),
    ),
    "English": (
        "Describe the {} and the {} of it in no more than one hundred words, with two concrete examples",
        "Hello. ",
        ("river of an old town", "small school in the mountains", "new factory at the sea"),
        ("history", "structure and role", "advantages"),
    ),
}


def asked(name, text):
    return Example(name, (Message("user", text), Message("assistant", "好")), {})


@pytest.mark.parametrize("language", TWINS)
def test_twins_are_found_in_every_script(language):
    pattern, greeting, places, parts = TWINS[language]
    prompts = [pattern.format(a, b) for a in places for b in parts]
    rows = [asked(str(at), text) for at, p in enumerate(prompts) for text in (p, greeting + p)]
    assert contaminated(prompts, rows[1::2]).all()
    others = [asked(str(at), a + b) for at, a in enumerate(places) for b in parts]
    assert not contaminated(prompts, others).any()
    divided = set_aside(rows, 0.2, seed=1)
    twins = {at ^ 1 for at in divided.heldout.tolist()}
    assert twins <= {*divided.repeats.tolist(), *divided.heldout.tolist()}
    assert len(divided.pool)


@pytest.mark.parametrize(
    "alphabet", ["春天的山谷里有一条小河", "あのやまのむこうにかわ", "กขคงจชซญดต", "ខគឃងចឆជ"]
)
def test_longest_keeps_the_longest_of_every_script(alphabet):
    draw = random.Random(alphabet)
    sizes = np.random.default_rng(1).lognormal(4, 1, 1000).astype(int) + 1
    texts = ["".join(draw.choice(alphabet) for _ in range(size)) or "a" for size in sizes]
    rows = [Example(str(n), (Message("user", "q"), Message("assistant", t)), {}) for n, t in enumerate(texts)]
    scores = Longest().score(Pool(Dataset.from_rows(rows))).values
    kept, longest = (
        np.argsort(-scores, kind="stable")[:100],
        np.argsort([-len(t) for t in texts], kind="stable"),
    )
    assert len(set(kept.tolist()) & set(longest[:100].tolist())) >= 90


SIGNS = [  # two texts, and whether they are the same
    ("What is 12 - 5?", "What is 12 + 5?", False),
    ("Solve x-y", "Solve x/y", False),
    ("Solve 7*3", "Solve 7**3", False),
    ("Explain C++", "Explain C#", False),
    ("Is -3 > 2?", "Is 3 > 2?", False),
    ("a -= b", "a += b", False),
    ("5 % 2", "5 & 2", False),
    ("if x != y", "if x == y", False),
    ("🦁👑", "🐟🔍", False),
    ("It costs $5", "It costs €5", False),
    ("12 − 5", "12 - 5", True),  # the sign and the key
    ("☀️", "☀", True),
    ("A well-known *tale* - of **old**!", "a well known tale of old", True),
    ("- 3 eggs\n- 2 cups\n* 1 lime", "3 eggs, 2 cups, 1 lime", True),
    ("# Eggs and/or `limes`", "Eggs and or limes", True),
]


@pytest.mark.parametrize(("one", "other", "same"), SIGNS)
def test_signs_are_words_where_texts_are_compared(one, other, same):
    assert (words_and_signs(one) == words_and_signs(other)) is same


@given(st.text())
def test_signs_take_nothing_from_the_words(text):
    text = text.replace("\ufe0f", "").replace("\ufe0e", "")
    assert [t for t in words_and_signs(text) if words(t)] == words(text)


def test_prompts_that_differ_in_a_sign_are_no_repeats():
    sums = [asked(f"{a}{o}{b}", f"What is {a} {o} {b}?") for a in range(20) for b in range(5) for o in "+-*/"]
    divided = set_aside(sums, 0.05)
    assert len(divided.heldout) == 20
    assert not len(divided.repeats)
    assert not contaminated(["What is 3 - 4?"], [*sums[:1], asked("x", "What is 3 + 4?")]).any()
    assert contaminated(["What is 3 - 4?"], [asked("x", "what is 3 − 4")]).all()
    long = (
        "The tank holds 12 {} 5 litres in the morning and is emptied at noon by the youngest of the keepers"
    )
    assert contaminated([long.format("+")], [asked("x", long.format("-"))]).all()  # 13 words in a row


@pytest.mark.parametrize(
    "letters",
    ["བོད་|ཡིག་|རྒྱ་|ནག་", "ꦲꦤꦕꦫꦏ", "ᬳᬦᬘᬭᬓ", "ꀀꀁꀂꀃ", "ᦀᦁᦂᦃ", "ᨠᨡᨢᨣ", "ꪀꪂꪄꪆ", "ᥐᥑᥒᥓ", "ᯀᯂᯅᯉ", "ᨀᨁᨂᨃ"],
)
def test_units_of_scripts_without_blanks_are_counted(letters):
    units = letters.split("|") if "|" in letters else [*letters]
    text = "".join(units * 20)
    assert len(words(text)) == 20 * len(units)
    rows = [Example("0", (Message("user", "q"), Message("assistant", text)), {})]
    assert Longest().score(Pool(Dataset.from_rows(rows))).values.tolist() == [20 * len(units)]
    assert mostly_characters(words(text))
