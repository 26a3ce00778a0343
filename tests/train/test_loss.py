"""The loss against torch's own, and by hand."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dynconv_mt.compute import Compute
from dynconv_mt.data.batch import Batch
from dynconv_mt.runtime import Precision
from dynconv_mt.train.loss import CPU_ROWS, batch_loss, divergence, label_smoothed_loss, output_loss

TARGET = torch.tensor([[4, 2, 1], [5, 6, 2]])


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equals_torch(epsilon: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    logits = (3 * torch.randn(2, 3, 7)).to(dtype)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    sums = label_smoothed_loss(ours, TARGET, epsilon)
    flat = theirs.flatten(0, 1)
    flat = flat.float() if dtype is torch.bfloat16 else flat
    cross_entropy = partial(F.cross_entropy, flat, TARGET.flatten(), reduction="sum", ignore_index=1)
    expected = cross_entropy(label_smoothing=epsilon)
    torch.testing.assert_close(sums.loss, expected.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sums.nll, cross_entropy().double(), rtol=1e-5, atol=0)
    (3 * sums.loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not sums.nll.requires_grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 5e-6), (torch.bfloat16, 0.02), (torch.float64, 1e-12)])
def test_output_layer_and_loss_are_one(dtype: torch.dtype, tolerance: float) -> None:
    """More tokens than have logits at a time, more of those than go through at once; bf16 as autocast has it."""
    torch.manual_seed(1)
    shape, num_types = (5, CPU_ROWS // 4 + 1), 2**18 // CPU_ROWS * 2
    target = torch.randint(1, num_types, shape)
    target[:, -3:] = 1
    stored = torch.float32 if dtype is torch.bfloat16 else dtype
    tensors = torch.randn(*shape, 16, dtype=stored), torch.randn(num_types, 16, dtype=stored)
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in tensors] for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        sums = output_loss(ours[0], ours[1], target, 0.1)
        logits = F.linear(*theirs)
    assert logits.dtype is dtype
    expected = label_smoothed_loss(logits, target, 0.1)
    torch.testing.assert_close(sums, expected)
    assert not sums.nll.requires_grad
    (3 * sums.loss).backward()
    (3 * expected.loss).backward()
    for tensor, reference in zip(ours, theirs, strict=True):
        assert tensor.grad is not None and reference.grad is not None
        largest = reference.grad.abs().max().item()
        torch.testing.assert_close(tensor.grad, reference.grad, rtol=0.0, atol=tolerance * largest)
    assert not (ours[0].grad[target == 1]).any()  # type: ignore[index]


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (0, 1)])
def test_output_loss_where_a_gradient_is_not_needed(frozen: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    tensors = [torch.randn(2, 3, 4), torch.randn(7, 4)]
    hidden, weight = (tensor.clone().requires_grad_() for tensor in tensors)
    expected = output_loss(hidden, weight, TARGET, 0.1)
    expected.loss.backward()
    grads = [None if i in frozen else tensor.grad for i, tensor in enumerate((hidden, weight))]
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i not in frozen)
    loss = output_loss(tensors[0], tensors[1], TARGET, 0.1).loss
    torch.testing.assert_close(loss, expected.loss)
    if len(frozen) < 2:
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
    for tensor, grad in zip(tensors, grads, strict=True):
        torch.testing.assert_close(tensor.grad, grad)
    with torch.no_grad():
        torch.testing.assert_close(output_loss(hidden, weight, TARGET, 0.1), expected)


def test_logits_of_fp16_wait_for_the_loss_scale() -> None:
    """A gradient taken before would underflow: the model is asked for its logits, not for its loss."""
    batch = Batch(TARGET, torch.tensor([3, 3]), TARGET, TARGET, 5, (0, 1))
    logits = torch.randn(2, 3, 7)
    model: Any = lambda *_: logits  # noqa: E731
    sums = batch_loss(model, batch, Compute(torch.device("cpu"), Precision.fp16), 0.1)
    torch.testing.assert_close(sums, label_smoothed_loss(logits, TARGET, 0.1))


def test_many_tokens_are_as_few_at_a_time() -> None:
    """More logits than go through at once, 2^18 on a CPU, and a last group that is not full."""
    torch.manual_seed(1)
    logits, target = torch.randn(11, 2**16, requires_grad=True), torch.randint(2, 2**16, (11,))
    target[5] = 1
    sums = label_smoothed_loss(logits, target, 0.1)
    F.cross_entropy(logits, target, label_smoothing=0.1, reduction="sum", ignore_index=1).backward()
    expected, logits.grad = logits.grad, None
    sums.loss.backward()
    torch.testing.assert_close(logits.grad, expected)
    parts = [label_smoothed_loss(logits[i, None], target[i, None], 0.1).loss for i in range(11)]
    torch.testing.assert_close(sums.loss, torch.stack(parts).sum())
    whole = divergence(logits, logits.flip(0), target)
    parts = [divergence(logits[i, None], logits[10 - i, None], target[i, None]) for i in range(11)]
    torch.testing.assert_close(whole, torch.stack(parts).sum())


def test_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0, math.log(5.0)]]])  # p = 1/8, 1/8, 1/8, 5/8
    loss, nll = label_smoothed_loss(logits, torch.tensor([[3]]), 0.2)
    assert nll.item() == pytest.approx(math.log(8 / 5))
    assert loss.item() == pytest.approx(0.8 * math.log(8 / 5) + 0.2 * (3 * math.log(8) + math.log(8 / 5)) / 4)


def test_padding_has_no_gradient_and_all_padding_costs_nothing() -> None:
    logits = torch.randn(1, 2, 7, requires_grad=True)
    sums = label_smoothed_loss(logits, torch.tensor([[1, 1]]), 0.1)
    sums.loss.backward()
    assert sums.loss.item() == sums.nll.item() == 0.0
    assert not logits.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_divergence_equals_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    start = [(3 * torch.randn(2, 3, 7)).to(dtype) for _ in range(2)]
    ours, theirs = ([logits.clone().requires_grad_() for logits in start] for _ in range(2))
    total = divergence(ours[0], ours[1], TARGET)
    precision = torch.float32 if dtype is torch.bfloat16 else dtype
    p, q = (F.log_softmax(logits, -1, dtype=precision) for logits in theirs)
    kl = partial(F.kl_div, reduction="none", log_target=True)
    expected = (kl(q, p) + kl(p, q)).sum(-1)[TARGET != 1].sum()
    torch.testing.assert_close(total, expected.double(), rtol=1e-5, atol=1e-6)
    (3 * total).backward()
    (3 * expected).backward()
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad)


def test_divergence_of_padding_is_nothing() -> None:
    one, other = (torch.randn(1, 2, 7, requires_grad=True) for _ in range(2))
    total = divergence(one, other, torch.tensor([[1, 1]]))
    total.backward()
    assert total.item() == 0.0
    assert not one.grad.any() and not other.grad.any()  # type: ignore[union-attr]


def test_r_drop_is_half_of_what_its_paper_writes() -> None:
    one, other = torch.randn(2, 2, 3, 7)
    batch = Batch(TARGET, torch.tensor([3, 3]), TARGET, TARGET, 5, (0, 1))
    model: Any = lambda *_: torch.cat([one, other])  # noqa: E731
    sums = batch_loss(model, batch, Compute(torch.device("cpu"), Precision.fp32), 0.1, r_drop=3.0)
    first, second = (label_smoothed_loss(logits, TARGET, 0.1) for logits in (one, other))
    torch.testing.assert_close(sums.loss, (first.loss + second.loss) / 2 + 3.0 / 4 * divergence(one, other, TARGET))
    torch.testing.assert_close(sums.nll, (first.nll + second.nll) / 2)
