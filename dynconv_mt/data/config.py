"""The options `batch.*`: how sentence pairs are put together."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynconv_mt.errors import UserError

AUTO = -(2**31)  # batch.max_tokens: found by trial when training begins. No number that anybody types
MAX_TOKENS = 2**31 - 1


@dataclass
class BatchConfig:
    """How large a batch is. Each limit holds for every batch; batches are as large as the limits allow."""

    max_tokens: int = field(
        default=4096,
        metadata={"words": {"auto": AUTO}},
    )  # tokens: rows x longest side, padding and </s> too, at most; auto (training): what memory holds, 16,384 at most
    max_sentences: int | None = None  # rows, at most; None: as many as the tokens allow
    rows_multiple: int = 1  # training only: round rows down to a multiple of this (8 suits GPU matrix products)

    def __post_init__(self) -> None:
        """Raise UserError for a value that no batch could keep."""
        if not 1 <= self.max_tokens <= MAX_TOKENS and not self.is_auto:
            raise UserError(
                f"batch.max_tokens={self.max_tokens}: must be at least 1 and at most {MAX_TOKENS:,}, or auto"
            )
        for name in ("max_sentences", "rows_multiple"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"batch.{name}={value}: must be at least 1")
        if self.max_sentences is not None and self.rows_multiple > self.max_sentences:
            raise UserError(
                f"batch.rows_multiple={self.rows_multiple}: must not exceed batch.max_sentences={self.max_sentences}"
            )

    @property
    def is_auto(self) -> bool:
        """Whether max_tokens is yet to be found."""
        return self.max_tokens == AUTO


def translation_batch() -> BatchConfig:
    """Return the default for translating: more rows would only cost memory, of logits (rows × beam × types)."""
    return BatchConfig(max_sentences=128)
