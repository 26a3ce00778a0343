"""Beam search: what it must find, and what it must not depend on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.search import Hypothesis, SearchConfig, beam_search, forced_scores
from dynconv_mt.text.vocab import EOS, PAD, UNK

from .table_model import TableModel, random_sources

SRC, LENGTHS = random_sources(7)
CONFIG = SearchConfig(beam=4, nbest=4, max_length_a=1.0, max_length_b=5)


def pad(rows: list[list[int]]) -> Tensor:
    """Return rows of ids as one right-padded tensor."""
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def assert_same(one: list[list[Hypothesis]], other: list[list[Hypothesis]], tolerance: float = 1e-5) -> None:
    """The same tokens in the same order, and the same scores."""
    assert [[h.tokens for h in sentence] for sentence in one] == [[h.tokens for h in sentence] for sentence in other]
    for a, b in zip(itertools.chain(*one), itertools.chain(*other), strict=True):
        assert a.score == pytest.approx(b.score, abs=tolerance)
        assert a.token_scores == pytest.approx(b.token_scores, abs=tolerance)


def greedy(model: Seq2Seq, src: Tensor, limit: int) -> list[int]:
    """The best token at each step, by the full forward; never <pad>, </s> not first and forced at the limit."""
    tokens: list[int] = []
    while len(tokens) <= limit:
        logits = model(src[None], torch.tensor([len(src)]), torch.tensor([[EOS, *tokens]]))[0, -1]
        logits[PAD] = -torch.inf
        if not tokens:
            logits[EOS] = -torch.inf
        tokens.append(int(logits.argmax()) if len(tokens) < limit else EOS)
        if tokens[-1] == EOS:
            break
    return tokens


@torch.no_grad()
def test_beam_1_is_greedy(model: Seq2Seq) -> None:
    config = replace(CONFIG, beam=1, nbest=1)
    found = beam_search([model], SRC, LENGTHS, config)
    model.eval()
    for b, length in enumerate(LENGTHS.tolist()):
        assert found[b][0].tokens == greedy(model, SRC[b, :length], length + 5)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_scores_are_forced_scores(model: Seq2Seq, temperature: float) -> None:
    config = replace(CONFIG, temperature=temperature, length_penalty=0.6)
    for b, hypotheses in enumerate(beam_search([model], SRC, LENGTHS, config)):
        rows = torch.full((len(hypotheses),), b)
        tgt = pad([h.tokens for h in hypotheses])
        forced = forced_scores([model], SRC[rows], LENGTHS[rows], tgt, temperature)
        for h, row in zip(hypotheses, forced.tolist(), strict=True):
            length = len(h.tokens)
            assert h.token_scores == pytest.approx(row[:length], abs=2e-5)
            assert not any(row[length:])
            assert h.score == pytest.approx(sum(row) / length**0.6, abs=2e-5)


def test_a_sentence_does_not_depend_on_its_batch(model: Seq2Seq) -> None:
    together = beam_search([model], SRC, LENGTHS, CONFIG)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = beam_search([model], SRC[b : b + 1, :length], LENGTHS[b : b + 1], CONFIG)
        assert_same(alone, together[b : b + 1], 3e-5)
    backwards = beam_search([model], SRC.flip(0), LENGTHS.flip(0), CONFIG)
    assert_same(backwards[::-1], together, 3e-5)


@torch.no_grad()
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_large_beam_finds_the_best_of_all(length_penalty: float, normalize: bool) -> None:
    model = TableModel(vocab_size=6, seed=3)
    config = SearchConfig(
        beam=100, nbest=20, max_length_a=0, max_length_b=3, length_penalty=length_penalty, normalize=normalize
    )
    writable = [token for token in range(6) if token not in (PAD, EOS)]
    everything = [[*t, EOS] for n in (1, 2, 3) for t in itertools.product(writable, repeat=n)]
    for b, found in enumerate(beam_search([model], SRC, LENGTHS, config)):
        rows = torch.full((len(everything),), b)
        totals = forced_scores([model], SRC[rows], LENGTHS[rows], pad(everything)).sum(1).tolist()
        power = length_penalty if normalize else 0.0
        scores = [total / len(tokens) ** power for total, tokens in zip(totals, everything, strict=True)]
        ranked = sorted(zip(scores, everything, strict=True), reverse=True)[:20]
        assert [h.tokens for h in found] == [tokens for _, tokens in ranked]
        assert [h.score for h in found] == pytest.approx([score for score, _ in ranked], abs=1e-5)


def test_results_are_sorted_and_the_first_is_that_of_a_shorter_list(model: Seq2Seq) -> None:
    for all_four, best in zip(
        beam_search([model], SRC, LENGTHS, CONFIG),
        beam_search([model], SRC, LENGTHS, replace(CONFIG, nbest=1)),
        strict=True,
    ):
        scores = [h.score for h in all_four]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(h.tokens) for h in all_four}) == 4
        assert_same([best], [all_four[:1]])


def test_lengths_keep_their_bounds() -> None:
    eager, lengthy = TableModel(end_bias=4.0), TableModel(end_bias=-30.0)
    for hypotheses in beam_search([eager], SRC, LENGTHS, replace(CONFIG, min_length=4)):
        assert all(len(h.tokens) > 4 for h in hypotheses)
    config = replace(CONFIG, max_length_a=1.5, max_length_b=2)
    for length, hypotheses in zip(LENGTHS.tolist(), beam_search([lengthy], SRC, LENGTHS, config), strict=True):
        assert {len(h.tokens) - 1 for h in hypotheses} == {int(1.5 * length + 2)}
    for hypotheses in beam_search([lengthy], SRC, LENGTHS, replace(config, max_length_a=0, min_length=9)):
        assert {len(h.tokens) - 1 for h in hypotheses} == {2}
    few_positions = TableModel(end_bias=-30.0, max_positions=6)
    for hypotheses in beam_search([few_positions], SRC, LENGTHS, replace(CONFIG, max_length_b=50)):
        assert {len(h.tokens) - 1 for h in hypotheses} == {5}


def test_min_length_zero_allows_the_empty_translation() -> None:
    eager = TableModel(end_bias=9.0)
    assert beam_search([eager], SRC, LENGTHS, replace(CONFIG, min_length=0))[0][0].tokens == [EOS]
    assert beam_search([eager], SRC, LENGTHS, CONFIG)[0][0].tokens != [EOS]


def test_pad_is_never_written_and_unk_can_be_made_rare() -> None:
    model = TableModel()
    with torch.no_grad():
        model.table[:, PAD] += 20.0
        model.table[:, UNK] += 3.0
    plain = [h for hypotheses in beam_search([model], SRC, LENGTHS, CONFIG) for h in hypotheses]
    assert all(PAD not in h.tokens and h.tokens.count(EOS) == 1 for h in plain)
    assert any(UNK in h.tokens for h in plain)
    rare = beam_search([model], SRC, LENGTHS, replace(CONFIG, unk_penalty=50.0))
    assert not any(UNK in h.tokens for hypotheses in rare for h in hypotheses)


def test_an_unk_penalty_is_part_of_the_score() -> None:
    model = TableModel()
    penalised = beam_search([model], SRC, LENGTHS, replace(CONFIG, unk_penalty=0.5, normalize=False))
    for b, hypotheses in enumerate(penalised):
        for h in hypotheses:
            forced = forced_scores([model], SRC[b : b + 1], LENGTHS[b : b + 1], torch.tensor([h.tokens])).sum()
            assert h.score == pytest.approx(float(forced) - 0.5 * h.tokens.count(UNK), abs=1e-4)


def test_a_prefix_is_forced_and_scored(model: Seq2Seq) -> None:
    prefix = torch.tensor([[5, 6, 7], [8, PAD, PAD], [PAD, PAD, PAD], [3, 9, PAD], [PAD, 4, PAD], [4, 4, 4], [0, 5, 5]])
    found = beam_search([model], SRC, LENGTHS, CONFIG, prefix)
    free = beam_search([model], SRC, LENGTHS, CONFIG)
    assert_same(found[2:3], free[2:3])
    for b, hypotheses in enumerate(found):
        for h in hypotheses:
            assert all(want in (PAD, got) for want, got in zip(prefix[b].tolist(), h.tokens, strict=False))
            forced = forced_scores([model], SRC[b : b + 1], LENGTHS[b : b + 1], torch.tensor([h.tokens]))
            assert h.token_scores == pytest.approx(forced[0].tolist(), abs=3e-5)


def test_a_prefix_may_end_the_sentence_and_yields_to_the_limit() -> None:
    prefix = torch.tensor([[EOS, PAD, PAD], [5, EOS, PAD], [5, 6, 7]]).repeat(3, 1)[: len(SRC)]
    found = beam_search([TableModel()], SRC, LENGTHS, replace(CONFIG, min_length=2), prefix)
    assert [[h.tokens for h in found[b]] for b in (0, 1)] == [[[EOS]], [[5, EOS]]]
    found = beam_search([TableModel()], SRC, LENGTHS, replace(CONFIG, max_length_a=0, max_length_b=2), prefix)
    assert [h.tokens for h in found[2]] == [[5, 6, EOS]]
    with pytest.raises(ValueError, match="prefix has 2 rows, and src has 7"):
        beam_search([TableModel()], SRC, LENGTHS, CONFIG, prefix[:2])


def test_equal_models_are_one(model: Seq2Seq) -> None:
    assert_same(beam_search([model] * 3, SRC, LENGTHS, CONFIG), beam_search([model], SRC, LENGTHS, CONFIG), 3e-5)


def test_an_ensemble_averages_probabilities() -> None:
    models = [TableModel(seed=0), TableModel(seed=1)]
    found = beam_search(models, SRC, LENGTHS, CONFIG)
    assert found != beam_search(models[:1], SRC, LENGTHS, CONFIG)
    tgt = torch.tensor([found[0][0].tokens])
    single = [forced_scores([model], SRC[:1], LENGTHS[:1], tgt).exp() for model in models]
    mean = ((single[0] + single[1]) / 2).log()[0].tolist()
    assert found[0][0].token_scores == pytest.approx(mean, abs=1e-5)
    assert forced_scores(models, SRC[:1], LENGTHS[:1], tgt)[0].tolist() == pytest.approx(mean, abs=1e-5)


def test_models_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"vocabularies of \[12, 13\] types"):
        beam_search([TableModel(12), TableModel(13)], SRC, LENGTHS, CONFIG)
    with pytest.raises(UserError, match="at least one model"):
        beam_search([], SRC, LENGTHS, CONFIG)


def test_the_models_mode_is_left_as_it_was(model: Seq2Seq) -> None:
    model.train()
    first = beam_search([model], SRC, LENGTHS, CONFIG)
    assert model.training
    assert_same(first, beam_search([model.eval()], SRC, LENGTHS, CONFIG))
    assert not model.training


def test_no_sentences_give_no_hypotheses() -> None:
    assert beam_search([TableModel()], SRC[:0], LENGTHS[:0], CONFIG) == []


def test_a_beam_wider_than_the_vocabulary() -> None:
    found = beam_search([TableModel(5)], SRC, LENGTHS, SearchConfig(beam=30, nbest=30, max_length_a=0, max_length_b=1))
    assert [sorted(h.tokens for h in hypotheses) for hypotheses in found] == [[[0, 2], [3, 2], [4, 2]]] * len(SRC)


def test_logits_that_are_not_finite_are_an_error() -> None:
    model = TableModel()
    with torch.no_grad():
        model.table.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="sentence 0 of the batch: logits are not finite"):
        beam_search([model], SRC, LENGTHS, CONFIG)
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        forced_scores([model], SRC, LENGTHS, SRC)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "search.beam=0: must be at least 1"),
        ({"nbest": 6}, r"search.nbest=6: .* at most search.beam=5"),
        ({"beam": 100_000}, "search.beam=100000: .* at most 10000"),
        ({"temperature": 0.0}, "search.temperature=0"),
        ({"temperature": 1e-300}, "search.temperature=1e-300"),
        ({"length_penalty": float("nan")}, "search.length_penalty=nan"),
        ({"length_penalty": -1e308}, "search.length_penalty=-1e"),
        ({"length_penalty": 10.5}, "search.length_penalty=10.5: must be a number from -10 to 10"),
        ({"unk_penalty": float("inf")}, "search.unk_penalty=inf"),
        ({"max_length_a": float("inf")}, "search.max_length_a=inf"),
        ({"min_length": -1}, "search.min_length=-1"),
        ({"max_length_a": -1.0}, "search.max_length_a=-1"),
        ({"max_length_a": 0.5, "max_length_b": 0}, "search.max_length_b=0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchConfig(**options)  # type: ignore[arg-type]


def test_an_ensemble_writes_what_all_its_models_write() -> None:
    src, lengths = random_sources(7)
    models = [TableModel(seed=0, end_bias=-30.0, max_positions=number) for number in (6, 60)]
    for hypotheses in beam_search(models, src, lengths, SearchConfig(beam=2, max_length_b=50)):
        assert {len(hypothesis.tokens) - 1 for hypothesis in hypotheses} == {5}
