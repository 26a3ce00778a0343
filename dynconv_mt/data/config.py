"""The options `batch.*`: how sentence pairs are put together."""

from __future__ import annotations

from dataclasses import dataclass

from dynconv_mt.errors import UserError


@dataclass
class BatchConfig:
    """How large a batch is. Each limit holds for every batch; batches are as large as the limits allow."""

    max_tokens: int = 4096  # tokens: rows x longest side (source or target, </s> included, padding counted), at most
    max_sentences: int | None = None  # rows, at most; None: as many as the tokens allow
    rows_multiple: int = 1  # rows: a multiple of this wherever more than this many fit (8 suits GPU matrix products)

    def __post_init__(self) -> None:
        """Raise UserError for a value that no batch could keep."""
        for name in ("max_tokens", "max_sentences", "rows_multiple"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"batch.{name}={value}: must be at least 1")
        if self.max_sentences is not None and self.rows_multiple > self.max_sentences:
            raise UserError(
                f"batch.rows_multiple={self.rows_multiple}: must not exceed batch.max_sentences={self.max_sentences}"
            )
