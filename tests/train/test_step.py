"""One update: what it depends on and what it does not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynconv_mt.compute import Compute
from dynconv_mt.data.batch import collate
from dynconv_mt.data.config import BatchConfig
from dynconv_mt.data.loader import Loader, Share, Update
from dynconv_mt.models.seq2seq import Seq2Seq
from dynconv_mt.runtime import Precision
from dynconv_mt.train import FitConfig, FitData
from dynconv_mt.train.distributed import Ranks
from dynconv_mt.train.optim import build_optimizer, clip_gradients, lerp_unless
from dynconv_mt.train.resume import restore_step, take_snapshot, write_snapshot
from dynconv_mt.train.state import TrainerState
from dynconv_mt.train.step import Sums, UpdateStep

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


def test_r_drop_compares_two_dropouts(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    """Without dropout both passes agree, and R-Drop changes nothing; with it the loss grows by what they differ."""
    update = updates(data, 60, 1)[0]
    losses, models = {}, {}
    for dropout in (0.0, 0.3):
        for weight in (0.0, 1.0, 2.0):
            step = make_step(new_model(dropout=dropout), new_job(train__r_drop=weight, optim__eps=EPS))
            step(0, update)
            sums = step.drain()
            assert sums.tokens == update.num_target_tokens
            losses[dropout, weight], models[dropout, weight] = sums.loss, step.module.state_dict()
    assert losses[0.0, 0.0] == pytest.approx(losses[0.0, 1.0], rel=1e-6)
    torch.testing.assert_close(models[0.0, 0.0], models[0.0, 1.0], rtol=1e-4, atol=1e-6)
    first, second = (losses[0.3, weight] for weight in (1.0, 2.0))
    assert second > first + 0.01 * first
    assert not torch.equal(*(next(iter(models[0.3, weight].values())) for weight in (1.0, 2.0)))


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
    """Neither weights nor moments nor their average move."""
    step = make_step(new_model(), new_job(train__max_skipped=2))
    good = updates(data, 60, 1)
    step(0, good[0])
    before = snapshot(step)
    hook = step.module.decoder.norm.register_forward_hook(lambda *args: args[2] * float("nan"))
    step(1, good[1])
    assert not step.is_stuck()
    step(2, good[2])
    assert step.is_stuck()
    torch.testing.assert_close(snapshot(step), before, rtol=0, atol=0)
    hook.remove()
    step(3, good[3])
    assert not step.is_stuck()
    assert not all(torch.equal(x, y) for x, y in zip(snapshot(step), before, strict=True))
    sums = step.drain()
    assert (sums.skipped, sums.updates) == (2, 2)
    assert sums.tokens == good[0].num_target_tokens + good[3].num_target_tokens


def snapshot(step: UpdateStep) -> list[torch.Tensor]:
    """Copies of all weights, moments and averages."""
    assert step.average is not None
    moments = [tensor for state in step.optimizer.state.values() for tensor in state.values()]
    return [tensor.clone() for tensor in (*step.module.state_dict().values(), *moments, *step.average.tensors)]


def test_average_stays_without_waiting_for_the_device() -> None:
    """What a GPU does: the decision is a factor of 0 or 1."""
    tensors, ends = [torch.rand(3), torch.rand(2, 2)], [torch.rand(3), torch.rand(2, 2)]
    before, expected = (
        [tensor.clone() for tensor in tensors],
        [torch.lerp(*pair, 0.25) for pair in zip(tensors, ends, strict=True)],
    )
    lerp_unless(torch.tensor(True), tensors, ends, 0.25)
    assert all(map(torch.equal, tensors, before))
    lerp_unless(torch.tensor(False), tensors, ends, 0.25)
    torch.testing.assert_close(tensors, expected)


def test_fp16_lowers_its_scale_before_anything_counts(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    """Overflow halves the loss scale down to 1; only there a bad gradient is one that training cannot go on from."""
    step = make_step(new_model(), new_job(train__max_skipped=2), Compute(torch.device("cpu"), Precision.fp16))
    update = updates(data, 60, 1)[0]
    step(0, update)
    hook = step.module.decoder.register_forward_hook(lambda *args: args[2] * float("inf"))
    before = snapshot(step)
    for number in range(1, 17):  # 65,536 = 2^16
        assert step.scaler.get_scale() == 2.0 ** (17 - number)
        step(number, update)
    assert step.scaler.get_scale() == 1.0 and step.skipped_in_a_row.item() == 0.0
    step(17, update)
    assert not step.is_stuck()
    step(18, update)
    assert step.is_stuck() and step.scaler.get_scale() == 1.0
    torch.testing.assert_close(snapshot(step), before, rtol=0, atol=0)
    assert step.peek().skipped == 18
    hook.remove()
    step(19, update)
    assert not step.is_stuck() and step.peek().updates == 2


def test_fp16_clips_what_is_unscaled(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    """The norm reported and clipped is that of the true gradient, whatever the loss scale."""
    norms = []
    for scale in (1.0, 1024.0):
        step = make_step(new_model(), new_job(optim__clip_norm=0.01), Compute(torch.device("cpu"), Precision.fp16))
        step.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        step(0, updates(data, 60, 2)[0])
        moments = [state["exp_avg"] for state in step.optimizer.state.values()]
        assert torch.nn.utils.get_total_norm(moments).item() == pytest.approx(0.1 * 0.01, rel=1e-3)  # (1 - beta1) · g
        norms.append(step.drain().grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=0.02) and norms[0] > 0.1


@pytest.mark.parametrize(("precision", "dtype"), [(Precision.fp32, torch.float32), (Precision.bf16, torch.bfloat16)])
def test_products_are_in_the_precision_asked_for(
    data: FitData,
    new_model: Callable[..., Seq2Seq],
    new_job: Callable[..., FitConfig],
    precision: Precision,
    dtype: torch.dtype,
) -> None:
    step = make_step(new_model(dropout=0.0), new_job(), Compute(torch.device("cpu"), precision))
    dtypes = set()
    step.module.get_submodule("decoder.layers.0.ffn.input").register_forward_hook(lambda _, __, y: dtypes.add(y.dtype))
    exact = make_step(new_model(dropout=0.0), new_job())
    for number, update in enumerate(updates(data, 60, 2)):
        for each in (step, exact):
            each(number, update)
    assert dtypes == {dtype}
    assert all(parameter.dtype is torch.float32 for parameter in step.module.parameters())
    loss, expected = (each.drain().averages()["loss"] for each in (step, exact))
    assert loss == pytest.approx(expected, rel=0.01)
    assert (loss == expected) == (precision is Precision.fp32)


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


def test_ranks_and_micro_batches_draw_their_own_dropout(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    update, seeds = updates(data, 60, 2)[0], list[int]()
    for rank in (0, 1):
        step = UpdateStep(new_model(), new_job(), CPU, Ranks(rank))
        step.module.encoder.register_forward_pre_hook(lambda *_: seeds.append(torch.initial_seed()))
        step(0, update)
    assert len(set(seeds)) == 4


def test_sums_of_other_ranks_are_taken_once(
    new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig]
) -> None:
    rows = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [10.0, 20.0, 30.0, 4.0, 5.0, 6.0]]
    for rank, expected in enumerate((Sums(11, 22, 33, 4, 5, 6), Sums(0, 0, 0, 4, 5, 6))):
        step = UpdateStep(new_model(), new_job(), CPU, Ranks(rank))
        step.restore_sums(rows)
        assert step.peek() == expected


def test_a_restart_knows_of_the_loss_scale_and_of_skipped_updates(
    data: FitData, new_model: Callable[..., Seq2Seq], new_job: Callable[..., FitConfig], tmp_path: Path
) -> None:
    fp16 = Compute(torch.device("cpu"), Precision.fp16)
    before, after = (make_step(new_model(), new_job(), fp16) for _ in range(2))
    before(0, updates(data, 60, 1)[0])
    before.scaler.update(8.0)
    state = TrainerState(sums=before.gather(), skipped_in_a_row=3, scaler=before.scaler.state_dict())
    snapshot = take_snapshot(before)
    assert snapshot is not None
    write_snapshot(tmp_path, snapshot, state.to_json(), None, {})
    restore_step(tmp_path, after, state)
    assert (after.skipped_in_a_row.item(), after.scaler.get_scale()) == (3.0, 8.0)
