"""What `device=`, `precision=` and `threads=` become."""

from typing import Any

import pytest
import torch

from dynconv_mt import compute
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
    ("options", "message"),
    [
        ({"device": "abacus"}, "device=abacus"),
        ({"device": "cpu", "precision": "fp16"}, "precision=fp16"),
        ({"precision": "fp8"}, "precision=fp8: must be one of auto, fp32"),
        ({"threads": -1}, "threads=-1"),
        ({"threads": 100_000}, "threads=100000"),
        ({"device": "meta"}, "device=meta: no such device"),
        ({"device": "cpu:7"}, "device=cpu:7: no such device"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_compute(RuntimeConfig(**options))


@pytest.mark.parametrize(
    ("device", "gpus", "ranks", "words"),
    [
        ("auto", 8, 16, "device=auto: torch sees 8 GPUs, but each of the 16 ranks .* start at most 8 here"),
        ("cuda", 1, 2, "device=cuda: torch sees 1 GPUs, but each of the 2 ranks"),
        ("cuda:0", 2, 2, "device=cuda:0: names a single GPU, but each of the 2 ranks .* use device=cuda$"),
        ("cuda:2", 2, 1, "device=cuda:2: torch sees 2 GPUs; use device=cpu"),
        ("cuda", 0, 1, "device=cuda: torch sees 0 GPUs"),
    ],
)
def test_gpus_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, ranks: int, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(UserError, match=words):
        resolve_compute(RuntimeConfig(device=device, threads=1), 0, ranks)


@pytest.mark.parametrize(("precision", "has_bf16"), [("auto", True), ("auto", False), ("bf16", True), ("bf16", False)])
def test_bf16_on_gpus(monkeypatch: pytest.MonkeyPatch, precision: str, has_bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    config = RuntimeConfig(device="auto", precision=Precision(precision), threads=1)
    if precision == "bf16" and not has_bf16:
        with pytest.raises(UserError, match="precision=bf16: this GPU lacks it"):
            resolve_compute(config, 1, 2)
        return
    compute = resolve_compute(config, 1, 2)
    assert compute.device == torch.device("cuda", 1)
    assert compute.precision is (Precision.bf16 if has_bf16 else Precision.fp16)


def test_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option, else by the environment where a process is alone, else to its share of the cores."""
    monkeypatch.setattr(compute, "num_cores", lambda: 8)
    before = torch.get_num_threads()
    try:
        resolve_compute(RuntimeConfig(device="cpu", threads=3))
        assert torch.get_num_threads() == 3
        for asked, ranks, number in (("3", 1, 3), ("5,2", 1, 5), ("", 1, 8), ("0", 1, 8), ("x", 1, 8), ("1", 2, 4)):
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
            resolve_compute(RuntimeConfig(device="cpu"), 0, ranks)
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
