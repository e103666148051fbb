"""Task families that look something up: facts, tables, notes, categories, opinions, directions."""

from __future__ import annotations

import random

from dfilter.sample.problem import Problem, Wording, word_all
from dfilter.sample.tables import (
    BLAME,
    CAPITALS,
    CATEGORIES,
    GOODS,
    MONTHS,
    NAMES,
    PLACES,
    PRAISE,
    REVIEWED,
    SHOPS,
)

_CAPITALS: tuple[Wording, ...] = (
    ("Name the capitals of {shown}, in this order.", ""),
    ("List the capital of each country, separated by commas.", "{shown}"),
    ("For a quiz, {who} needs the capitals of {shown}. Give them in the same order.", ""),
    ("What are the capital cities of these countries?", "{shown}"),
)
_CONTINENTS: tuple[Wording, ...] = (
    ("Which of these countries lies in {continent}: {shown}?", ""),
    ("Pick the country that is in {continent}.", "{shown}"),
    ("{who} plans a journey to {continent}. Which of {shown} is the only one there?", ""),
    ("Only one of the following is a country in {continent}. Which one?", "{shown}"),
)


def facts(rng: random.Random) -> Problem:
    """Capitals and continents, several countries at a time."""
    who = rng.choice(NAMES)
    if rng.random() < 0.5:
        countries = rng.sample(sorted(CAPITALS), 3)
        capitals = [CAPITALS[country][0] for country in countries]
        wrong = capitals.copy()
        wrong[rng.randrange(3)] = CAPITALS[rng.choice(sorted(set(CAPITALS) - set(countries)))][0]
        shown = ", ".join(countries)
        steps = f"Take one country after the other: {countries[0]}, then {countries[1]}, then {countries[2]}."
        wordings = word_all(_CAPITALS, shown=shown, who=who)
        return Problem(
            "facts", f"capitals {sorted(countries)}", wordings, ", ".join(capitals), ", ".join(wrong), steps
        )
    right = rng.choice(sorted(CAPITALS))
    continent = CAPITALS[right][1]
    others = rng.sample(sorted(c for c in CAPITALS if CAPITALS[c][1] != continent), 3)
    options = [*others, right]
    rng.shuffle(options)
    shown = ", ".join(options)
    homes = " and ".join(sorted({CAPITALS[country][1] for country in others}))
    return Problem(
        "facts",
        f"{continent} {sorted(options)}",
        word_all(_CONTINENTS, shown=shown, continent=continent, who=who),
        right,
        rng.choice(others),
        f"The other three lie in {homes}, which leaves one.",
    )


_LOOKUPS: tuple[Wording, ...] = (
    ("{question} Use the table.", "{table}"),
    ("The table shows sales of a {shop}. {question}", "{table}"),
    ("{table}\n\nFrom this table: {question}", ""),
    ("Answer from the data of the {shop}.\n{table}", "{question}"),
)


def table_lookup(rng: random.Random) -> Problem:
    """One cell, the largest value or the total of a small table."""
    names, goods = rng.sample(NAMES, rng.randint(3, 5)), rng.sample(GOODS, 2)
    counts = rng.sample(range(3, 99), 2 * len(names))
    cells = {name: dict(zip(goods, counts[2 * i : 2 * i + 2], strict=True)) for i, name in enumerate(names)}
    lines = [f"name,{goods[0]},{goods[1]}", *(f"{n},{c[goods[0]]},{c[goods[1]]}" for n, c in cells.items())]
    table, who, what = "\n".join(lines), rng.choice(names), rng.choice(goods)
    best = max(names, key=lambda name: cells[name][what])
    total = sum(cells[name][what] for name in names)
    other = rng.choice([name for name in names if name != who])
    question, right, wrong, steps = rng.choice(
        (
            (
                f"How many {what} did {who} sell?",
                str(cells[who][what]),
                str(cells[other][what]),
                f"Go to the row of {who} and read the column {what}.",
            ),
            (
                f"Who sold the most {what}?",
                best,
                rng.choice([name for name in names if name != best]),
                f"Compare the numbers in the column {what}.",
            ),
            (
                f"How many {what} were sold in total?",
                str(total),
                str(total + rng.choice((-10, -1, 1, 10))),
                f"Add up the column {what}: {' + '.join(str(cells[name][what]) for name in names)}.",
            ),
        )
    )
    wordings = word_all(_LOOKUPS, question=question, table=table, shop=rng.choice(SHOPS))
    return Problem("table_lookup", f"{question} {table}", wordings, right, wrong, steps)


_EXTRACTS: tuple[Wording, ...] = (
    ("Extract the {field} from the note.", "{note}"),
    ("{note}\n\nWhat is the {field} in the text above?", ""),
    ("Read the message and write down only the {field}: {note}", ""),
    ("Find the {field} in this message.", "{note}"),
)
_NOTES = (
    "Dear team, order {order} for the {shop} in {city} is {price} euros. Call {phone} before {date}. {name}",
    "{name} called from {city} about order {order}. The {shop} pays {price} euros on {date}; call {phone}.",
    "Reminder: {date}, {city}. Bring order {order} to the {shop} for {price} euros; {name} is at {phone}.",
    "Invoice {order} went to the {shop} on {date}. {name}, {city}, owes {price} euros. Questions: {phone}.",
)


