"""The models that the properties of search are checked with: one table, one of each architecture."""

from dataclasses import replace

import pytest
import torch

from dynconv_mt.models.presets import preset
from dynconv_mt.models.seq2seq import Seq2Seq, build_model

from .table_model import TableModel

torch.set_num_threads(1)  # the models are so small that more only wait for each other

ARCHITECTURES = ("transformer_tiny", "lightconv_tiny", "dynamicconv_tiny")


def sharp_model(name: str, seed: int = 1) -> Seq2Seq:
    """Return a small model of an architecture whose distributions are far from flat."""
    torch.manual_seed(seed)
    model = build_model(replace(preset(name), src_vocab_size=12, tgt_vocab_size=12))
    assert isinstance(model, Seq2Seq)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=["table", *ARCHITECTURES])
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    return TableModel() if request.param == "table" else sharp_model(request.param)
