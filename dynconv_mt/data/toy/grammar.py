"""The grammar: sentences in English with their one German translation."""

from __future__ import annotations

from dataclasses import replace

from dynconv_mt.data.toy import english, german
from dynconv_mt.data.toy.clauses import Adverbial, Clause, Order, to_english, to_german
from dynconv_mt.data.toy.german import Case
from dynconv_mt.data.toy.lexicon import ADJECTIVES
from dynconv_mt.data.toy.phrases import BARE, WHAT, WHO, Phrase, noun_phrase, pronoun_for, relative_for
from dynconv_mt.data.toy.sampling import Sampler
from dynconv_mt.data.toy.verbs import BE, COST, KNOWING, VERBS

Pair = tuple[str, str]

_WEATHER = [
    ("it rains", "es regnet"),
    ("it snows", "es schneit"),
    ("the sun shines", "die Sonne scheint"),
    ("the weather is good", "das Wetter gut ist"),
    ("the weather is bad", "das Wetter schlecht ist"),
]
_JOINING = [(("because", "weil"), 5), (("although", "obwohl"), 3), (("if", "wenn"), 3)]
_TRANSITIVE = [verb for verb in VERBS if len(verb.objects) == 1 and not verb.objects[0].german]
_GOODS = "food thing text clothes vehicle device furniture"
_GAP = Phrase("", dict.fromkeys(Case, ""), "", "n", is_pronoun=True)


def statement(draw: Sampler) -> Pair:
    """The man buys an apple today. A fronted time turns German subject and verb around."""
    clause = draw.clause()
    if draw.chance(0.35):
        time = draw.time(clause)
        return f"{time.english} {to_english(clause)}.", f"{time.german} {to_german(clause, Order.first)}."
    if not clause.is_negated and not clause.often and draw.chance(0.3):
        clause = replace(clause, time=draw.time(clause))
    return f"{to_english(clause)}.", f"{to_german(clause)}."


def description(draw: Sampler) -> Pair:
    """The old house is very beautiful."""
    clause = draw.copula(_being(draw))
    clause = replace(clause, is_negated=draw.chance(0.15))
    order = Order.first if draw.chance(0.2) else Order.second
    mark = "?" if order is Order.first else "."
    return to_english(clause, order) + mark, to_german(clause, order) + mark


def comparison(draw: Sampler) -> Pair:
    """The train is faster than the bus; the house is as old as the church."""
    subject = _being(draw)
    said = [adjective for adjective in ADJECTIVES if subject.kind in adjective.kinds.split()]
    adjective = draw.pick([adjective for adjective in said if adjective.comparative])
    other = draw.phrase(subject.kind, adjective=0.1)
    if draw.chance(0.3):
        than = Adverbial(f"as {adjective.english} as", f"so {adjective.german} wie")
    else:
        first, second = adjective.comparative.split("/")
        than = Adverbial(f"{first} than", f"{second} als")
    predicate = Adverbial(f"{than.english} {other.english}", f"{than.german} {other.german[Case.nom]}")
    clause = Clause(subject, BE, predicate=predicate, is_past=draw.chance(0.2))
    return f"{to_english(clause)}.", f"{to_german(clause)}."


def question(draw: Sampler) -> Pair:
    """Does the woman call her brother? English asks with do, German with the verb."""
    clause = replace(draw.clause(), is_negated=False, often=None)
    if draw.chance(0.25):
        clause = replace(clause, time=draw.time(clause))
    return f"{to_english(clause, Order.first)}?", f"{to_german(clause, Order.first)}?"


def open_question(draw: Sampler) -> Pair:
    """Where does the train arrive? When, why, where, who, whom, what."""
    kind = draw.pick(["who", "object", "where", "when", "why", "how often"])
    if kind == "who":
        verb = draw.pick([verb for verb in VERBS if "person" in verb.subjects.split()])
        clause = replace(draw.clause(WHO, verb=verb), is_negated=False, often=None)
        return f"{to_english(clause)}?", f"{to_german(clause)}?"
    if kind == "object":
        return _object_question(draw)
    clause = replace(draw.clause(), is_negated=False, often=None)
    word = {"when": "wann", "why": "warum", "how often": "wie oft", "where": "wo"}[kind]
    if kind == "where":
        word = "wohin" if clause.verb.where in ("to", "onto") else "wo"
        clause = replace(clause, place=None)
    return f"{kind} {to_english(clause, Order.first)}?", f"{word} {to_german(clause, Order.first)}?"


def _object_question(draw: Sampler) -> Pair:
    verb = draw.pick(_TRANSITIVE)
    slot = verb.objects[0]
    people = slot.kinds.startswith("person") and (slot.case is Case.dat or draw.chance(0.5) or slot.kinds == "person")
    asked = WHO if people else WHAT
    clause = replace(draw.clause(verb=verb, short=True), is_negated=False, objects=(_GAP,))
    first = "whom" if people else "what"
    return f"{first} {to_english(clause, Order.first)}?", f"{asked.german[slot.case]} {to_german(clause, Order.first)}?"


def reason(draw: Sampler) -> Pair:
    """The man sleeps because he is tired. German puts the verb of the second clause last."""
    (word, wort) = draw.weighted(_JOINING)
    past = word != "if" and draw.chance(0.35)
    main = draw.clause(is_past=past, short=True)
    if main.is_past != past or draw.chance(0.25):
        why = draw.pick(_WEATHER)
        return _joined(word, wort, replace(main, is_past=False), why, fronted=word == "if" or draw.chance(0.5))
    fronted = word == "if" or draw.chance(0.25)
    about = main.subject if fronted else _antecedent(draw, main)
    pronoun = about if about.is_pronoun else pronoun_for(about)
    if about.kind == "person" and draw.chance(0.5):
        reason = draw.clause(pronoun or draw.subject("person"), is_past=past, short=True)
    else:
        reason = draw.copula(replace(pronoun, kind=about.kind) if pronoun else draw.subject("person"), is_past=past)
    if fronted and pronoun:  # the noun comes first
        main, reason = replace(main, subject=pronoun), replace(reason, subject=about)
    return _joined(word, wort, main, (to_english(reason), to_german(reason, Order.last)), fronted=fronted)


