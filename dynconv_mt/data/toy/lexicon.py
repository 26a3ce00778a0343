"""The words of the embedded corpus. Every entry has one translation, so every sentence has one.

`kind` names what a word can be said of: the grammar combines verbs, nouns and adjectives whose kinds meet.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynconv_mt.data.toy.german import Case


@dataclass(frozen=True)
class Noun:
    """A countable noun. `pronoun` is the English one that stands for it ("": none is sure)."""

    english: str  # singular and plural
    gender: str  # m, f, n
    german: str  # singular and plural
    kind: str
    pronoun: str = "it"
    is_weak: bool = False  # ends in -(e)n in the accusative and dative singular


@dataclass(frozen=True)
class Adjective:
    """`german` is the predicative form, `stem` the one that takes endings where it differs."""

    english: str
    german: str
    kinds: str
    comparative: str = ""  # English and German, parted by a slash
    stem: str = ""


@dataclass(frozen=True)
class Slot:
    """An object of a verb: its case and kinds, and the prepositions before it, if any."""

    case: Case
    kinds: str
    english: str = ""
    german: str = ""


@dataclass(frozen=True)
class Verb:
    """A verb. `english`: base and, where irregular, past. `german`: infinitive, a separable prefix cut off by a bar."""

    english: str
    german: str
    participle: str
    objects: tuple[Slot, ...] = ()
    stem: str = ""  # of the second and third person singular, where the vowel changes
    forms: str = ""  # first, second, third person singular and plural of the present, where all are irregular
    is_motion: bool = False  # perfect with sein
    subjects: str = "person"
    where: str = "any"  # the place: "" never named, any: may be, at, to (a goal), on, onto (furniture): must be
    particle: str = ""  # English: turn *on*


def _nouns(kind: str, table: str) -> list[Noun]:
    """Rows `singular plural = article singular plural`, then `weak` and an English pronoun where they apply."""
    genders = {"der": "m", "die": "f", "das": "n"}
    nouns = []
    for row in table.strip().splitlines():
        english, german = row.split(" = ")
        article, singular, plural, *marks = german.split()
        pronoun = next((mark for mark in marks if mark != "weak"), "it").replace("-", "")
        words = f"{singular} {plural}"
        nouns.append(Noun(english.strip(), genders[article], words, kind, pronoun, "weak" in marks))
    return nouns


PEOPLE = """
man men = der Mann Männer he
woman women = die Frau Frauen she
child children = das Kind Kinder -
boy boys = der Junge Jungen weak he
girl girls = das Mädchen Mädchen -
teacher teachers = der Lehrer Lehrer he
doctor doctors = der Arzt Ärzte he
friend friends = der Freund Freunde he
neighbour neighbours = der Nachbar Nachbarn weak he
student students = der Student Studenten weak he
mother mothers = die Mutter Mütter she
father fathers = der Vater Väter he
sister sisters = die Schwester Schwestern she
brother brothers = der Bruder Brüder he
daughter daughters = die Tochter Töchter she
son sons = der Sohn Söhne he
aunt aunts = die Tante Tanten she
uncle uncles = der Onkel Onkel he
grandmother grandmothers = die Großmutter Großmütter she
"""
ANIMALS = """
dog dogs = der Hund Hunde
cat cats = die Katze Katzen
horse horses = das Pferd Pferde
bird birds = der Vogel Vögel
bear bears = der Bär Bären weak
"""
FOOD = """
apple apples = der Apfel Äpfel
egg eggs = das Ei Eier
potato potatoes = die Kartoffel Kartoffeln
pear pears = die Birne Birnen
cake cakes = der Kuchen Kuchen
soup soups = die Suppe Suppen
"""
THINGS = """
picture pictures = das Bild Bilder
key keys = der Schlüssel Schlüssel
bottle bottles = die Flasche Flaschen
flower flowers = die Blume Blumen
present presents = das Geschenk Geschenke
umbrella umbrellas = der Regenschirm Regenschirme
knife knives = das Messer Messer
cup cups = die Tasse Tassen
plate plates = der Teller Teller
"""
TEXTS = """
book books = das Buch Bücher
letter letters = der Brief Briefe
newspaper newspapers = die Zeitung Zeitungen
"""
CLOTHES = """
shirt shirts = das Hemd Hemden
coat coats = der Mantel Mäntel
hat hats = der Hut Hüte
jacket jackets = die Jacke Jacken
"""
VEHICLES = """
car cars = das Auto Autos
bicycle bicycles = das Fahrrad Fahrräder
"""
SERVICES = """
train trains = der Zug Züge
bus buses = der Bus Busse
ship ships = das Schiff Schiffe
"""
OPENINGS = """
door doors = die Tür Türen
window windows = das Fenster Fenster
"""
DEVICES = """
lamp lamps = die Lampe Lampen
computer computers = der Computer Computer
radio radios = das Radio Radios
"""
FURNITURE = """
table tables = der Tisch Tische
chair chairs = der Stuhl Stühle
box boxes = die Kiste Kisten
bed beds = das Bett Betten
bag bags = die Tasche Taschen
"""
ROOMS = """
kitchen kitchens = die Küche Küchen
room rooms = das Zimmer Zimmer
office offices = das Büro Büros
"""
PLACES = """
garden gardens = der Garten Gärten
house houses = das Haus Häuser
city cities = die Stadt Städte
village villages = das Dorf Dörfer
park parks = der Park Parks
forest forests = der Wald Wälder
church churches = die Kirche Kirchen
museum museums = das Museum Museen
"""
STOPS = """
station stations = der Bahnhof Bahnhöfe
school schools = die Schule Schulen
hotel hotels = das Hotel Hotels
bridge bridges = die Brücke Brücken
"""

NOUNS = [
    *_nouns("person", PEOPLE),
    *_nouns("animal", ANIMALS),
    *_nouns("food", FOOD),
    *_nouns("thing", THINGS),
    *_nouns("text", TEXTS),
    *_nouns("clothes", CLOTHES),
    *_nouns("vehicle", VEHICLES),
    *_nouns("service", SERVICES),
    *_nouns("opening", OPENINGS),
    *_nouns("device", DEVICES),
    *_nouns("furniture", FURNITURE),
    *_nouns("room", ROOMS),
    *_nouns("place", PLACES),
    *_nouns("stop", STOPS),
]

_ANY = "person animal food thing text clothes vehicle service opening device furniture room place stop"
_GOODS = "thing text clothes vehicle device furniture"
_BUILT = "room place stop"
ADJECTIVES = [
    Adjective("old", "alt", f"person animal {_GOODS} {_BUILT} service opening", "older/älter"),
    Adjective("young", "jung", "person animal", "younger/jünger"),
    Adjective("small", "klein", _ANY, "smaller/kleiner"),
    Adjective("big", "groß", _ANY, "bigger/größer"),
    Adjective("new", "neu", f"{_GOODS} {_BUILT} service opening"),
    Adjective("beautiful", "schön", f"animal {_GOODS} {_BUILT}", "more beautiful/schöner"),
    Adjective("expensive", "teuer", f"food {_GOODS}", "more expensive/teurer", stem="teur"),
    Adjective("cheap", "billig", f"food {_GOODS}", "cheaper/billiger"),
    Adjective("heavy", "schwer", "animal thing vehicle furniture device", "heavier/schwerer"),
    Adjective("red", "rot", "clothes vehicle opening furniture device"),
    Adjective("blue", "blau", "clothes vehicle opening furniture device"),
    Adjective("green", "grün", "clothes vehicle opening furniture device"),
    Adjective("black", "schwarz", "animal clothes vehicle furniture device"),
    Adjective("white", "weiß", "animal clothes vehicle furniture device"),
    Adjective("dark", "dunkel", _BUILT, "darker/dunkler", stem="dunkl"),
    Adjective("quiet", "ruhig", f"person animal {_BUILT}", "quieter/ruhiger"),
    Adjective("tired", "müde", "person animal", "more tired/müder", stem="müd"),
    Adjective("sick", "krank", "person animal"),
    Adjective("happy", "glücklich", "person", "happier/glücklicher"),
    Adjective("friendly", "freundlich", "person", "friendlier/freundlicher"),
    Adjective("strong", "stark", "person animal", "stronger/stärker"),
    Adjective("rich", "reich", "person", "richer/reicher"),
    Adjective("fast", "schnell", "animal vehicle service", "faster/schneller"),
    Adjective("fresh", "frisch", "food"),
]
