"""The embedded corpus: English-German sentence pairs from a seeded grammar, made by the project and free of rights.

Gender and case agreement, verb-second and verb-final order, separable verbs, plurals, numbers, modals, the perfect with
haben and sein, negation, questions, relative clauses; each English sentence has one German translation. It serves
demonstrations and tests that must learn: `python -m dynconv_mt.data.toy OUT`.
"""

from dynconv_mt.data.toy.corpus import Sizes, make_corpus, write_corpus
from dynconv_mt.data.toy.dictionary import word_for_word

__all__ = ["Sizes", "make_corpus", "word_for_word", "write_corpus"]
