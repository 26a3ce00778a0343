"""What `device=`, `precision=` and `threads=` become."""

import pytest
import torch

from dynconv_mt.compute import resolve_compute
from dynconv_mt.errors import UserError
from dynconv_mt.runtime import Precision, RuntimeConfig


@pytest.mark.parametrize(
    ("is_fast", "width", "expected"),
    [
        (True, None, Precision.bf16),
        (True, 512, Precision.bf16),
        (True, 128, Precision.bf16),
        (True, 64, Precision.fp32),
        (False, 512, Precision.fp32),
    ],
)
def test_auto_takes_bf16_where_the_cpu_is_fast_at_it(
    monkeypatch: pytest.MonkeyPatch, is_fast: bool, width: int | None, expected: Precision
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_fast)
    assert resolve_compute(RuntimeConfig(device="cpu", threads=1), width=width).precision is expected


@pytest.mark.parametrize("is_fast", [True, False])
def test_bf16_on_a_cpu_that_is_slow_at_it_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_fast)
    compute = resolve_compute(RuntimeConfig(device="cpu", precision=Precision.bf16, threads=1))
    assert compute.precision is Precision.bf16
    assert ("precision=bf16" in caplog.text) is not is_fast


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RuntimeConfig(device="abacus"), "device=abacus"),
        (RuntimeConfig(device="cpu", precision=Precision.fp16), "precision=fp16"),
        (RuntimeConfig(threads=-1), "threads=-1"),
        (RuntimeConfig(threads=100_000), "threads=100000"),
        (RuntimeConfig(device="meta"), "device=meta: no such device"),
        (RuntimeConfig(device="cpu:7"), "device=cpu:7: no such device"),
    ],
)
def test_what_cannot_be_is_refused(config: RuntimeConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_compute(config)


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        resolve_compute(RuntimeConfig(device="cpu", threads=3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
