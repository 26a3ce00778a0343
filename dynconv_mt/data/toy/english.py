"""English inflection: articles, verbs, numbers."""

from __future__ import annotations

_FIRST = "one two three four five six seven eight nine ten eleven twelve"
_TEENS = "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_UNITS = ["zero", *_FIRST.split(), *_TEENS.split()]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
BE = {False: ("am", "are", "is", "are"), True: ("was", "were", "was", "were")}  # by past; I, you, he, they


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def base(verb: str) -> str:
    """The infinitive of "base" or "base past"."""
    return verb.split()[0]


def past(verb: str) -> str:
    """Simple past of "base" or "base past"."""
    first, *rest = verb.split()
    if rest:
        return rest[0]
    if _ends_in_i(first):
        return first[:-1] + "ied"
    return first + ("d" if first.endswith("e") else "ed")


def third(verb: str) -> str:
    """Third person singular of the present."""
    word = base(verb)
    if word == "have":
        return "has"
    if _ends_in_i(word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "sh", "ch", "x", "o")) else "s")


def _ends_in_i(word: str) -> bool:
    """Whether the word's y becomes i before an ending: carry, but not play."""
    return word.endswith("y") and word[-2] not in "aeou"


def number(n: int) -> str:
    """1 to 99 in words."""
    if n < 20:
        return _UNITS[n]
    tens, unit = divmod(n, 10)
    return _TENS[tens - 2] + (f"-{_UNITS[unit]}" if unit else "")
