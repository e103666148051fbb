"""Task families about quantities: sums, units, dates, times, comparisons, sequences."""

from __future__ import annotations

import datetime as dt
import random

from dfilter.sample.problem import Problem, Wording, word_all
from dfilter.sample.tables import EVENTS, GOODS, MONTHS, NAMES, PLACES, SHOPS, WEEKDAYS, in_words

_SUMS: tuple[Wording, ...] = (
    ("{story} {question}", ""),
    ("Solve the word problem.", "{story} {question}"),
    ("{question} Use this information: {story}", ""),
    ("Read the story and answer with a number. {story} {question}", ""),
    ("Work this out: {question}", "{story}"),
)


def arithmetic(rng: random.Random) -> Problem:
    """Word problems with two operations; now and then the numbers are written in words."""
    name, other = rng.sample(NAMES, 2)
    place, goods, shop = rng.choice(PLACES), rng.choice(GOODS), rng.choice(SHOPS)
    a, b, c = rng.randint(3, 40), rng.randint(3, 12), rng.randint(2, 30)
    d = rng.randint(1, a * b - 1)
    stories = (
        (
            f"{name} packs {{0}} boxes of {{1}} {goods} for a {shop} in {place} and sells {{2}} of them.",
            f"How many {goods} are left?",
            (a, b, d),
            a * b - d,
            f"Multiply {a} by {b} to get {a * b}, then take away {d}.",
        ),
        (
            f"A {shop} in {place} owns {{0}} {goods}. {name} brings {{1}} more and {other} takes {{2}} away.",
            f"How many {goods} does the {shop} have now?",
            (a + c, b, c),
            a + b,
            f"Add {b} to {a + c} to get {a + b + c}, then take away {c}.",
        ),
        (
            f"{name} shares {{0}} {goods} equally among {{1}} friends in {place} and keeps none.",
            f"How many {goods} does each friend get?",
            (a * b, b),
            a,
            f"Divide {a * b} by {b}.",
        ),
        (
            f"For a {shop} in {place}, {name} saves {{0}} euros in each of {{1}} weeks; {other} adds {{2}}.",
            "How many euros is that in all?",
            (a, b, c),
            a * b + c,
            f"Multiply {a} by {b} to get {a * b}, then add {c}.",
        ),
        (
            f"In {place}, {name} has {{0}} {goods}, {other} has {{1}}, and the {shop} gives them {{2}}.",
            f"How many {goods} do they have together?",
            (a, b, c),
            a + b + c,
            f"Add {a} and {b} to get {a + b}, then add {c}.",
        ),
    )
    story, question, numbers, result, steps = rng.choice(stories)
    spelled = rng.random() < 0.3
    story = story.format(*(in_words(n) if spelled else n for n in numbers))
    return Problem(
        "arithmetic",
        f"{story}{question}",
        word_all(_SUMS, story=story, question=question),
        str(result),
        str(result + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))),
        steps,
    )


_UNITS = (
    ("kilometres", "metres", 1000), ("metres", "centimetres", 100), ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000), ("hours", "minutes", 60), ("minutes", "seconds", 60),
    ("days", "hours", 24), ("weeks", "days", 7), ("centimetres", "millimetres", 10),
    ("tonnes", "kilograms", 1000), ("feet", "inches", 12), ("yards", "feet", 3),
    ("dozens", "pieces", 12), ("pounds", "ounces", 16), ("gallons", "pints", 8),
)  # fmt: skip
_UNIT_STORIES = (
    "a {shop} in {place}",
    "the report that {name} wrote in {place}",
    "the plans of the {shop} that {name} runs",
    "a label on a crate of {goods} for {place}",
    "the {goods} that {name} ordered",
    "the diary of {name} from {place}",
)
_CONVERSIONS: tuple[Wording, ...] = (
    ("Convert {n} {big} to {small}. The figure comes from {story}.", ""),
    ("How many {small} are {n} {big}? (Seen in {story}.)", ""),
    ("Express the quantity in {small}.", "{story}: {n} {big}"),
    ("In {story} we read {n} {big}. Say this in {small}.", ""),
    ("{story} gives {n} {big}. Which number of {small} is that?", ""),
)