def _antecedent(draw: Sampler, main: Clause) -> Phrase:
    """The phrase that a pronoun after "because" stands for. English "it" must have but one, since German has three."""
    named = [main.subject, *main.objects]
    about = draw.pick(named)
    if about.pronoun == "it" and (main.place or sum(phrase.pronoun == "it" for phrase in named) > 1):
        return draw.subject("person", 1)
    return about


def _joined(word: str, wort: str, main: Clause, why: Pair, *, fronted: bool) -> Pair:
    """A main and a subordinate clause, in either order. An "if" comes first, or it could mean "whether"."""
    if fronted:
        return f"{word} {why[0]}, {to_english(main)}.", f"{wort} {why[1]}, {to_german(main, Order.first)}."
    return f"{to_english(main)} {word} {why[0]}.", f"{to_german(main)}, {wort} {why[1]}."


def report(draw: Sampler) -> Pair:
    """She knows that the train arrives at eight o'clock."""
    knowing = Clause(draw.subject("person", 0.5), draw.pick(KNOWING), is_past=draw.chance(0.3))
    past = True if knowing.is_past else None
    what = draw.clause(is_past=past, short=True) if draw.chance(0.7) else draw.copula(_being(draw), is_past=past)
    return _joined("that", "dass", knowing, (to_english(what), to_german(what, Order.last)), fronted=False)


def relative(draw: Sampler) -> Pair:
    """The man who reads the book is tired. The relative pronoun has the noun's gender and its own case."""
    phrase = draw.phrase("person animal text clothes vehicle", adjective=0.1)
    pronoun = relative_for(phrase)
    if phrase.kind in ("person", "animal") and draw.chance(0.6):
        clause = draw.clause(pronoun, short=True)
        inner = to_english(clause), to_german(clause, Order.last)
    else:
        choices = [verb for verb in _TRANSITIVE if phrase.kind in verb.objects[0].kinds.split()]
        clause = draw.clause(draw.definite("person", 0.1), verb=draw.pick(choices), short=True)
        case = clause.verb.objects[0].case
        clause = replace(clause, objects=(_GAP,), is_negated=False)
        inner = f"{pronoun.object} {to_english(clause)}", f"{pronoun.german[case]} {to_german(clause, Order.last)}"
    full = replace(
        phrase,
        english=f"{phrase.english} {inner[0]}",
        german={case: f"{form}, {inner[1]}," for case, form in phrase.german.items()},
        negative=None,
    )
    return _with_relative(draw, full)


def _with_relative(draw: Sampler, full: Phrase) -> Pair:
    """A sentence around a noun phrase with its relative clause."""
    if draw.chance(0.5):
        clause = draw.copula(full)
    else:
        fitting = [verb for verb in VERBS if len(verb.objects) == 1 and full.kind in verb.objects[0].kinds.split()]
        brief = [verb for verb in fitting if "|" not in verb.german and verb.where in ("", "any")]  # nothing follows it
        clause = draw.clause(verb=draw.pick(brief), short=True)
        clause = replace(clause, objects=(full,), is_negated=False, modal="", is_past=False, place=None)
    return f"{to_english(clause)}.", f"{to_german(clause)}."


def amount(draw: Sampler) -> Pair:
    """Ages, prices and how many there are: 21 is einundzwanzig."""
    count = draw.count()
    kind = draw.pick(["age", "price", "there"])
    if kind == "age":
        subject = draw.subject("person") if draw.chance(0.7) else draw.definite("place vehicle")
        predicate = Adverbial(f"{english.number(count)} years old", f"{german.number(count)} Jahre alt")
        clause = Clause(subject, BE, predicate=predicate, is_past=draw.chance(0.2))
    elif kind == "price":
        subject = draw.definite(_GOODS, 0.4)
        cost = Adverbial(f"{english.number(count)} euros", f"{german.number(count)} Euro")
        clause = Clause(subject, COST, predicate=cost, modal="will" if draw.chance(0.15) else "")
    else:
        noun = draw.noun("person animal food thing text clothes vehicle furniture")
        adjective = draw.adjective(noun.kind) if draw.chance(0.3) else None
        phrase = noun_phrase(noun, BARE, adjective=adjective, count=count)
        place = draw.place("at")
        return (
            f"there are {phrase.english} {place.english}.",
            f"{place.german} gibt es {phrase.german[Case.acc]}.",
        )
    return f"{to_english(clause)}.", f"{to_german(clause)}."


def _being(draw: Sampler) -> Phrase:
    return draw.subject(draw.pick(["person", "person animal", _GOODS, "room place stop"]))


SENTENCES = [
    (statement, 42),
    (description, 8),
    (comparison, 4),
    (question, 9),
    (open_question, 8),
    (reason, 11),
    (report, 5),
    (relative, 6),
    (amount, 7),
]


def sentence(draw: Sampler) -> Pair:
    """A random sentence in English and in German, cased and punctuated."""
    source, target = draw.weighted(SENTENCES)(draw)
    return _finish(source), _finish(target)


def _finish(text: str) -> str:
    """First letter upper case, no comma before another mark."""
    for mark in ".?,":
        text = text.replace("," + mark, mark)
    return text[0].upper() + text[1:]
