"""A hundred updates against those of the day when golden_losses.json was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from train import golden


def test_losses_are_the_golden_ones(tmp_path: Path) -> None:
    """To the last bit where CPU capability, torch, threads and kernels are the same, else within 1e-4."""
    expected = json.loads(golden.FILE.read_text(encoding="utf-8"))
    found = golden.losses(tmp_path)
    assert len(found) == golden.UPDATES
    assert found[-1] < 0.8 * found[0]  # it has learnt, so that the numbers mean something
    if expected["environment"] == golden.environment():
        assert found == expected["losses"]
    assert found == pytest.approx(expected["losses"], rel=1e-4)
