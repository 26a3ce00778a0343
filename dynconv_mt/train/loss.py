"""Label-smoothed cross-entropy as a sum over target tokens, in natural logarithms, and R-Drop beside it.

Shapes: N tokens (B·T of a batch), V types.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dynconv_mt.compute import Compute
from dynconv_mt.data.batch import Batch
from dynconv_mt.text.vocab import PAD


class LossSums(NamedTuple):
    """Sums over the target tokens that are not padding, in nats, float64 scalars."""

    loss: Tensor  # label-smoothed; carries the gradient
    nll: Tensor  # negative log-likelihood, for the perplexity


def batch_loss(model: nn.Module, batch: Batch, compute: Compute, epsilon: float, r_drop: float = 0.0) -> LossSums:
    """Return the sums over a batch, which is moved to the device and computed in the precision of `compute`.

    With `r_drop` = α above 0 the batch goes through the model twice, side by side, under different dropout, and the
    loss is half of what Liang et al. (2021, R-Drop, equation 4) write, so that a token weighs as much as without:

        ½ · (loss of one + loss of the other) + α / 4 · (KL(one ‖ other) + KL(other ‖ one))
    """
    batch = batch.to(compute.device, non_blocking=True)
    if r_drop == 0.0:
        with compute.autocast():
            logits = model(batch.src, batch.src_lengths, batch.prev_tgt)
        return label_smoothed_loss(logits, batch.tgt, epsilon)
    with compute.autocast():
        logits = model(*(torch.cat([part, part]) for part in (batch.src, batch.src_lengths, batch.prev_tgt)))
    sums = label_smoothed_loss(logits, torch.cat([batch.tgt, batch.tgt]), epsilon)
    one, other = logits.chunk(2)
    return LossSums(sums.loss / 2 + r_drop / 4 * divergence(one, other, batch.tgt), sums.nll / 2)


def label_smoothed_loss(logits: Tensor, target: Tensor, epsilon: float) -> LossSums:
    """Return Σ (1 - ε)·nll + ε·(mean over all V types of -log p), and Σ nll, where `target` is not padding (id 1).

    logits (..., V), target (...) int64. Equals `torch.nn.functional.cross_entropy(label_smoothing=ε, reduction="sum",
    ignore_index=1)` in fp32, with one log-softmax and a backward of two passes: on a CPU half the time.
    The gradient can be taken once.
    """
    loss, nll = _SmoothedLoss.apply(logits.flatten(0, -2), target.flatten(), epsilon)  # type: ignore[no-untyped-call]
    return LossSums(loss, nll)


class _SmoothedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        log_probs = torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))  # (N, V)
        is_pad = target == PAD
        nll = -log_probs.gather(1, target[:, None])[:, 0].masked_fill(is_pad, 0.0).sum(dtype=torch.float64)
        smooth = -log_probs.mean(1).masked_fill(is_pad, 0.0).sum(dtype=torch.float64)
        ctx.save_for_backward(log_probs, target, is_pad)
        ctx.epsilon, ctx.dtype = epsilon, logits.dtype
        ctx.mark_non_differentiable(nll)
        return (1.0 - epsilon) * nll + epsilon * smooth, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        log_probs, target, is_pad = ctx.saved_tensors
        assert ctx.epsilon is not None, "the loss was differentiated twice; the first time used up its buffer"
        weight = grad_loss.to(log_probs.dtype).expand(len(target)).masked_fill(is_pad, 0.0)[:, None]  # (N, 1)
        grad = log_probs.exp_().sub_(ctx.epsilon / log_probs.shape[1]).mul_(weight)  # (p - ε / V) · weight
        grad.scatter_add_(1, target[:, None], weight * (ctx.epsilon - 1.0))
        ctx.epsilon = None
        return grad.to(ctx.dtype), None, None


def divergence(one: Tensor, other: Tensor, target: Tensor) -> Tensor:
    """Return Σ KL(one ‖ other) + KL(other ‖ one) in nats, float64, where `target` is not padding (id 1).

    Logits `one` and `other` (..., V), target (...) int64. The gradient, computed with the value, can be taken once.
    """
    total: Tensor = _Divergence.apply(one, other, target)  # type: ignore[no-untyped-call]
    return total


class _Divergence(torch.autograd.Function):
    """With Δ = log p - log q, Σ (p - q) · Δ; its gradient by the logits of p is p · (Δ - Σ p · Δ) + p - q."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor, target: Tensor) -> Tensor:
        dtype = torch.promote_types(one.dtype, torch.float32)
        p, q = torch.log_softmax(one, -1, dtype=dtype), torch.log_softmax(other, -1, dtype=dtype)  # (..., V)
        delta = p - q
        p.exp_()
        q.exp_()
        is_pad = (target == PAD)[..., None]
        difference = (p - q).masked_fill_(is_pad, 0.0)
        kl, reverse = ((part * delta).sum(-1, keepdim=True) for part in (p, q))  # reverse: -KL(q ‖ p)
        ctx.grads = (
            p.mul_(delta - kl).masked_fill_(is_pad, 0.0).add_(difference),
            q.mul_(reverse - delta).masked_fill_(is_pad, 0.0).sub_(difference),
        )
        ctx.dtype = one.dtype
        return (kl - reverse).masked_fill_(is_pad, 0.0).sum(dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, Tensor, None]:
        one, other = ctx.grads
        ctx.grads = None
        return one.mul_(grad_total).to(ctx.dtype), other.mul_(grad_total).to(ctx.dtype), None
