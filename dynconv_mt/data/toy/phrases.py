"""Noun phrases: agreement of article, adjective and noun in both languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynconv_mt.data.toy import english, german
from dynconv_mt.data.toy.german import DEFINITE, DER_ENDINGS, EIN_ENDINGS, MIXED, RELATIVE, STRONG, WEAK, Case, Table
from dynconv_mt.data.toy.lexicon import Adjective, Noun


@dataclass(frozen=True)
class Determiner:
    """An article or what takes its place; `endings` None: it does not change (or is not there)."""

    english: str
    german: str
    endings: Table | None
    adjective: Table  # endings of an adjective after it
    english_plural: str = ""


THE = Determiner("the", "", DEFINITE, WEAK, "the")
A = Determiner("a", "ein", EIN_ENDINGS, MIXED)
BARE = Determiner("", "", None, STRONG, "")
NO = Determiner("", "kein", EIN_ENDINGS, MIXED)
THIS = Determiner("this", "dies", DER_ENDINGS, WEAK, "these")
EVERY = Determiner("every", "jed", DER_ENDINGS, WEAK)
MANY = Determiner("", "viel", STRONG, STRONG, "many")
_OWNERS = {"my": "mein", "your": "dein", "his": "sein", "her": "ihr", "our": "unser", "their": "ihr"}
POSSESSIVES = [Determiner(word, stem, EIN_ENDINGS, MIXED, word) for word, stem in _OWNERS.items()]


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, inflected, with what verbs and pronouns must know of it."""

    english: str
    german: Mapping[Case, str]
    kind: str
    gender: str  # m, f, n, or p for the plural
    person: int = 3
    english_object: str = ""  # where it differs (he, him)
    pronoun: str = ""  # the English pronoun that can stand for it
    is_pronoun: bool = False
    negative: Phrase | None = None  # with kein, where the phrase is indefinite

    @property
    def is_plural(self) -> bool:
        """Whether its verb is in the plural."""
        return self.gender == "p"

    @property
    def object(self) -> str:
        """English form after a verb."""
        return self.english_object or self.english


def noun_phrase(
    noun: Noun, determiner: Determiner, *, plural: bool = False, adjective: Adjective | None = None, count: int = 0
) -> Phrase:
    """Inflect a noun with its determiner and adjective; `count` above 1 is a number before them."""
    plural = plural or count > 1
    gender = "p" if plural else noun.gender
    words = [english.number(count)] if count else []
    words += [adjective.english] if adjective else []
    words.append(noun.english.split()[plural])
    text = " ".join(words)
    if determiner is A:
        text = english.article(text)
    else:
        text = f"{determiner.english_plural if plural else determiner.english} {text}".strip()
    negative = None
    if (determiner is A or determiner is BARE) and not count:
        negative = noun_phrase(noun, NO, plural=plural, adjective=adjective)
    return Phrase(
        english=text,
        german={case: _german(noun, determiner, case, gender, adjective=adjective, count=count) for case in Case},
        kind=noun.kind,
        gender=gender,
        pronoun="they" if plural else noun.pronoun,
        negative=negative,
    )


def _german(
    noun: Noun, determiner: Determiner, case: Case, gender: str, *, adjective: Adjective | None, count: int
) -> str:
    words = [determiner.german + determiner.endings[case, gender]] if determiner.endings else []
    words += [german.number(count)] if count else []
    if adjective:
        words.append((adjective.stem or adjective.german) + determiner.adjective[case, gender])
    words.append(german.decline(noun.german, case, gender == "p", noun.is_weak))
    return " ".join(words)


def both(first: Phrase, second: Phrase) -> Phrase:
    """Two phrases joined by "and"."""
    return Phrase(
        english=f"{first.english} and {second.english}",
        german={case: f"{first.german[case]} und {second.german[case]}" for case in Case},
        kind=first.kind,
        gender="p",
        pronoun="they",
    )


def _pronoun(words: str, gender: str, person: int = 3, kind: str = "person") -> Phrase:
    subject, obj, *cases = words.split()
    return Phrase(
        english=subject,
        german=dict(zip(Case, cases, strict=True)),
        kind=kind,
        gender=gender,
        person=person,
        english_object=obj,
        is_pronoun=True,
    )


PRONOUNS = {
    "I": _pronoun("I me ich mich mir", "m", 1),
    "you": _pronoun("you you du dich dir", "m", 2),
    "he": _pronoun("he him er ihn ihm", "m"),
    "she": _pronoun("she her sie sie ihr", "f"),
    "we": _pronoun("we us wir uns uns", "p", 1),
    "they": _pronoun("they them sie sie ihnen", "p"),
}
_IT = {
    "m": _pronoun("it it er ihn ihm", "m", kind="thing"),
    "f": _pronoun("it it sie sie ihr", "f", kind="thing"),
    "n": _pronoun("it it es es ihm", "n", kind="thing"),
}
WHO = _pronoun("who whom wer wen wem", "m")
WHAT = _pronoun("what what was was was", "n", kind="thing")


def pronoun_for(phrase: Phrase) -> Phrase | None:
    """The pronoun that stands for a phrase: English follows sex and number, German grammatical gender."""
    if phrase.pronoun == "it":
        return _IT[phrase.gender]
    return PRONOUNS.get(phrase.pronoun)


def relative_for(phrase: Phrase) -> Phrase:
    """The relative pronoun of a phrase."""
    word = "who" if phrase.kind == "person" else "that"
    return Phrase(
        english=word,
        german={case: RELATIVE[case, phrase.gender] for case in Case},
        kind=phrase.kind,
        gender=phrase.gender,
        english_object="whom" if word == "who" else word,
        is_pronoun=True,
    )
