"""Beam search against the same algorithm written for one sentence, with lists."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.search import SearchConfig, beam_search
from dynconv_mt.text.vocab import EOS, PAD, UNK

from .table_model import TableModel, random_sources

Scored = tuple[float, list[int]]


@torch.no_grad()
def next_log_probs(model: Seq2Seq, src: Tensor, tokens: list[int], config: SearchConfig) -> list[float]:
    logits = model(src[None], torch.tensor([len(src)]), torch.tensor([[EOS, *tokens]]))[0, -1]
    log_probs: list[float] = (logits / config.temperature).log_softmax(-1).tolist()
    log_probs[UNK] -= config.unk_penalty
    return log_probs


def allowed(tokens: list[int], vocab_size: int, limit: int, config: SearchConfig, prefix: list[int]) -> list[int]:
    """What may follow `tokens`."""
    position = len(tokens)
    if position >= limit:
        return [EOS]
    if position < len(prefix) and prefix[position] != PAD:
        return [prefix[position]]
    return [t for t in range(vocab_size) if t != PAD and not (t == EOS and position < config.min_length)]


def plain_beam_search(model: Seq2Seq, src: Tensor, config: SearchConfig, prefix: list[int]) -> list[Scored]:
    """Return (score, tokens) of the n best, best first."""
    limit = config.max_length(len(src))
    beam: list[Scored] = [(0.0, [])]
    finished: list[Scored] = []
    while beam and len(finished) < config.beam:
        candidates: list[Scored] = []
        for total, tokens in beam:
            log_probs = next_log_probs(model, src, tokens, config)
            choices = allowed(tokens, len(log_probs), limit, config, prefix)
            candidates += [(total + log_probs[token], [*tokens, token]) for token in choices]
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * config.beam]
        finished += [candidate for candidate in candidates[: config.beam] if candidate[1][-1] == EOS]
        beam = [candidate for candidate in candidates if candidate[1][-1] != EOS][: config.beam]
    power = config.length_penalty if config.normalize else 0.0
    scored = [(total / len(tokens) ** power, tokens) for total, tokens in finished[: config.beam]]
    return sorted(scored, key=lambda hypothesis: -hypothesis[0])[: config.nbest]


@st.composite
def configs(draw: st.DrawFn) -> SearchConfig:
    beam = draw(st.integers(1, 6))
    return SearchConfig(
        beam=beam,
        length_penalty=draw(st.sampled_from([0.0, 0.6, 1.0, 2.0])),
        normalize=draw(st.booleans()),
        min_length=draw(st.integers(0, 4)),
        max_length_a=draw(st.sampled_from([0.0, 0.5, 1.3])),
        max_length_b=draw(st.integers(1, 6)),
        temperature=draw(st.sampled_from([0.7, 1.0, 2.0])),
        unk_penalty=draw(st.sampled_from([-1.0, 0.0, 2.0])),
        nbest=draw(st.integers(1, beam)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)  # near ties would be rare, and no mistake
@given(config=configs(), vocab_size=st.integers(6, 30), seed=st.integers(0, 10**6), end_bias=st.sampled_from([0, 2, 4]))
def test_it_is_the_plain_algorithm(config: SearchConfig, vocab_size: int, seed: int, end_bias: float) -> None:
    model = TableModel(vocab_size, seed, end_bias=end_bias)
    src, lengths = random_sources(4, seed=seed)
    free = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed)) < 0.7
    prefix = torch.randint(3, vocab_size, free.shape, generator=torch.Generator().manual_seed(seed))
    prefix = prefix.masked_fill(free, PAD)
    found = beam_search([model], src, lengths, config, prefix)
    for b, length in enumerate(lengths.tolist()):
        expected = plain_beam_search(model, src[b, :length], config, prefix[b].tolist())
        assert [h.tokens for h in found[b]] == [tokens for _, tokens in expected]
        assert [h.score for h in found[b]] == pytest.approx([score for score, _ in expected], abs=1e-4)
        assert all(math.isfinite(h.score) for h in found[b])