def unit_conversion(rng: random.Random) -> Problem:
    """From the larger unit to the smaller one, in a short setting."""
    big, small, factor = rng.choice(_UNITS)
    n = rng.randint(2, 240)
    story = rng.choice(_UNIT_STORIES).format(
        shop=rng.choice(SHOPS), place=rng.choice(PLACES), name=rng.choice(NAMES), goods=rng.choice(GOODS)
    )
    wrong = n * factor * 10 if rng.random() < 0.5 else n * factor + factor
    return Problem(
        "unit_conversion",
        f"{n} {big} {small} {story}",
        word_all(_CONVERSIONS, n=n, big=big, small=small, story=story),
        f"{n * factor} {small}",
        f"{wrong} {small}",
        f"Each of the {big} holds {factor} {small}, so multiply {n} by {factor}.",
    )


_DATES: tuple[Wording, ...] = (
    ("{who} meets the {shop} on {start}. What is the date {n} days later?", ""),
    ("Find the date that lies {n} days after the given one.", "{start} ({who}, {shop})"),
    ("Starting from {start}, count {n} days forward for {who} of the {shop}. Which date is it?", ""),
    ("{who} ordered from a {shop} on {start}; delivery takes {n} days. On which date does it arrive?", ""),
)
_WEEKDAYS: tuple[Wording, ...] = (
    ("Today is {start}. {who} visits the {shop} in {n} days. On which weekday is that?", ""),
    ("Name the weekday {n} days after {start}, when {who} goes to the {shop}.", ""),
    ("Work out the weekday.", "{n} days after {start}; {who}, {shop}"),
    ("If {who} counts {n} days from {start} until the {shop} opens, which day of the week is it?", ""),
)


def dates(rng: random.Random) -> Problem:
    """A date or a weekday some days later."""
    who, shop, n = rng.choice(NAMES), rng.choice(SHOPS), rng.randint(3, 60)
    if rng.random() < 0.5:
        day = rng.randrange(7)
        right = WEEKDAYS[(day + n) % 7]
        steps = f"{n} days are {n // 7} full weeks and {n % 7} days; count {n % 7} on from {WEEKDAYS[day]}."
        return Problem(
            "dates",
            f"{who} {shop} {WEEKDAYS[day]} {n}",
            word_all(_WEEKDAYS, start=WEEKDAYS[day], who=who, shop=shop, n=n),
            right,
            rng.choice([w for w in WEEKDAYS if w != right]),
            steps,
        )
    start = dt.date(rng.randint(1990, 2030), rng.randint(1, 12), rng.randint(1, 28))
    end = start + dt.timedelta(days=n)
    off = end + dt.timedelta(days=rng.choice((-10, -2, -1, 1, 2, 7)))
    return Problem(
        "dates",
        f"{who} {shop} {start} {n}",
        word_all(_DATES, start=_long_date(start), who=who, shop=shop, n=n),
        _long_date(end),
        _long_date(off),
        f"Count {n} days on from {_long_date(start)} and mind the length of each month.",
    )


def _long_date(date: dt.date) -> str:
    return f"{date.day} {MONTHS[date.month - 1]} {date.year}"


_CLOCKS: tuple[Wording, ...] = (
    ("The {event} in {place} starts at {start} and lasts {n} minutes. When does it end?", ""),
    (
        "{who} is at a {event} in {place} from {start} on, for {n} minutes. What time is it then?",
        "",
    ),
    (
        "Add the duration to the starting time.",
        "{event}, {place}, {who}: start {start}, duration {n} minutes",
    ),
    ("Tell {who} at what time the {n}-minute {event} in {place} is over if it begins at {start}.", ""),
)


def clock(rng: random.Random) -> Problem:
    """When something ends, given its start and its length."""
    start, n = rng.randint(6 * 60, 20 * 60), rng.randint(15, 210)
    end = start + n
    event, place, who = rng.choice(EVENTS), rng.choice(PLACES), rng.choice(NAMES)
    return Problem(
        "clock",
        f"{event} {place} {who} {start} {n}",
        word_all(_CLOCKS, event=event, place=place, who=who, start=_time(start), n=n),
        _time(end),
        _time(end + rng.choice((-60, -10, 5, 10, 60))),
        f"{n} minutes are {n // 60} hours and {n % 60} minutes. Add them to {_time(start)}.",
    )


