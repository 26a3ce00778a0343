"""Draws words, phrases and clauses at random, keeping to what makes sense."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from dynconv_mt.data.toy import phrases
from dynconv_mt.data.toy.clauses import Adverbial, Clause
from dynconv_mt.data.toy.german import Case
from dynconv_mt.data.toy.lexicon import ADJECTIVES, NOUNS, Adjective, Noun, Slot, Verb
from dynconv_mt.data.toy.phrases import PRONOUNS, Determiner, Phrase, noun_phrase
from dynconv_mt.data.toy.places import ANY_TIME, FUTURE, OFTEN, PAST, PRESENT, SIDES, SURFACES, WHERE, beside, clock
from dynconv_mt.data.toy.verbs import BE, VERBS

T = TypeVar("T")

_DEGREES = [("", ""), ("", ""), ("very ", "sehr "), ("too ", "zu ")]
_SINGULAR = [(phrases.THE, 45), (phrases.A, 22), (phrases.THIS, 7), (phrases.EVERY, 3)]
_PLURAL = [(phrases.THE, 10), (phrases.BARE, 5), (phrases.THIS, 3), (phrases.MANY, 3)]
_OWNED = [(owner, 3) for owner in phrases.POSSESSIVES]
_OWNED_PLURAL = [(owner, 1) for owner in phrases.POSSESSIVES]
_DEFINITE = [(phrases.THE, 70), (phrases.THIS, 6)]
_FREE = ("man men", "woman women", "boy boys", "girl girls", "train trains", "bus buses")  # nobody's own


class Sampler:
    """Everything that chance decides. It draws `random()` only, whose values Python keeps from version to version."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return choices[int(self._random.random() * len(choices))]

    def weighted(self, choices: Sequence[tuple[T, int]]) -> T:
        """One of the choices, in proportion to its weight."""
        point = self._random.random() * sum(weight for _, weight in choices)
        for choice, weight in choices:
            point -= weight
            if point < 0:
                return choice
        raise AssertionError("the point lies within the weights")

    def count(self, most: int = 99) -> int:
        """A number from 2 to `most`."""
        return 2 + int(self._random.random() * (most - 1))

    # Noun phrases

    def noun(self, kinds: str) -> Noun:
        """A noun of one of the kinds."""
        wanted = kinds.split()
        return self.pick([noun for noun in NOUNS if noun.kind in wanted])

    def adjective(self, kind: str) -> Adjective:
        """An adjective that can be said of the kind."""
        return self.pick([adjective for adjective in ADJECTIVES if kind in adjective.kinds.split()])

    def phrase(self, kinds: str, *, plain: bool = False, adjective: float = 0.3) -> Phrase:
        """A noun phrase; `plain`: with an article or possessive only, so that it can be negated."""
        noun = self.noun(kinds)
        extra = self.adjective(noun.kind) if self.chance(adjective) else None
        if plain:
            determiner, plural = self.weighted([*_SINGULAR[:2], *_OWNED]), False
        elif self.chance(0.06):
            return noun_phrase(noun, phrases.BARE, adjective=extra, count=self.count(12))
        else:
            plural = self.chance(0.26)
            owned = [] if noun.english in _FREE else _OWNED_PLURAL if plural else _OWNED
            determiner = self.weighted((_PLURAL if plural else _SINGULAR) + owned)
        return noun_phrase(noun, determiner, plural=plural, adjective=extra)

    def definite(self, kinds: str, adjective: float = 0.2) -> Phrase:
        """A definite noun phrase in the singular."""
        return self._definite(self.noun(kinds), adjective)

    def _definite(self, noun: Noun, adjective: float = 0.2) -> Phrase:
        determiner: Determiner = self.weighted(_DEFINITE + ([] if noun.english in _FREE else _OWNED))
        extra = self.adjective(noun.kind) if self.chance(adjective) else None
        return noun_phrase(noun, determiner, adjective=extra)

    def subject(self, kinds: str, pronoun: float = 0.3) -> Phrase:
        """A subject; people may be pronouns or two."""
        if "person" in kinds.split() and self.chance(pronoun):
            return self.pick(list(PRONOUNS.values()))
        if "person" in kinds.split() and self.chance(0.06):
            return phrases.both(self.definite("person", 0.1), self.definite("person", 0.1))
        return self.phrase(kinds)

    def object(self, slot: Slot, subject: Phrase, *, plain: bool) -> Phrase:
        """An object for a verb's slot."""
        if "person" in slot.kinds.split() and self.chance(0.25):
            same = (subject.person,) if subject.person < 3 else ()
            return self.pick([pronoun for pronoun in PRONOUNS.values() if pronoun.person not in same])
        if plain and slot.german:
            return self.definite(slot.kinds)
        return self.phrase(slot.kinds, plain=plain)

    # Adverbials

    def time(self, clause: Clause) -> Adverbial:
        """A time that fits the clause's tense."""
        if clause.is_past:
            return self.pick(PAST + ANY_TIME[1:])
        if self.chance(0.2):
            return clock(1 + int(self._random.random() * 12))
        if clause.modal:
            return self.pick(FUTURE + ANY_TIME)
        return self.pick(PRESENT + ANY_TIME)

    def place(self, where: str) -> Adverbial:
        """A place as `Verb.where` wants it."""
        if where in ("on", "onto"):
            phrase = self.definite("furniture", 0.15)
            return beside(self.pick(SURFACES), phrase, Case.acc if where == "onto" else Case.dat)
        if where == "to" and self.chance(0.25):
            return beside(("to", "zu"), self.definite("person", 0.1), Case.dat)
        noun = self.noun("room place stop")
        phrase = self._definite(noun, 0.15)
        at, an, to, zu, case = WHERE[noun.english.split()[0]]
        if where == "to":
            return beside((to, zu), phrase, case)
        if noun.kind != "room" and self.chance(0.25):
            return beside(self.pick(SIDES), phrase, Case.dat)
        return beside((at, an), phrase, Case.dat)

    def predicate(self, kind: str) -> Adverbial:
        """An adjective after to be, perhaps with its degree."""
        adjective = self.adjective(kind)
        first, second = self.pick(_DEGREES)
        return Adverbial(first + adjective.english, second + adjective.german)

    # Clauses

    def copula(self, subject: Phrase, *, is_past: bool | None = None) -> Clause:
        """Something is (or was, or will be) somehow."""
        past = self.chance(0.3) if is_past is None else is_past
        predicate = self.predicate(subject.kind)
        modal = "will" if is_past is None and not past and self.chance(0.1) else ""
        return Clause(subject, BE, predicate=predicate, is_past=past, modal=modal)

    def clause(
        self,
        subject: Phrase | None = None,
        *,
        verb: Verb | None = None,
        is_past: bool | None = None,
        short: bool = False,
    ) -> Clause:
        """A clause with a full verb, without its time; `short`: also without what may be left out."""
        verb = verb or self.verb(subject)
        subject = subject or self.subject(verb.subjects)
        modal, past = self._mode(verb, is_past)
        negated = modal in ("", "can", "want", "will") and self.chance(0.15)
        objects = tuple(self.object(slot, subject, plain=negated) for slot in verb.objects)
        if negated and len(objects) == 2:
            objects = (self.definite(verb.objects[0].kinds), objects[1])
        named = verb.where in ("at", "to", "on", "onto") or (verb.where == "any" and not short and self.chance(0.25))
        steady = not (short or negated or past) and modal in ("", "will")
        often = self.pick(OFTEN) if steady and self.chance(0.15) else None
        place = self.place("at" if verb.where == "any" else verb.where) if named else None
        return Clause(subject, verb, objects, modal, past, negated, often, None, place)

    def verb(self, subject: Phrase | None = None) -> Verb:
        """A verb that the subject can do."""
        if subject is None:
            return self.pick(VERBS)
        return self.pick([verb for verb in VERBS if subject.kind in verb.subjects.split()])

    def _mode(self, verb: Verb, is_past: bool | None) -> tuple[str, bool]:
        """Modal and whether past."""
        has_past = len(verb.english.split()) == 1 or verb.english.split()[0] != verb.english.split()[1]
        if is_past is None:
            is_past = self.chance(0.3)
        if is_past and has_past:
            return "", True
        if self.chance(0.4):
            return self.weighted([("can", 3), ("must", 3), ("should", 2), ("may", 1), ("will", 4), ("want", 3)]), False
        return "", False
