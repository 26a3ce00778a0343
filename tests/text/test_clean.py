"""Cleaning: Moses' clean-corpus-n, rule by rule."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv_mt.errors import UserError
from dynconv_mt.text.clean import Cleaner, Drop, pair_hash
from dynconv_mt.text.config import BpeConfig, CleanConfig, TextConfig, Tokenization


@settings(deadline=None)
@given(
    st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.integers(6, 12), st.sampled_from([None, 1, 1.5, 3])
)
def test_keeps_what_clean_corpus_n_keeps(src: int, tgt: int, low: int, high: int, ratio: float | None) -> None:
    cleaner = Cleaner(CleanConfig(min_length=low, max_length=high, ratio=ratio))
    kept = src > 0 and tgt > 0 and low <= src <= high and low <= tgt <= high
    if kept and ratio is not None:
        kept = src / tgt <= ratio and tgt / src <= ratio
    reason = cleaner.before_bpe(" ".join("a" * src), " ".join("b" * tgt))
    assert (reason is None) == kept


@pytest.mark.parametrize(
    ("src", "tgt", "reason"),
    [
        ("", "a a", Drop.empty),
        ("a a", "", Drop.empty),
        ("a", "a b", Drop.too_short),
        ("a b", "a b c d e f", Drop.too_long),
        ("a b", "a b c d e", Drop.ratio),
        ("a b", "a b", Drop.identical),
        ("a b", "a c", None),
        ("a " + "b" * 31, "a b", Drop.long_word),
        ("a b", "b" * 30 + " a", None),
    ],
)
def test_says_why(src: str, tgt: str, reason: Drop | None) -> None:
    config = CleanConfig(min_length=2, max_length=5, ratio=2, max_word_length=30, drop_identical=True)
    assert Cleaner(config).before_bpe(src, tgt) == reason


def test_lengths_wait_for_bpe() -> None:
    cleaner = Cleaner(CleanConfig(max_length=2, after_bpe=True))
    assert cleaner.before_bpe("a b c", "a") is None
    assert cleaner.before_bpe("", "a") is Drop.empty
    assert cleaner.lengths(3, 1) is Drop.too_long


@settings(deadline=None)
@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_hashes_tell_pairs_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    one, other = ((" ".join(a.split()), " ".join(b.split())) for a, b in (one, other))
    assert (pair_hash(*one) == pair_hash(*other)) == (one == other)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CleanConfig(min_length=0), r"clean\.min_length=0: must be at least 1"),
        (CleanConfig(min_length=9, max_length=8), r"clean\.max_length=8: must be at least clean\.min_length=9"),
        (CleanConfig(ratio=0.5), r"clean\.ratio=0\.5: must be at least 1"),
        (CleanConfig(ratio=float("nan")), r"clean\.ratio=nan: must be at least 1"),
        (BpeConfig(vocab_size=260), r"bpe\.vocab_size=260: must be at least 261"),
        (BpeConfig(vocab_size=4, byte_fallback=False), r"bpe\.vocab_size=4: must be at least 5"),
        (BpeConfig(vocab_size=2**31), r"bpe\.vocab_size=2147483648: must be at most"),
        (BpeConfig(character_coverage=0.95), r"bpe\.character_coverage=0\.95: must be at least 0\.98"),
        (TextConfig(tokenization=Tokenization.none, escape=True), r"text\.escape=true: has no effect"),
    ],
)
def test_bad_options_are_named(config: BpeConfig | CleanConfig | TextConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.check()
