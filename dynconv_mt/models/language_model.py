"""A decoder on its own: the language model of the paper, section 6.

Shapes: B sentences, W beam slots, T positions, N new positions, V types.
"""

from __future__ import annotations

from torch import Tensor, nn

from dynconv_mt.models.config import ModelConfig
from dynconv_mt.models.stacks import Decoder, DecoderState


class LanguageModel(nn.Module):
    """P(text), token by token. All input is right-padded with id 1; the vocabulary is `tgt_vocab_size`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = Decoder(config)

    def forward(self, prev_tgt: Tensor) -> Tensor:
        """Return the logits (B, T, V) of every position, given the tokens before it.

        prev_tgt: (B, T) ids, the text shifted right, beginning with </s>.
        """
        return self.decoder(prev_tgt, None)  # type: ignore[no-any-return]

    def start(self, num_sentences: int, beam: int, max_length: int) -> DecoderState:
        """Return the decoding state before the first token.

        beam: beam slots to make room for; max_length: positions that will be fed at most.
        """
        return self.decoder.start(None, self.decoder.embedding.tokens.weight.new_empty(num_sentences), beam, max_length)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Feed N new tokens (B, W, N) to W beam slots (at most `beam`) and return their logits (B, W, N, V).

        Equal to the same positions of `forward`; `state` is updated in place.
        """
        return self.decoder.step(tokens, state)
