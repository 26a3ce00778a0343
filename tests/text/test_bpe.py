"""BPE: identity on any text, no text becomes a special piece, and a model that depends on nothing but the words."""

import pickle
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv_mt.errors import UserError
from dynconv_mt.text.bpe import SentencePieceBpe, learn_bpe
from dynconv_mt.text.config import BpeConfig
from dynconv_mt.text.vocab import BOS, EOS, PAD, SPECIAL_PIECES, UNK

TEXT = "the quick brown fox jumps over the lazy dog 's tail , and it sleeps ; <unk> x<unk> <s> a▁b ▅ <0x41> 3.14 &amp;"
WORDS = Counter({word: 10 * len(word) for word in TEXT.split()})
SIGNS = st.sampled_from(
    ["▁", "▅", "<s>", "</s>", "<pad>", "<unk>", "<0x41>", "\x1f", "\x1c", "\x00", "⁇", "😀", "\ufffd"]
)
ANY_TEXT = st.lists(st.one_of(SIGNS, st.text(max_size=5), st.sampled_from(sorted(WORDS)))).map("".join)


@pytest.fixture(scope="module")
def model() -> SentencePieceBpe:
    return learn_bpe(WORDS, BpeConfig(vocab_size=380))


@settings(deadline=None)
@given(ANY_TEXT)
def test_decode_inverts_encode(model: SentencePieceBpe, text: str) -> None:
    ids = model.encode(text)
    assert model.decode(ids) == " ".join(text.split())
    assert not set(ids) & {BOS, PAD, EOS, UNK}


@settings(deadline=None)
@given(st.lists(st.integers(0, 379)))
def test_any_ids_decode_to_clean_tokens(model: SentencePieceBpe, ids: list[int]) -> None:
    tokens = model.decode(ids)
    assert tokens == " ".join(tokens.split())
    assert model.decode([BOS, *ids, EOS, PAD]) == tokens
    assert len(model.pieces(ids)) == len(ids)


@settings(deadline=None)
@given(ANY_TEXT)
def test_without_byte_fallback_only_unknown_characters_are_lost(text: str) -> None:
    model = learn_bpe(WORDS, BpeConfig(vocab_size=100, byte_fallback=False))
    tokens = " ".join(text.split())
    known = set("".join(WORDS)) - {"\x00"}
    if set(tokens.replace(" ", "")) <= known:
        assert model.decode(model.encode(text)) == tokens
    else:
        assert UNK in model.encode(text)


def test_special_pieces_have_their_ids(model: SentencePieceBpe) -> None:
    assert model.pieces([BOS, PAD, EOS, UNK]) == list(SPECIAL_PIECES)
    assert model.vocab_size == 380
    assert [model.is_byte(i) for i in (UNK, 4, 259, 260)] == [False, True, True, False]


def test_names_of_special_pieces_are_learned_like_words(model: SentencePieceBpe) -> None:
    assert model.pieces(model.encode("<unk>")) == ["▁<unk>"]
    assert model.encode("<unk>") != [UNK]


def test_unknown_is_visible(model: SentencePieceBpe) -> None:
    assert model.decode([*model.encode("the"), UNK, *model.encode("fox")]) == "the ⁇ fox"


def test_half_a_surrogate_pair_becomes_a_replacement_character(model: SentencePieceBpe) -> None:
    assert model.decode(model.encode("a \ud800 b")) == "a \ufffd b"
    assert model.decode(model.encode("\ud83d\ude00")) == "😀"


def test_the_order_of_the_words_does_not_matter() -> None:
    words = list(WORDS.items())
    random.Random(1).shuffle(words)
    config = BpeConfig(vocab_size=330)
    assert learn_bpe(dict(words), config).model == learn_bpe(WORDS, config).model


def test_the_model_is_that_of_the_whole_text() -> None:
    from io import BytesIO

    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    words = [word for word in WORDS if not set(word) & set("<▁▅")]
    lines = [" ".join(random.Random(seed).choices(words, k=12)) for seed in range(300)]
    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, model_type="bpe", vocab_size=330, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", bos_id=0, pad_id=1, eos_id=2, unk_id=3,
        split_by_unicode_script=False, split_by_number=False, minloglevel=2,
    )  # fmt: skip
    expected = SentencePieceProcessor(model_proto=written.getvalue())
    ours = learn_bpe(Counter(word for line in lines for word in line.split()), BpeConfig(vocab_size=330))
    assert ours.pieces(range(330)) == [expected.id_to_piece(i) for i in range(330)]


def test_a_vocabulary_that_does_not_fit_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"bpe\.vocab_size=5000: .*the target side.* largest possible value .* (\d+)"
    ) as error:
        learn_bpe(WORDS, BpeConfig(vocab_size=5000), "the target side (de)")
    largest = int(str(error.value).split()[-1])
    assert learn_bpe(WORDS, BpeConfig(vocab_size=largest)).vocab_size == largest
    with pytest.raises(UserError, match=r"bpe\.vocab_size=270: too small .* at least (\d+) pieces"):
        learn_bpe(WORDS, BpeConfig(vocab_size=270))
    with pytest.raises(UserError, match="no words"):
        learn_bpe({}, BpeConfig())
    assert capfd.readouterr() == ("", "")  # SentencePiece keeps quiet


def test_huge_counts_and_long_words_do_no_harm() -> None:
    words = WORDS | {"the": 2**40, "x" * 10_000: 3}
    model = learn_bpe(words, BpeConfig(vocab_size=330))
    assert model.pieces(model.encode("the")) == ["▁the"]


def test_what_is_no_model_is_refused(model: SentencePieceBpe) -> None:
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        SentencePieceBpe(b"junk")
    with pytest.raises(ValueError, match="no SentencePiece model"):
        SentencePieceBpe.from_files({})


def test_pickles(model: SentencePieceBpe) -> None:
    assert pickle.loads(pickle.dumps(model)).encode("the fox") == model.encode("the fox")


def test_a_compound_with_a_number_may_be_one_piece() -> None:
    word = "Donaudampfschifffahrt2014er"
    model = learn_bpe(Counter({word: 9, "a": 1}), BpeConfig(vocab_size=55, byte_fallback=False))
    assert model.pieces(model.encode(word)) == [f"▁{word}"]
