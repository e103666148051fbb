"""Task families about words and sentences: sorting, counting, editing, rewriting, translating, formatting."""

from __future__ import annotations

import json
import random

from dfilter.sample.problem import Problem, Wording, word_all
from dfilter.sample.tables import (
    GOODS,
    NAMES,
    PLACES,
    ROLES,
    SPANISH_NOUNS,
    SPANISH_NUMBERS,
    VERBS,
    WHENS,
    WORDS,
)

_SORTS: tuple[Wording, ...] = (
    ("Sort these {what} {how}.", "{shown}"),
    ("Put the following in order, {how}: {shown}", ""),
    ("{who} wants the {what} {how}. Write the ordered list, separated by commas.", "{shown}"),
    ("Arrange {shown} {how}.", ""),
)


def sorting(rng: random.Random) -> Problem:
    """Words by alphabet, or numbers up or down."""
    what, how, back = rng.choice(
        (
            ("words", "in alphabetical order", False),
            ("words", "in reverse alphabetical order", True),
            ("numbers", "from smallest to largest", False),
            ("numbers", "from largest to smallest", True),
        )
    )
    size = rng.randint(4, 7)
    items: list[str] = rng.sample(WORDS, size)
    ordered = sorted(items, reverse=back)
    if what == "numbers":
        numbers = rng.sample(range(2, 400), size)
        items, ordered = [str(n) for n in numbers], [str(n) for n in sorted(numbers, reverse=back)]
    swap = rng.randrange(size - 1)
    wrong = ordered.copy()
    wrong[swap], wrong[swap + 1] = wrong[swap + 1], wrong[swap]
    shown = ", ".join(items)
    return Problem(
        "sorting",
        f"{how} {sorted(items)}",
        word_all(_SORTS, what=what, how=how, shown=shown, who=rng.choice(NAMES)),
        ", ".join(ordered),
        ", ".join(wrong),
        f"Of the {size} {what}, begin with {ordered[0]}, end with {ordered[-1]} and fit the rest between.",
    )


_LETTERS: tuple[Wording, ...] = (
    ('How many times does the letter "{letter}" occur in: {text}', ""),
    ('Count the letter "{letter}" in the text.', "{text}"),
    ('{text}\n\nIn the line above, how often is the letter "{letter}" used?', ""),
    ('Give the number of letters "{letter}" in this phrase.', "{text}"),
)
_COUNTS: tuple[Wording, ...] = (
    ("How many words are in this sentence?", "{text}"),
    ("Count the words: {text}", ""),
    ("Give the number of words in the following line.", "{text}"),
    ('The sentence "{text}" is made of how many words?', ""),
)


def counting(rng: random.Random) -> Problem:
    """Letters in a phrase, or words in a sentence."""
    if rng.random() < 0.5:
        text = " ".join(rng.sample(WORDS, rng.randint(2, 4)))
        letter = rng.choice(sorted(set(text) - {" "}))
        count = text.count(letter)
        hits = [word for word in text.split() if letter in word]
        wordings = word_all(_LETTERS, text=text, letter=letter)
        steps = f'Go through the words one by one; the letter "{letter}" stands in {", ".join(hits)}.'
    else:
        letter = ""
        text = _sentence(rng, present=True) + f" {rng.choice(WHENS)} in {rng.choice(PLACES)}"
        count = len(text.split())
        wordings = word_all(_COUNTS, text=text)
        steps = f'Count from "{text.split()[0]}" to "{text.split()[-1]}", one for each word between blanks.'
    wrong = count + rng.choice((-1, 1, 2) if count > 1 else (1, 2))
    return Problem("counting", f"{letter}|{text}", wordings, str(count), str(wrong), steps)


def _sentence(rng: random.Random, *, present: bool) -> str:
    now, past, _, objects = rng.choice(VERBS)
    return f"The {rng.choice(ROLES)} {now if present else past} {rng.choice(objects)}"


_EDITS: tuple[Wording, ...] = (
    ("{rule}: {text}", ""),
    ("{rule}.", "{text}"),
    ('Take the text "{text}". {rule} and give the result.', ""),
    ("Apply one change to the text. The change: {rule}.", "{text}"),
)


def string_edit(rng: random.Random) -> Problem:
    """One mechanical change to a few words."""
    words: list[str] = rng.sample(WORDS, rng.randint(2, 4))
    text = " ".join(words)
    old = rng.choice(sorted(set(text) - {" "}))
    new = rng.choice([c for c in "aeioxzk" if c != old])
    rule, right, steps = rng.choice(
        (
            (
                "Write every word backwards",
                " ".join(w[::-1] for w in words),
                "Turn each word round, keep the order.",
            ),
            ("Reverse the order of the words", " ".join(words[::-1]), "The last word moves to the front."),
            ("Write it in capital letters", text.upper(), "Every letter becomes a capital."),
            ("Join the words with hyphens", "-".join(words), "Each blank becomes a hyphen."),
            (
                f'Replace every "{old}" by "{new}"',
                text.replace(old, new),
                f'Each "{old}" makes room for "{new}".',
            ),
            ("Remove the vowels", _without_vowels(text), "The letters a, e, i, o and u fall away."),
            (
                "Keep the first letter of each word",
                "".join(w[0] for w in words),
                "Read only the first letters.",
            ),
            ("Capitalise the first letter of each word", text.title(), "Only the first letters change."),
        )
    )
    at = rng.randrange(len(right) - 1)
    wrong = right[:at] + right[at + 1 :]
    return Problem(
        "string_edit", f"{rule} {text}", word_all(_EDITS, rule=rule, text=text), right, wrong, steps
    )


