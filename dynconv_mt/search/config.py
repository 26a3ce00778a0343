"""The options `search.*`: how translations are looked for and ranked. No torch here, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass

from dynconv_mt.errors import UserError

MAX_BEAM = 10_000
MAX_LENGTH_PENALTY = 10  # the scores of translations of 1,000 tokens and more are still float32 numbers


@dataclass
class SearchConfig:
    """Beam search. Lengths are counted in output tokens before </s>."""

    beam: int = 5  # hypotheses that are kept at every step, and finished ones that end a sentence; 1: greedy
    length_penalty: float = 1.0  # exponent p of score = Σ log p / (length + 1)^p; above 1 favours longer ones
    normalize: bool = True  # divide by (length + 1)^length_penalty at all; false: score = Σ log p
    min_length: int = 1  # minimum number of tokens (the maximum, max_length_a·S + max_length_b, takes precedence)
    max_length_a: float = 1.0  # tokens, at most: a·S + b for a source of S tokens, </s> included
    max_length_b: int = 50  # b of the same. The defaults are those of Vaswani et al. (2017)
    temperature: float = 1.0  # logits are divided by it; above 1 flattens the distribution
    unk_penalty: float = 0.0  # nats taken from the log-probability of <unk>; above 0 makes it rarer
    no_repeat_ngram: int = 0  # no n-gram of this many tokens occurs twice in a translation; 0: off
    nbest: int = 1  # hypotheses returned for each sentence, best first; at most `beam`; dc-generate with details= only

    def __post_init__(self) -> None:
        """Raise UserError, naming the option, for values with which no search is possible."""
        rules = (
            (1 <= self.beam <= MAX_BEAM, f"search.beam={self.beam}: must be at least 1 and at most {MAX_BEAM}"),
            (
                abs(self.length_penalty) <= MAX_LENGTH_PENALTY,
                f"search.length_penalty={self.length_penalty}: must be a number from "
                f"-{MAX_LENGTH_PENALTY} to {MAX_LENGTH_PENALTY}",
            ),
            (
                abs(self.unk_penalty) <= 1e4,
                f"search.unk_penalty={self.unk_penalty}: must be a number from -10000 to 10000",
            ),
            (self.min_length >= 0, f"search.min_length={self.min_length}: must be at least 0"),
            (
                0 <= self.max_length_a <= 1e6,
                f"search.max_length_a={self.max_length_a}: must be at least 0 and at most 1000000",
            ),
            (
                self.max_length_a + self.max_length_b >= 1,
                f"search.max_length_b={self.max_length_b}: with search.max_length_a={self.max_length_a} the shortest "
                "source leaves no room for a token; give at least 1",
            ),
            (self.no_repeat_ngram >= 0, f"search.no_repeat_ngram={self.no_repeat_ngram}: must be at least 0"),
            (
                0.001 <= self.temperature <= 1000,
                f"search.temperature={self.temperature}: must be at least 0.001 and at most 1000",
            ),
            (
                1 <= self.nbest <= self.beam,
                f"search.nbest={self.nbest}: must be at least 1 and at most search.beam={self.beam}",
            ),
        )
        for holds, message in rules:
            if not holds:
                raise UserError(message)

    def max_length(self, src_length: int) -> int:
        """Return the most tokens before </s> for a source of `src_length` tokens, </s> included."""
        return int(self.max_length_a * src_length + self.max_length_b)
