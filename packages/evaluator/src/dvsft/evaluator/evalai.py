"""The answer normalization of the VQA challenge's EvalAI server.

Definition: `EvalAIAnswerProcessor` of facebookresearch/mmf (pythia/tasks/processors.py at c46b3b3), which is
what TextVQA's published figures use; it derives from the VQA API of Agrawal et al. Its oddities are part of the
definition, so they stay; each has a comment.
"""

from __future__ import annotations

import re

NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(NUMBER_WORDS)}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

# The server's table maps a form that lost one apostrophe to the form below ("dont" -> "don't").
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
    wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in CONTRACTED for i, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the server's table has this one the wrong way round

DIGIT_COMMA_DIGIT = re.compile(r"(?<=\d),+(?=\d)")
PERIOD = re.compile(r"\.(?!\d)")  # the server means to keep decimal points but looks only ahead
MAX_PERIODS = 32  # the server passes re.UNICODE (= 32) as `count`


def strip_punctuation(text: str, period: re.Pattern[str] = PERIOD) -> str:
    """Remove punctuation next to a space, turn other punctuation into a space, remove what matches `period`.

    If a comma stands between two digits anywhere, ALL punctuation is removed without a space, as on the server.
    """
    has_number_comma = DIGIT_COMMA_DIGIT.search(text) is not None
    out = text
    for mark in PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if beside_space or has_number_comma else " ")
    return period.sub("", out, count=MAX_PERIODS)


def number_words_and_articles(text: str) -> str:
    """Lower case, number words to digits, no articles, apostrophes put back into contractions."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalize_answer(text: str) -> str:
    """The whole normalization of an answer or a reference."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return number_words_and_articles(strip_punctuation(text))
