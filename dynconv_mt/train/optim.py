"""Adam with decoupled weight decay, clipping, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dynconv_mt.train.config import OptimConfig
from dynconv_mt.train.parallel import like, whole

MIN_LOSS_SCALE = 1.0  # of fp16: at this scale a gradient that overflows is above 65,504 itself
EMA_WARMUP = 10.0  # the average reaches back over a tenth of the updates made until ema_decay is reached


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over all parameters of `model`; all of them decay, as in fairseq.

    Fused where torch can: on a CPU four to five times as fast, and a GPU needs no synchronisation to skip an update.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_fusable = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    beta1, beta2 = config.betas
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=(beta1, beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=is_fusable,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let the next update use `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(optimizer: torch.optim.Optimizer, clip_norm: float) -> Tensor:
    """Scale all gradients so that their 2-norm is at most `clip_norm` (0: do not); return the norm found, a scalar."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if clip_norm > 0.0:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm


def step_unless(optimizer: torch.optim.Optimizer, is_bad: Tensor) -> None:
    """Make an update, or none where the scalar `is_bad` is 1; fused kernels read it on the device.

    `found_inf` is what torch's own GradScaler hands to fused optimizers.
    """
    if optimizer.param_groups[0]["fused"]:
        optimizer.found_inf = is_bad.to(torch.float32)  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif not is_bad.item():
        optimizer.step()


def adapt_loss_scale(scaler: torch.amp.GradScaler) -> Tensor:
    """Let fp16's loss scale follow the gradients just unscaled; return whether it was at MIN_LOSS_SCALE for them.

    The scale halves when they overflowed and doubles after 2,000 updates in which they did not. It does not fall below
    MIN_LOSS_SCALE. Nothing here waits for the device.
    """
    scale = scaler._get_scale_async()
    assert scale is not None, "no loss has been scaled yet"
    was_lowest = scale <= MIN_LOSS_SCALE
    scaler.update()
    scale.clamp_(min=MIN_LOSS_SCALE)
    return was_lowest


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as `<parameter>/<entry>` → tensor, such as `encoder.norm.weight/exp_avg`.

    Of a sharded model they are this rank's parts.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value).detach().contiguous()
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back whole tensors by their names in `optimizer_tensors`; KeyError for one that `model` does not have."""
    parameters = dict(model.named_parameters())
    is_fused = bool(optimizer.param_groups[0]["fused"])
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        parameter = parameters[name]
        if entry != "step":
            value = like(value, parameter)
        elif is_fused:
            value = value.to(parameter.device)
        optimizer.state[parameter][entry] = value.clone()


def lerp_unless(is_bad: Tensor, tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Move `tensors` towards `ends` by `weight`, or not at all where `is_bad` is 1; the device is not waited for.

    All must be finite, since 0 times them stands for not at all. Needs room for a copy of the tensors.
    """
    steps = torch._foreach_sub(ends, tensors)
    torch._foreach_mul_(steps, weight * ~is_bad)
    torch._foreach_add_(tensors, steps)


class MovingAverage:
    """Exponential moving average of a model's weights: average ← d · average + (1 - d) · weights.

    d is min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights are forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the model's present weights."""
        self.decay = decay
        self.parameters = list(model.parameters())
        self.tensors = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, num_updates: int, is_bad: Tensor) -> None:
        """Take in the weights after update number `num_updates` (from 1), unless the scalar `is_bad` is 1."""
        decay = min(self.decay, (1.0 + num_updates) / (EMA_WARMUP + num_updates))
        weights = [parameter.data for parameter in self.parameters]
        if is_bad.device.type != "cpu":
            lerp_unless(is_bad, self.tensors, weights, 1.0 - decay)
        elif not is_bad:
            torch._foreach_lerp_(self.tensors, weights, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, tensor in zip(self.parameters, self.tensors, strict=True):  # in place: FSDP knows the storage
            kept = tensor.clone()
            tensor.copy_(parameter)
            parameter.copy_(kept)
