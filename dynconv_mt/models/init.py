"""How weights begin: one function for all of them.

Shapes: H heads, K taps, C channels of a convolution, D width of the model.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynconv_mt.models.embedding import Embedding, OutputLayer, PositionTable
from dynconv_mt.models.mixers.attention import CrossAttention
from dynconv_mt.models.mixers.base import TokenMixer
from dynconv_mt.text.vocab import PAD


def initialise(model: nn.Module) -> None:
    """Set every weight of `model` in place, from torch's global generator.

    | weight | initial value |
    |---|---|
    | linear layers | Xavier-uniform, biases 0 |
    | queries, keys, values | Xavier-uniform with gain 1/√2, each of the three apart |
    | kernel predictor of DynamicConv | torch's default: uniform ± 1/√C |
    | kernels of LightConv | Xavier-uniform over (H, K) |
    | token embedding | normal, std D^-0.5; padding row 0 |
    | untied output layer | normal, std D^-0.5 |
    | learned positions | normal, std D^-0.5; padding row 0 |
    | LayerNorm | weight 1, bias 0 |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for module in model.modules():  # after the linear layers, since these know better
        if isinstance(module, TokenMixer | CrossAttention):
            module.initialise()
        elif isinstance(module, Embedding):
            _init_rows(module.tokens.weight)
        elif isinstance(module, PositionTable) and module.weight.requires_grad:
            _init_rows(module.weight)
        elif isinstance(module, OutputLayer):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


def _init_rows(weight: Tensor) -> None:
    """Set the rows (rows, D) of a table of vectors; the padding row stays zero."""
    nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    nn.init.zeros_(weight.data[PAD])
