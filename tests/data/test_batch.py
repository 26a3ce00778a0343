"""Batches: shifted, padded and counted right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynconv_mt.data.batch import blank_batch, collate
from dynconv_mt.text.vocab import EOS, PAD

sentence = st.lists(st.integers(3, 999), max_size=9).map(lambda ids: np.array([*ids, EOS], dtype=np.uint16))


def test_an_example() -> None:
    sources = [np.array([5, 6, EOS], dtype=np.uint16), np.array([7, EOS], dtype=np.uint16)]
    targets = [np.array([EOS], dtype=np.uint32), np.array([8, 9, EOS], dtype=np.uint32)]
    batch = collate(sources, targets, [4, 2])
    assert batch.src.tolist() == [[5, 6, EOS], [7, EOS, PAD]]
    assert batch.src_lengths.tolist() == [3, 2]
    assert batch.prev_tgt.tolist() == [[EOS, PAD, PAD], [EOS, 8, 9]]
    assert batch.tgt.tolist() == [[EOS, PAD, PAD], [8, 9, EOS]]
    assert batch.num_target_tokens == 4
    assert batch.indices == (4, 2)
    assert batch.num_sentences == 2


@given(rows=st.lists(st.tuples(sentence, sentence), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_rows_are_the_sentences(rows: list[tuple[np.ndarray, np.ndarray]]) -> None:
    batch = collate([src for src, _ in rows], [tgt for _, tgt in rows], range(len(rows)))
    assert batch.num_target_tokens == int((batch.tgt != PAD).sum())
    assert all(tensor.dtype == torch.int64 for tensor in (batch.src, batch.src_lengths, batch.prev_tgt, batch.tgt))
    for b, (src, tgt) in enumerate(rows):
        assert batch.src[b, : batch.src_lengths[b]].tolist() == src.tolist()
        assert (batch.src[b, batch.src_lengths[b] :] == PAD).all()
        assert batch.tgt[b, : len(tgt)].tolist() == tgt.tolist()
        assert batch.prev_tgt[b, : len(tgt)].tolist() == [EOS, *tgt[:-1].tolist()]
        assert (batch.prev_tgt[b, len(tgt) :] == PAD).all()
        assert (batch.tgt[b, len(tgt) :] == PAD).all()


def test_a_blank_batch_has_no_loss_and_no_gradient() -> None:
    batch = blank_batch()
    assert batch.num_target_tokens == batch.num_sentences == 0
    logits = torch.randn(*batch.tgt.shape, 11, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), batch.tgt, ignore_index=PAD, reduction="sum", label_smoothing=0.1
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert not gradient.any()


def test_moving_keeps_the_rest() -> None:
    batch = collate([np.array([5, EOS])], [np.array([6, 7, EOS])], [3])
    moved = batch.to("meta", non_blocking=True)
    assert moved.tgt.device.type == moved.src_lengths.device.type == "meta"
    assert (moved.num_target_tokens, moved.indices) == (3, (3,))
    with pytest.raises(AttributeError):
        batch.tgt = batch.src  # type: ignore[misc]
