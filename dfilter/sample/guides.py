"""For every family: how such a task is done, what goes wrong, how to check it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Guide(NamedTuple):
    """Three short passages."""

    method: str
    mistakes: str
    check: str


GUIDES: Mapping[str, Guide] = {
    "arithmetic": Guide(
        "Write down every number of the story together with what it counts. Then decide for each"
        " sentence whether things are put together, taken away, repeated or shared out: that is an"
        " addition, a subtraction, a multiplication or a division.",
        "A frequent mistake is to use the numbers in the order in which they are printed instead of the"
        " order in which things happen.",
        "Run the story backwards from the result; it has to lead to the number at the beginning.",
    ),
    "unit_conversion": Guide(
        "Find out how many of the smaller units fit into one of the larger units. Going from large to"
        " small the number grows, so multiply by this factor; going from small to large it shrinks, so"
        " divide.",
        "A frequent mistake is a factor of ten too many, because the zeros were counted twice.",
        "Divide the result by the factor; the quantity from the question has to come out again.",
    ),
    "dates": Guide(
        "Weekdays repeat every seven days, so only the remainder of a division by seven matters. For"
        " calendar dates, go to the end of the current month first, subtract what was used up, and"
        " continue in the next.",
        "A frequent mistake is to count the first day as well, which gives a result one day too early.",
        "Count back by the same number of days; the starting day has to be reached.",
    ),
    "clock": Guide(
        "Split the duration into full hours and the minutes that remain. Add the hours first and the"
        " minutes afterwards; when the minutes reach sixty, carry one more hour over.",
        "A frequent mistake is to calculate as if an hour had a hundred minutes.",
        "Take the duration away from the result; the starting time has to come out again.",
    ),
    "comparison": Guide(
        "Bring everything to one scale before comparing. Amounts are written in the same unit;"
        " statements about people are lined up from one end to the other, each person named once.",
        "A frequent mistake is to compare the bare numbers although their units differ.",
        "Ask the question the other way round, for the smaller one; the other name has to come out.",
    ),
    "sequence": Guide(
        "Look at the differences between neighbours first. If they are all equal, the sequence grows by"
        " the same step. If they change evenly, look at how they change. If neither fits, try the"
        " quotients.",
        "A frequent mistake is to trust the first pair of numbers and not to test the rule on the others.",
        "Apply the rule from the first number on; every number that was given has to appear.",
    ),
    "sorting": Guide(
        "Search the list for the item that has to come first, write it down and cross it out. Then do"
        " the same with what is left, until nothing is left. For words, compare the first letters, then"
        " the second.",
        "A frequent mistake is to compare numbers by their first digit, as if they were words.",
        "Count the items before and after, and compare each one with its right-hand neighbour.",
    ),
    "counting": Guide(
        "Go through the text from left to right and make one stroke for each thing that is to be"
        " counted. Do not skip short words, and do not read ahead while counting.",
        "A frequent mistake is to overlook a letter that stands twice in the same word.",
        "Count a second time from right to left; both counts have to agree.",
    ),
    "string_edit": Guide(
        "Read the rule twice and decide which characters it touches. Then copy the text character by"
        " character and apply the rule to these characters only; everything else stays exactly as it is.",
        "A frequent mistake is to correct or shorten the text on the way, although the rule does not say so.",
        "Compare the lengths: a replacement keeps the number of characters, a removal makes it smaller.",
    ),
    "rewriting": Guide(
        "Find the verb and the persons or things that belong to it. Change the form of the verb as"
        " required, move the parts of the sentence if the rule asks for it, and leave all other words in"
        " place.",
        "A frequent mistake is to give an irregular verb a regular ending.",
        "Read the new sentence aloud; it has to tell the same event with the same people in it.",
    ),
    "translation": Guide(
        "Translate the number first, then the noun, and keep both in the same order. Put a comma"
        " between the items of a longer list and the Spanish word for and before the last of them.",
        "A frequent mistake is to mix up words that sound alike, or to forget the plural.",
        "Translate the result back; the English line has to come out again.",
    ),
    "formatting": Guide(
        "A JSON object stands in braces. Each key is written in double quotes, followed by a colon and"
        " the value; texts are quoted, numbers are not. Commas separate the pairs, and none follows the"
        " last.",
        "A frequent mistake is to quote the number or to leave out a key.",
        "Go through the keys in the given order and look each value up in the sentence again.",
    ),
    "facts": Guide(
        "Go through the countries in the order of the question and recall for each one where it lies"
        " and which city is its seat of government. The largest city of a country need not be its"
        " capital.",
        "A frequent mistake is to mix up neighbours with names that sound alike.",
        "Look at a map; each city has to lie in its country, and each country on its continent.",
    ),
    "table_lookup": Guide(
        "The first line names the columns, each line after it belongs to one person. Find the column"
        " that the question is about and only then look at the numbers in it.",
        "A frequent mistake is to slip into the neighbouring column halfway down.",
        "Point at the heading and move straight down; the number has to stand exactly below it.",
    ),
    "extraction": Guide(
        "Think of what the wanted piece looks like: a name begins with a capital, a price has two"
        " decimals, a telephone number has many digits, a date has a month. Then look for that shape in"
        " the note.",
        "A frequent mistake is to copy more than what was asked for.",
        "Search the note for the result; it has to be found there character by character.",
    ),
    "categorisation": Guide(
        "Say for each word what kind of thing it is, with the most ordinary term for it. The term that"
        " fits nearly all of them is the category; a word that it does not fit is the exception.",
        "A frequent mistake is to go by the sound or the spelling of the words instead of their meaning.",
        "Put the category into the sentence with each word: it is a kind of that.",
    ),
    "sentiment": Guide(
        "Pay attention to the words that judge: praise, recommendation and surprise on one side,"
        " complaint, loss and disappointment on the other. What the review is about does not matter.",
        "A frequent mistake is to judge the product oneself instead of reading what the writer thought"
        " of it.",
        "Imagine the writer's next sentence; a recommendation or a warning would follow.",
    ),
    "directions": Guide(
        "Picture the compass with north at the top, east on the right, south below and west on the"
        " left. A turn to the right moves one step clockwise, a turn to the left one step the other way.",
        "A frequent mistake is to turn as seen on the page instead of as seen by the walker.",
        "A left turn and a right turn cancel; strike out such pairs and look at what remains.",
    ),
}
