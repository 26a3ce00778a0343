"""Strings to pieces and ids, and back: corpora, Moses steps, cleaning, BPE, and the pipeline that joins them."""

from typing import TYPE_CHECKING

from dynconv_mt.lazy import lazy_exports

if TYPE_CHECKING:
    from dynconv_mt.text.bpe import SentencePieceBpe as SentencePieceBpe
    from dynconv_mt.text.bpe import learn_bpe as learn_bpe
    from dynconv_mt.text.clean import Cleaner as Cleaner
    from dynconv_mt.text.config import BpeConfig as BpeConfig
    from dynconv_mt.text.config import CleanConfig as CleanConfig
    from dynconv_mt.text.config import TextConfig as TextConfig
    from dynconv_mt.text.config import Tokenization as Tokenization
    from dynconv_mt.text.corpus import read_lines as read_lines
    from dynconv_mt.text.corpus import read_pairs as read_pairs
    from dynconv_mt.text.moses import LineTokenizer as LineTokenizer
    from dynconv_mt.text.pipeline import TextPipeline as TextPipeline
    from dynconv_mt.text.subword import Subword as Subword
    from dynconv_mt.text.subword_nmt import SubwordNmtBpe as SubwordNmtBpe

_EXPORTS = {
    "BpeConfig": "config",
    "CleanConfig": "config",
    "Cleaner": "clean",
    "LineTokenizer": "moses",
    "SentencePieceBpe": "bpe",
    "Subword": "subword",
    "SubwordNmtBpe": "subword_nmt",
    "TextConfig": "config",
    "TextPipeline": "pipeline",
    "Tokenization": "config",
    "learn_bpe": "bpe",
    "read_lines": "corpus",
    "read_pairs": "corpus",
}

if not TYPE_CHECKING:  # a type checker is to see the names above alone
    __getattr__ = lazy_exports(__name__, _EXPORTS)
