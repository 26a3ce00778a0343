"""One update: what it depends on and what it does not."""

from collections.abc import Callable

import pytest
import torch

from dynconv_mt.compute import Compute
from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.loader import Loader, Share, Update
from dynconv_mt.errors import UserError
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitConfig, FitData
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.step import UpdateStep

EPS = 1e-3  # large: the bias of attention keys has a gradient of rounding noise, which Adam would blow up
CPU = Compute(torch.device("cpu"), Precision.fp32)


def make_step(model: Seq2Seq, job: FitConfig, compute: Compute = CPU) -> UpdateStep:
    return UpdateStep(model, job, compute, Ranks())


def updates(data: FitData, max_tokens: int, update_freq: int) -> list[Update]:
    return list(Loader(data.train, BatchConfig(max_tokens), 1, Share(update_freq), prefetch=0).epoch(0))


def test_four_micro_batches_equal_one(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    """With dropout off, the same sentences in one batch or in four give the same update."""
    from dynconv_mt.data.batch import collate

    split = updates(data, 60, 4)[:5]
    models = []
    for is_split in (True, False):
        step = make_step(new_model(dropout=0.0), new_job(optim__eps=EPS))
        for number, update in enumerate(split):
            batches = update.batches
            if not is_split:
                indices = [i for batch in batches for i in batch.indices]
                sources, targets = ([get(i) for i in indices] for get in (data.train.source, data.train.target))
                batches = [collate(sources, targets, indices)]
            step(number, Update(0, number, batches, update.num_target_tokens, update.num_sentences))
        models.append((step.module, step.drain()))
    torch.testing.assert_close(models[0][0].state_dict(), models[1][0].state_dict(), rtol=1e-4, atol=1e-6)
    assert models[0][1].loss == pytest.approx(models[1][1].loss, rel=1e-5)
    assert models[0][1].tokens == models[1][1].tokens == sum(update.num_target_tokens for update in split)


def test_dropout_depends_on_seed_and_update_only(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    update = updates(data, 60, 2)[0]
    losses = []
    for seed, number, disturbance in ((1, 3, 5), (1, 3, 99), (2, 3, 5), (1, 4, 5)):
        torch.manual_seed(disturbance)
        step = make_step(new_model(), new_job(seed=seed))
        torch.rand(disturbance)
        step(number, update)
        losses.append(step.drain().loss)
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_clipping(data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]) -> None:
    """The norm reported is the one found; an update with a huge gradient is as one with its clipped version."""
    from dynconv_mt.train.optim import build_optimizer, clip_gradients

    job = new_job()
    model = new_model()
    optimizer = build_optimizer(model, job.optim)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert clip_gradients(optimizer, 0.5).item() == pytest.approx(count**0.5)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(0.5, rel=1e-4)


def test_bad_gradient_is_skipped_and_counted(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    step = make_step(new_model(), new_job(train__max_skipped=2, train__ema_decay=0.0))
    good = updates(data, 60, 1)
    step(0, good[0])
    before = {name: tensor.clone() for name, tensor in step.module.state_dict().items()}
    moments = {name: state["exp_avg"].clone() for name, state in enumerate(step.optimizer.state.values())}
    hook = step.module.decoder.register_forward_hook(lambda *args: args[2] * float("nan"))
    step(1, good[1])
    step.check_finite(2)
    step(2, good[2])
    torch.testing.assert_close(step.module.state_dict(), before, rtol=0, atol=0)
    for name, state in enumerate(step.optimizer.state.values()):
        assert torch.equal(state["exp_avg"], moments[name])
    with pytest.raises(UserError, match=r"train\.max_skipped=2.*precision=fp32"):
        step.check_finite(3)
    hook.remove()
    step(3, good[3])
    step.check_finite(4)
    sums = step.drain()
    assert (sums.skipped, sums.updates) == (2, 2)
    assert sums.tokens == good[0].num_target_tokens + good[3].num_target_tokens


def test_bf16_trains(data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]) -> None:
    step = make_step(new_model(), new_job(), Compute(torch.device("cpu"), Precision.bf16))
    for number, update in enumerate(updates(data, 60, 2)):
        step(number, update)
    assert all(parameter.dtype is torch.float32 for parameter in step.module.parameters())
    assert 0.5 < step.drain().averages()["loss"] < 6.0


def test_average_follows_the_weights(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    step = make_step(new_model(), new_job(train__ema_decay=0.5))
    weight = dict(step.module.named_parameters())["encoder.layers.0.ffn.input.weight"]
    expected = weight.detach().clone()
    for number, update in enumerate(updates(data, 60, 2)[:3]):
        step(number, update)
        decay = min(0.5, (2 + number) / (11 + number))
        expected = decay * expected + (1 - decay) * weight.detach()
    trained = weight.detach().clone()
    assert step.average is not None
    with step.average.applied():
        torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(weight, trained)
