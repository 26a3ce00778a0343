"""German inflection: articles, adjective endings, nouns, verbs, numbers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

Table = Mapping[tuple["Case", str], str]  # by case and gender (m, f, n, or p for the plural)


class Case(StrEnum):
    """The genitive does not occur in the corpus."""

    nom = "nom"
    acc = "acc"
    dat = "dat"


def _table(text: str) -> Table:
    """Rows nominative, accusative, dative; columns masculine, feminine, neuter, plural; a dash is no ending."""
    rows = [row.replace("-", " - ").split() for row in text.split("/")]
    return {
        (case, gender): word.strip("-")
        for case, row in zip(Case, rows, strict=True)
        for gender, word in zip("mfnp", row, strict=True)
    }


DEFINITE = _table("der die das die / den die das die / dem der dem den")
RELATIVE = _table("der die das die / den die das die / dem der dem denen")
DER_ENDINGS = _table("er e es e / en e es e / em er em en")  # dieser, jeder
EIN_ENDINGS = _table("- e - e / en e - e / em er em en")  # ein, kein, mein
WEAK = _table("e e e en / en e e en / en en en en")  # adjectives after der, dieser
MIXED = _table("er e es en / en e es en / en en en en")  # after ein, kein, mein
STRONG = _table("er e es e / en e es e / em er em en")  # without an article

_CONTRACTIONS = {"in dem": "im", "in das": "ins", "an dem": "am", "zu dem": "zum", "zu der": "zur", "von dem": "vom"}
_UNITS = ["null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"]
_TENS = {2: "zwanzig", 3: "dreißig", 4: "vierzig", 5: "fünfzig", 6: "sechzig", 7: "siebzig", 8: "achtzig", 9: "neunzig"}


def decline(noun: str, case: Case, plural: bool, is_weak: bool) -> str:
    """A noun ("singular plural") in its case. A weak noun's other cases look like its plural."""
    singular, many = noun.split()
    if plural:
        return many + "n" if case is Case.dat and many[-1] not in "ns" else many
    return many if is_weak and case is not Case.nom else singular


def conjugate(verb: str, person: int, plural: bool, stem: str = "", forms: str = "") -> str:
    """Present tense without a separable prefix; `stem` and `forms` as in `lexicon.Verb`."""
    if forms:
        return forms.split()[3 if plural else person - 1]
    infinitive = verb.split("|")[-1]
    root = infinitive.removesuffix("en")
    if plural:
        return infinitive
    if person == 1:
        return root + "e"
    link = "e" if not stem and root.endswith(("t", "d", "gn", "fn")) else ""
    root = stem or root
    if person == 2:
        return root + link + ("t" if root[-1] in "sßz" else "st")
    return root + link + "t"


def contract(preposition: str, phrase: str) -> str:
    """Preposition and noun phrase, with im, ins, zum ... where the definite article follows."""
    article, _, rest = phrase.partition(" ")
    short = _CONTRACTIONS.get(f"{preposition} {article}")
    return f"{short} {rest}" if short else f"{preposition} {phrase}"


def number(n: int) -> str:
    """2 to 99 in words: 21 is einundzwanzig. (1 is the form of the clock, ein.)"""
    if n <= 12:
        return _UNITS[n]
    if n < 20:
        return {16: "sech", 17: "sieb"}.get(n, _UNITS[n - 10]) + "zehn"
    tens, unit = divmod(n, 10)
    return (_UNITS[unit] + "und" if unit else "") + _TENS[tens]