def _without_vowels(text: str) -> str:
    return "".join(c for c in text if c not in "aeiou")


_PASTS: tuple[Wording, ...] = (
    ("Rewrite the sentence in the past tense.", "{text}"),
    ('Put "{text}" into the past tense.', ""),
    ("This happened yesterday. Change the sentence accordingly: {text}", ""),
    ("Turn the present tense into the past tense: {text}", ""),
)
_PASSIVES: tuple[Wording, ...] = (
    ("Rewrite the sentence in the passive voice.", "{text}"),
    ('Turn "{text}" into a passive sentence.', ""),
    ("Change the active voice to the passive voice: {text}", ""),
    ("Make the object the subject of the sentence, using the passive.", "{text}"),
)


def rewriting(rng: random.Random) -> Problem:
    """Present to past, or active to passive."""
    now, past, participle, objects = rng.choice(VERBS)
    who, what, when = f"the {rng.choice(ROLES)}", rng.choice(objects), rng.choice(WHENS)
    if rng.random() < 0.5:
        text = f"{who.capitalize()} {now} {what} {when}."
        right = f"{who.capitalize()} {past} {what} {when}."
        wrong = f"{who.capitalize()} will {participle} {what} {when}."
        steps = f'The verb "{now}" becomes "{past}"; nothing else changes.'
        return Problem("rewriting", f"past {text}", word_all(_PASTS, text=text), right, wrong, steps)
    text = f"{who.capitalize()} {past} {what} {when}."
    be = (
        "were"
        if what in {"the groceries", "the instructions", "the red curtains", "the new recruits"}
        else "was"
    )
    right = f"{what.capitalize()} {be} {participle} by {who} {when}."
    wrong = f"{who.capitalize()} {be} {participle} by {what} {when}."
    steps = f'The object moves to the front and the verb becomes "{be} {participle}".'
    return Problem("rewriting", f"passive {text}", word_all(_PASSIVES, text=text), right, wrong, steps)


_TRANSLATIONS: tuple[Wording, ...] = (
    ("Translate into Spanish.", "{text}"),
    ('How does one say "{text}" in Spanish?', ""),
    ("{who} writes a shopping list for a friend in Madrid. Put it into Spanish: {text}", ""),
    ("Give the Spanish for: {text}", ""),
)


def translation(rng: random.Random) -> Problem:
    """Amounts of things, from English into Spanish (accents left out)."""
    size = rng.randint(2, 3)
    things = rng.sample(sorted(SPANISH_NOUNS), size + 1)
    numbers = [rng.choice(sorted(SPANISH_NUMBERS)) for _ in range(size)]
    pairs = list(zip(numbers, things[:size], strict=True))
    right = _listed([f"{SPANISH_NUMBERS[n]} {SPANISH_NOUNS[t]}" for n, t in pairs], "y")
    at = rng.randrange(size)
    wrong_pairs = [(n, things[size] if i == at else t) for i, (n, t) in enumerate(pairs)]
    wrong = _listed([f"{SPANISH_NUMBERS[n]} {SPANISH_NOUNS[t]}" for n, t in wrong_pairs], "y")
    text = _listed([f"{n} {t}" for n, t in pairs], "and")
    hints = ", ".join(f'"{SPANISH_NOUNS[t]}" for "{t}"' for _, t in pairs)
    return Problem(
        "translation",
        text,
        word_all(_TRANSLATIONS, text=text, who=rng.choice(NAMES)),
        right,
        wrong,
        f"The nouns are {hints}.",
    )


def _listed(parts: list[str], last: str) -> str:
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


_FORMATS: tuple[Wording, ...] = (
    ("Write the order as JSON with the keys name, city, item and count.", "{text}"),
    ("Turn this into a JSON object (name, city, item, count): {text}", ""),
    ("{text}\n\nGive the same facts as one line of JSON with name, city, item and count.", ""),
    ("A program needs the following as JSON, keys name, city, item, count. {text}", ""),
)


def formatting(rng: random.Random) -> Problem:
    """A sentence as a JSON object."""
    name, other = rng.sample(NAMES, 2)
    place, goods, n = rng.choice(PLACES), rng.choice(GOODS), rng.randint(2, 500)
    text = rng.choice(
        (
            f"{name} from {place} orders {n} {goods}.",
            f"An order of {n} {goods} was placed by {name}, who lives in {place}.",
            f"Please send {n} {goods} to {name} in {place}.",
        )
    )
    row = {"name": name, "city": place, "item": goods, "count": n}
    bad = row | rng.choice(({"name": other}, {"count": n + 1}, {"city": goods}))
    return Problem(
        "formatting",
        text,
        word_all(_FORMATS, text=text),
        json.dumps(row),
        json.dumps(bad),
        f"The customer is {name}, the city {place}, the item {goods}, the count {n}.",
    )
