"""n-gram blocking: no n-gram occurs twice, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dynconv_mt.search.beam import beam_search
from dynconv_mt.search.config import SearchConfig
from dynconv_mt.search.score import forced_scores

from .table_model import TableModel

SRC = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 1], [4, 2, 1, 1]])
LENGTHS = torch.tensor([4, 3, 2])
CONFIG = SearchConfig(beam=4, nbest=4, min_length=12, max_length_a=0.0, max_length_b=18)


def ngrams(tokens: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_no_ngram_occurs_twice(size: int, seed: int) -> None:
    model = TableModel(vocab_size=24 if size == 1 else 6, seed=seed)
    free = beam_search([model], SRC, LENGTHS, CONFIG)
    blocked = beam_search([model], SRC, LENGTHS, replace(CONFIG, no_repeat_ngram=size))
    for hypotheses in blocked:
        for hypothesis in hypotheses:
            found = ngrams(hypothesis.tokens[:-1], size)
            assert len(found) == len(set(found))
    unblocked = [ngrams(hypothesis.tokens[:-1], size) for hypotheses in free for hypothesis in hypotheses]
    assert any(len(set(found)) < len(found) for found in unblocked), "nothing was there to block"


def test_scores_stay_the_model_s_own() -> None:
    model = TableModel(vocab_size=24, seed=3)
    (best, *_), *_ = beam_search([model], SRC[:1], LENGTHS[:1], replace(CONFIG, no_repeat_ngram=2))
    forced = forced_scores([model], SRC[:1], LENGTHS[:1], torch.tensor([best.tokens]))
    torch.testing.assert_close(torch.tensor([best.token_scores]), forced, atol=1e-5, rtol=1e-5)


def test_a_size_beyond_the_longest_output_blocks_nothing() -> None:
    model = TableModel(vocab_size=24, seed=1)
    blocked = beam_search([model], SRC, LENGTHS, replace(CONFIG, no_repeat_ngram=19))
    assert blocked == beam_search([model], SRC, LENGTHS, CONFIG)


def test_what_a_prefix_leaves_free_is_blocked_whatever_the_other_sentences_prefix() -> None:
    model, config = TableModel(vocab_size=24), replace(CONFIG, no_repeat_ngram=1)
    prefix = torch.tensor([[7, 7, 7, 7], [8, 1, 1, 1], [1, 9, 1, 9]])  # <pad>: free
    together = beam_search([model], SRC, LENGTHS, config, prefix)
    for row, hypotheses in enumerate(together):
        alone = beam_search([model], SRC[row : row + 1], LENGTHS[row : row + 1], config, prefix[row : row + 1])
        assert [h.tokens for h in alone[0]] == [h.tokens for h in hypotheses]
    for hypothesis in together[1]:
        assert hypothesis.tokens[0] == 8
        assert len(set(hypothesis.tokens)) == len(hypothesis.tokens)
    for hypothesis in together[2]:
        assert hypothesis.tokens[1] == hypothesis.tokens[3] == 9
        assert 9 not in (hypothesis.tokens[2], *hypothesis.tokens[4:])


def test_a_forced_prefix_may_repeat() -> None:
    prefix = torch.tensor([[7, 7, 7]] * 3)
    config = replace(CONFIG, no_repeat_ngram=1)
    for hypotheses in beam_search([TableModel(vocab_size=24)], SRC, LENGTHS, config, prefix):
        for hypothesis in hypotheses:
            rest = hypothesis.tokens[3:-1]
            assert hypothesis.tokens[:3] == [7, 7, 7]
            assert 7 not in rest
            assert len(rest) == len(set(rest))