def _time(minutes: int) -> str:
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


_MEASURES = (("heavier", "kg", "g", 1000), ("longer", "m", "cm", 100), ("fuller", "litres", "ml", 1000))
_PAIRS: tuple[Wording, ...] = (
    ("{name} has {x} and {other} has {y}. Whose load of {goods} is {more}?", ""),
    (
        "Which of the two loads of {goods} is {more}? Answer with the owner's name.",
        "{name}: {x}\n{other}: {y}",
    ),
    ("Compare {goods}: {name} brings {x}, {other} brings {y}. Name the person with the {more} load.", ""),
    ("Decide who has the {more} load of {goods}, {name} with {x} or {other} with {y}.", ""),
)
_ORDERS: tuple[Wording, ...] = (
    ("{facts} Who is the {most} of the three?", ""),
    ("Read the facts and name the {most} person.", "{facts}"),
    ("From the following it can be worked out who is the {most}. Who is it? {facts}", ""),
    ("Name the {most} person, given this: {facts}", ""),
)
_ADJECTIVES = (("tall", "taller", "tallest"), ("old", "older", "oldest"), ("fast", "faster", "fastest"))


def comparison(rng: random.Random) -> Problem:
    """The larger of two amounts in unlike units, or the first of three people."""
    if rng.random() < 0.5:
        return _three_people(rng)
    more, big, small, factor = rng.choice(_MEASURES)
    name, other = rng.sample(NAMES, 2)
    goods, a = rng.choice(GOODS), rng.randint(2, 60)
    b = a * factor + rng.choice((-1, 1)) * rng.randint(factor // 10, factor)
    right, wrong = (name, other) if a * factor > b else (other, name)
    return Problem(
        "comparison",
        f"{name} {a} {big} {other} {b} {small} {goods}",
        word_all(_PAIRS, name=name, other=other, x=f"{a} {big}", y=f"{b} {small}", more=more, goods=goods),
        right,
        wrong,
        f"In the same unit, {a} {big} are {a * factor} {small}; compare that with {b} {small}.",
    )


def _three_people(rng: random.Random) -> Problem:
    people = rng.sample(NAMES, 3)
    _, more, most = rng.choice(_ADJECTIVES)
    place = rng.choice(PLACES)
    first, middle, last = people
    sentences = [f"{first} is {more} than {middle}.", f"{middle} is {more} than {last}."]
    rng.shuffle(sentences)
    facts = f"Three friends live in {place}. {' '.join(sentences)}"
    return Problem(
        "comparison",
        f"{facts}{most}",
        word_all(_ORDERS, facts=facts, most=most),
        first,
        rng.choice((middle, last)),
        f"Nobody is said to be {more} than the one who stands at the head of both comparisons.",
    )


_SEQUENCES: tuple[Wording, ...] = (
    ("What number comes next in this sequence?", "{shown}"),
    ("Continue the sequence {shown} with one more number.", ""),
    ("{who} counts the {goods} of each day: {shown}. If the pattern holds, what is the next count?", ""),
    ("Find the rule behind {shown} and give the following number.", ""),
)


def sequence(rng: random.Random) -> Problem:
    """The next number of an arithmetic, geometric or growing sequence."""
    kind, start = rng.choice(("arithmetic", "geometric", "growing")), rng.randint(1, 400)
    if kind == "arithmetic":
        step = rng.choice((-1, 1)) * rng.randint(2, 39)
        start += 200
        terms = [start + step * i for i in range(6)]
        steps = f"Each number differs from the one before by {step}."
    elif kind == "geometric":
        ratio = rng.randint(2, 6)
        terms = [start * ratio**i for i in range(5)]
        steps = f"Each number is {ratio} times the one before."
    else:
        step = rng.randint(1, 19)
        terms = [start + step * i * (i + 1) // 2 for i in range(6)]
        steps = f"The differences grow by {step} each time."
    shown = ", ".join(map(str, terms[:-1]))
    who, goods = rng.choice(NAMES), rng.choice(GOODS)
    return Problem(
        "sequence",
        shown,
        word_all(_SEQUENCES, shown=shown, who=who, goods=goods),
        str(terms[-1]),
        str(terms[-1] + rng.choice((-10, -2, -1, 1, 2, 10))),
        steps,
    )
