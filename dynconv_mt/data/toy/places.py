"""Times and places: which preposition, and which case after it."""

from __future__ import annotations

from dynconv_mt.data.toy import english, german
from dynconv_mt.data.toy.clauses import Adverbial
from dynconv_mt.data.toy.german import Case
from dynconv_mt.data.toy.phrases import Phrase

_IN = ("in", "in", "into", "in", Case.acc)
_INSIDE = ["garden", "house", "city", "village", "park", "forest", "church", "museum", "kitchen", "room", "office"]
WHERE = {  # noun: English and German preposition of rest, of motion, and the case of motion
    **dict.fromkeys(_INSIDE, _IN),
    "station": ("at", "an", "to", "zu", Case.dat),
    "school": ("in", "in", "to", "zu", Case.dat),
    "hotel": ("in", "in", "to", "zu", Case.dat),
    "bridge": ("on", "auf", "to", "zu", Case.dat),
}
SIDES = [("behind", "hinter"), ("next to", "neben"), ("in front of", "vor")]  # of a place, at rest
SURFACES = [("on", "auf"), ("under", "unter"), *SIDES]  # of furniture, at rest and in motion


def _times(table: str) -> list[Adverbial]:
    return [Adverbial(*(side.strip() for side in row.split("="))) for row in table.strip().splitlines()]


ANY_TIME = _times(
    """
today = heute
in the morning = am Morgen
in the evening = am Abend
in summer = im Sommer
in winter = im Winter
on Monday = am Montag
on Tuesday = am Dienstag
on Wednesday = am Mittwoch
on Thursday = am Donnerstag
on Friday = am Freitag
on Saturday = am Samstag
on Sunday = am Sonntag
"""
)
PRESENT = _times("now = jetzt\nevery day = jeden Tag\nevery week = jede Woche\nevery year = jedes Jahr")
PAST = _times("yesterday = gestern\nlast week = letzte Woche\nlast month = letzten Monat\nlast year = letztes Jahr")
FUTURE = _times("tomorrow = morgen\nnext week = nächste Woche\nnext month = nächsten Monat\nnext year = nächstes Jahr")
OFTEN = _times("always = immer\noften = oft\nsometimes = manchmal\nnever = nie\nrarely = selten")


def clock(hour: int) -> Adverbial:
    """At full hours, 1 to 12."""
    return Adverbial(f"at {english.number(hour)} o'clock", f"um {'ein' if hour == 1 else german.number(hour)} Uhr")


def beside(preposition: tuple[str, str], phrase: Phrase, case: Case) -> Adverbial:
    """A preposition and its noun phrase."""
    first, second = preposition
    return Adverbial(f"{first} {phrase.object}", german.contract(second, phrase.german[case]))
