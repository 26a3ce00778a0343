"""Label-smoothed cross-entropy as a sum over target tokens, in natural logarithms, and R-Drop beside it.

Shapes: N tokens (B·T of a batch), D width of the model, V types.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dynconv_mt.compute import Compute
from dynconv_mt.data.batch import Batch
from dynconv_mt.runtime import Precision
from dynconv_mt.text.vocab import PAD

CPU_ROWS, GPU_ROWS = 1024, 4096  # tokens whose logits exist at a time: enough to be worth reading the weight for


class LossSums(NamedTuple):
    """Sums over the target tokens that are not padding, in nats, float64 scalars."""

    loss: Tensor  # label-smoothed; carries the gradient
    nll: Tensor  # negative log-likelihood, for the perplexity


def perplexity(nll: float) -> float:
    """Return e^nll, infinite where that is too large for a float."""
    return math.exp(nll) if nll < 700.0 else math.inf


def batch_loss(model: nn.Module, batch: Batch, compute: Compute, epsilon: float, r_drop: float = 0.0) -> LossSums:
    """Return the sums over a batch, which is moved to the device and computed in the precision of `compute`.

    With `r_drop` = α above 0 the batch goes through the model twice, side by side, under different dropout, and the
    loss is half of what Liang et al. (2021, R-Drop, equation 4) write, so that a token weighs as much as without:

        ½ · (loss of one + loss of the other) + α / 4 · (KL(one ‖ other) + KL(other ‖ one))
    """
    batch = batch.to(compute.device, non_blocking=True)
    inputs = batch.src, batch.src_lengths, batch.prev_tgt
    if r_drop == 0.0 and compute.precision is not Precision.fp16:
        with compute.autocast():
            sums: LossSums = model(*inputs, partial(output_loss, target=batch.tgt, epsilon=epsilon))
        return sums
    if r_drop == 0.0:  # in fp16 a gradient computed before the loss is scaled would underflow
        with compute.autocast():
            logits = model(*inputs)
        return label_smoothed_loss(logits, batch.tgt, epsilon)
    with compute.autocast():
        logits = model(*(torch.cat([part, part]) for part in inputs))
    sums = label_smoothed_loss(logits, torch.cat([batch.tgt, batch.tgt]), epsilon)
    one, other = logits.chunk(2)
    return LossSums(sums.loss / 2 + r_drop / 4 * divergence(one, other, batch.tgt), sums.nll / 2)


def output_loss(hidden: Tensor, weight: Tensor, target: Tensor, epsilon: float) -> LossSums:
    """Return `label_smoothed_loss` of the logits hidden · weightᵀ, which exist for a thousand tokens at a time.

    hidden (..., D), weight (V, D), target (...) int64. The gradients, computed with the value, can be taken once. Under
    autocast the products are in its type; what is summed up of them is in fp32.
    """
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    return LossSums(*_OutputLoss.apply(hidden.flatten(0, -2), weight, target.flatten(), epsilon))  # type: ignore[no-untyped-call]


class _OutputLoss(torch.autograd.Function):
    """The logits of a group of tokens become their gradient in place, and that two products more."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        of_hidden, of_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden, dtype=_exact(hidden)) if of_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=_exact(weight)) if of_weight else None
        totals = hidden.new_zeros(2, dtype=torch.float64)
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        matrix = weight.to(dtype)
        for rows in _slices(len(hidden), CPU_ROWS if hidden.is_cpu else GPU_ROWS):
            x = hidden[rows].to(dtype)
            logits = x @ matrix.t()
            for part in _groups(logits):
                totals += _smooth_(logits[part], target[rows][part], epsilon, of_hidden or of_weight)
            if grad_hidden is not None:
                grad_hidden[rows] = logits @ matrix
            if grad_weight is not None:
                _add_product(grad_weight, logits.t(), x)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        loss, nll = totals[0].clone(), totals[1].clone()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(grad if grad is None else grad.mul_(grad_loss).to(dtype) for grad, dtype in grads), None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a · b in place, in the precision of `total`; without a product in between where the types are the same."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _smooth_(logits: Tensor, target: Tensor, epsilon: float, has_gradient: bool) -> Tensor:
    """Return the sums of loss and nll (2,), float64, and overwrite `logits` (n, V): by the loss's gradient if asked."""
    counts = (target != PAD)[:, None].to(_exact(logits))  # (n, 1)
    x = logits.to(counts.dtype)
    top, of_target, mean = x.amax(1, keepdim=True), x.gather(1, target[:, None]), x.mean(1, keepdim=True)
    p = x.sub_(top).exp_()
    total = p.sum(1, keepdim=True)
    losses = (total.log().add_(top) - part for part in (of_target, mean))
    nll, smooth = (torch.where(counts > 0, loss, 0.0).sum(dtype=torch.float64) for loss in losses)
    if has_gradient:
        p.mul_(counts / total).sub_(epsilon / p.shape[1] * counts)
        logits.copy_(p.scatter_add_(1, target[:, None], (epsilon - 1.0) * counts))
    return torch.stack([(1.0 - epsilon) * nll + epsilon * smooth, nll])


