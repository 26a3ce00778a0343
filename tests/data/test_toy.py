"""The embedded corpus: correct German, one translation a sentence, nothing held out in training, reproducible."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu

from dynconv_mt.data.toy import Sizes, make_corpus, word_for_word, write_corpus
from dynconv_mt.data.toy import english as en
from dynconv_mt.data.toy import german as de
from dynconv_mt.data.toy.__main__ import main
from dynconv_mt.data.toy.clauses import Adverbial, Clause, Order, to_english, to_german
from dynconv_mt.data.toy.german import Case
from dynconv_mt.data.toy.grammar import SENTENCES, sentence
from dynconv_mt.data.toy.lexicon import ADJECTIVES, NOUNS
from dynconv_mt.data.toy.phrases import (
    BARE,
    MANY,
    POSSESSIVES,
    PRONOUNS,
    THE,
    THIS,
    A,
    Determiner,
    Phrase,
    noun_phrase,
)
from dynconv_mt.data.toy.sampling import Sampler
from dynconv_mt.data.toy.verbs import BE, VERBS
from dynconv_mt.errors import UserError

SMALL = Sizes(train=300, valid=40, test=50)
NOUN = {noun.english.split()[0]: noun for noun in NOUNS}
ADJECTIVE = {adjective.english: adjective for adjective in ADJECTIVES}
VERB = {verb.german: verb for verb in VERBS}


def the(noun: str) -> Phrase:
    return noun_phrase(NOUN[noun], THE)


# The files


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_corpus(tmp_path / folder, SMALL, seed)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        *("test.de", "test.en", "test.word_for_word.de", "train.de", "train.en", "valid.de", "valid.en"),
    ]
    for name in files:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert content != (tmp_path / "c" / name).read_bytes()
    assert len((tmp_path / "a" / "train.de").read_text().splitlines()) == 300


def test_nothing_held_out_occurs_in_training() -> None:
    corpus = make_corpus(Sizes())
    assert {name: len(pairs) for name, pairs in corpus.items()} == {"train": 12000, "valid": 300, "test": 400}
    for side in (0, 1):
        sentences = [pair[side] for pairs in corpus.values() for pair in pairs]
        assert len(sentences) == len(set(sentences))
        types = {word.strip(".,?") for text in sentences for word in text.split()}
        assert len(types) < (800, 1300)[side]


def test_the_test_set_does_not_depend_on_the_size_of_the_training_set() -> None:
    corpus = make_corpus(SMALL)
    larger = make_corpus(Sizes(train=500, valid=40, test=50))
    assert corpus["test"] == larger["test"]
    assert corpus["train"] == larger["train"][:300]


def test_one_translation_for_each_sentence_and_clean_text() -> None:
    draw = Sampler(3)
    translations: dict[str, str] = {}
    for _ in range(8000):
        source, target = sentence(draw)
        assert translations.setdefault(source, target) == target
        for text in (source, target):
            assert text[0].isupper()
            assert text[-1] in ".?"
            assert not any(wrong in text for wrong in ("  ", " .", " ,", " ?", ",.", ",,", ",?"))


def test_baselines_stay_below_50_bleu() -> None:
    pairs = make_corpus(Sizes(train=1))["test"]
    sources, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    baseline = word_for_word(sources)
    assert 10 < sacrebleu.corpus_bleu(baseline, [references]).score < 35
    assert sacrebleu.corpus_bleu(sources, [references]).score < 2
    assert not {word.strip(".,?").lower() for line in baseline for word in line.split()} & {"the", "does", "because"}


def test_word_for_word() -> None:
    assert word_for_word(["The man does not buy a book, Zork."]) == ["Die Mann nicht kaufen ein Buch, Zork."]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), "--train", "20", "--valid", "5", "--test", "5", "--seed", "4"]) == 0
    assert len((tmp_path / "out" / "train.en").read_text().splitlines()) == 20
    assert main([str(tmp_path / "out"), "--test", "0"]) == 2
    assert "--test=0: must be at least 1" in capsys.readouterr().err


def test_another_text_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.en").write_text("mine\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.en: exists and holds another text"):
        write_corpus(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["train.en"]


def test_imports_no_torch() -> None:
    code = "import sys, dynconv_mt.data.toy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_sizes_must_be_positive() -> None:
    with pytest.raises(UserError, match="--valid=-1"):
        Sizes(valid=-1)


# German


@pytest.mark.parametrize(
    ("n", "word"),
    [(2, "zwei"), (16, "sechzehn"), (17, "siebzehn"), (20, "zwanzig"), (21, "einundzwanzig"), (37, "siebenunddreißig")],
)
def test_numbers(n: int, word: str) -> None:
    assert de.number(n) == word
    assert len({de.number(i) for i in range(2, 100)}) == len({en.number(i) for i in range(2, 100)}) == 98


def phrase(noun: str, determiner: Determiner, adjective: str = "", *, plural: bool = False, count: int = 0) -> Phrase:
    return noun_phrase(NOUN[noun], determiner, plural=plural, adjective=ADJECTIVE.get(adjective), count=count)


@pytest.mark.parametrize(
    ("found", "forms"),
    [
        (phrase("man", THE, "old"), "der alte Mann / den alten Mann / dem alten Mann"),
        (phrase("woman", A, "old"), "eine alte Frau / eine alte Frau / einer alten Frau"),
        (phrase("boy", THIS), "dieser Junge / diesen Jungen / diesem Jungen"),
        (phrase("neighbour", A), "ein Nachbar / einen Nachbarn / einem Nachbarn"),
        (phrase("book", A, "expensive"), "ein teures Buch / ein teures Buch / einem teuren Buch"),
        (phrase("child", THE, plural=True), "die Kinder / die Kinder / den Kindern"),
        (phrase("car", POSSESSIVES[4], plural=True), "unsere Autos / unsere Autos / unseren Autos"),
        (phrase("hat", MANY, "new", plural=True), "viele neue Hüte / viele neue Hüte / vielen neuen Hüten"),
        (phrase("apple", BARE, count=21), "einundzwanzig Äpfel / einundzwanzig Äpfel / einundzwanzig Äpfeln"),
    ],
)
def test_agreement(found: Phrase, forms: str) -> None:
    assert [found.german[case] for case in Case] == forms.split(" / ")


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("arbeiten", "arbeite arbeitest arbeitet arbeiten"),
        ("sitzen", "sitze sitzt sitzt sitzen"),
        ("lesen", "lese liest liest lesen"),
        ("ein|laden", "lade lädst lädt laden"),
        ("ab|fahren", "fahre fährst fährt fahren"),
        ("an|rufen", "rufe rufst ruft rufen"),
        ("haben", "habe hast hat haben"),
        ("tanzen", "tanze tanzt tanzt tanzen"),
        ("geben", "gebe gibst gibt geben"),
        ("finden", "finde findest findet finden"),
    ],
)
def test_conjugation(verb: str, forms: str) -> None:
    entry = VERB[verb]
    persons = [(1, False), (2, False), (3, False), (3, True)]
    assert [de.conjugate(entry.german, p, many, entry.stem, entry.forms) for p, many in persons] == forms.split()


def test_english_inflection() -> None:
    assert [en.third(verb) for verb in ("carry", "wash", "go went", "play", "have had", "buy bought")] == [
        *("carries", "washes", "goes", "plays", "has", "buys"),
    ]
    assert [en.past(verb) for verb in ("love", "play", "see saw", "carry")] == [
        "loved",
        "played",
        "saw",
        "carried",
    ]
    assert [en.article(noun) for noun in ("old man", "book")] == ["an old man", "a book"]


# Word order

CALL = Clause(the("woman"), VERB["an|rufen"], (the("man"),))
GIVE = Clause(the("mother"), VERB["geben"], (PRONOUNS["he"], noun_phrase(NOUN["apple"], A)))
TODAY = Adverbial("today", "heute")


@pytest.mark.parametrize(
    ("clause", "order", "source", "target"),
    [
        (CALL, Order.second, "the woman calls the man", "die Frau ruft den Mann an"),
        (CALL, Order.first, "does the woman call the man", "ruft die Frau den Mann an"),
        (CALL, Order.last, "the woman calls the man", "die Frau den Mann anruft"),
        (GIVE, Order.second, "the mother gives him an apple", "die Mutter gibt ihm einen Apfel"),
        (Clause(the("bus"), VERB["ab|fahren"], is_past=True), Order.last, "the bus departed", "der Bus abgefahren ist"),
        (
            Clause(PRONOUNS["I"], VERB["an|rufen"], (the("boy"),), modal="must", time=TODAY),
            Order.second,
            "I must call the boy today",
            "ich muss heute den Jungen anrufen",
        ),
        (
            Clause(PRONOUNS["she"], VERB["kaufen"], (noun_phrase(NOUN["hat"], A),), is_negated=True, is_past=True),
            Order.second,
            "she did not buy a hat",
            "sie hat keinen Hut gekauft",
        ),
        (
            Clause(the("girl"), VERB["helfen"], (the("child"),), modal="want", is_negated=True),
            Order.first,
            "does the girl not want to help the child",
            "will das Mädchen dem Kind nicht helfen",
        ),
        (
            Clause(PRONOUNS["you"], VERB["ein|schalten"], (the("lamp"),), modal="can", is_negated=True),
            Order.second,
            "you cannot turn on the lamp",
            "du kannst die Lampe nicht einschalten",
        ),
        (
            Clause(PRONOUNS["we"], BE, predicate=Adverbial("tired", "müde"), is_past=True),
            Order.last,
            "we were tired",
            "wir müde waren",
        ),
    ],
)
def test_word_order(clause: Clause, order: Order, source: str, target: str) -> None:
    assert to_english(clause, order) == source
    assert to_german(clause, order) == target


def test_the_phenomena_occur() -> None:
    text = " ".join(target for _, target in make_corpus(Sizes(train=3000))["train"]).lower()
    wanted = ["weil", "dass", "wenn", "obwohl", "kein", "nicht", "muss", "einundzwanzig", "im", "ins", "zum"]
    wanted += ["töchter", "städte", "eingekauft", "abholen"]  # plurals with an umlaut; separable verbs in one word …
    assert [word for word in wanted if f" {word}" not in text] == []
    assert re.search(r" räum\w+ [^.?]+ auf[.?]", text)  # … and in two
    draw = Sampler(0)
    assert all(make(draw)[1] for make, _ in SENTENCES)
