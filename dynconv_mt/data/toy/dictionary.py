"""The word-for-word baseline: what a dictionary alone, without any grammar, makes of the corpus."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache

from dynconv_mt.data.toy import english, german
from dynconv_mt.data.toy.german import Case
from dynconv_mt.data.toy.grammar import sentence
from dynconv_mt.data.toy.lexicon import ADJECTIVES, NOUNS
from dynconv_mt.data.toy.sampling import Sampler
from dynconv_mt.data.toy.verbs import BE, COST, KNOWING, MODALS, VERBS

_WORD = re.compile(r"[\w'-]+|[.,?]")
_SAMPLE = 4000  # sentences that decide which of several translations is the most frequent
_FUNCTION_WORDS = """
the = der die das den dem
a an = ein eine einen einem einer
this these = dieser diese dieses diesen diesem
every = jeder jede jedes jeden jedem
many = viele vielen
my = mein meine meinen meinem meiner
your = dein deine deinen deinem deiner
his = sein seine seinen seinem seiner
her = ihr ihre ihren ihrem ihrer sie
our = unser unsere unseren unserem unserer
their = ihr ihre ihren ihrem ihrer
I = ich
you = du dich dir
he = er
she = sie
it = es er sie ihn
we = wir
they = sie
me = mich mir
him = ihn ihm
us = uns
them = sie ihnen
who = wer der die das
whom = wen wem den dem die der das denen
that = dass der die das den
what = was
where = wo wohin
when = wann
why = warum
how = wie
because = weil
although = obwohl
if = wenn
and = und
not cannot = nicht
in = in im am
into = in ins
at = an am um in
to = zu zum zur
on = am auf an
off = aus
up = auf ab
back = zurück
with = mit
for = auf
of = an von vom
behind front = hinter vor
under = unter
next = nächste nächsten nächstes neben
very = sehr
too = zu
than = als
as = so wie
there = es
o'clock = Uhr
years = Jahre
euros = Euro
today = heute
now = jetzt
yesterday = gestern
tomorrow = morgen
morning = Morgen
evening = Abend
summer = Sommer
winter = Winter
Monday = Montag
Tuesday = Dienstag
Wednesday = Mittwoch
Thursday = Donnerstag
Friday = Freitag
Saturday = Samstag
Sunday = Sonntag
last = letzte letzten letztes
day = Tag
week = Woche
month = Monat
year = Jahr
always = immer
often = oft
sometimes = manchmal
never = nie
rarely = selten
rains = regnet
snows = schneit
sun = Sonne
shines = scheint
weather = Wetter
good = gut
bad = schlecht
am = bin
are = sind bist
is = ist
was = war
were = waren warst
be = sein
one = ein
"""
_DROPPED = {"do", "does", "did", "more", "to"}  # of a word with nothing to stand for it in German


def word_for_word(lines: Iterable[str]) -> list[str]:
    """Translate each English line word by word, with the translation that is the most frequent for each word.

    Punctuation stays, "do" is left out, the first letter is upper case; a word that is not in the lexicon is copied.
    """
    best = _best()
    translated = []
    for line in lines:
        words = [best.get(word, best.get(word.lower(), word)) for word in _WORD.findall(line)]
        text = re.sub(r" (?=[.,?])", "", " ".join(word for word in words if word))
        translated.append(text[:1].upper() + text[1:])
    return translated


@cache
def _best() -> dict[str, str]:
    """For each English word its candidate that most often occurs in the translations of sentences with the word."""
    candidates = _candidates()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    draw = Sampler(0)
    for _ in range(_SAMPLE):
        source, target = sentence(draw)
        found = set(_words(target))
        for word in _words(source):
            counts[word].update(found & candidates.get(word, set()))
    best = {word: max(sorted(forms), key=lambda form: counts[word][form]) for word, forms in candidates.items()}
    return {**best, **dict.fromkeys(_DROPPED, "")}


def _words(text: str) -> list[str]:
    """The words of a sentence, its first also in lower case, since it may have been either."""
    words = _WORD.findall(text)
    return [words[0].lower(), *words]


@cache
def _candidates() -> dict[str, set[str]]:
    """All German forms that the lexicon knows for each English word."""
    table: dict[str, set[str]] = defaultdict(set)
    for row in _FUNCTION_WORDS.strip().splitlines():
        sources, targets = row.split(" = ")
        for word in sources.split():
            table[word].update(targets.split())
    for noun in NOUNS:
        for plural, word in enumerate(noun.english.split()):
            table[word].update(german.decline(noun.german, case, bool(plural), noun.is_weak) for case in Case)
    for adjective in ADJECTIVES:
        stem = adjective.stem or adjective.german
        table[adjective.english] |= {adjective.german, *(stem + ending for ending in ("e", "er", "es", "en", "em"))}
        if adjective.comparative and not adjective.comparative.startswith("more"):
            first, second = adjective.comparative.split("/")
            table[first].add(second)
    for n in range(2, 100):
        table[english.number(n)].add(german.number(n))
    _add_verbs(table)
    return dict(table)


def _add_verbs(table: dict[str, set[str]]) -> None:
    for verb in [*VERBS, *KNOWING, COST]:
        forms = {german.conjugate(verb.german, person, False, verb.stem, verb.forms) for person in (1, 2, 3)}
        plural = german.conjugate(verb.german, 1, True, verb.stem, verb.forms)
        table[english.base(verb.english)] |= {*forms, plural, verb.german.replace("|", "")}
        table[english.third(verb.english)] |= forms
        table[english.past(verb.english)] |= {verb.participle}
    for word, verb in MODALS.items():
        table[word] |= set(verb.forms.split())
    table["wants"].add("will")
    table["be"].update(BE.forms.split())