def extraction(rng: random.Random) -> Problem:
    """One field out of a short note."""
    fields = {
        "order number": f"{rng.choice('ABCDEFGH')}-{rng.randint(1000, 9999)}",
        "price in euros": f"{rng.randint(5, 900)}.{rng.randint(0, 99):02d}",
        "phone number": f"0{rng.randint(100, 999)} {rng.randint(100000, 999999)}",
        "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)}",
        "name": rng.choice(NAMES),
        "city": rng.choice(PLACES),
    }
    note = rng.choice(_NOTES).format(
        order=fields["order number"],
        price=fields["price in euros"],
        phone=fields["phone number"],
        date=fields["date"],
        name=fields["name"],
        city=fields["city"],
        shop=rng.choice(SHOPS),
    )
    field, other = rng.sample(sorted(fields), 2)
    return Problem(
        "extraction",
        f"{field} {note}",
        word_all(_EXTRACTS, field=field, note=note),
        fields[field],
        fields[other],
        f"The note also gives the {other}, which is not asked for; look for the {field}.",
    )


_GROUPS: tuple[Wording, ...] = (
    ("Which category fits all of these: {shown}?", ""),
    ("Name the category (one word) of the following things.", "{shown}"),
    ("{who} puts {shown} into one drawer. What kind of thing is each of them, in one word?", ""),
    ("Find the common category.", "{shown}"),
)
_ODD: tuple[Wording, ...] = (
    ("Which word does not belong: {shown}?", ""),
    ("Find the odd one out.", "{shown}"),
    ("{who} sorted {shown} and one word was misplaced. Which one?", ""),
    ("All but one of these words are of the same kind. Name the exception.", "{shown}"),
)


def categorisation(rng: random.Random) -> Problem:
    """The category of some words, or the one that does not belong."""
    kind, other = rng.sample(sorted(CATEGORIES), 2)
    who, words = rng.choice(NAMES), rng.sample(CATEGORIES[kind], 4)
    if rng.random() < 0.5:
        shown = ", ".join(words)
        steps = f"Look at {words[0]} and {words[1]} first; the others are of the same kind."
        return Problem(
            "categorisation",
            f"kind {sorted(words)}",
            word_all(_GROUPS, shown=shown, who=who),
            kind,
            other,
            steps,
        )
    odd = rng.choice([w for w in CATEGORIES[other] if w not in CATEGORIES[kind]])
    options = [*words[:3], odd]
    rng.shuffle(options)
    shown = ", ".join(options)
    steps = f"Three of the words fall under {kind}, one falls under {other}."
    return Problem(
        "categorisation", f"odd {sorted(options)}", word_all(_ODD, shown=shown, who=who), odd, words[0], steps
    )


_REVIEWS: tuple[Wording, ...] = (
    ("Is the review positive or negative?", "{text}"),
    ("Classify the opinion as positive or negative: {text}", ""),
    ('A customer wrote: "{text}" Is that positive or negative?', ""),
    ("Decide whether the writer is content (positive) or not (negative).", "{text}"),
)


def sentiment(rng: random.Random) -> Problem:
    """Whether a short review is positive or negative."""
    good = rng.random() < 0.5
    said = rng.sample(PRAISE if good else BLAME, 2)
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    text = f"{name} from {place} about {rng.choice(REVIEWED)}: {said[0]}. {said[1]}."
    right, wrong = ("positive", "negative") if good else ("negative", "positive")
    steps = f'The remark "{said[0]}" shows what {name} thinks.'
    return Problem("sentiment", text, word_all(_REVIEWS, text=text), right, wrong, steps)


_TURNS = ("north", "east", "south", "west")
_WALKS: tuple[Wording, ...] = (
    ("{text} Which way does the walker face now?", ""),
    ("Follow the turns and name the final direction.", "{text}"),
    ("Work out the compass direction at the end: {text}", ""),
    ("In which direction (north, east, south or west) does this end?", "{text}"),
)


def directions(rng: random.Random) -> Problem:
    """The compass direction after some turns."""
    facing, name, place = rng.randrange(4), rng.choice(NAMES), rng.choice(PLACES)
    turns = [rng.choice(("left", "right")) for _ in range(rng.randint(2, 4))]
    text = f"In {place}, {name} faces {_TURNS[facing]}, then turns {', then '.join(turns)}."
    path = [_TURNS[facing]]
    for turn in turns:
        facing = (facing + (1 if turn == "right" else -1)) % 4
        path.append(_TURNS[facing])
    wrong = rng.choice([t for t in _TURNS if t != path[-1]])
    steps = f"Follow the turns in order: {' to '.join(path[:-1])}, and then one turn {turns[-1]}."
    return Problem("directions", text, word_all(_WALKS, text=text), path[-1], wrong, steps)
