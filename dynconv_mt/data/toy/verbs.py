"""The verbs of the embedded corpus, with their objects in English and German."""

from __future__ import annotations

from dynconv_mt.data.toy.german import Case
from dynconv_mt.data.toy.lexicon import Slot, Verb

_PEOPLE = "person"
_LIVING = "person animal"
_GOODS = "food thing text clothes vehicle device furniture"
_SMALL = "food thing text clothes"


def _acc(kinds: str, english: str = "", german: str = "") -> tuple[Slot, ...]:
    return (Slot(Case.acc, kinds, english, german),)


def _dat(kinds: str, english: str = "", german: str = "") -> tuple[Slot, ...]:
    return (Slot(Case.dat, kinds, english, german),)


def _give(kinds: str) -> tuple[Slot, ...]:
    return (Slot(Case.dat, _PEOPLE), Slot(Case.acc, kinds))


INTRANSITIVE = [
    Verb("sleep slept", "schlafen", "geschlafen", stem="schläf", subjects=_LIVING),
    Verb("work", "arbeiten", "gearbeitet"),
    Verb("laugh", "lachen", "gelacht"),
    Verb("sing sang", "singen", "gesungen"),
    Verb("dance", "tanzen", "getanzt"),
    Verb("wait", "warten", "gewartet"),
    Verb("swim swam", "schwimmen", "geschwommen", is_motion=True, subjects=_LIVING, where=""),
    Verb("get got", "auf|stehen", "aufgestanden", is_motion=True, where="", particle="up"),
    Verb("arrive", "an|kommen", "angekommen", is_motion=True, subjects="person service"),
    Verb("come came", "zurück|kommen", "zurückgekommen", is_motion=True, where="", particle="back"),
    Verb("shop shopped", "ein|kaufen", "eingekauft"),
    Verb("depart", "ab|fahren", "abgefahren", is_motion=True, stem="fähr", subjects="service", where=""),
    Verb("live", "wohnen", "gewohnt", where="at"),
    Verb("sit sat", "sitzen", "gesessen", where="at", subjects=_LIVING),
    Verb("stand stood", "stehen", "gestanden", where="at", subjects=f"{_LIVING} vehicle"),
    Verb("lie lay", "liegen", "gelegen", where="on", subjects="thing text clothes"),
    Verb("stay", "bleiben", "geblieben", is_motion=True, where="at", subjects=_LIVING),
    Verb("go went", "gehen", "gegangen", is_motion=True, where="to"),
    Verb("drive drove", "fahren", "gefahren", is_motion=True, stem="fähr", where="to"),
    Verb("run ran", "laufen", "gelaufen", is_motion=True, stem="läuf", where="to", subjects=_LIVING),
    Verb("come came", "kommen", "gekommen", is_motion=True, where="to"),
]
TRANSITIVE = [
    Verb("see saw", "sehen", "gesehen", _acc(f"{_LIVING} {_GOODS} place"), stem="sieh", subjects=_LIVING),
    Verb("read read", "lesen", "gelesen", _acc("text"), stem="lies"),
    Verb("write wrote", "schreiben", "geschrieben", _acc("text")),
    Verb("buy bought", "kaufen", "gekauft", _acc(_GOODS)),
    Verb("sell sold", "verkaufen", "verkauft", _acc(_GOODS)),
    Verb("find found", "finden", "gefunden", _acc(f"{_LIVING} {_SMALL}")),
    Verb("love", "lieben", "geliebt", _acc(_LIVING), where=""),
    Verb("know knew", "kennen", "gekannt", _acc("person place stop"), where=""),
    Verb("visit", "besuchen", "besucht", _acc("person place"), where=""),
    Verb("need", "brauchen", "gebraucht", _acc(_GOODS), where=""),
    Verb("have had", "haben", "gehabt", _acc(_GOODS + " animal"), forms="habe hast hat haben", where=""),
    Verb("carry", "tragen", "getragen", _acc("food thing text furniture"), stem="träg"),
    Verb("take took", "nehmen", "genommen", _acc(_SMALL), stem="nimm", where=""),
    Verb("look", "suchen", "gesucht", _acc(f"{_LIVING} {_SMALL}", "for")),
    Verb("forget forgot", "vergessen", "vergessen", _acc(_SMALL), stem="vergiss"),
    Verb("repair", "reparieren", "repariert", _acc("vehicle device furniture opening")),
    Verb("paint", "malen", "gemalt", _acc("person animal place thing")),
    Verb("hear heard", "hören", "gehört", _acc("person animal service"), subjects=_LIVING),
    Verb("ask", "fragen", "gefragt", _acc(_PEOPLE)),
    Verb("understand understood", "verstehen", "verstanden", _acc("person text"), where=""),
    Verb("wash", "waschen", "gewaschen", _acc("clothes vehicle animal"), stem="wäsch"),
    Verb("eat ate", "essen", "gegessen", _acc("food"), stem="iss", subjects=_LIVING),
    Verb("cook", "kochen", "gekocht", _acc("food")),
    Verb("lose lost", "verlieren", "verloren", _acc(_SMALL)),
    Verb("call", "an|rufen", "angerufen", _acc(_PEOPLE)),
    Verb("pick", "ab|holen", "abgeholt", _acc(_PEOPLE), particle="up"),
    Verb("invite", "ein|laden", "eingeladen", _acc(_PEOPLE), stem="läd", where=""),
    Verb("open", "auf|machen", "aufgemacht", _acc("opening furniture")),
    Verb("close", "zu|machen", "zugemacht", _acc("opening furniture")),
    Verb("turn", "ein|schalten", "eingeschaltet", _acc("device"), particle="on"),
    Verb("turn", "aus|schalten", "ausgeschaltet", _acc("device"), particle="off"),
    Verb("clean", "auf|räumen", "aufgeräumt", _acc("room"), particle="up", where=""),
    Verb("put put", "an|ziehen", "angezogen", _acc("clothes"), particle="on", where=""),
    Verb("put put", "legen", "gelegt", _acc("thing text clothes"), where="onto"),
]
OTHER = [
    Verb("help", "helfen", "geholfen", _dat(_PEOPLE), stem="hilf"),
    Verb("thank", "danken", "gedankt", _dat(_PEOPLE), where=""),
    Verb("follow", "folgen", "gefolgt", _dat(_LIVING), is_motion=True, subjects=_LIVING),
    Verb("answer", "antworten", "geantwortet", _dat(_PEOPLE), where=""),
    Verb("listen", "zu|hören", "zugehört", _dat(_PEOPLE, "to")),
    Verb("wait", "warten", "gewartet", _acc("person service", "for", "auf")),
    Verb("play", "spielen", "gespielt", _dat(_LIVING, "with", "mit")),
    Verb("speak spoke", "sprechen", "gesprochen", _dat(_PEOPLE, "with", "mit"), stem="sprich"),
    Verb("think thought", "denken", "gedacht", _acc(f"{_PEOPLE} place", "of", "an"), where=""),
    Verb("dream", "träumen", "geträumt", _dat("person animal place", "of", "von"), where=""),
    Verb("give gave", "geben", "gegeben", _give(_SMALL), stem="gib", where=""),
    Verb("show", "zeigen", "gezeigt", _give(f"{_SMALL} vehicle place"), where=""),
    Verb("send sent", "schicken", "geschickt", _give("thing text clothes"), where=""),
    Verb("bring brought", "bringen", "gebracht", _give(_SMALL), where=""),
    Verb("lend lent", "leihen", "geliehen", _give("thing text clothes vehicle"), where=""),
]
VERBS = [*INTRANSITIVE, *TRANSITIVE, *OTHER]

BE = Verb("be", "sein", "", forms="bin bist ist sind", where="")
COST = Verb("cost cost", "kosten", "gekostet", where="")
MODALS = {  # English word: its German verb
    "can": Verb("can", "können", "", forms="kann kannst kann können"),
    "must": Verb("must", "müssen", "", forms="muss musst muss müssen"),
    "should": Verb("should", "sollen", "", forms="soll sollst soll sollen"),
    "may": Verb("may", "dürfen", "", forms="darf darfst darf dürfen"),
    "will": Verb("will", "werden", "", forms="werde wirst wird werden"),
    "want": Verb("want", "wollen", "", forms="will willst will wollen"),
}
KNOWING = [  # verbs before a clause with that
    Verb("know knew", "wissen", "gewusst", forms="weiß weißt weiß wissen"),
    Verb("believe", "glauben", "geglaubt"),
    Verb("hope", "hoffen", "gehofft"),
    Verb("say said", "sagen", "gesagt"),
    Verb("see saw", "sehen", "gesehen", stem="sieh"),
]