def label_smoothed_loss(logits: Tensor, target: Tensor, epsilon: float) -> LossSums:
    """Return Σ (1 - ε)·nll + ε·(mean over all V types of -log p), and Σ nll, where `target` is not padding (id 1).

    logits (..., V), target (...) int64. Equals `torch.nn.functional.cross_entropy(label_smoothing=ε, reduction="sum",
    ignore_index=1)` in fp32. Nothing of the size of `logits` is made but their gradient.
    """
    loss, nll = _SmoothedLoss.apply(logits.flatten(0, -2), target.flatten(), epsilon)  # type: ignore[no-untyped-call]
    return LossSums(loss, nll)


class _SmoothedLoss(torch.autograd.Function):
    """With L = log Σ exp(logits) of a token, its nll is L - the target's logit, and p = exp(logits - L)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        is_pad = target == PAD
        normalizer, of_target, mean = logits.new_empty(3, len(target), 1, dtype=_exact(logits)).unbind()
        for rows in _groups(logits):
            x = logits[rows].to(normalizer.dtype)  # (n, V)
            top = x.amax(1, keepdim=True)
            of_target[rows], mean[rows] = x.gather(1, target[rows, None]), x.mean(1, keepdim=True)
            normalizer[rows] = (x - top).exp_().sum(1, keepdim=True).log_().add_(top)
        losses = ((normalizer - part).masked_fill_(is_pad[:, None], 0.0) for part in (of_target, mean))
        nll, smooth = (loss.sum(dtype=torch.float64) for loss in losses)
        ctx.save_for_backward(logits, target, is_pad, normalizer)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(nll)
        return (1.0 - epsilon) * nll + epsilon * smooth, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        logits, target, is_pad, normalizer = ctx.saved_tensors
        weight = grad_loss.to(normalizer.dtype).expand(len(target)).masked_fill(is_pad, 0.0)[:, None]  # (N, 1)
        grad = torch.empty_like(logits)
        for rows in _groups(logits):
            p = (logits[rows].to(normalizer.dtype) - normalizer[rows]).exp_()
            p.sub_(ctx.epsilon / p.shape[1]).mul_(weight[rows])
            grad[rows] = p.scatter_add_(1, target[rows, None], weight[rows] * (ctx.epsilon - 1.0))
        return grad, None, None


def divergence(one: Tensor, other: Tensor, target: Tensor) -> Tensor:
    """Return Σ KL(one ‖ other) + KL(other ‖ one) in nats, float64, where `target` is not padding (id 1).

    Logits `one` and `other` (..., V), target (...) int64. The gradient, computed with the value, can be taken once.
    """
    total: Tensor = _Divergence.apply(one.flatten(0, -2), other.flatten(0, -2), target.flatten())  # type: ignore[no-untyped-call]
    return total


class _Divergence(torch.autograd.Function):
    """With Δ = log p - log q, Σ (p - q) · Δ; its gradient by the logits of p is p · (Δ - Σ p · Δ) + p - q."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, target: Tensor) -> Tensor:
        dtype = _exact(one)
        # a loss scale, which comes with the backward, would be too late for what fp16 had rounded to zero
        kept = dtype if one.dtype is torch.float16 else one.dtype
        grads = torch.empty_like(one, dtype=kept), torch.empty_like(other, dtype=kept)
        total = one.new_zeros((), dtype=torch.float64)
        for rows in _groups(one):
            p, q = (torch.log_softmax(logits[rows], -1, dtype=dtype) for logits in (one, other))  # (n, V)
            delta = p - q
            p.exp_()
            q.exp_()
            is_pad = (target[rows] == PAD)[:, None]
            difference = (p - q).masked_fill_(is_pad, 0.0)
            kl, reverse = ((part * delta).sum(1, keepdim=True) for part in (p, q))  # reverse: -KL(q ‖ p)
            grads[0][rows] = p.mul_(delta - kl).masked_fill_(is_pad, 0.0).add_(difference)
            grads[1][rows] = q.mul_(reverse - delta).masked_fill_(is_pad, 0.0).sub_(difference)
            total += (kl - reverse).masked_fill_(is_pad, 0.0).sum(dtype=torch.float64)
        ctx.grads, ctx.dtype = grads, one.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, Tensor, None]:
        one, other = ctx.grads
        ctx.grads = None
        return one.mul_(grad_total).to(ctx.dtype), other.mul_(grad_total).to(ctx.dtype), None


def _exact(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _groups(logits: Tensor) -> Iterator[slice]:
    """Yield slices of tokens whose logits stay in a core's cache; on a GPU, that keep it busy."""
    return _slices(len(logits), max(1, (2**18 if logits.is_cpu else 2**26) // logits.shape[1]))


def _slices(num_tokens: int, num_rows: int) -> Iterator[slice]:
    return (slice(begin, begin + num_rows) for begin in range(0, num_tokens, num_rows))
