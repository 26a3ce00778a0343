"""Clauses: word order in both languages.

English keeps subject, verb, object and helps itself with "do". German has the finite verb second (first in questions
and after a fronted time), everything else of the verb at the end, and all of it at the end in subordinate clauses;
pronouns come before the time, other objects after it, and "nicht" before place, goal and predicate.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dynconv_mt.data.toy import english, german
from dynconv_mt.data.toy.german import Case
from dynconv_mt.data.toy.lexicon import Slot, Verb
from dynconv_mt.data.toy.phrases import Phrase
from dynconv_mt.data.toy.verbs import BE, MODALS


class Order(StrEnum):
    """Where the finite verb stands. English: `first` is the question."""

    second = "second"
    first = "first"
    last = "last"


@dataclass(frozen=True)
class Adverbial:
    """Words that do not change: a time, a place, a predicate."""

    english: str
    german: str


@dataclass(frozen=True)
class Clause:
    """A subject and a verb with everything that belongs to them."""

    subject: Phrase
    verb: Verb
    objects: tuple[Phrase, ...] = ()  # in the order of the verb's slots
    modal: str = ""  # a key of MODALS
    is_past: bool = False
    is_negated: bool = False
    often: Adverbial | None = None  # stands before the verb in English
    time: Adverbial | None = None  # stands at the end in English
    place: Adverbial | None = None
    predicate: Adverbial | None = None  # after to be


def to_english(clause: Clause, order: Order = Order.second) -> str:
    """The clause in English, as a statement or (`first`) as a question."""
    helper, main = _english_verb(clause, order)
    parts = [helper, clause.subject.english] if order is Order.first else [clause.subject.english, helper]
    if clause.is_negated:
        joined = " ".join([*parts, "not"])
        parts = [joined.replace("can not", "cannot") if order is not Order.first else joined]
    parts += [clause.often.english if clause.often else "", main, _english_objects(clause)]
    parts += [adverbial.english for adverbial in (clause.predicate, clause.place, clause.time) if adverbial]
    return " ".join(part for part in parts if part)


def _english_verb(clause: Clause, order: Order) -> tuple[str, str]:
    """The helping verb, if any, and the rest of the verb."""
    subject, verb = clause.subject, clause.verb
    person = 3 if subject.is_plural else subject.person - 1
    bare = english.base(verb.english)
    if verb is BE and not clause.modal:
        return english.BE[clause.is_past][person], ""
    if clause.modal and clause.modal != "want":
        return clause.modal, bare
    main, tail = ("want", f" to {bare}") if clause.modal else (verb.english, "")
    is_third = subject.person == 3 and not subject.is_plural
    if order is Order.first or clause.is_negated:
        helper = "did" if clause.is_past else "does" if is_third else "do"
        return helper, english.base(main) + tail
    if clause.is_past:
        return "", english.past(main) + tail
    return "", (english.third(main) if is_third else english.base(main)) + tail


def _english_objects(clause: Clause) -> str:
    """Particle and objects: turns on the lamp, turns it on, listens to him."""
    slots = zip(clause.verb.objects, clause.objects, strict=True)
    parts = [word for slot, phrase in slots for word in (slot.english, phrase.object)]
    is_before = any(phrase.is_pronoun for phrase in clause.objects)
    parts.insert(len(parts) if is_before else 0, clause.verb.particle)
    return " ".join(part for part in parts if part)


def to_german(clause: Clause, order: Order = Order.second) -> str:
    """The clause in German."""
    finite, end = _german_verb(clause, order)
    parts = [clause.subject.german[Case.nom], *_middle(clause), end]
    position = {Order.first: 0, Order.second: 1, Order.last: len(parts)}[order]
    parts.insert(position, finite)
    return " ".join(part for part in parts if part)


def _german_verb(clause: Clause, order: Order) -> tuple[str, str]:
    """The finite verb and what stands at the end of the clause; with the verb last a prefix is not separated."""
    verb, subject = clause.verb, clause.subject
    prefix = verb.german.partition("|")[0] if "|" in verb.german else ""
    person, plural = subject.person, subject.is_plural
    if clause.modal:
        return _present(MODALS[clause.modal], person, plural), verb.german.replace("|", "")
    if clause.is_past and verb is BE:
        return "war" + ("en" if plural else ["", "st", ""][person - 1]), ""
    if clause.is_past:
        helper = BE if verb.is_motion else _HABEN
        return _present(helper, person, plural), verb.participle
    finite = _present(verb, person, plural)
    return (prefix + finite, "") if order is Order.last else (finite, prefix)


_HABEN = Verb("have", "haben", "gehabt", forms="habe hast hat haben")


def _present(verb: Verb, person: int, plural: bool) -> str:
    return german.conjugate(verb.german, person, plural, verb.stem, verb.forms)


def _middle(clause: Clause) -> list[str]:
    """What stands between finite verb (or subject) and the end."""
    slots = list(zip(clause.verb.objects, clause.objects, strict=True))
    parts = [_object(slot, phrase) for slot, phrase in slots if phrase.is_pronoun and not slot.german]
    parts += [adverbial.german for adverbial in (clause.time, clause.often) if adverbial]
    is_negated = clause.is_negated
    late: list[str] = []
    for slot, phrase in slots:
        if is_negated and phrase.negative:
            phrase, is_negated = phrase.negative, False
        if slot.german:
            late.append(_object(slot, phrase))
        elif not phrase.is_pronoun:
            parts.append(_object(slot, phrase))
    if is_negated:
        parts.append("nicht")
    parts += [clause.place.german] if clause.place else []
    parts += late
    return parts + ([clause.predicate.german] if clause.predicate else [])


def _object(slot: Slot, phrase: Phrase) -> str:
    form = phrase.german[slot.case]
    return german.contract(slot.german, form) if slot.german else form
